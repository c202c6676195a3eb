package drivertest

import (
	"context"
	"errors"

	"github.com/idem-go/idem/driver"
)

func contextRules() []rule {
	return []rule{
		{"CancelledChangesNothing", func(e *env) {
			cause := errors.New("drivertest: the caller has gone")
			ctx, cancel := context.WithCancelCause(e.ctx)
			cancel(cause)
			e.idle(ctx, context.Canceled)
		}},
		{"PastItsDeadlineChangesNothing", func(e *env) {
			ctx, cancel := context.WithTimeout(e.ctx, -1)
			defer cancel()
			e.idle(ctx, context.DeadlineExceeded)
		}},
		// The store keeps nothing of a context beyond its call.
		{"EndsAfterTheCall", func(e *env) {
			ctx, cancel := context.WithCancel(e.ctx)
			req := request("k")
			reply, err := e.s.Claim(ctx, req)
			e.want(err, nil, "Claim")
			cancel()
			ref := driver.Ref{Key: req.Key, Token: reply.Record.Token}
			e.advance(lease / 2)
			e.state(req.Key, driver.StateInFlight)
			e.renew(ref, lease)
			e.complete(ref, completion(req, "", "r"))
		}},
	}
}

// idle makes every call with a context that has ended already.
func (e *env) idle(ctx context.Context, want error) {
	e.Helper()
	fresh := request("fresh")
	_, err := e.s.Claim(ctx, fresh)
	e.want(err, want, "Claim with an ended context")
	equal(e, e.state(fresh.Key, driver.StateAbsent).Attempt, 0, "the attempt")

	req := request("k")
	ref := e.grant(req)
	e.unchanged(req.Key, "a call with an ended context", func() {
		_, err := e.s.Claim(ctx, req)
		e.want(err, want, "Claim with an ended context")
		e.want(e.s.Renew(ctx, ref, 2*lease), want, "Renew with an ended context")
		_, err = e.s.Complete(ctx, ref, completion(req, "", "r"))
		e.want(err, want, "Complete with an ended context")
		e.want(e.s.Release(ctx, ref, driver.Release{Retention: retention}), want, "Release with an ended context")
		e.want(e.s.Abandon(ctx, ref), want, "Abandon with an ended context")
		_, err = e.s.Lookup(ctx, req.Key)
		e.want(err, want, "Lookup with an ended context")
		if w, ok := driver.As[driver.Waiter](e.s); ok {
			e.want(w.Wait(ctx, ref), want, "Wait with an ended context")
		}
	})
	e.abandon(ref)
	e.unchanged(req.Key, "a call with an ended context", func() {
		if r := e.resolver(); r != nil {
			_, err := r.Resolve(ctx, req.Key, resolution(driver.ResolveRelease))
			e.want(err, want, "Resolve with an ended context")
		}
		retry := request("k")
		retry.Retry = true
		_, err := e.s.Claim(ctx, retry)
		e.want(err, want, "Claim with an ended context")
	})
	if l, ok := driver.As[driver.Lister](e.s); ok {
		_, err := l.List(ctx, driver.Query{Limit: 10})
		e.want(err, want, "List with an ended context")
	}
	if s, ok := driver.As[driver.Sweeper](e.s); ok {
		_, err := s.Sweep(ctx, 10)
		e.want(err, want, "Sweep with an ended context")
	}
}
