package drivertest

import (
	"github.com/idem-go/idem/driver"
)

func nonceRules() []rule {
	return []rule{
		// The claim was applied and its answer lost: the owner is recognised.
		{"Trap10TheOwnerIsRecognised", func(e *env) {
			req := request("k")
			first := e.claim(req)
			e.advance(lease / 2)
			again := e.claim(req)
			equal(e, again.Granted, true, "granted to the same nonce")
			equal(e, again.Record.Token, first.Record.Token, "the token of the repeat")
			equal(e, again.Record.Attempt, 1, "the attempt of the repeat")
			e.left(again.Record, lease)
			e.left(e.state(req.Key, driver.StateInFlight), lease)
			e.complete(driver.Ref{Key: req.Key, Token: first.Record.Token}, completion(req, "", "r"))
		}},
		{"AfterTheLeaseEnded", func(e *env) {
			req := request("k")
			first := e.claim(req)
			e.advance(lease + lease/2)
			e.state(req.Key, driver.StateUnknown)
			again := e.claim(req)
			equal(e, again.Granted, true, "granted to the same nonce")
			equal(e, again.Record.Token, first.Record.Token, "the token of the repeat")
			equal(e, again.Record.Attempt, 1, "the attempt of the repeat")
			e.left(e.state(req.Key, driver.StateInFlight), lease)
		}},
		// The repeat under policy retry is the same claim, not a next attempt.
		{"AfterTheLeaseEndedWithRetry", func(e *env) {
			req := request("k")
			req.Retry = true
			first := e.claim(req)
			e.advance(lease)
			again := e.claim(req)
			equal(e, again.Granted, true, "granted to the same nonce")
			equal(e, again.Record.Token, first.Record.Token, "the token of the repeat")
			equal(e, again.Record.Attempt, 1, "the attempt of the repeat")
		}},
		{"OfARetry", func(e *env) {
			e.grant(request("k"))
			e.advance(lease)
			req := request("k")
			req.Retry = true
			second := e.claim(req)
			equal(e, second.Granted, true, "granted under retry")
			again := e.claim(req)
			equal(e, again.Granted, true, "granted to the same nonce")
			equal(e, again.Record.Token, second.Record.Token, "the token of the repeat")
			equal(e, again.Record.Attempt, 2, "the attempt of the repeat")
		}},
		{"NotOnceReleased", func(e *env) {
			for _, answered := range []bool{false, true} {
				req := request("k")
				ref := e.grant(req)
				e.release(ref, answered)
				e.unchanged(req.Key, "a released claim, repeated", func() {
					_, err := e.s.Claim(e.ctx, req)
					e.want(err, driver.ErrLost, "Claim by the nonce of a released claim")
					retry := req
					retry.Retry = true
					_, err = e.s.Claim(e.ctx, retry)
					e.want(err, driver.ErrLost, "Claim by the nonce of a released claim")
				})
			}
		}},
		{"NotOnceAbandoned", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.abandon(ref)
			rec := e.refuse(req)
			equal(e, rec.State, driver.StateUnknown, "the state")
		}},
		{"NotOnceAbandonedLate", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease)
			e.abandon(ref)
			rec := e.refuse(req)
			equal(e, rec.State, driver.StateUnknown, "the state")
		}},
		{"NotOnceCompleted", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.complete(ref, completion(req, "m", "b"))
			rec := e.refuse(req)
			equal(e, rec.State, driver.StateCompleted, "the state")
			result(e, rec, "m", "b")
			e.advance(retention)
			rec = e.refuse(req)
			equal(e, rec.State, driver.StateForgotten, "the state")
		}},
		{"NotOnceTakenOver", func(e *env) {
			req := request("k")
			e.grant(req)
			e.advance(lease)
			other := request("k")
			other.Retry = true
			ref := e.grant(other)
			e.unchanged(req.Key, "the nonce of the claim before", func() {
				rec := e.refuse(req)
				equal(e, rec.State, driver.StateInFlight, "the state")
				equal(e, rec.Token, ref.Token, "the token")
			})
		}},
		{"OfAnotherKeyIsNothing", func(e *env) {
			one := request("one")
			two := request("two")
			two.Nonce = one.Nonce
			a, b := e.grant(one), e.grant(two)
			e.release(a, false)
			e.state(two.Key, driver.StateInFlight)
			e.complete(b, completion(two, "", ""))
		}},
	}
}
