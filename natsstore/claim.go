package natsstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/idem-go/idem/driver"
)

// Claim is described at [driver.Store]. It takes one round trip where it is
// granted, or refused over a record that this process has seen lately, and two
// otherwise.
func (s *Store) Claim(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
	if err := s.enter(ctx); err != nil {
		return driver.ClaimReply{}, err
	}
	if err := req.Check(); err != nil {
		return driver.ClaimReply{}, err
	}
	granted := false
	c, err := s.change(ctx, req.Key, func(c *current) (*record, error) {
		next, err := s.grant(c, &req)
		granted = next != nil
		return next, err
	})
	if errors.Is(err, errNoRoom) {
		err = fmt.Errorf("%w: %w", driver.ErrFull, err)
	}
	if err != nil {
		return driver.ClaimReply{}, err
	}
	return driver.ClaimReply{Granted: granted, Record: c.rec.view(req.Key, c.now.server)}, nil
}

// errNearlyFull leaves room for the claims that stand to go on to their ends.
var errNearlyFull = fmt.Errorf("%w: nine tenths of the bucket are used: raise its max_bytes", errNoRoom)

// grant returns the record of a claim that is granted over what is there, or nil
// when it is not.
func (s *Store) grant(c *current, req *driver.ClaimRequest) (*record, error) {
	r := &c.rec
	ours := r.nonce == req.Nonce
	switch r.kind {
	case inFlight, lapsed, abandoned:
		switch {
		case ours && r.kind != abandoned:
			again := *r
			again.kind, again.lease, again.due = inFlight, req.Lease, 0
			return &again, nil
		case r.kind != inFlight && req.Retry && r.fingerprint == req.Fingerprint:
			return begin(c, req), nil
		}
		return nil, nil
	case completed, forgotten:
		return nil, nil
	case releasedByOwner:
		switch {
		case ours:
			return nil, driver.ErrLost
		case r.answered && req.Waited != 0 && req.Waited <= r.token:
			return nil, nil
		}
	}
	if s.full.Load() {
		return nil, errNearlyFull
	}
	return begin(c, req), nil
}

// begin is the record of a new claim. Its token is the revision that it will
// have.
func begin(c *current, req *driver.ClaimRequest) *record {
	return &record{
		kind: inFlight, nonce: req.Nonce, attempt: c.rec.attempt + 1,
		scope: req.Scope, id: req.ID, fingerprint: req.Fingerprint,
		since: c.now.server, lease: req.Lease, tombstone: req.Tombstone,
	}
}
