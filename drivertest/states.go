package drivertest

import (
	"errors"

	"github.com/idem-go/idem/driver"
)

// standing is a state that a record can be brought to, with the answers of the
// four writes to the newest token there: the table on [driver.Store].
type standing struct {
	name  string
	state driver.State
	// reach brings a fresh key there and returns the newest claim's ref.
	reach func(e *env, req driver.ClaimRequest) driver.Ref
	// needs a driver.Resolver.
	resolver bool

	renew, complete, release, abandon error
	late                              bool
}

func standings() []standing {
	lapsed, completed, lost := driver.ErrLapsed, driver.ErrCompleted, driver.ErrLost
	return []standing{
		{
			name: "InFlight", state: driver.StateInFlight,
			reach: func(e *env, req driver.ClaimRequest) driver.Ref { return e.grant(req) },
		},
		{
			name: "LeaseEnded", state: driver.StateUnknown,
			reach: func(e *env, req driver.ClaimRequest) driver.Ref {
				ref := e.grant(req)
				e.advance(lease)
				return ref
			},
			renew: lapsed, late: true, release: lapsed,
		},
		{
			name: "Abandoned", state: driver.StateUnknown,
			reach: func(e *env, req driver.ClaimRequest) driver.Ref {
				ref := e.grant(req)
				e.abandon(ref)
				return ref
			},
			renew: lapsed, late: true, release: lapsed,
		},
		{
			name: "Completed", state: driver.StateCompleted,
			reach: func(e *env, req driver.ClaimRequest) driver.Ref {
				ref := e.grant(req)
				e.complete(ref, completion(req, "", "the first"))
				return ref
			},
			renew: completed, complete: completed, release: completed, abandon: completed,
		},
		{
			name: "Forgotten", state: driver.StateForgotten,
			reach: func(e *env, req driver.ClaimRequest) driver.Ref {
				ref := e.grant(req)
				e.complete(ref, completion(req, "", "the first"))
				e.advance(retention)
				return ref
			},
			renew: completed, release: completed, abandon: completed,
		},
		{
			name: "Released", state: driver.StateAbsent,
			reach: func(e *env, req driver.ClaimRequest) driver.Ref {
				ref := e.grant(req)
				e.release(ref, false)
				return ref
			},
			renew: lost, complete: lost, abandon: lost,
		},
		{
			name: "ReleasedByResolve", state: driver.StateAbsent, resolver: true,
			reach: func(e *env, req driver.ClaimRequest) driver.Ref {
				ref := e.grant(req)
				e.abandon(ref)
				e.resolve(req.Key, resolution(driver.ResolveRelease))
				return ref
			},
			renew: lost, late: true, abandon: lost,
		},
		{
			name: "CompletedByResolve", state: driver.StateCompleted, resolver: true,
			reach: func(e *env, req driver.ClaimRequest) driver.Ref {
				ref := e.grant(req)
				e.abandon(ref)
				r := resolution(driver.ResolveComplete)
				r.Result = driver.Result{Body: []byte("the operator's")}
				e.resolve(req.Key, r)
				return ref
			},
			renew: completed, complete: completed, release: completed, abandon: completed,
		},
		{
			name: "Erased", state: driver.StateForgotten, resolver: true,
			reach: func(e *env, req driver.ClaimRequest) driver.Ref {
				ref := e.grant(req)
				e.complete(ref, completion(req, "", "the first"))
				e.resolve(req.Key, resolution(driver.ResolveErase))
				return ref
			},
			renew: completed, release: completed, abandon: completed,
		},
		{
			name: "NothingKnown", state: driver.StateAbsent,
			reach: func(e *env, req driver.ClaimRequest) driver.Ref {
				ref := e.grant(req)
				e.release(ref, false)
				e.advance(retention)
				return ref
			},
			renew: lost, complete: lost, release: lost, abandon: lost,
		},
	}
}

// stateRules are trap 62's table: every ended state refuses every write but
// repeats and the late completion.
func stateRules() []rule {
	var rules []rule
	for _, st := range standings() {
		add := func(method string, test func(e *env, req driver.ClaimRequest, ref driver.Ref)) {
			rules = append(rules, rule{"Trap62" + st.name + method, func(e *env) {
				if st.resolver && e.resolver() == nil {
					return
				}
				req := request("k")
				ref := st.reach(e, req)
				if rec := e.state(req.Key, st.state); rec.Token != 0 {
					equal(e, rec.Token, ref.Token, "the newest token")
				}
				test(e, req, ref)
			}})
		}
		add("Renew", func(e *env, req driver.ClaimRequest, ref driver.Ref) {
			st.write(e, req, "Renew", st.renew, func() error { return e.s.Renew(e.ctx, ref, 2*lease) })
			if st.renew == nil {
				e.left(e.state(req.Key, driver.StateInFlight), 2*lease)
			}
		})
		add("Complete", func(e *env, req driver.ClaimRequest, ref driver.Ref) {
			c := completion(req, "", "of the newest")
			st.write(e, req, "Complete", st.complete, func() error {
				late, err := e.s.Complete(e.ctx, ref, c)
				if err == nil && late != st.late && st.state != driver.StateForgotten {
					e.Fatalf("Complete says late %v; it should say %v", late, st.late)
				}
				return err
			})
			if st.complete == nil && st.state != driver.StateForgotten {
				rec := e.state(req.Key, driver.StateCompleted)
				result(e, rec, "", "of the newest")
				equal(e, rec.Fingerprint, req.Fingerprint, "the fingerprint")
			}
		})
		add("Release", func(e *env, req driver.ClaimRequest, ref driver.Ref) {
			st.write(e, req, "Release", st.release, func() error {
				return e.s.Release(e.ctx, ref, driver.Release{Retention: retention})
			})
			if st.release == nil {
				e.state(req.Key, driver.StateAbsent)
			}
		})
		add("Abandon", func(e *env, req driver.ClaimRequest, ref driver.Ref) {
			st.write(e, req, "Abandon", st.abandon, func() error { return e.s.Abandon(e.ctx, ref) })
			if st.abandon == nil {
				e.state(req.Key, driver.StateUnknown)
			}
		})
		add("WithAnotherToken", func(e *env, req driver.ClaimRequest, ref driver.Ref) {
			ref.Token++
			e.fenced(req, ref)
		})
	}
	return rules
}

// write makes a call, which must give the error; one that is refused, or that
// leaves the state as it is, changes nothing.
func (st standing) write(e *env, req driver.ClaimRequest, call string, want error, f func() error) {
	e.Helper()
	before := e.lookup(req.Key)
	e.want(f(), want, call+" of what is "+st.name)
	// Of two errors that both fit, callers would take the wrong one.
	if want != nil {
		for _, other := range []error{driver.ErrLost, driver.ErrLapsed, driver.ErrCompleted} {
			if err := f(); !errors.Is(other, want) && errors.Is(err, other) {
				e.Fatalf("%s: %v is %v as well as %v", call, err, want, other)
			}
		}
	}
	after := e.lookup(req.Key)
	if after.State != before.State || want == nil && st.state == driver.StateInFlight {
		if want != nil {
			e.Fatalf("%s was refused, and the record is %s now", call, show(after))
		}
		return
	}
	if d := e.differ(before, after); d != "" {
		e.Fatalf("%s changed the record: %s", call, d)
	}
}
