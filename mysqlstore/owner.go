package mysqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/idem-go/idem/driver"
)

// Renew is described at [driver.Store].
func (s *Store) Renew(ctx context.Context, ref driver.Ref, lease time.Duration) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	if err := driver.CheckLease(lease); err != nil {
		return err
	}
	return s.write(ctx, ref, s.tables.renew, []any{micros(lease), ref.Key[:], tokenOf(ref.Token)}, func(r *record) (bool, error) {
		err := r.kind.refusal()
		return err != nil, err
	})
}

// Complete is described at [driver.Store].
func (s *Store) Complete(ctx context.Context, ref driver.Ref, c driver.Completion) (late bool, err error) {
	if err := s.enter(ctx); err != nil {
		return false, err
	}
	if err := c.Check(s.maxResult); err != nil {
		return false, err
	}
	args := completeArgs(ref, &c)
	err = s.again(ctx, func() error {
		for n := 0; ; n++ {
			done, after, err := s.complete(ctx, nil, s.tables.complete, args)
			if err != nil || done {
				late = after
				return err
			}
			r, err := s.owned(ctx, nil, ref)
			switch {
			case err != nil:
				return err
			case r.kind == completed && r.holds(c.Result, c.Dropped), r.kind == forgotten:
				late = r.late != 0
				v := r.view(ref.Key)
				return s.logged(ctx, &v)
			case r.kind == completed:
				return driver.ErrCompleted
			case r.kind == releasedByOwner:
				return driver.ErrLost
			}
			if err := s.pause(ctx, n); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return false, err
	}
	if late {
		s.unknowns.fewer()
	}
	s.logWrites.know(ref.Key, ref.Token)
	s.waiters.ended(ref.Key, ref.Token+1)
	return late, nil
}

// completeArgs are the arguments of the completing statement.
func completeArgs(ref driver.Ref, c *driver.Completion) []any {
	return []any{
		nameBytes(c.Scope), nameBytes(c.ID), fingerprintBytes(c.Fingerprint), bytesOrNull(c.Result.Meta), bytesOrNull(c.Result.Body),
		c.Dropped, micros(c.Tombstone), micros(c.Retention), ref.Key[:], tokenOf(ref.Token),
	}
}

// complete runs the completing statement, and reports whether it completed the
// record.
func (s *Store) complete(ctx context.Context, on *sql.Tx, text string, args []any) (done, late bool, err error) {
	stmt, err := s.stmts.in(ctx, on, text)
	if err != nil {
		return false, false, err
	}
	res, err := stmt.ExecContext(ctx, args...)
	if err != nil {
		return false, false, err
	}
	return completion(res)
}

func completion(res sql.Result) (done, late bool, err error) {
	n, err := res.RowsAffected()
	if err != nil || n == 0 {
		return false, false, err
	}
	id, err := res.LastInsertId()
	return err == nil, id == 1, err
}

// Release is described at [driver.Store].
func (s *Store) Release(ctx context.Context, ref driver.Ref, r driver.Release) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	if err := r.Check(); err != nil {
		return err
	}
	unused := 0
	if r.Unused {
		unused = 1
	}
	args := []any{unused, r.Answered, micros(r.Retention), ref.Key[:], tokenOf(ref.Token)}
	err := s.write(ctx, ref, s.tables.release, args, func(r *record) (bool, error) {
		if r.kind == releasedByOwner || r.kind == releasedByResolve {
			return true, nil
		}
		err := r.kind.refusal()
		return err != nil, err
	})
	if err == nil {
		s.waiters.ended(ref.Key, ref.Token+1)
	}
	return err
}

// Abandon is described at [driver.Store].
func (s *Store) Abandon(ctx context.Context, ref driver.Ref) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	err := s.write(ctx, ref, s.tables.abandon, []any{ref.Key[:], tokenOf(ref.Token)}, func(r *record) (bool, error) {
		switch r.kind {
		case abandoned:
			return true, nil
		case inFlight, lapsed:
			return false, nil
		}
		return true, r.kind.refusal()
	})
	if err == nil {
		s.unknowns.more()
		s.waiters.ended(ref.Key, ref.Token+1)
	}
	return err
}

// write makes an owner's write of one row. Where it changes none, judge says by
// the record whether that is the answer; if not, the record has changed between
// the two statements, and the write is made again.
func (s *Store) write(ctx context.Context, ref driver.Ref, text string, args []any, judge func(*record) (settled bool, err error)) error {
	return s.again(ctx, func() error {
		for n := 0; ; n++ {
			stmt, err := s.stmts.get(ctx, text)
			if err != nil {
				return err
			}
			res, err := stmt.ExecContext(ctx, args...)
			if err != nil {
				return err
			}
			if changed, err := res.RowsAffected(); err != nil || changed > 0 {
				return err
			}
			r, err := s.owned(ctx, nil, ref)
			if err != nil {
				return err
			}
			if settled, err := judge(r); settled {
				return err
			}
			if err := s.pause(ctx, n); err != nil {
				return err
			}
		}
	})
}

// owned returns the record whose newest claim ref names.
func (s *Store) owned(ctx context.Context, on *sql.Tx, ref driver.Ref) (*record, error) {
	row, err := s.read(ctx, on, ref.Key)
	if err != nil {
		return nil, err
	}
	r, err := row.settle(ref.Key)
	if err != nil {
		return nil, err
	}
	if r.kind == absent || r.token != tokenOf(ref.Token) {
		return nil, driver.ErrLost
	}
	return &r, nil
}
