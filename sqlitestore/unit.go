package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/idem-go/idem/driver"
)

// unit is what the store does in one writing transaction: its own, or one of the
// application's. From its beginning on it is the only writer.
type unit struct {
	s   *Store
	tx  *sql.Tx
	now int64
	// token is the last token that has been given, of those that the unit set
	// aside.
	token uint64
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
func (s *Store) write(ctx context.Context, tokens int, f func(ctx context.Context, u *unit) error) (err error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return failed(err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	u, err := s.begin(ctx, tx, tokens)
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

// begin makes a unit of a transaction: it takes the write lock, and sets aside so
// many tokens.
func (s *Store) begin(ctx context.Context, tx *sql.Tx, tokens int) (*unit, error) {
	u, _, err := s.beginAt(ctx, tx, tokens, driver.Key{})
	return u, err
}

// beginAt is begin, which says besides whether a key has a row.
func (s *Store) beginAt(ctx context.Context, tx *sql.Tx, tokens int, key driver.Key) (u *unit, there bool, err error) {
	src := s.set.sources
	for try := 0; ; try++ {
		base := s.base.Load()
		var token int64
		err := tx.StmtContext(ctx, s.stmts.begin).QueryRowContext(ctx,
			tokens, base+src.ticks.now(), src.wall(), schemaFormat, src.ticks.id, base, key[:]).Scan(&token, &there)
		if errors.Is(err, sql.ErrNoRows) && try == 0 {
			if err := s.restart(ctx, tx); err != nil {
				return nil, false, err
			}
			continue
		}
		if err != nil {
			return nil, false, failed(err)
		}
		// Only now: the wait for the lock was no part of a lease.
		return &unit{s: s, tx: tx, now: s.now(), token: uint64(token) - uint64(tokens)}, there, nil
	}
}

// restart makes the store's time go on by this process's clock; see ticks.
func (s *Store) restart(ctx context.Context, tx *sql.Tx) error {
	var format, base, time, wall int64
	var clock string
	err := tx.StmtContext(ctx, s.stmts.meta).QueryRowContext(ctx).Scan(&format, &clock, &base, &time, &wall)
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
	now := restarted(time, wall, wallNow)
	base = now - src.ticks.now()
	if _, err := tx.StmtContext(ctx, s.stmts.restart).ExecContext(ctx, src.ticks.id, base, now, wallNow); err != nil {
		return failed(err)
	}
	if _, err := tx.StmtContext(ctx, s.stmts.prolong).ExecContext(ctx, now, time); err != nil {
		return failed(err)
	}
	s.base.Store(base)
	return nil
}

// nextToken gives one of the tokens that were set aside.
func (u *unit) nextToken() uint64 {
	u.token++
	return u.token
}

// load reads what is known of a key now.
func (u *unit) load(ctx context.Context, key driver.Key) (*record, error) {
	r, _, err := scan(u.tx.StmtContext(ctx, u.s.stmts.load).QueryRowContext(ctx, key[:]), key)
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
	case r.n == 0:
		return u.exec(ctx, st.insert, append([]any{r.key[:]}, r.values()...)...)
	}
	if r.moved {
		if err := u.exec(ctx, st.remove, r.key[:]); err != nil {
			return err
		}
		return u.exec(ctx, st.insert, append([]any{r.key[:]}, r.values()...)...)
	}
	return u.exec(ctx, st.update, append([]any{r.key[:]}, r.values()...)...)
}

func (u *unit) exec(ctx context.Context, st *sql.Stmt, args ...any) error {
	_, err := u.tx.StmtContext(ctx, st).ExecContext(ctx, args...)
	return failed(err)
}
