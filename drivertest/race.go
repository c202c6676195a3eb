package drivertest

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/idem-go/idem/driver"
)

func raceRules() []rule {
	return []rule{
		{"OneOfManyIsGrantedAnAbsentKey", func(e *env) {
			for round := range 8 {
				e.oneGranted(fmt.Sprint("k", round), false, 32)
			}
		}},
		// 100 claims over one record that has just expired.
		{"Trap62OneOfManyIsGranted", func(e *env) {
			for round := range 4 {
				id := fmt.Sprint("lapsed", round)
				e.grant(request(id))
				e.advance(lease)
				e.oneGranted(id, true, 100)

				id = fmt.Sprint("tombstone", round)
				req := request(id)
				e.complete(e.grant(req), completion(req, "", ""))
				e.advance(retention + tombstone)
				e.oneGranted(id, false, 100)

				id = fmt.Sprint("released", round)
				e.release(e.grant(request(id)), false)
				e.oneGranted(id, false, 100)
			}
		}},
		// 32 completions at once, each with a result of its own: one ends the claim.
		{"Trap62OneOfManyCompletes", func(e *env) {
			for round := range 8 {
				e.oneCompletes(fmt.Sprint("k", round), 32)
			}
		}},
		{"OneOfTheEndsWins", func(e *env) {
			for round := range 16 {
				req := request(fmt.Sprint("k", round))
				ref := e.grant(req)
				var done, released error
				all(2, func(i int) {
					if i == 0 {
						_, done = e.s.Complete(e.ctx, ref, completion(req, "", "done"))
					} else {
						released = e.s.Release(e.ctx, ref, driver.Release{Retention: retention})
					}
				})
				switch rec := e.lookup(req.Key); {
				case done == nil && errors.Is(released, driver.ErrCompleted):
					equal(e, rec.State, driver.StateCompleted, "the state")
				case errors.Is(done, driver.ErrLost) && released == nil:
					equal(e, rec.State, driver.StateAbsent, "the state")
				default:
					e.Fatalf("Complete gave %v and Release %v; one of them should succeed", done, released)
				}
			}
		}},
		{"TheSameNonceAtOnce", func(e *env) {
			const n = 32
			req := request("k")
			replies, errs := make([]driver.ClaimReply, n), make([]error, n)
			all(n, func(i int) { replies[i], errs[i] = e.s.Claim(e.ctx, req) })
			for i := range n {
				e.want(errs[i], nil, "Claim")
				equal(e, replies[i].Granted, true, "granted to the same nonce")
				equal(e, replies[i].Record.Token, replies[0].Record.Token, "the token")
				equal(e, replies[i].Record.Attempt, 1, "the attempt")
			}
		}},
		{"ManyKeysAtOnce", func(e *env) {
			const n, rounds = 16, 20
			var failed atomic.Pointer[string]
			fail := func(format string, args ...any) {
				s := fmt.Sprintf(format, args...)
				failed.CompareAndSwap(nil, &s)
			}
			all(n, func(i int) {
				for r := range rounds {
					req := request(fmt.Sprint(i, " ", r))
					reply, err := e.s.Claim(e.ctx, req)
					if err != nil || !reply.Granted {
						fail("Claim of a key of one's own: granted %v, %v", reply.Granted, err)
						return
					}
					ref := driver.Ref{Key: req.Key, Token: reply.Record.Token}
					if _, err := e.s.Complete(e.ctx, ref, completion(req, "", req.ID)); err != nil {
						fail("Complete: %v", err)
						return
					}
					rec, err := e.s.Lookup(e.ctx, req.Key)
					if err != nil || string(rec.Result.Body) != req.ID {
						fail("Lookup gave %q, %v; it should give %q", rec.Result.Body, err, req.ID)
						return
					}
				}
			})
			if msg := failed.Load(); msg != nil {
				e.Fatalf("%s", *msg)
			}
		}},
	}
}

// oneCompletes makes n completions of one claim at once.
func (e *env) oneCompletes(id string, n int) {
	e.Helper()
	req := request(id)
	ref := e.grant(req)
	errs := make([]error, n)
	all(n, func(i int) {
		_, errs[i] = e.s.Complete(e.ctx, ref, completion(req, "", fmt.Sprint(i)))
	})
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			e.Fatalf("completions %d and %d, with different results, were both accepted", winner, i)
		case err == nil:
			winner = i
		case !errors.Is(err, driver.ErrCompleted):
			e.Fatalf("Complete: %v; it should give: %v", err, driver.ErrCompleted)
		}
	}
	if winner < 0 {
		e.Fatalf("of %d completions none was accepted", n)
	}
	result(e, e.lookup(req.Key), "", fmt.Sprint(winner))
}

// oneGranted makes n claims at once, of which one must be granted.
func (e *env) oneGranted(id string, retry bool, n int) {
	e.Helper()
	replies, errs := make([]driver.ClaimReply, n), make([]error, n)
	all(n, func(i int) {
		req := request(id)
		req.Retry = retry
		replies[i], errs[i] = e.s.Claim(e.ctx, req)
	})
	granted := 0
	var token uint64
	for i := range n {
		e.want(errs[i], nil, "Claim")
		if replies[i].Granted {
			granted++
			token = replies[i].Record.Token
		}
	}
	equal(e, granted, 1, "the number of claims granted")
	for _, r := range replies {
		equal(e, r.Record.State, driver.StateInFlight, "the state")
		equal(e, r.Record.Token, token, "the token that all see")
	}
}
