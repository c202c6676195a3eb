package mysqlstore

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"github.com/idem-go/idem/driver"
)

// Stats is described at [driver.Counter]. It counts entries of an index, without
// their records: a fraction of a second for a million. Bytes is the server's
// estimate of what the tables take.
func (s *Store) Stats(ctx context.Context) (driver.Stats, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Stats{}, err
	}
	var st driver.Stats
	err := s.again(ctx, func() error {
		stmt, err := s.stmts.get(ctx, s.statsText())
		if err != nil {
			return err
		}
		var oldest sql.NullInt64
		var now int64
		err = stmt.QueryRowContext(ctx).Scan(&st.InFlight, &st.Unknown, &st.Completed, &st.Forgotten, &oldest, &st.Bytes, &now)
		if err == nil && oldest.Valid {
			st.OldestUnknown = duration(max(0, now-oldest.Int64))
		}
		return err
	})
	if err != nil {
		return driver.Stats{}, err
	}
	return st, nil
}

const (
	unknownNoted = ` WHERE kind IN (2, 3) AND due > ` + clock
	// A lease that has ended is in-flight until a sweep notices.
	unknownUnnoted = ` WHERE kind = 1 AND due <= ` + clock + ` AND due + tombstone > ` + clock
)

func (s *Store) statsText() string {
	count := func(where string) string { return `(SELECT COUNT(*) FROM ` + s.tables.records + where + `)` }
	oldest := func(where string) string { return `(SELECT MIN(since) FROM ` + s.tables.records + where + `)` }
	noted, unnoted := oldest(unknownNoted), oldest(unknownUnnoted)
	return `SELECT ` + count(` WHERE kind = 1 AND due > `+clock) +
		`, ` + count(unknownNoted) + ` + ` + count(unknownUnnoted) +
		`, ` + count(` WHERE kind = 4 AND due > `+clock) +
		`, ` + count(` WHERE kind = 5 AND due > `+clock) + ` + ` + count(` WHERE kind = 4 AND due <= `+clock+` AND due + tombstone > `+clock) +
		`, LEAST(COALESCE(` + noted + `, ` + unnoted + `), COALESCE(` + unnoted + `, ` + noted + `))` +
		`, (SELECT COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables WHERE table_schema = DATABASE()` +
		` AND table_name IN ('` + s.opts.Prefix + `records', '` + s.opts.Prefix + `attempts'))` +
		`, ` + clock
}

// unknowns is what is known of the number of records whose outcome is unknown.
type unknowns struct {
	mu      sync.Mutex
	count   int64
	counted time.Time
	// less says that there may be fewer since.
	less bool
}

const (
	// recountAfter is how old a count below the bound may be. The goroutine that
	// sweeps counts more often, so that no claim has to.
	recountAfter = 10 * time.Second
	// fullFor is how long a count at the bound stands, unless this store makes
	// unknowns fewer.
	fullFor = 100 * time.Millisecond
)

func (u *unknowns) set(n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.count, u.counted, u.less = n, time.Now(), false
}

func (u *unknowns) more() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.count++
}

func (u *unknowns) fewer() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.less = true
}

// full says whether the bound is reached, as far as is known, and whether that
// must be counted anew.
func (u *unknowns) full(bound int64) (full, recount bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	age := time.Since(u.counted)
	if u.count < bound {
		return false, age > recountAfter
	}
	return true, u.less || age > fullFor
}

// recount counts the unknowns.
func (s *Store) recount(ctx context.Context) error {
	if s.opts.MaxUnknown < 0 {
		return nil
	}
	stmt, err := s.stmts.get(ctx, `SELECT (SELECT COUNT(*) FROM `+s.tables.records+unknownNoted+`) + (SELECT COUNT(*) FROM `+
		s.tables.records+unknownUnnoted+`)`)
	if err != nil {
		return err
	}
	var n int64
	if err := stmt.QueryRowContext(ctx).Scan(&n); err != nil {
		return err
	}
	s.unknowns.set(n)
	return nil
}

// room returns ErrFull where the unknowns leave no room for a claim: that of an
// absent key. All others go on.
func (s *Store) room(ctx context.Context, req *driver.ClaimRequest) error {
	bound := int64(s.opts.MaxUnknown)
	if bound < 0 {
		return nil
	}
	full, recount := s.unknowns.full(bound)
	if recount {
		if err := s.recount(ctx); err != nil {
			return err
		}
		full, _ = s.unknowns.full(bound)
	}
	if !full {
		return nil
	}
	row, err := s.read(ctx, nil, req.Key)
	if err != nil {
		return err
	}
	r, err := row.settle(req.Key)
	if err != nil {
		return err
	}
	if r.kind.state() == driver.StateAbsent && r.verdict(req) == grant {
		return driver.ErrFull
	}
	return nil
}
