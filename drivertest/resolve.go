package drivertest

import (
	"errors"

	"github.com/idem-go/idem/driver"
)

func resolveRules() []rule {
	rules := []rule{
		{"CompleteAnUnknown", func(e *env) {
			for _, abandoned := range []bool{false, true} {
				req := request("lapsed")
				if abandoned {
					req = request("abandoned")
				}
				ref := e.grant(req)
				if abandoned {
					e.abandon(ref)
				} else {
					e.advance(lease)
				}
				r := resolution(driver.ResolveComplete)
				r.Token = ref.Token
				r.Result = driver.Result{Meta: []byte("200"), Body: []byte("found out")}
				r.Note = "looked it up"
				returned := e.resolve(req.Key, r)
				rec := e.state(req.Key, driver.StateCompleted)
				if d := e.differ(returned, rec); d != "" {
					e.Fatalf("Resolve and Lookup differ: %s", d)
				}
				result(e, rec, "200", "found out")
				equal(e, rec.Token, ref.Token, "the token")
				equal(e, rec.Attempt, 1, "the attempt")
				equal(e, rec.Fingerprint, req.Fingerprint, "the fingerprint")
				equal(e, rec.Scope+" "+rec.ID, req.Scope+" "+req.ID, "the name")
				equal(e, rec.Note, "looked it up", "the note")
				e.left(rec, retention)
				// A retry gets it, and the owner, late, is told that it is completed.
				again := request(req.ID)
				again.Retry = true
				result(e, e.refuse(again), "200", "found out")
				e.completeErr(ref, completion(req, "", "the owner's"), driver.ErrCompleted)
				if _, err := e.s.Complete(e.ctx, ref, completion(req, "200", "found out")); err != nil {
					e.Fatalf("Complete with the operator's result: %v; it is a repeat", err)
				}
				e.advance(retention)
				e.left(e.state(req.Key, driver.StateForgotten), tombstone)
			}
		}},
		{"CompleteWithoutResult", func(e *env) {
			req := request("k")
			e.abandon(e.grant(req))
			r := resolution(driver.ResolveComplete)
			r.Dropped = true
			equal(e, e.resolve(req.Key, r).Dropped, true, "dropped")
			equal(e, e.refuse(request("k")).Dropped, true, "dropped")
		}},
		{"ReleaseAnUnknown", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease)
			r := resolution(driver.ResolveRelease)
			r.Token = ref.Token
			rec := e.resolve(req.Key, r)
			equal(e, rec.State, driver.StateAbsent, "the state")
			rec = e.state(req.Key, driver.StateAbsent)
			equal(e, rec.Fingerprint.IsZero(), true, "fingerprint forgotten")
			equal(e, rec.Attempt, 1, "the attempt")
			equal(e, rec.Answered, false, "answered")
			waited := request("k")
			waited.Waited = ref.Token
			waited.Fingerprint = fingerprint("something else")
			reply := e.claim(waited)
			equal(e, reply.Granted, true, "granted")
			equal(e, reply.Record.Attempt, 2, "the attempt")
			e.larger(driver.Ref{Token: reply.Record.Token}, ref)
			e.fenced(req, ref)
		}},
		{"ReleasedForItsRetention", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.abandon(ref)
			e.resolve(req.Key, resolution(driver.ResolveRelease))
			e.advance(retention - e.tick())
			equal(e, e.state(req.Key, driver.StateAbsent).Attempt, 1, "the attempt")
			e.advance(e.tick())
			equal(e, e.state(req.Key, driver.StateAbsent).Attempt, 0, "the attempt after its retention")
			e.fenced(req, ref)
		}},
		{"ReleaseInFlightNeedsForce", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			r := resolution(driver.ResolveRelease)
			e.refuseResolve(req.Key, r, driver.ErrState)
			e.state(req.Key, driver.StateInFlight)
			r.Force = true
			equal(e, e.resolve(req.Key, r).State, driver.StateAbsent, "the state")
			e.state(req.Key, driver.StateAbsent)
			e.want(e.s.Renew(e.ctx, ref, lease), driver.ErrLost, "Renew")
		}},
		// The owner was not dead: its late completion brings everything anew.
		{"LateCompletionAfterARelease", func(e *env) {
			for _, forced := range []bool{false, true} {
				req := request("abandoned")
				if forced {
					req = request("forced")
				}
				ref := e.grant(req)
				if !forced {
					e.abandon(ref)
				}
				r := resolution(driver.ResolveRelease)
				r.Force = forced
				e.resolve(req.Key, r)
				e.unchanged(req.Key, "the owner's release", func() { e.release(ref, true) })
				e.advance(retention / 2)
				e.completeLate(ref, completion(req, "201", "done after all"))
				rec := e.state(req.Key, driver.StateCompleted)
				result(e, rec, "201", "done after all")
				equal(e, rec.Fingerprint, req.Fingerprint, "the fingerprint")
				equal(e, rec.Scope+" "+rec.ID, req.Scope+" "+req.ID, "the name")
				equal(e, rec.Token, ref.Token, "the token")
				equal(e, rec.Attempt, 1, "the attempt")
				e.left(rec, retention)
				e.refuse(request(req.ID))
			}
		}},
		{"EraseACompleted", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.complete(ref, completion(req, "201", "a secret"))
			r := resolution(driver.ResolveErase)
			r.Token = ref.Token
			rec := e.resolve(req.Key, r)
			equal(e, rec.State, driver.StateForgotten, "the state")
			rec = e.refuse(request("k"))
			equal(e, rec.State, driver.StateForgotten, "the state")
			result(e, rec, "", "")
			equal(e, rec.Fingerprint.IsZero(), true, "fingerprint forgotten")
			e.left(e.state(req.Key, driver.StateForgotten), tombstone)
			e.advance(tombstone - e.tick())
			e.state(req.Key, driver.StateForgotten)
			e.advance(e.tick())
			e.state(req.Key, driver.StateAbsent)
		}},
		{"EraseWhatWasDropped", func(e *env) {
			req := request("k")
			c := completion(req, "", "")
			c.Dropped = true
			e.complete(e.grant(req), c)
			e.resolve(req.Key, resolution(driver.ResolveErase))
			rec := e.state(req.Key, driver.StateForgotten)
			equal(e, rec.Dropped, false, "dropped")
		}},
		{"AnotherTokenIsLost", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease)
			for _, a := range []driver.Action{driver.ResolveComplete, driver.ResolveRelease} {
				r := resolution(a)
				r.Token, r.Force = ref.Token+1, true
				e.refuseResolve(req.Key, r, driver.ErrLost)
			}
			e.completeLate(ref, completion(req, "", ""))
			r := resolution(driver.ResolveErase)
			r.Token = ref.Token + 1
			e.refuseResolve(req.Key, r, driver.ErrLost)
		}},
		// The repeat returns the record again, or says that its state is another.
		{"RepeatsChangeNothing", func(e *env) {
			for _, a := range []driver.Action{driver.ResolveComplete, driver.ResolveRelease, driver.ResolveErase} {
				req := request(string(rune('a' + a)))
				ref := e.grant(req)
				if a == driver.ResolveErase {
					e.complete(ref, completion(req, "", ""))
				} else {
					e.abandon(ref)
				}
				r := resolution(a)
				r.Token = ref.Token
				e.resolve(req.Key, r)
				e.advance(lease)
				e.unchanged(req.Key, "resolving again", func() {
					if _, err := e.resolver().Resolve(e.ctx, req.Key, r); err != nil && !errors.Is(err, driver.ErrState) {
						e.Fatalf("Resolve, repeated: %v; it should succeed or give: %v", err, driver.ErrState)
					}
				})
			}
		}},
	}
	// What each state refuses, and that the refusal changes nothing.
	refused := map[string][]driver.Action{
		"InFlight":     {driver.ResolveComplete, driver.ResolveRelease, driver.ResolveErase},
		"LeaseEnded":   {driver.ResolveErase},
		"Abandoned":    {driver.ResolveErase},
		"Completed":    {driver.ResolveRelease},
		"Forgotten":    {driver.ResolveComplete, driver.ResolveRelease},
		"Released":     {driver.ResolveComplete, driver.ResolveErase},
		"NothingKnown": {driver.ResolveComplete, driver.ResolveRelease, driver.ResolveErase},
	}
	for _, st := range standings() {
		for _, a := range refused[st.name] {
			names := map[driver.Action]string{
				driver.ResolveComplete: "Complete", driver.ResolveRelease: "Release", driver.ResolveErase: "Erase",
			}
			rules = append(rules, rule{names[a] + "Of" + st.name + "IsRefused", func(e *env) {
				req := request("k")
				st.reach(e, req)
				r := resolution(a)
				r.Force = a == driver.ResolveRelease && st.state != driver.StateInFlight
				e.refuseResolve(req.Key, r, driver.ErrState)
			}})
		}
	}
	for i := range rules {
		test := rules[i].test
		rules[i].test = func(e *env) {
			if e.resolver() != nil {
				test(e)
			}
		}
	}
	return rules
}

func (e *env) refuseResolve(key driver.Key, r driver.Resolution, want error) {
	e.Helper()
	e.unchanged(key, "a resolution that is refused", func() {
		e.Helper()
		_, err := e.resolver().Resolve(e.ctx, key, r)
		e.want(err, want, "Resolve")
	})
}
