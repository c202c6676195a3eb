package drivertest

import (
	"github.com/idem-go/idem/driver"
)

func abandonRules() []rule {
	return []rule{
		{"UnknownAtOnce", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease / 4)
			e.abandon(ref)
			rec := e.state(req.Key, driver.StateUnknown)
			equal(e, rec.Token, ref.Token, "the token")
			equal(e, rec.Attempt, 1, "the attempt")
			equal(e, rec.Fingerprint, req.Fingerprint, "the fingerprint")
			e.left(rec, tombstone)
			e.age(rec, lease/4)
		}},
		{"NotRenewedNorReleased", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.abandon(ref)
			e.unchanged(req.Key, "renewing what was abandoned", func() {
				e.want(e.s.Renew(e.ctx, ref, lease), driver.ErrLapsed, "Renew")
				e.releaseErr(ref, driver.ErrLapsed)
			})
		}},
		{"TheRepeatSucceeds", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.abandon(ref)
			e.advance(tombstone / 2)
			e.unchanged(req.Key, "abandoning again", func() { e.abandon(ref) })
			e.left(e.lookup(req.Key), tombstone/2)
		}},
		// The tombstone of an unknown counts from when it became unknown.
		{"AfterTheLeaseEnded", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(2 * lease)
			e.unchanged(req.Key, "abandoning what has lapsed", func() { e.abandon(ref) })
			e.left(e.lookup(req.Key), tombstone-lease)
		}},
		{"OnlyWhileTheTombstoneLasts", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.abandon(ref)
			e.advance(tombstone - e.tick())
			e.state(req.Key, driver.StateUnknown)
			e.advance(e.tick())
			e.state(req.Key, driver.StateAbsent)
			e.want(e.s.Abandon(e.ctx, ref), driver.ErrLost, "Abandon")
		}},
		{"CompletedStaysCompleted", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.complete(ref, completion(req, "", "done"))
			e.unchanged(req.Key, "abandoning what is completed", func() {
				e.want(e.s.Abandon(e.ctx, ref), driver.ErrCompleted, "Abandon")
			})
		}},
	}
}
