package sqlitestore

import (
	"context"

	"github.com/idem-go/idem/driver"
)

// verdict is what a claim over a record comes to.
type verdict uint8

const (
	refused verdict = iota
	// lost: the nonce is that of a claim that its owner has released.
	lost
	// again: the claim was granted before, and its answer lost.
	again
	granted
)

// judge says what a claim over a record comes to, as the record is now.
func (r *record) judge(req *driver.ClaimRequest) verdict {
	ours := r.nonce == req.Nonce
	switch r.kind {
	case inFlight, lapsed, abandoned:
		switch {
		case ours && r.kind != abandoned:
			return again
		case r.kind != inFlight && req.Retry && r.fingerprint == req.Fingerprint:
			return granted
		}
		return refused
	case completed, forgotten:
		return refused
	case releasedByOwner:
		switch {
		case ours:
			return lost
		case r.answered && req.Waited != 0 && req.Waited <= r.token:
			return refused
		}
	}
	return granted
}

// Claim is described at [driver.Store]. A claim that is not granted is answered
// by reading alone, and waits for nobody who writes.
func (s *Store) Claim(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
	if err := s.enter(ctx); err != nil {
		return driver.ClaimReply{}, err
	}
	if err := req.Check(); err != nil {
		return driver.ClaimReply{}, err
	}
	r, now, err := s.read(ctx, req.Key)
	if err != nil {
		return driver.ClaimReply{}, err
	}
	switch r.judge(&req) {
	case refused:
		return driver.ClaimReply{Record: r.full(now)}, nil
	case lost:
		return driver.ClaimReply{}, driver.ErrLost
	}
	s.set.gap("claim")
	out := new(driver.ClaimReply)
	err = s.do(ctx, func(ctx context.Context, u *unit) error {
		*out = driver.ClaimReply{}
		r, err := u.claim(ctx, &req)
		if err != nil {
			return err
		}
		out.Granted = r.kind == inFlight && r.nonce == req.Nonce
		out.Record = r.full(u.now)
		return nil
	})
	if err != nil {
		return driver.ClaimReply{}, err
	}
	return *out, nil
}

// claim carries a claim out. What was read before it counts for nothing: it is
// looked at again.
func (u *unit) claim(ctx context.Context, req *driver.ClaimRequest) (*record, error) {
	r, err := u.load(ctx, req.Key)
	if err != nil {
		return nil, err
	}
	switch r.judge(req) {
	case refused:
		return r, nil
	case lost:
		return nil, driver.ErrLost
	case again:
		r.hold(req.Lease, u.now)
	case granted:
		if r.kind.state() == driver.StateAbsent {
			if err := u.room(ctx); err != nil {
				return nil, err
			}
		} else {
			u.ended = append(u.ended, r.key)
		}
		r.begin(req, u.token(r), u.now)
	}
	return r, u.save(ctx, r)
}

// A unit notices so many leases that have ended, or drops so many records that are
// over, before others get their turn.
const batch = 64

// room returns ErrFull when the unknowns leave no room for another claim.
func (u *unit) room(ctx context.Context) error {
	if u.s.set.maxUnknown == noBound {
		return nil
	}
	unknown, unnoticed, err := u.unknowns(ctx)
	if err != nil {
		return err
	}
	full := unknown+unnoticed >= u.s.set.maxUnknown
	if unnoticed >= batch || full {
		if _, err := u.notice(ctx, 4*batch); err != nil {
			return err
		}
	}
	if !full {
		return nil
	}
	if _, err := u.dropUnknowns(ctx, 4*batch); err != nil {
		return err
	}
	if unknown, unnoticed, err = u.unknowns(ctx); err != nil {
		return err
	}
	if unknown+unnoticed >= u.s.set.maxUnknown {
		return driver.ErrFull
	}
	return nil
}

// unknowns counts the records whose outcome is unknown, and those of which nobody
// has noticed it.
func (u *unit) unknowns(ctx context.Context) (unknown, unnoticed int64, err error) {
	err = rowIn(ctx, u.tx, u.s.stmts.room, u.now, u.s.set.maxUnknown).Scan(&unknown, &unnoticed)
	return unknown, unnoticed, failed(err)
}

// Lookup is described at [driver.Store].
func (s *Store) Lookup(ctx context.Context, key driver.Key) (driver.Record, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Record{}, err
	}
	r, now, err := s.read(ctx, key)
	if err != nil {
		return driver.Record{}, err
	}
	return r.full(now), nil
}

// read returns what is known of a key now, and the store's time then.
func (s *Store) read(ctx context.Context, key driver.Key) (r *record, now int64, err error) {
	for try := 0; ; try++ {
		var m meta
		err = s.patiently(ctx, func() (err error) {
			r, m, err = scan(s.stmts.load.QueryRowContext(ctx, key[:]), key)
			return err
		})
		if m.clock != "" {
			if err := checkFormat(m.format); err != nil {
				return nil, 0, err
			}
		}
		if err != nil {
			return nil, 0, err
		}
		if m.clock == s.set.sources.ticks.id {
			now = m.base + s.set.sources.ticks.now()
			r.settle(now)
			return r, now, nil
		}
		// The first write makes the clock ours, unless another's makes it theirs again.
		if try == 3 {
			return nil, 0, errClocks
		}
		if err := s.do(ctx, func(context.Context, *unit) error { return nil }); err != nil {
			return nil, 0, err
		}
	}
}
