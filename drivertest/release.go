package drivertest

import (
	"time"

	"github.com/idem-go/idem/driver"
)

func releaseRules() []rule {
	return []rule{
		{"MakesItAbsent", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.release(ref, false)
			rec := e.state(req.Key, driver.StateAbsent)
			equal(e, rec.Fingerprint.IsZero(), true, "fingerprint forgotten")
			equal(e, rec.Token, ref.Token, "the token")
			equal(e, rec.Attempt, 1, "the attempt")
			equal(e, rec.Answered, false, "answered")
		}},
		{"AnotherFingerprintMayCome", func(e *env) {
			e.release(e.grant(request("k")), false)
			other := request("k")
			other.Fingerprint = fingerprint("something else")
			reply := e.claim(other)
			equal(e, reply.Granted, true, "granted")
			equal(e, reply.Record.Fingerprint, other.Fingerprint, "the fingerprint")
			equal(e, e.lookup(other.Key).Fingerprint, other.Fingerprint, "the fingerprint")
		}},
		{"TheAttemptCountStays", func(e *env) {
			for attempt := 1; attempt <= 5; attempt++ {
				reply := e.claim(request("k"))
				equal(e, reply.Granted, true, "granted")
				equal(e, reply.Record.Attempt, attempt, "the attempt")
				e.release(driver.Ref{Key: reply.Record.Key, Token: reply.Record.Token}, attempt%2 == 0)
				e.advance(retention - e.tick())
			}
			req := request("k")
			ref := e.grant(req)
			e.complete(ref, completion(req, "", ""))
			equal(e, e.lookup(req.Key).Attempt, 6, "the attempt")
		}},
		{"UnusedIsNoAttempt", func(e *env) {
			for range 3 {
				reply := e.claim(request("k"))
				equal(e, reply.Granted, true, "granted")
				equal(e, reply.Record.Attempt, 1, "the attempt")
				ref := driver.Ref{Key: reply.Record.Key, Token: reply.Record.Token}
				unused := driver.Release{Unused: true, Retention: retention}
				e.want(e.s.Release(e.ctx, ref, unused), nil, "Release")
				e.unchanged(ref.Key, "releasing again", func() {
					e.want(e.s.Release(e.ctx, ref, unused), nil, "Release")
				})
				equal(e, e.lookup(ref.Key).Attempt, 0, "the attempt count")
			}
		}},
		{"ForItsRetention", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			r := driver.Release{Answered: true, Retention: 3 * time.Minute}
			e.want(e.s.Release(e.ctx, ref, r), nil, "Release")
			e.advance(3*time.Minute - e.tick())
			equal(e, e.lookup(req.Key).Attempt, 1, "the attempt count in its last instant")
			e.advance(e.tick())
			rec := e.state(req.Key, driver.StateAbsent)
			equal(e, rec.Attempt, 0, "the attempt count after its retention")
			equal(e, rec.Answered, false, "answered after the retention")
			e.releaseErr(ref, driver.ErrLost)
			reply := e.claim(request("k"))
			equal(e, reply.Granted, true, "granted")
			equal(e, reply.Record.Attempt, 1, "the attempt")
		}},
		{"Trap56TheRepeatSucceeds", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.release(ref, true)
			e.advance(retention / 2)
			e.unchanged(req.Key, "releasing again", func() {
				e.release(ref, true)
				// What was said first stays.
				e.release(ref, false)
			})
			e.advance(retention / 2)
			e.releaseErr(ref, driver.ErrLost)
		}},
		{"LapsedIsRefused", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease)
			e.releaseErr(ref, driver.ErrLapsed)
			e.state(req.Key, driver.StateUnknown)
		}},
		{"AnsweredTellsWhoeverWaited", func(e *env) {
			ref := e.grant(request("k"))
			e.release(ref, true)
			waited := request("k")
			waited.Waited = ref.Token
			e.unchanged(waited.Key, "a claim of who waited", func() {
				rec := e.refuse(waited)
				equal(e, rec.State, driver.StateAbsent, "the state")
				equal(e, rec.Answered, true, "answered")
				equal(e, rec.Attempt, 1, "the attempt")
			})
			equal(e, e.lookup(waited.Key).Answered, true, "answered")
			// Who did not wait is granted it.
			reply := e.claim(request("k"))
			equal(e, reply.Granted, true, "granted")
			equal(e, reply.Record.Attempt, 2, "the attempt")
		}},
		{"AnsweredByALaterClaim", func(e *env) {
			first := e.grant(request("k"))
			e.release(first, false)
			second := e.grant(request("k"))
			e.release(second, true)
			waited := request("k")
			waited.Waited = first.Token
			equal(e, e.refuse(waited).Answered, true, "answered")
			waited.Waited = second.Token
			equal(e, e.refuse(waited).Answered, true, "answered")
		}},
		{"AnsweredByAnEarlierClaim", func(e *env) {
			first := e.grant(request("k"))
			e.release(first, true)
			waited := request("k")
			waited.Waited = first.Token + 1
			e.grant(waited)
		}},
		{"OnlyTheLastReleaseCounts", func(e *env) {
			first := e.grant(request("k"))
			e.release(first, true)
			second := e.grant(request("k"))
			e.release(second, false)
			waited := request("k")
			waited.Waited = first.Token
			e.grant(waited)
		}},
		{"UnansweredGrantsWhoeverWaited", func(e *env) {
			ref := e.grant(request("k"))
			e.release(ref, false)
			waited := request("k")
			waited.Waited = ref.Token
			e.grant(waited)
		}},
		{"AnsweredIsForgottenWithItsRetention", func(e *env) {
			ref := e.grant(request("k"))
			e.release(ref, true)
			e.advance(retention)
			waited := request("k")
			waited.Waited = ref.Token
			e.grant(waited)
		}},
	}
}
