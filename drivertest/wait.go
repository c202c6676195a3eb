package drivertest

import (
	"context"
	"errors"
	"time"

	"github.com/idem-go/idem/driver"
)

func waitRules() []rule {
	return []rule{
		{"ForEveryEnd", func(e *env) {
			ends := map[string]func(req driver.ClaimRequest, ref driver.Ref){
				"complete": func(req driver.ClaimRequest, ref driver.Ref) { e.complete(ref, completion(req, "", "")) },
				"release":  func(_ driver.ClaimRequest, ref driver.Ref) { e.release(ref, true) },
				"abandon":  func(_ driver.ClaimRequest, ref driver.Ref) { e.abandon(ref) },
			}
			if e.resolver() != nil {
				ends["resolve"] = func(req driver.ClaimRequest, _ driver.Ref) {
					r := resolution(driver.ResolveRelease)
					r.Force = true
					e.resolve(req.Key, r)
				}
			}
			for name, end := range ends {
				req := request(name)
				ref := e.grant(req)
				e.woken(ref, name, func() { end(req, ref) })
			}
		}},
		{"ForTheEndOfTheLease", func(e *env) {
			ref := e.grant(request("k"))
			e.woken(ref, "the end of the lease", func() { e.advance(lease) })
		}},
		{"ForTheEndOfARenewedLease", func(e *env) {
			ref := e.grant(request("k"))
			e.advance(lease / 2)
			e.renew(ref, lease)
			e.woken(ref, "the end of the lease", func() { e.advance(lease) })
		}},
		{"EndedAlready", func(e *env) {
			w, ok := driver.As[driver.Waiter](e.s)
			if !ok {
				return
			}
			for _, st := range standings() {
				if st.state == driver.StateInFlight || st.resolver && e.resolver() == nil {
					continue
				}
				ref := st.reach(e, request(st.name))
				ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
				e.want(w.Wait(ctx, ref), nil, "Wait for what is "+st.name)
				cancel()
			}
		}},
		{"AnotherWasGranted", func(e *env) {
			w, ok := driver.As[driver.Waiter](e.s)
			if !ok {
				return
			}
			ref := e.grant(request("k"))
			e.release(ref, false)
			e.grant(request("k"))
			ctx, cancel := context.WithTimeout(e.ctx, time.Second)
			defer cancel()
			e.want(w.Wait(ctx, ref), nil, "Wait for a claim after which another was granted")
		}},
		// A waiter that gives up leaves the owner's claim alone.
		{"Trap6TheWaiterGivesUp", func(e *env) {
			w, ok := driver.As[driver.Waiter](e.s)
			if !ok {
				return
			}
			req := request("k")
			ref := e.grant(req)
			ctx, cancel := context.WithCancel(e.ctx)
			ended := make(chan error, 1)
			go func() { ended <- waitOut(ctx, w, ref) }()
			cancel()
			e.want(<-ended, context.Canceled, "Wait")
			e.state(req.Key, driver.StateInFlight)
			e.complete(ref, completion(req, "", "r"))
		}},
		{"ManyWait", func(e *env) {
			w, ok := driver.As[driver.Waiter](e.s)
			if !ok {
				return
			}
			const n = 50
			req := request("k")
			ref := e.grant(req)
			ctx, cancel := context.WithTimeout(e.ctx, lease/2)
			defer cancel()
			ended := make(chan error, n)
			for range n {
				go func() { ended <- e.waitEnded(ctx, w, ref) }()
			}
			e.complete(ref, completion(req, "", "r"))
			for range n {
				e.want(<-ended, nil, "Wait")
			}
		}},
	}
}

// woken waits for a claim that is in flight while f ends it.
func (e *env) woken(ref driver.Ref, what string, f func()) {
	e.Helper()
	w, ok := driver.As[driver.Waiter](e.s)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(e.ctx, 2*lease)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- e.waitEnded(ctx, w, ref) }()
	f()
	e.want(<-ended, nil, "Wait for "+what)
}

// A Wait that returns early may do so now and then; one that always does makes
// its callers spin.
const earlyReturns = 1000

var errSpins = errors.New("drivertest: Wait returned early a thousand times, with the claim still in flight")

// waitEnded waits as a caller does, who looks again whenever Wait returns,
// until the claim has ended. Outside of a bubble the time that ends a lease may
// be one that no timer follows: there it also looks again after a while.
func (e *env) waitEnded(ctx context.Context, w driver.Waiter, ref driver.Ref) error {
	for range earlyReturns {
		round, cancel := ctx, context.CancelFunc(func() {})
		if e.h.Around == nil {
			round, cancel = context.WithTimeout(ctx, time.Second)
		}
		err := w.Wait(round, ref)
		cancel()
		if err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
			return err
		}
		rec, err := e.s.Lookup(ctx, ref.Key)
		if err != nil {
			return err
		}
		if rec.State != driver.StateInFlight || rec.Token != ref.Token {
			return nil
		}
	}
	return errSpins
}

// waitOut waits until Wait gives an error, however often it returns early.
func waitOut(ctx context.Context, w driver.Waiter, ref driver.Ref) error {
	for range earlyReturns {
		if err := w.Wait(ctx, ref); err != nil {
			return err
		}
	}
	return errSpins
}
