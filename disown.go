package idem

import (
	"context"
	"time"

	"github.com/idem-go/idem/driver"
)

// askClaim asks the store for a claim, a second time where it did not answer
// at once. A claim that may have been granted without our knowing is given back
// in the background, so that nobody meets an owner that never ran.
func (g *Guard) askClaim(ctx context.Context, c *Claim, began time.Time, req driver.ClaimRequest) (driver.ClaimReply, error) {
	now := began
	for try := 0; ; try++ {
		callCtx, call := g.call(ctx, &c.callCtx, now, g.opts.StoreTimeout)
		reply, err := g.store.Claim(callCtx, req)
		call.end()
		if answered(err) {
			if err != nil && try > 0 {
				g.disown(req)
			}
			return reply, err
		}
		if try > 0 || time.Since(began) > g.opts.StoreTimeout/4 {
			g.disown(req)
			return reply, err
		}
		if pause(ctx, g.closing, 20*time.Millisecond) != nil {
			g.disown(req)
			return reply, err
		}
		now = time.Now()
	}
}

// disown gives back a claim whose answer was lost.
func (g *Guard) disown(req driver.ClaimRequest) {
	if g.claims.Add(1) > int64(g.opts.MaxClaims) {
		g.claims.Add(-1)
		return
	}
	started := g.background(func() {
		defer g.claims.Add(-1)
		absent := false
		wait := backoff(0)
		for n := 1; n <= 100; n++ {
			if pause(context.Background(), g.closing, wait) != nil {
				return
			}
			wait = backoff(n)
			switch g.tryDisown(req) {
			case disowned:
				return
			case nothingThere:
				if absent {
					return
				}
				// The claim may still be on its way.
				absent, wait = true, g.opts.StoreTimeout
			}
		}
	})
	if !started {
		g.claims.Add(-1)
	}
}

type disowning uint8

const (
	notAnswered disowning = iota
	nothingThere
	disowned
)

func (g *Guard) tryDisown(req driver.ClaimRequest) disowning {
	ctx, cancel := context.WithTimeout(context.Background(), g.opts.StoreTimeout)
	defer cancel()
	// Looking first keeps an absent record absent: asking for it would be
	// granted.
	rec, err := g.store.Lookup(ctx, req.Key)
	switch {
	case !answered(err):
		return notAnswered
	case err == nil && rec.State != driver.StateInFlight && rec.State != driver.StateUnknown:
		return nothingThere
	case err != nil:
		return disowned
	}
	req.Retry = false
	reply, err := g.store.Claim(ctx, req)
	if err == nil && reply.Granted {
		err = g.store.Release(ctx, driver.Ref{Key: req.Key, Token: reply.Record.Token}, driver.Release{Unused: true, Retention: g.policy.Retention})
	}
	if !answered(err) {
		return notAnswered
	}
	return disowned
}
