package idem

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/idem-go/idem/driver"
)

// lead asks the store on behalf of all callers of the key in this process.
func (g *Guard) lead(ctx context.Context, c *Claim, req *Request, pol *Policy, w *waiting) (Begun, error) {
	end := flightEnd{}
	keep := false
	defer func() {
		if !keep {
			g.settle(c, end)
		}
	}()
	c.guard, c.scope, c.id, c.route, c.policy = g, req.Key.Scope, req.Key.ID, req.Route, pol
	c.fingerprint = req.Fingerprint
	nonce := driver.NewNonce()
	turns := 0
	for n := 0; ; n++ {
		asked := time.Now()
		reply, err := g.askClaim(ctx, c, asked, driver.ClaimRequest{
			Key: c.key, Scope: c.scope, ID: c.id, Fingerprint: c.fingerprint, Nonce: nonce,
			Lease: pol.Lease, Tombstone: pol.Tombstone, Retry: pol.Unknown == RetryUnknown, Waited: w.token,
		})
		if errors.Is(err, driver.ErrLost) && turns < maxTurns {
			turns++
			nonce = driver.NewNonce()
			continue
		}
		switch {
		case errors.Is(err, driver.ErrLost):
			err = fmt.Errorf("%w: it knows every nonce as released", ErrStore)
		case err != nil:
			err = storeError(err)
		case reply.Granted && reply.Record.Token == 0:
			err = fmt.Errorf("%w: it granted a claim without a token", ErrStore)
		}
		if err != nil {
			if !errors.Is(err, ErrInvalid) { // what is wrong with this request is its own
				end.err = err
			}
			return Begun{}, err
		}
		if reply.Granted {
			keep = true
			g.grant(ctx, c, &reply.Record, asked)
			return Begun{Claim: c}, nil
		}
		rec := &reply.Record
		turn, b, err := g.read(rec, req, pol)
		switch turn {
		case turnAnswer:
			if c.wasJoined() {
				shared := *rec
				end.record = &shared
			}
			return b, err
		case turnReclaim:
			if rec.State == driver.StateUnknown {
				// The record was made by another rule, by which the requests
				// are the same: the store compares what it has.
				c.fingerprint = rec.Fingerprint
			}
			if turns++; turns > maxTurns {
				return Begun{}, fmt.Errorf("%w: it refuses a claim over a record that is %v", ErrStore, rec.State)
			}
		case turnResolve:
			g.watchFrom(c, rec)
			if err := g.resolve(ctx, c, rec, pol); err != nil {
				return Begun{}, err
			}
			if turns++; turns > maxTurns {
				return Begun{}, &UnknownError{Age: rec.Age, Attempt: rec.Attempt}
			}
			w.token = 0
		case turnWait:
			g.watchFrom(c, rec)
			w.token, w.waited = rec.Token, true
			until := w.since.Add(pol.Wait)
			if pol.Wait <= 0 || !time.Now().Before(until) {
				return Begun{}, &InFlightError{Age: rec.Age}
			}
			if err := g.watch(ctx, driver.Ref{Key: c.key, Token: rec.Token}, until, n); err != nil {
				return Begun{}, err
			}
		}
	}
}

// maxTurns bounds how often a leader comes back to the store where it should
// not have to, so that a store that answers nonsense ends in an error.
const maxTurns = 8

// turn is what a record that was not granted means for its caller.
type turn uint8

const (
	turnAnswer turn = iota
	turnWait
	turnReclaim
	turnResolve
)

// read says what a record means for a request that was not granted its claim.
// Another fingerprint is said before anything else that depends on it.
func (g *Guard) read(rec *driver.Record, req *Request, pol *Policy) (turn, Begun, error) {
	switch rec.State {
	case driver.StateForgotten:
		return turnAnswer, Begun{}, ErrForgotten
	case driver.StateAbsent:
		if rec.Answered {
			return turnAnswer, Begun{}, &InFlightError{Age: rec.Age}
		}
		return turnReclaim, Begun{}, nil
	case driver.StateInFlight, driver.StateCompleted, driver.StateUnknown:
	default:
		return turnAnswer, Begun{}, fmt.Errorf("%w: the store gave a record in no known state", ErrUnreadable)
	}
	if err := sameRequest(rec.Fingerprint, req); err != nil {
		return turnAnswer, Begun{}, err
	}
	switch {
	case rec.State == driver.StateInFlight:
		return turnWait, Begun{}, nil
	case rec.State == driver.StateCompleted && rec.Dropped:
		return turnAnswer, Begun{}, ErrNotStored
	case rec.State == driver.StateCompleted:
		return turnAnswer, Begun{Replayed: true, Result: rec.Result, Expires: rec.Left}, nil
	case pol.Unknown == RetryUnknown:
		return turnReclaim, Begun{}, nil
	case pol.Unknown == ResolveUnknown && pol.Resolver != nil:
		return turnResolve, Begun{}, nil
	}
	return turnAnswer, Begun{}, &UnknownError{Age: rec.Age, Attempt: rec.Attempt}
}

// sameRequest compares a record's fingerprint with the request's, by the rule
// that made the record's.
func sameRequest(have Fingerprint, req *Request) error {
	switch {
	case have == req.Fingerprint, have.IsZero():
		return nil
	case have.Rule == req.Fingerprint.Rule, req.Fingerprint.IsZero():
		return ErrReused
	case req.Rules == nil:
		return fmt.Errorf("%w: its fingerprint was made by the unknown rule %d", ErrUnreadable, have.Rule)
	}
	sum, ok := req.Rules.Sum(have.Rule)
	if !ok {
		return fmt.Errorf("%w: its fingerprint was made by the unknown rule %d", ErrUnreadable, have.Rule)
	}
	if sum != have {
		return ErrReused
	}
	return nil
}
