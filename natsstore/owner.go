package natsstore

import (
	"context"
	"time"

	"github.com/idem-go/idem/driver"
)

// owned returns the record whose newest claim ref names, to be changed.
func (c *current) owned(ref driver.Ref) (record, error) {
	if c.rec.kind == absent || c.rec.token != ref.Token {
		return record{}, driver.ErrLost
	}
	return c.rec, nil
}

// Renew is described at [driver.Store].
func (s *Store) Renew(ctx context.Context, ref driver.Ref, lease time.Duration) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	if err := driver.CheckLease(lease); err != nil {
		return err
	}
	_, err := s.change(ctx, ref.Key, func(c *current) (*record, error) {
		r, err := c.owned(ref)
		if err != nil {
			return nil, err
		}
		if err := r.kind.ended(); err != nil {
			return nil, err
		}
		r.lease = lease
		return &r, nil
	})
	return err
}

// Complete is described at [driver.Store].
func (s *Store) Complete(ctx context.Context, ref driver.Ref, c driver.Completion) (late bool, err error) {
	if err := s.enter(ctx); err != nil {
		return false, err
	}
	if err := c.Check(s.maxResult); err != nil {
		return false, err
	}
	_, err = s.change(ctx, ref.Key, func(now *current) (*record, error) {
		r, err := now.owned(ref)
		if err != nil {
			return nil, err
		}
		switch r.kind {
		case completed:
			late = r.late
			if !r.holds(c.Result, c.Dropped) {
				return nil, driver.ErrCompleted
			}
			return nil, nil
		case forgotten:
			late = r.late
			return nil, nil
		case releasedByOwner:
			return nil, driver.ErrLost
		case releasedByResolve:
			r.scope, r.id, r.fingerprint = c.Scope, c.ID, c.Fingerprint
		}
		late = r.kind != inFlight
		r.end(now.now.server, c.Result, c.Dropped, late, c.Retention, c.Tombstone)
		return &r, nil
	})
	if err != nil {
		return false, err
	}
	return late, nil
}

// Release is described at [driver.Store].
func (s *Store) Release(ctx context.Context, ref driver.Ref, rel driver.Release) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	if err := rel.Check(); err != nil {
		return err
	}
	_, err := s.change(ctx, ref.Key, func(c *current) (*record, error) {
		r, err := c.owned(ref)
		if err != nil || r.kind == releasedByOwner || r.kind == releasedByResolve {
			return nil, err
		}
		if err := r.kind.ended(); err != nil {
			return nil, err
		}
		if rel.Unused {
			r.attempt--
		}
		r.free(releasedByOwner, after(c.now.server, rel.Retention), rel.Answered)
		return &r, nil
	})
	return err
}

// Abandon is described at [driver.Store].
func (s *Store) Abandon(ctx context.Context, ref driver.Ref) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	_, err := s.change(ctx, ref.Key, func(c *current) (*record, error) {
		r, err := c.owned(ref)
		if err != nil {
			return nil, err
		}
		switch r.kind {
		case inFlight:
			r.due = after(c.now.server, r.tombstone)
		case lapsed:
		case abandoned:
			return nil, nil
		default:
			return nil, r.kind.ended()
		}
		r.kind, r.lease = abandoned, 0
		r.nonce = driver.Nonce{}
		return &r, nil
	})
	return err
}

// Lookup is described at [driver.Store].
func (s *Store) Lookup(ctx context.Context, key driver.Key) (driver.Record, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Record{}, err
	}
	c, err := s.change(ctx, key, func(*current) (*record, error) { return nil, nil })
	if err != nil {
		return driver.Record{}, err
	}
	return c.rec.view(key, c.now.server), nil
}
