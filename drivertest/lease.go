package drivertest

import (
	"time"

	"github.com/idem-go/idem/driver"
)

func leaseRules() []rule {
	return []rule{
		{"HoldsToTheEnd", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease - e.tick())
			e.state(req.Key, driver.StateInFlight)
			retry := request("k")
			retry.Retry = true
			e.refuse(retry)
			e.complete(ref, completion(req, "", "in time"))
		}},
		{"RenewedInTheLastInstant", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease - e.tick())
			e.renew(ref, lease)
			e.advance(lease - e.tick())
			e.state(req.Key, driver.StateInFlight)
		}},
		{"Trap62AtTheBoundaryItIsOver", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease)
			e.state(req.Key, driver.StateUnknown)
			e.want(e.s.Renew(e.ctx, ref, lease), driver.ErrLapsed, "Renew at the boundary")
			retry := request("k")
			retry.Retry = true
			e.grant(retry)
		}},
		{"RenewCountsFromNow", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease / 2)
			e.renew(ref, 3*lease)
			e.left(e.state(req.Key, driver.StateInFlight), 3*lease)
			e.advance(3*lease - e.tick())
			e.state(req.Key, driver.StateInFlight)
			e.advance(e.tick())
			e.state(req.Key, driver.StateUnknown)
		}},
		{"Trap56TheRepeatSucceeds", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.renew(ref, lease)
			e.renew(ref, lease)
			e.advance(lease / 2)
			e.renew(ref, lease)
			e.left(e.state(req.Key, driver.StateInFlight), lease)
		}},
		{"RenewMayShorten", func(e *env) {
			req := request("k")
			req.Lease = time.Hour
			ref := e.grant(req)
			e.renew(ref, lease)
			e.left(e.state(req.Key, driver.StateInFlight), lease)
			e.advance(lease)
			e.state(req.Key, driver.StateUnknown)
		}},
		{"RenewKeepsTheRest", func(e *env) {
			req := request("k")
			before := e.claim(req).Record
			e.advance(lease / 2)
			e.renew(driver.Ref{Key: req.Key, Token: before.Token}, lease)
			after := e.state(req.Key, driver.StateInFlight)
			e.age(after, lease/2)
			after.Age, after.Left = before.Age, before.Left
			if d := e.differ(before, after); d != "" {
				e.Fatalf("Renew changed the record: %s", d)
			}
		}},
		// An owner that always renews keeps its claim however long it runs.
		{"RenewedManyTimes", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			for range 100 {
				e.advance(lease / 2)
				e.renew(ref, lease)
			}
			e.state(req.Key, driver.StateInFlight)
			e.complete(ref, completion(req, "", "at last"))
		}},
		{"EveryKeyHasItsOwn", func(e *env) {
			short, long := request("short"), request("long")
			long.Lease = 2 * lease
			e.grant(short)
			e.grant(long)
			e.advance(lease)
			e.state(short.Key, driver.StateUnknown)
			e.state(long.Key, driver.StateInFlight)
		}},
		// A duration added to a time must not wrap into the past.
		{"TheLongestDuration", func(e *env) {
			const forever = time.Duration(1<<63 - 1)
			req := request("k")
			req.Lease, req.Tombstone = forever, forever
			ref := e.grant(req)
			e.advance(retention)
			e.state(req.Key, driver.StateInFlight)
			e.renew(ref, forever)
			e.advance(retention)
			e.state(req.Key, driver.StateInFlight)
			c := completion(req, "", "kept")
			c.Retention, c.Tombstone = forever, forever
			e.complete(ref, c)
			e.advance(retention)
			e.state(req.Key, driver.StateCompleted)

			gone := request("abandoned")
			gone.Tombstone = forever
			e.abandon(e.grant(gone))
			e.advance(retention)
			e.state(gone.Key, driver.StateUnknown)

			again := request("released")
			e.want(e.s.Release(e.ctx, e.grant(again), driver.Release{Retention: forever}), nil, "Release")
			e.advance(retention)
			equal(e, e.lookup(again.Key).Attempt, 1, "the attempt count")
		}},
	}
}
