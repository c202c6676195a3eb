package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/idem-go/idem/driver"
)

// Sweep is described at [driver.Sweeper]. It is a transaction for every few
// records, between which others write; a busy database is waited for.
func (s *Store) Sweep(ctx context.Context, limit int) (int, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	total := 0
	for total < limit {
		n, more, err := s.sweep(ctx, min(batch, limit-total))
		total += n
		if err != nil {
			return total, err
		}
		if !more {
			break
		}
	}
	return total, nil
}

// sweep notices leases that have ended, which is not counted, and drops what is
// over; more says that there may be more of it.
func (s *Store) sweep(ctx context.Context, limit int) (swept int, more bool, err error) {
	type result struct {
		swept int
		more  bool
	}
	out := new(result)
	err = s.do(ctx, func(ctx context.Context, u *unit) error {
		*out = result{}
		filed, err := u.file(ctx, 4*batch)
		if err != nil {
			return err
		}
		noticed, err := u.notice(ctx, batch)
		if err != nil {
			return err
		}
		if out.swept, err = u.dropUnknowns(ctx, limit); err != nil {
			return err
		}
		if out.swept < limit {
			n, err := u.dropKept(ctx, limit-out.swept)
			if err != nil {
				return err
			}
			out.swept += n
		}
		out.more = filed || noticed == batch || out.swept == limit
		return nil
	})
	if err != nil {
		return 0, false, err
	}
	return out.swept, out.more, nil
}

// file puts new rows where sweeps find them, and counts them; some is false when
// there were none.
func (u *unit) file(ctx context.Context, limit int) (some bool, err error) {
	st := &u.s.stmts
	var from int64
	var to sql.NullInt64
	if err := rowIn(ctx, u.tx, st.unfiled, limit).Scan(&from, &to); err != nil || !to.Valid {
		return false, failed(err)
	}
	if err := u.exec(ctx, st.file, from, to.Int64); err != nil {
		return false, err
	}
	return true, u.exec(ctx, st.filed, to.Int64)
}

// notice turns leases that have ended into unknowns.
func (u *unit) notice(ctx context.Context, limit int) (int, error) {
	res, err := execIn(ctx, u.tx, u.s.stmts.notice, u.now, limit)
	if err != nil {
		return 0, failed(err)
	}
	n, err := res.RowsAffected()
	return int(n), failed(err)
}

// dropUnknowns drops unknowns whose tombstones have ended.
func (u *unit) dropUnknowns(ctx context.Context, limit int) (int, error) {
	return u.drop(ctx, u.s.stmts.overdueOpen, limit)
}

// dropKept drops what else is over, and makes tombstones of completed records.
func (u *unit) dropKept(ctx context.Context, limit int) (int, error) {
	return u.drop(ctx, u.s.stmts.overdue, limit)
}

func (u *unit) drop(ctx context.Context, overdue *sql.Stmt, limit int) (int, error) {
	rows, err := rowsOf(rowsIn(ctx, u.tx, overdue, u.now, limit))
	if err != nil {
		return 0, failed(err)
	}
	n := 0
	for _, row := range rows {
		r := row.record
		if r == nil {
			continue // it stays for an operator to look at
		}
		r.settle(u.now)
		if err := u.save(ctx, r); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// row is a record without its result, and where it stands. A record that cannot be
// read is nil.
type row struct {
	raw
	record *record
}

func rowsOf(rows *sql.Rows, err error) ([]row, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []row
	for rows.Next() {
		var w row
		if err := rows.Scan(w.targets()...); err != nil {
			return nil, err
		}
		r := new(record)
		if w.decode(r) == nil {
			w.record = r
		}
		all = append(all, w)
	}
	return all, rows.Err()
}

// sweepAll sweeps at an interval, each time until nothing is left.
func (s *Store) sweepAll() {
	s.every(s.set.SweepEvery, func() {
		for s.life.Err() == nil {
			n, err := s.Sweep(s.life, 16*batch)
			if err != nil && s.life.Err() == nil && !errors.Is(err, ErrStopped) {
				s.set.Logger.Warn("idem: sweeping: the next try is made later", "error", err.Error())
			}
			if err != nil || n < 16*batch {
				return
			}
		}
	})
}

// Stats is described at [driver.Counter]. What is over and has not been swept is
// counted by reading it; the rest is not read. Bytes is not known: the tables
// share their file with the application's.
func (s *Store) Stats(ctx context.Context) (driver.Stats, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Stats{}, err
	}
	var st driver.Stats
	err := s.patiently(ctx, func() (err error) {
		// One snapshot for all: none of it writes, so it waits for nobody.
		tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return failed(err)
		}
		defer func() { _ = tx.Rollback() }() // there is nothing to commit
		st, err = s.count(ctx, tx)
		return err
	})
	return st, err
}

func (s *Store) count(ctx context.Context, tx *sql.Tx) (st driver.Stats, err error) {
	var m meta
	row := rowIn(ctx, tx, s.stmts.counts)
	if err := row.Scan(&m.format, &m.clock, &m.base, &st.InFlight, &st.Unknown, &st.Completed, &st.Forgotten); err != nil {
		return st, failed(err)
	}
	if err := checkFormat(m.format); err != nil {
		return st, err
	}
	now := s.now()
	if m.clock == s.set.sources.ticks.id {
		now = m.base + s.set.sources.ticks.now()
	}
	// Of those in flight: leases that have ended, of those the ones that are over,
	// and the oldest of the others.
	var ended, over int64
	var oldest, oldestNoticed sql.NullInt64
	if err := rowIn(ctx, tx, s.stmts.lapsed, now).Scan(&ended, &over, &oldest); err != nil {
		return st, failed(err)
	}
	st.InFlight -= ended
	st.Unknown += ended - over
	if err := rowIn(ctx, tx, s.stmts.oldest, now).Scan(&oldestNoticed, &over); err != nil {
		return st, failed(err)
	}
	st.Unknown -= over
	if oldestNoticed.Valid && (!oldest.Valid || oldestNoticed.Int64 < oldest.Int64) {
		oldest = oldestNoticed
	}
	if oldest.Valid {
		st.OldestUnknown = time.Duration(max(0, now-oldest.Int64))
	}
	for _, stmt := range []*sql.Stmt{s.stmts.late, s.stmts.young} {
		if err := addEnded(ctx, tx, stmt, now, &st); err != nil {
			return st, failed(err)
		}
	}
	return st, nil
}

// addEnded sets the counts of what has ended right: by rows that the counts lack,
// by those whose retention is over, and by those that are over altogether.
func addEnded(ctx context.Context, tx *sql.Tx, stmt *sql.Stmt, now int64, st *driver.Stats) error {
	rows, err := rowsIn(ctx, tx, stmt, now)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var k kind
		var more, overdue, over int64
		if err := rows.Scan(&k, &more, &overdue, &over); err != nil {
			return err
		}
		switch k {
		case completed:
			st.Completed += more - overdue
			st.Forgotten += overdue - over
		case forgotten:
			st.Forgotten += more - overdue
		}
	}
	return rows.Err()
}
