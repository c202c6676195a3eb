package natsstore

import (
	"context"
	"fmt"

	"github.com/idem-go/idem/driver"
)

// Resolve is described at [driver.Resolver]. A resolution that is repeated
// returns the record again when it is just what the resolution would make it. A
// note takes at most 4096 bytes.
func (s *Store) Resolve(ctx context.Context, key driver.Key, res driver.Resolution) (driver.Record, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Record{}, err
	}
	if err := res.Check(s.maxResult); err != nil {
		return driver.Record{}, err
	}
	if len(res.Note) > maxNote {
		return driver.Record{}, fmt.Errorf("%w: natsstore: a note takes at most %d bytes", driver.ErrInvalid, maxNote)
	}
	c, err := s.change(ctx, key, func(c *current) (*record, error) { return resolve(c, &res) })
	if err != nil {
		return driver.Record{}, err
	}
	return c.rec.view(key, c.now.server), nil
}

// resolve returns the record that a resolution makes, or nil where it stands
// already.
func resolve(c *current, res *driver.Resolution) (*record, error) {
	r, now := c.rec, c.now.server
	if res.Token != 0 && r.token != res.Token {
		return nil, driver.ErrLost
	}
	switch {
	case res.Action == driver.ResolveComplete && r.kind.isUnknown():
		r.end(now, res.Result, res.Dropped, true, res.Retention, res.Tombstone)
	case res.Action == driver.ResolveRelease && (r.kind.isUnknown() || r.kind == inFlight && res.Force):
		r.note = res.Note
		r.free(releasedByResolve, after(now, res.Retention), false)
	case res.Action == driver.ResolveErase && r.kind == completed:
		r.note = res.Note
		r.forget(now, res.Tombstone)
	case res.Action == driver.ResolveComplete && r.kind == completed && r.holds(res.Result, res.Dropped),
		res.Action == driver.ResolveRelease && r.kind == releasedByResolve,
		res.Action == driver.ResolveErase && r.kind == forgotten:
		return nil, nil
	default:
		return nil, driver.ErrState
	}
	r.note = res.Note
	return &r, nil
}
