package drivertest

import (
	"github.com/idem-go/idem/driver"
)

func fingerprintRules() []rule {
	return []rule{
		{"KeptInEveryState", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			equal(e, e.lookup(req.Key).Fingerprint, req.Fingerprint, "in flight")
			e.advance(lease)
			equal(e, e.lookup(req.Key).Fingerprint, req.Fingerprint, "lapsed")
			e.abandon(ref)
			equal(e, e.lookup(req.Key).Fingerprint, req.Fingerprint, "abandoned")
			e.completeLate(ref, completion(req, "", ""))
			equal(e, e.lookup(req.Key).Fingerprint, req.Fingerprint, "completed")
		}},
		// The comparison is the caller's: the store returns what is recorded.
		{"NotCompared", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			other := request("k")
			other.Fingerprint = fingerprint("something else")
			equal(e, e.refuse(other).Fingerprint, req.Fingerprint, "in flight")
			e.complete(ref, completion(req, "", "of the first"))
			rec := e.refuse(other)
			equal(e, rec.Fingerprint, req.Fingerprint, "completed")
			result(e, rec, "", "of the first")
		}},
		{"RetryNeedsTheSame", func(e *env) {
			req := request("k")
			e.grant(req)
			e.advance(lease)
			e.unchanged(req.Key, "a retry with another fingerprint", func() {
				other := request("k")
				other.Retry = true
				other.Fingerprint = fingerprint("something else")
				rec := e.refuse(other)
				equal(e, rec.State, driver.StateUnknown, "the state")
				equal(e, rec.Fingerprint, req.Fingerprint, "the fingerprint")
			})
			same := request("k")
			same.Retry = true
			e.grant(same)
		}},
		// A rule of another version makes another fingerprint, whatever its sum.
		{"Trap60TheRuleIsPartOfIt", func(e *env) {
			for version := range 256 {
				req := request("k")
				req.Key[0] = byte(version)
				req.Fingerprint.Rule = uint8(version)
				e.complete(e.grant(req), completion(req, "", ""))
				equal(e, e.lookup(req.Key).Fingerprint, req.Fingerprint, "the fingerprint")
			}
			req := request("another key")
			e.grant(req)
			e.advance(lease)
			other := request("another key")
			other.Retry = true
			other.Fingerprint.Rule++
			e.refuse(other)
		}},
		{"NoneIsOneToo", func(e *env) {
			req := request("k")
			req.Fingerprint = driver.Fingerprint{}
			e.grant(req)
			e.advance(lease)
			other := request("k")
			other.Retry = true
			e.refuse(other)
			other.Fingerprint = driver.Fingerprint{}
			e.grant(other)
		}},
		{"OfALateCompletionIsTheClaims", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease)
			e.completeLate(ref, completion(req, "", ""))
			equal(e, e.lookup(req.Key).Fingerprint, req.Fingerprint, "the fingerprint")
		}},
	}
}
