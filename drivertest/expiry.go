package drivertest

import (
	"time"

	"github.com/idem-go/idem/driver"
)

func expiryRules() []rule {
	return []rule{
		{"RetentionThenTombstoneThenAbsent", func(e *env) {
			for _, swept := range []bool{false, true} {
				name := "k"
				if swept {
					name = "swept"
				}
				req := request(name)
				e.complete(e.grant(req), completion(req, "m", "b"))
				e.advance(retention - e.tick())
				e.sweepIf(swept)
				result(e, e.state(req.Key, driver.StateCompleted), "m", "b")
				e.advance(e.tick())
				e.sweepIf(swept)
				rec := e.state(req.Key, driver.StateForgotten)
				result(e, rec, "", "")
				equal(e, rec.Fingerprint.IsZero(), true, "fingerprint forgotten")
				e.left(rec, tombstone)
				e.advance(tombstone - e.tick())
				e.sweepIf(swept)
				e.state(req.Key, driver.StateForgotten)
				e.refuse(request(name))
				e.advance(e.tick())
				e.sweepIf(swept)
				e.state(req.Key, driver.StateAbsent)
			}
		}},
		// Long after everything was over, unswept, it is absent and no tombstone.
		{"LongAfter", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.complete(ref, completion(req, "m", "b"))
			e.advance(10 * (retention + tombstone))
			e.state(req.Key, driver.StateAbsent)
			e.fenced(req, ref)
		}},
		// After its time a key gives exactly one new run.
		{"Trap32OneNewRun", func(e *env) {
			req := request("k")
			e.complete(e.grant(req), completion(req, "m", "b"))
			e.advance(retention + tombstone)
			again := request("k")
			again.Fingerprint = fingerprint("something else")
			reply := e.claim(again)
			equal(e, reply.Granted, true, "granted")
			equal(e, reply.Record.Attempt, 1, "the attempt")
			equal(e, e.refuse(request("k")).State, driver.StateInFlight, "the state")
			e.complete(driver.Ref{Key: again.Key, Token: reply.Record.Token}, completion(again, "", "second"))
			result(e, e.refuse(request("k")), "", "second")
		}},
		{"Trap32RetentionCountsFromTheCompletion", func(e *env) {
			req := request("k")
			req.Lease = 2 * retention
			ref := e.grant(req)
			e.advance(retention + retention/2)
			e.complete(ref, completion(req, "m", "b"))
			e.left(e.state(req.Key, driver.StateCompleted), retention)
			e.advance(retention - e.tick())
			e.state(req.Key, driver.StateCompleted)
		}},
		{"EveryRecordHasItsOwn", func(e *env) {
			short, long := request("short"), request("long")
			c := completion(short, "", "")
			c.Retention, c.Tombstone = time.Minute, time.Minute
			e.complete(e.grant(short), c)
			e.complete(e.grant(long), completion(long, "", ""))
			e.advance(time.Minute)
			e.sweep()
			e.state(short.Key, driver.StateForgotten)
			e.state(long.Key, driver.StateCompleted)
			e.advance(time.Minute)
			e.sweep()
			e.state(short.Key, driver.StateAbsent)
			e.state(long.Key, driver.StateCompleted)
		}},
		// The tombstone of a completion is the completion's, not the claim's.
		{"TheTombstoneIsTheCompletions", func(e *env) {
			req := request("k")
			req.Tombstone = time.Minute
			e.complete(e.grant(req), completion(req, "", ""))
			e.advance(retention + time.Minute)
			e.state(req.Key, driver.StateForgotten)
		}},
	}
}

func (e *env) sweepIf(swept bool) {
	e.Helper()
	if swept {
		e.sweep()
	}
}
