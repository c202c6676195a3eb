package drivertest

import (
	"bytes"

	"github.com/idem-go/idem/driver"
)

func completeRules() []rule {
	return []rule{
		{"KeepsTheResult", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease / 2)
			e.complete(ref, completion(req, "201", "made"))
			rec := e.state(req.Key, driver.StateCompleted)
			result(e, rec, "201", "made")
			equal(e, rec.Dropped, false, "dropped")
			equal(e, rec.Token, ref.Token, "the token")
			equal(e, rec.Attempt, 1, "the attempt")
			equal(e, rec.Fingerprint, req.Fingerprint, "the fingerprint")
			equal(e, rec.Scope, req.Scope, "the scope")
			equal(e, rec.ID, req.ID, "the id")
			e.left(rec, retention)
			e.age(rec, 0)
		}},
		{"EmptyIsAResultToo", func(e *env) {
			req := request("k")
			e.complete(e.grant(req), completion(req, "", ""))
			rec := e.refuse(request("k"))
			equal(e, rec.State, driver.StateCompleted, "the state")
			equal(e, rec.Dropped, false, "dropped")
			result(e, rec, "", "")
		}},
		{"MetaAndBodyAreApart", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.complete(ref, completion(req, "ab", "c"))
			e.completeErr(ref, completion(req, "a", "bc"), driver.ErrCompleted)
			e.completeErr(ref, completion(req, "", "abc"), driver.ErrCompleted)
			e.completeErr(ref, completion(req, "abc", ""), driver.ErrCompleted)
			result(e, e.lookup(req.Key), "ab", "c")
		}},
		{"AnyBytes", func(e *env) {
			every := make([]byte, 3*256)
			for i := range every {
				every[i] = byte(i)
			}
			req := request("k")
			c := completion(req, "", "")
			c.Result = driver.Result{Meta: every[:256], Body: every}
			e.complete(e.grant(req), c)
			rec := e.lookup(req.Key)
			equal(e, bytes.Equal(rec.Result.Meta, every[:256]), true, "the same meta")
			equal(e, bytes.Equal(rec.Result.Body, every), true, "the same body")
		}},
		{"Dropped", func(e *env) {
			req := request("k")
			c := completion(req, "", "")
			c.Dropped = true
			ref := e.grant(req)
			e.complete(ref, c)
			for _, rec := range []driver.Record{e.lookup(req.Key), e.refuse(request("k"))} {
				equal(e, rec.State, driver.StateCompleted, "the state")
				equal(e, rec.Dropped, true, "dropped")
				equal(e, rec.Fingerprint, req.Fingerprint, "the fingerprint")
				result(e, rec, "", "")
			}
			e.unchanged(req.Key, "completing again", func() {
				e.complete(ref, c)
				e.completeErr(ref, completion(req, "", ""), driver.ErrCompleted)
				e.completeErr(ref, completion(req, "", "kept after all"), driver.ErrCompleted)
			})
			e.advance(retention)
			equal(e, e.state(req.Key, driver.StateForgotten).Dropped, false, "dropped, of a tombstone")
		}},
		{"EmptyIsNotDropped", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.complete(ref, completion(req, "", ""))
			c := completion(req, "", "")
			c.Dropped = true
			e.completeErr(ref, c, driver.ErrCompleted)
		}},
		// The answer of Complete was lost, and the owner asks again.
		{"Trap56TheRepeatSucceeds", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.complete(ref, completion(req, "201", "made"))
			e.advance(retention / 2)
			e.unchanged(req.Key, "completing again", func() {
				e.complete(ref, completion(req, "201", "made"))
			})
			e.left(e.lookup(req.Key), retention/2)
			e.advance(retention / 2)
			e.unchanged(req.Key, "completing what is forgotten", func() {
				if _, err := e.s.Complete(e.ctx, ref, completion(req, "201", "made")); err != nil {
					e.Fatalf("Complete of what is forgotten: %v; it is a repeat", err)
				}
				if _, err := e.s.Complete(e.ctx, ref, completion(req, "", "another")); err != nil {
					e.Fatalf("Complete of what is forgotten: %v; it is a repeat", err)
				}
			})
		}},
		{"AnotherResultIsRefused", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.complete(ref, completion(req, "201", "made"))
			e.unchanged(req.Key, "completing with another result", func() {
				e.completeErr(ref, completion(req, "201", "made otherwise"), driver.ErrCompleted)
				e.completeErr(ref, completion(req, "200", "made"), driver.ErrCompleted)
				e.completeErr(ref, completion(req, "201", "mad"), driver.ErrCompleted)
				c := completion(req, "", "")
				c.Dropped = true
				e.completeErr(ref, c, driver.ErrCompleted)
			})
			result(e, e.lookup(req.Key), "201", "made")
		}},
		{"LateWhenTheLeaseEnded", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease)
			e.completeLate(ref, completion(req, "", "late"))
			rec := e.state(req.Key, driver.StateCompleted)
			result(e, rec, "", "late")
			equal(e, rec.Fingerprint, req.Fingerprint, "the fingerprint")
			e.left(rec, retention)
			e.unchanged(req.Key, "completing again", func() {
				e.completeLate(ref, completion(req, "", "late"))
			})
		}},
		{"LateToTheEndOfTheTombstone", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease + tombstone - e.tick())
			e.completeLate(ref, completion(req, "", "very late"))

			req = request("too late")
			ref = e.grant(req)
			e.advance(lease + tombstone)
			e.completeErr(ref, completion(req, "", "too late"), driver.ErrLost)
			e.state(req.Key, driver.StateAbsent)
		}},
		{"LateWhenAbandoned", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.abandon(ref)
			e.completeLate(ref, completion(req, "", "late"))
			result(e, e.state(req.Key, driver.StateCompleted), "", "late")
		}},
		{"LateButTakenOver", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease)
			retry := request("k")
			retry.Retry = true
			newest := e.grant(retry)
			e.completeErr(ref, completion(req, "", "late"), driver.ErrLost)
			e.advance(lease)
			e.completeErr(ref, completion(req, "", "late"), driver.ErrLost)
			e.completeLate(newest, completion(req, "", "of the newest"))
			e.completeErr(ref, completion(req, "", "late"), driver.ErrLost)
			result(e, e.lookup(req.Key), "", "of the newest")
		}},
		{"ReleasedIsLost", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.release(ref, false)
			e.unchanged(req.Key, "completing what was released", func() {
				e.completeErr(ref, completion(req, "", "too late"), driver.ErrLost)
			})
		}},
	}
}
