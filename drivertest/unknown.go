package drivertest

import (
	"github.com/idem-go/idem/driver"
)

func unknownRules() []rule {
	return []rule{
		{"RefusedWithoutRetry", func(e *env) {
			for _, abandoned := range []bool{false, true} {
				req := request("k")
				if abandoned {
					req = request("abandoned")
				}
				ref := e.grant(req)
				if abandoned {
					e.abandon(ref)
				}
				e.advance(2 * lease)
				e.unchanged(req.Key, "a claim over an unknown", func() {
					other := req
					other.Nonce = driver.NewNonce()
					rec := e.refuse(other)
					equal(e, rec.State, driver.StateUnknown, "the state")
					equal(e, rec.Token, ref.Token, "the token")
					equal(e, rec.Fingerprint, req.Fingerprint, "the fingerprint")
					e.age(rec, 2*lease)
				})
			}
		}},
		{"GrantedUnderRetry", func(e *env) {
			for attempt := 1; attempt < 6; attempt++ {
				req := request("k")
				req.Retry = true
				reply := e.claim(req)
				equal(e, reply.Granted, true, "granted")
				rec := reply.Record
				equal(e, rec.State, driver.StateInFlight, "the state")
				equal(e, rec.Attempt, attempt, "the attempt")
				e.left(rec, lease)
				e.age(rec, 0)
				if attempt%2 == 0 {
					e.abandon(driver.Ref{Key: req.Key, Token: rec.Token})
				} else {
					e.advance(lease)
				}
			}
		}},
		{"TheAttemptCountSurvivesBoth", func(e *env) {
			e.grant(request("k"))
			e.advance(lease)
			retry := request("k")
			retry.Retry = true
			e.release(e.grant(retry), false)
			reply := e.claim(request("k"))
			equal(e, reply.Granted, true, "granted")
			equal(e, reply.Record.Attempt, 3, "the attempt")
		}},
		{"RetryBringsItsOwnTimes", func(e *env) {
			e.grant(request("k"))
			e.advance(lease)
			retry := request("k")
			retry.Retry, retry.Lease, retry.Tombstone = true, 2*lease, tombstone/2
			e.grant(retry)
			e.left(e.state(retry.Key, driver.StateInFlight), 2*lease)
			e.advance(2 * lease)
			e.left(e.state(retry.Key, driver.StateUnknown), tombstone/2)
			e.advance(tombstone / 2)
			e.state(retry.Key, driver.StateAbsent)
		}},
		{"TheTombstoneCountsFromTheEndOfTheLease", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease / 2)
			e.renew(ref, lease)
			e.advance(2 * lease)
			e.left(e.state(req.Key, driver.StateUnknown), tombstone-lease)
			e.advance(tombstone - lease - e.tick())
			e.state(req.Key, driver.StateUnknown)
			e.advance(e.tick())
			rec := e.state(req.Key, driver.StateAbsent)
			equal(e, rec.Attempt, 0, "the attempt of what is absent")
			e.fenced(req, ref)
		}},
		// An owner that never finishes blocks its key until the tombstone ends, and
		// then no longer; under retry, until its lease ends.
		{"Trap62AnOwnerThatNeverFinishes", func(e *env) {
			first := e.grant(request("k"))
			for waited := lease; waited < tombstone; waited += tombstone / 8 {
				e.refuse(request("k"))
				e.advance(tombstone / 8)
			}
			e.advance(lease)
			e.larger(e.grant(request("k")), first)
			for attempt := 2; attempt < 10; attempt++ {
				e.advance(lease)
				retry := request("k")
				retry.Retry = true
				reply := e.claim(retry)
				equal(e, reply.Granted, true, "granted")
				equal(e, reply.Record.Attempt, attempt, "the attempt")
			}
		}},
		// Two callers at a stale lease: one wins.
		{"Trap5OneOfTwoWins", func(e *env) {
			e.grant(request("k"))
			e.advance(lease)
			a, b := request("k"), request("k")
			a.Retry, b.Retry = true, true
			ref := e.grant(a)
			rec := e.refuse(b)
			equal(e, rec.State, driver.StateInFlight, "the state")
			equal(e, rec.Token, ref.Token, "the token")
		}},
	}
}
