package sqlitestore

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/idem-go/idem/driver"
)

// unit is what the store does in one writing transaction: its own, or one of the
// application's. From its beginning on it is the only writer.
type unit struct {
	s   *Store
	tx  *sql.Tx
	now int64
	// ended are the keys of which a claim may have ended.
	ended []driver.Key
}

// failure is an error of the database's, which ends the unit that it happens in.
// Whatever else a step of a unit returns is an answer.
type failure struct{ err error }

// Error implements error.
func (f *failure) Error() string { return f.err.Error() }

// Unwrap gives what failed.
func (f *failure) Unwrap() error { return f.err }

func failed(err error) error {
	if err == nil {
		return nil
	}
	return &failure{err}
}

// write runs f in a transaction of its own, once, and commits it. The caller holds
// the gate.
func (s *Store) write(ctx context.Context, f func(ctx context.Context, u *unit) error) (err error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return failed(err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	u, err := s.begin(ctx, tx)
	if err != nil {
		return err
	}
	if err := f(ctx, u); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return failed(err)
	}
	s.waits.wake(u.ended)
	return nil
}

// The store's time is written with every transaction that grants a claim, or a
// moment before: no token is larger than that time by this much, so that after a
// restart the time, and with it the tokens, go on beyond all that were given.
const leeway = time.Second

// begin makes a unit of a transaction: it takes the write lock.
func (s *Store) begin(ctx context.Context, tx *sql.Tx) (*unit, error) {
	src := s.set.sources
	for try := 0; ; try++ {
		base := s.base.Load()
		written := base + src.ticks.now()
		res, err := execIn(ctx, tx, s.stmts.begin, written, src.wall(), schemaFormat, src.ticks.id, base)
		if err != nil {
			return nil, failed(err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return nil, failed(err)
		}
		if n == 0 {
			if try > 3 {
				return nil, failed(errClocks)
			}
			if err := s.restart(ctx, tx); err != nil {
				return nil, err
			}
			continue
		}
		// Only now: the wait for the lock was no part of a lease.
		u := &unit{s: s, tx: tx, now: s.now()}
		if u.now-written < int64(leeway/2) || try > 3 {
			return u, nil
		}
	}
}

// beginFresh is begin for a key that has no row, and with as little writing as may
// be. It returns nil, with the lock taken, when there is a row, or when anything is
// not as it was.
func (s *Store) beginFresh(ctx context.Context, tx *sql.Tx, key driver.Key) (*unit, error) {
	if _, err := execIn(ctx, tx, s.stmts.lock); err != nil {
		return nil, failed(err)
	}
	src := s.set.sources
	base := s.base.Load()
	u := &unit{s: s, tx: tx, now: base + src.ticks.now()}
	var fresh bool
	err := rowIn(ctx, tx, s.stmts.fresh,
		schemaFormat, src.ticks.id, base, u.now-int64(leeway/2), key[:]).Scan(&fresh)
	if err != nil || !fresh {
		return nil, failed(err)
	}
	return u, nil
}

// restart makes the store's time go on by this process's clock; see ticks.
func (s *Store) restart(ctx context.Context, tx *sql.Tx) error {
	var format, base, then, wall int64
	var clock string
	err := rowIn(ctx, tx, s.stmts.meta).Scan(&format, &clock, &base, &then, &wall)
	if err != nil {
		return failed(err)
	}
	if err := checkFormat(format); err != nil {
		return failed(err)
	}
	src := s.set.sources
	if clock == src.ticks.id {
		s.base.Store(base)
		return nil
	}
	wallNow := src.wall()
	now := restarted(then, wall, wallNow)
	base = now - src.ticks.now()
	if _, err := execIn(ctx, tx, s.stmts.restart, src.ticks.id, base, now, wallNow); err != nil {
		return failed(err)
	}
	if _, err := execIn(ctx, tx, s.stmts.prolong, now, then); err != nil {
		return failed(err)
	}
	s.base.Store(base)
	return nil
}

// token is that of a claim over a record: the store's time, which has grown since
// any other claim of the key, whatever has become of its record.
func (u *unit) token(r *record) uint64 { return max(uint64(u.now), r.token+1) }

// load reads what is known of a key now.
func (u *unit) load(ctx context.Context, key driver.Key) (*record, error) {
	r, _, err := scan(rowIn(ctx, u.tx, u.s.stmts.load, key[:]), key)
	if err != nil {
		return nil, err
	}
	r.settle(u.now)
	return r, nil
}

// meta is what a reader needs to know of the store as a whole.
type meta struct {
	format, base int64
	clock        string
}

// scan reads the answer of the load statement.
func scan(row *sql.Row, key driver.Key) (*record, meta, error) {
	var w raw
	var m meta
	var res driver.Result
	err := row.Scan(append([]any{&m.format, &m.clock, &m.base, &res.Meta, &res.Body}, w.targets()...)...)
	if err != nil {
		return nil, m, failed(err)
	}
	r := &record{key: key}
	if w.key == nil {
		return r, m, nil
	}
	if err := w.decode(r); err != nil {
		return nil, m, err
	}
	if res.Size() != r.size {
		return nil, m, &driver.UnreadableError{Key: key, Reason: fmt.Sprintf("its result has %d bytes, not %d", res.Size(), r.size)}
	}
	r.result = res
	return r, m, nil
}

// save writes a record as it is now; an absent one has no row.
func (u *unit) save(ctx context.Context, r *record) error {
	st := &u.s.stmts
	switch {
	case r.kind == absent && r.n == 0:
		return nil
	case r.kind == absent:
		return u.exec(ctx, st.remove, r.key[:])
	}
	values := append([]any{r.key[:]}, r.values()...)
	switch {
	case r.n == 0:
		return u.exec(ctx, st.insert, append(values, 0)...)
	case r.moved:
		if err := u.exec(ctx, st.remove, r.key[:]); err != nil {
			return err
		}
		return u.exec(ctx, st.insert, append(values, 1)...)
	}
	return u.exec(ctx, st.update, values...)
}

func (u *unit) exec(ctx context.Context, st *sql.Stmt, args ...any) error {
	_, err := execIn(ctx, u.tx, st, args...)
	return failed(err)
}
