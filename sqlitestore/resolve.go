package sqlitestore

import (
	"context"

	"github.com/idem-go/idem/driver"
)

// Resolve is described at [driver.Resolver]. A resolution that is repeated
// returns the record again when it is just what the resolution would make it.
func (s *Store) Resolve(ctx context.Context, key driver.Key, res driver.Resolution) (driver.Record, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Record{}, err
	}
	if err := res.Check(s.set.MaxResult); err != nil {
		return driver.Record{}, err
	}
	out := new(driver.Record)
	err := s.do(ctx, func(ctx context.Context, u *unit) error {
		r, err := u.load(ctx, key)
		if err != nil {
			return err
		}
		change, err := r.resolve(&res, u.now)
		if err != nil {
			return err
		}
		*out = r.full(u.now)
		if !change {
			return nil
		}
		u.ended = append(u.ended, key)
		return u.save(ctx, r)
	})
	if err != nil {
		return driver.Record{}, err
	}
	return *out, nil
}

// resolve carries out a resolution; change is false when it finds what it would
// make.
func (r *record) resolve(res *driver.Resolution, now int64) (change bool, err error) {
	if res.Token != 0 && r.token != res.Token {
		return false, driver.ErrLost
	}
	switch {
	case res.Action == driver.ResolveComplete && r.kind.isUnknown():
		r.note = res.Note
		r.end(res.Result, res.Dropped, true, res.Retention, res.Tombstone, now)
	case res.Action == driver.ResolveRelease && (r.kind.isUnknown() || r.kind == inFlight && res.Force):
		r.note, r.answered = res.Note, false
		r.free(releasedByResolve, after(now, res.Retention))
	case res.Action == driver.ResolveErase && r.kind == completed:
		r.note = res.Note
		r.forget(now, res.Tombstone)
	case res.Action == driver.ResolveComplete && r.kind == completed && r.holds(res.Result, res.Dropped),
		res.Action == driver.ResolveRelease && r.kind == releasedByResolve,
		res.Action == driver.ResolveErase && r.kind == forgotten:
		return false, nil
	default:
		return false, driver.ErrState
	}
	return true, nil
}
