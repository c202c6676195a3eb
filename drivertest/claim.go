package drivertest

import (
	"github.com/idem-go/idem/driver"
)

func claimRules() []rule {
	return []rule{
		{"AbsentIsGranted", func(e *env) {
			req := request("k")
			reply := e.claim(req)
			equal(e, reply.Granted, true, "granted")
			rec := reply.Record
			equal(e, rec.State, driver.StateInFlight, "the state of a granted claim")
			equal(e, rec.Key, req.Key, "the key")
			equal(e, rec.Attempt, 1, "the first attempt")
			equal(e, rec.Fingerprint, req.Fingerprint, "the fingerprint")
			equal(e, rec.Token > 0, true, "token > 0")
			e.left(rec, lease)
			e.age(rec, 0)
		}},
		{"LookupShowsIt", func(e *env) {
			req := request("k")
			reply := e.claim(req)
			rec := e.state(req.Key, driver.StateInFlight)
			if d := e.differ(reply.Record, rec); d != "" {
				e.Fatalf("Claim and Lookup differ: %s", d)
			}
			equal(e, rec.Scope, req.Scope, "the scope")
			equal(e, rec.ID, req.ID, "the id")
		}},
		{"NothingIsAbsent", func(e *env) {
			rec := e.state(driver.KeyOf("scope", "never"), driver.StateAbsent)
			equal(e, rec.Attempt, 0, "the attempt of nothing")
			equal(e, rec.Token, 0, "the token of nothing")
			equal(e, rec.Answered, false, "answered")
		}},
		{"InFlightIsRefused", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease / 2)
			e.unchanged(req.Key, "a claim of another", func() {
				other := request("k")
				other.Retry = true
				other.Fingerprint = fingerprint("something else")
				rec := e.refuse(other)
				equal(e, rec.State, driver.StateInFlight, "the state")
				equal(e, rec.Token, ref.Token, "the token")
				equal(e, rec.Attempt, 1, "the attempt")
				equal(e, rec.Fingerprint, req.Fingerprint, "the fingerprint")
				e.left(rec, lease/2)
				e.age(rec, lease/2)
			})
		}},
		{"CompletedIsReplayed", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.complete(ref, completion(req, "201", "the answer"))
			e.advance(retention / 4)
			e.unchanged(req.Key, "a claim of another", func() {
				other := request("k")
				other.Retry = true
				rec := e.refuse(other)
				equal(e, rec.State, driver.StateCompleted, "the state")
				result(e, rec, "201", "the answer")
				equal(e, rec.Token, ref.Token, "the token")
				equal(e, rec.Attempt, 1, "the attempt")
				equal(e, rec.Fingerprint, req.Fingerprint, "the fingerprint")
				e.left(rec, retention-retention/4)
				e.age(rec, retention/4)
			})
		}},
		{"ForgottenIsRefused", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.complete(ref, completion(req, "201", "the answer"))
			e.advance(retention)
			e.unchanged(req.Key, "a claim of another", func() {
				other := request("k")
				other.Retry = true
				rec := e.refuse(other)
				equal(e, rec.State, driver.StateForgotten, "the state")
				equal(e, rec.Token, ref.Token, "the token")
				result(e, rec, "", "")
			})
		}},
		{"OtherKeysAreOthers", func(e *env) {
			one, two := request("one"), request("two")
			ref := e.grant(one)
			e.grant(two)
			e.complete(ref, completion(one, "", "1"))
			e.state(two.Key, driver.StateInFlight)
			e.state(one.Key, driver.StateCompleted)
		}},
		// B has read that nothing is there and pauses; A runs and completes; B
		// goes on and asks: it must be told of A.
		{"Trap2LooksAgain", func(e *env) {
			a, b := request("k"), request("k")
			e.state(b.Key, driver.StateAbsent)
			ref := e.grant(a)
			e.complete(ref, completion(a, "", "of A"))
			rec := e.refuse(b)
			equal(e, rec.State, driver.StateCompleted, "the state")
			result(e, rec, "", "of A")
		}},
		// Contention never counts as an attempt.
		{"RefusedDoesNotCount", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			for range 10 {
				e.refuse(request("k"))
			}
			e.release(ref, true)
			for range 10 {
				waited := request("k")
				waited.Waited = ref.Token
				e.refuse(waited)
			}
			reply := e.claim(request("k"))
			equal(e, reply.Granted, true, "granted")
			equal(e, reply.Record.Attempt, 2, "the attempt")
		}},
	}
}
