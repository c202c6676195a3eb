package sqlitestore

import (
	"context"
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
	return s.do(ctx, func(ctx context.Context, u *unit) error {
		r, err := u.load(ctx, ref.Key)
		if err != nil {
			return err
		}
		if err := r.owned(ref.Token).ended(); err != nil {
			return err
		}
		r.hold(lease, u.now)
		return u.save(ctx, r)
	})
}

// Complete is described at [driver.Store].
func (s *Store) Complete(ctx context.Context, ref driver.Ref, c driver.Completion) (late bool, err error) {
	if err := s.enter(ctx); err != nil {
		return false, err
	}
	if err := c.Check(s.set.MaxResult); err != nil {
		return false, err
	}
	out := new(bool)
	err = s.do(ctx, func(ctx context.Context, u *unit) error {
		r, err := u.load(ctx, ref.Key)
		if err != nil {
			return err
		}
		switch r.owned(ref.Token) {
		case completed:
			if !r.holds(c.Result, c.Dropped) {
				return driver.ErrCompleted
			}
			*out = r.late
			return nil
		case forgotten:
			*out = r.late
			return nil
		}
		*out, err = u.complete(ctx, r, ref.Token, &c)
		return err
	})
	if err != nil {
		return false, err
	}
	return *out, nil
}

// complete ends the claim of a token, if that may still be.
func (u *unit) complete(ctx context.Context, r *record, token uint64, c *driver.Completion) (late bool, err error) {
	switch k := r.owned(token); k {
	case inFlight, lapsed, abandoned:
	case releasedByResolve:
		r.scope, r.id, r.fingerprint = c.Scope, c.ID, c.Fingerprint
	case completed, forgotten:
		return false, driver.ErrCompleted
	default:
		return false, driver.ErrLost
	}
	late = r.kind != inFlight
	r.end(c.Result, c.Dropped, late, c.Retention, c.Tombstone, u.now)
	u.ended = append(u.ended, r.key)
	return late, u.save(ctx, r)
}

// Release is described at [driver.Store].
func (s *Store) Release(ctx context.Context, ref driver.Ref, rel driver.Release) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	if err := rel.Check(); err != nil {
		return err
	}
	return s.do(ctx, func(ctx context.Context, u *unit) error {
		r, err := u.load(ctx, ref.Key)
		if err != nil {
			return err
		}
		k := r.owned(ref.Token)
		if k == releasedByOwner || k == releasedByResolve {
			return nil
		}
		if err := k.ended(); err != nil {
			return err
		}
		r.answered = rel.Answered
		if rel.Unused {
			r.attempt--
		}
		r.free(releasedByOwner, after(u.now, rel.Retention))
		u.ended = append(u.ended, r.key)
		return u.save(ctx, r)
	})
}

// Abandon is described at [driver.Store].
func (s *Store) Abandon(ctx context.Context, ref driver.Ref) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	return s.do(ctx, func(ctx context.Context, u *unit) error {
		r, err := u.load(ctx, ref.Key)
		if err != nil {
			return err
		}
		switch k := r.owned(ref.Token); k {
		case inFlight:
			r.kind, r.due = abandoned, after(u.now, r.tombstone)
			u.ended = append(u.ended, r.key)
		case lapsed:
			r.kind = abandoned
		case abandoned:
			return nil
		default:
			return k.ended()
		}
		return u.save(ctx, r)
	})
}
