package drivertest

import (
	"github.com/idem-go/idem/driver"
)

func reopenRules() []rule {
	rules := []rule{
		{"WhatWasAcknowledgedIsThere", func(e *env) {
			completed, dropped, forgotten := request("completed"), request("dropped"), request("forgotten")
			e.complete(e.grant(forgotten), completion(forgotten, "", "old"))
			e.advance(retention)
			ref := e.grant(completed)
			e.complete(ref, completion(completed, "201", "made"))
			c := completion(dropped, "", "")
			c.Dropped = true
			e.complete(e.grant(dropped), c)
			released := request("released")
			rel := e.grant(released)
			e.release(rel, true)
			abandoned := request("abandoned")
			e.abandon(e.grant(abandoned))

			var before []driver.Record
			keys := []driver.Key{completed.Key, dropped.Key, forgotten.Key, released.Key, abandoned.Key}
			for _, k := range keys {
				before = append(before, e.lookup(k))
			}
			e.reopen()
			for i, k := range keys {
				if d := e.differ(before[i], e.lookup(k)); d != "" {
					e.Fatalf("a record has changed over the reopening: %s", d)
				}
			}
			result(e, e.refuse(request("completed")), "201", "made")
			e.complete(ref, completion(completed, "201", "made"))
			waited := request("released")
			waited.Waited = rel.Token
			equal(e, e.refuse(waited).Answered, true, "answered")
			_, err := e.s.Claim(e.ctx, released)
			if err == nil {
				e.Fatalf("the nonce of a released claim was granted again after the reopening")
			}
			reply := e.claim(request("released"))
			equal(e, reply.Record.Attempt, 2, "the attempt")
		}},
		// Where one process owns the files its end is the end of its claims; where
		// many share the records a claim outlives a process that was looking on.
		{"WhatWasInFlight", func(e *env) {
			d, ok := driver.As[driver.Describer](e.s)
			if !ok {
				e.Logf("not tested: the store does not say whether it is shared")
				return
			}
			shared := d.Describe().Shared
			req := request("k")
			ref := e.grant(req)
			e.reopen()
			if shared {
				e.state(req.Key, driver.StateInFlight)
				e.complete(ref, completion(req, "", "r"))
				return
			}
			rec := e.state(req.Key, driver.StateUnknown)
			equal(e, rec.Token, ref.Token, "the token")
			equal(e, rec.Attempt, 1, "the attempt")
			equal(e, rec.Fingerprint, req.Fingerprint, "the fingerprint")
			equal(e, e.refuse(request("k")).State, driver.StateUnknown, "the state")
			e.want(e.s.Renew(e.ctx, ref, lease), driver.ErrLapsed, "Renew")
			e.completeLate(ref, completion(req, "", "late"))
			result(e, e.lookup(req.Key), "", "late")
		}},
		{"TheTokenGrows", func(e *env) {
			var last driver.Ref
			for range 3 {
				ref := e.grant(request("k"))
				e.larger(ref, last)
				e.release(ref, false)
				last = ref
				e.reopen()
			}
			e.advance(retention)
			e.sweep()
			e.reopen()
			e.larger(e.grant(request("k")), last)
		}},
		{"TimeGoesOn", func(e *env) {
			req := request("k")
			e.complete(e.grant(req), completion(req, "", "r"))
			e.advance(retention / 2)
			e.reopen()
			e.left(e.state(req.Key, driver.StateCompleted), retention/2)
			e.advance(retention / 2)
			e.state(req.Key, driver.StateForgotten)
			e.reopen()
			e.state(req.Key, driver.StateForgotten)
			e.advance(tombstone)
			e.state(req.Key, driver.StateAbsent)
		}},
		{"AnUnknownStays", func(e *env) {
			req := request("k")
			e.grant(req)
			e.advance(lease)
			e.reopen()
			e.left(e.state(req.Key, driver.StateUnknown), tombstone)
			retry := request("k")
			retry.Retry = true
			reply := e.claim(retry)
			equal(e, reply.Granted, true, "granted")
			equal(e, reply.Record.Attempt, 2, "the attempt")
		}},
	}
	for i := range rules {
		test := rules[i].test
		rules[i].test = func(e *env) {
			if e.h.Reopen != nil {
				test(e)
			}
		}
	}
	return rules
}

func (e *env) reopen() {
	e.Helper()
	e.s = e.h.Reopen(e.TB, e.s)
}
