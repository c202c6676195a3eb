package idem_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

// unknown leaves a record behind whose owner vanished without a word.
func unknown(t *testing.T, store driver.Store, req *idem.Request) *idem.Claim {
	t.Helper()
	cut := faults(store, nil)
	c := begin(t, guard(t, cut, nil), req)
	cut.set(down("renew"))
	<-c.Context().Done()
	cut.set(nil)
	state(t, store, req, driver.StateUnknown)
	return c
}

func TestUnknownIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		g := guard(t, store, nil)
		unknown(t, store, request("k"))
		time.Sleep(time.Hour)
		var u *idem.UnknownError
		if err := refused(t, g, request("k"), idem.ErrUnknown); !errors.As(err, &u) || u.Attempt != 1 || u.Age != time.Hour+idem.DefaultLease {
			t.Errorf("%#v", u)
		}
		time.Sleep(idem.DefaultTombstone)
		c := begin(t, g, request("k"))
		must(t, c.Complete(body("x")))
	})
}

// Those who wait for a claim whose owner dies are told so when its lease ends.
func TestWaitersLearnOfAnUnknown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		cut := faults(store, nil)
		begin(t, guard(t, cut, &idem.Options{Policy: idem.Policy{Lease: 5 * time.Second}}), request("k"))
		cut.set(down("renew"))
		began := time.Now()
		got := asks(t.Context(), guard(t, store, nil), request("k"), 10)
		for range 10 {
			a := <-got
			if !errors.Is(a.err, idem.ErrUnknown) || !soon(a.at, began.Add(5*time.Second)) {
				t.Errorf("%+v, %v after %v", a.Begun, a.err, a.at.Sub(began))
			}
		}
	})
}

func TestUnknownIsRetried(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		rec := &recorder{}
		retry := &idem.Options{Policy: idem.Policy{Unknown: idem.RetryUnknown}, Observer: rec}
		old := unknown(t, store, request("k"))
		g := guard(t, store, retry)
		c := begin(t, g, request("k"))
		if c.Attempt() != 2 || c.Token() <= old.Token() || c.Derive("x") != old.Derive("x") {
			t.Errorf("attempt %d, token %d after %d", c.Attempt(), c.Token(), old.Token())
		}
		must(t, c.Abandon())
		c = begin(t, g, request("k"))
		if c.Attempt() != 3 {
			t.Errorf("attempt %d", c.Attempt())
		}
		must(t, c.Complete(body("x")))
		wants(t, old.Complete(body("y")), idem.ErrLost)
		replay(t, g, request("k"), "x")
	})
}

func TestLateCompletion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		cut := faults(store, nil)
		rec := &recorder{}
		g := guard(t, cut, &idem.Options{Observer: rec})
		c := begin(t, g, request("k"))
		cut.set(down("renew"))
		<-c.Context().Done()
		cut.set(nil)
		refused(t, g, request("k"), idem.ErrUnknown)
		time.Sleep(time.Hour)
		must(t, c.Complete(body("late")))
		if rec.count(idem.EventLate) != 1 || rec.count(idem.EventRan) != 0 {
			t.Errorf("events %v", rec.kinds())
		}
		replay(t, g, request("k"), "late")
	})
}

// An operator releases the key, and the owner completes after all, with the
// fingerprint that the release forgot.
func TestLateCompletionAfterAnOperatorsRelease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		req, other := request("k"), request("k")
		req.Fingerprint, other.Fingerprint = sum(1, "first"), sum(1, "other")
		c := unknown(t, store, req)
		_, err := store.Resolve(t.Context(), driver.KeyOf("s", "k"), driver.Resolution{Action: driver.ResolveRelease, Retention: time.Hour, Tombstone: time.Hour})
		must(t, err)
		must(t, c.Complete(body("late")))
		g := guard(t, store, nil)
		replay(t, g, req, "late")
		refused(t, g, other, idem.ErrReused)
	})
}

func TestSupersededCompletion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		c := unknown(t, store, request("k"))
		_, err := store.Resolve(t.Context(), driver.KeyOf("s", "k"), driver.Resolution{Action: driver.ResolveComplete, Result: body("resolved"), Retention: time.Hour, Tombstone: time.Hour})
		must(t, err)
		wants(t, c.Complete(body("late")), idem.ErrSuperseded)
		replay(t, guard(t, store, nil), request("k"), "resolved")
	})
}

func resolves(r func(context.Context, idem.Unknown) (idem.Resolution, error)) *idem.Options {
	return &idem.Options{Policy: idem.Policy{Unknown: idem.ResolveUnknown, Resolver: r}}
}

func TestResolverSaysDone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		old := unknown(t, store, request("k"))
		var asked, at atomic.Int32
		rec := &recorder{}
		opts := resolves(func(_ context.Context, u idem.Unknown) (idem.Resolution, error) {
			asked.Add(1)
			if at.Add(1) > 1 {
				t.Error("asked twice at once")
			}
			defer at.Add(-1)
			if u.Key != request("k").Key || u.Attempt != 1 || u.Token != old.Token() || u.Age != idem.DefaultLease {
				t.Errorf("asked about %+v", u)
			}
			time.Sleep(time.Second)
			return idem.Done(body("done")), nil
		})
		opts.Observer = rec
		got := asks(t.Context(), guard(t, store, opts), request("k"), 20)
		for range 20 {
			if a := <-got; !a.Replayed || string(a.Result.Body) != "done" {
				t.Errorf("%+v, %v", a.Begun, a.err)
			}
		}
		if asked.Load() != 1 || rec.count(idem.EventResolved) != 1 {
			t.Errorf("the resolver was asked %d times; events %v", asked.Load(), rec.kinds())
		}
	})
}

func TestResolverSaysNotDone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		old := unknown(t, store, request("k"))
		g := guard(t, store, resolves(func(context.Context, idem.Unknown) (idem.Resolution, error) { return idem.NotDone(), nil }))
		got := asks(t.Context(), g, request("k"), 10)
		a := <-got
		if a.Claim == nil || a.Claim.Attempt() != 2 || a.Claim.Token() <= old.Token() {
			t.Fatalf("%+v, %v", a.Begun, a.err)
		}
		must(t, a.Claim.Complete(body("x")))
		for range 9 {
			if a := <-got; !a.Replayed {
				t.Errorf("%+v, %v", a.Begun, a.err)
			}
		}
	})
}

func TestResolverDoesNotKnow(t *testing.T) {
	for name, answers := range map[string]func() (idem.Resolution, error){
		"ask again": func() (idem.Resolution, error) { return idem.AskAgain(time.Minute), nil },
		"error":     func() (idem.Resolution, error) { return idem.Done(body("wrong")), errors.New("provider down") },
		"zero":      func() (idem.Resolution, error) { return idem.Resolution{}, nil },
		"panic":     func() (idem.Resolution, error) { panic("resolver") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := newStore()
				unknown(t, store, request("k"))
				n := 0
				g := guard(t, store, resolves(func(context.Context, idem.Unknown) (idem.Resolution, error) { n++; return answers() }))
				for i := range 3 {
					var u *idem.UnknownError
					if err := refused(t, g, request("k"), idem.ErrUnknown); !errors.As(err, &u) || (u.RetryAfter == time.Minute) != (name == "ask again") {
						t.Errorf("%#v", err)
					}
					if n != i+1 {
						t.Errorf("asked %d times by %d callers", n, i+1)
					}
				}
				state(t, store, request("k"), driver.StateUnknown)
			})
		})
	}
}

// Trap 63: a resolver that ends its goroutine leaves nothing claimed.
func TestTrap63ResolverEndsItsGoroutine(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		unknown(t, store, request("k"))
		first := true
		g := guard(t, store, resolves(func(context.Context, idem.Unknown) (idem.Resolution, error) {
			if first {
				first = false
				runtime.Goexit()
			}
			return idem.Done(body("x")), nil
		}))
		gone := make(chan struct{})
		go func() { defer close(gone); _, _ = g.Begin(t.Context(), request("k")) }()
		<-gone
		replay(t, g, request("k"), "x")
	})
}

// While the resolver thinks, others are treated as while the work runs.
func TestOthersWhileTheResolverThinks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		req, other, hasty := request("k"), request("k"), request("k")
		req.Fingerprint, other.Fingerprint, hasty.Fingerprint = sum(1, "first"), sum(1, "other"), sum(1, "first")
		unknown(t, store, req)
		g := guard(t, store, resolves(func(context.Context, idem.Unknown) (idem.Resolution, error) {
			time.Sleep(5 * time.Second)
			return idem.Done(body("x")), nil
		}))
		hasty.Policy = g.Policy(idem.Policy{Wait: -1})
		got := asks(t.Context(), g, req, 2)
		synctest.Wait()
		began := time.Now()
		refused(t, g, other, idem.ErrReused)
		refused(t, g, hasty, idem.ErrInFlight)
		if d := time.Since(began); d != 0 {
			t.Errorf("told after %v", d)
		}
		for range 2 {
			if a := <-got; !a.Replayed {
				t.Errorf("%+v, %v", a.Begun, a.err)
			}
		}
	})
}

// The resolver is not asked for ever: its context ends with the wait.
func TestResolverIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		unknown(t, store, request("k"))
		g := guard(t, store, resolves(func(ctx context.Context, _ idem.Unknown) (idem.Resolution, error) {
			<-ctx.Done()
			return idem.Resolution{}, ctx.Err()
		}))
		began := time.Now()
		refused(t, g, request("k"), idem.ErrUnknown)
		if d := time.Since(began); d != idem.DefaultWait {
			t.Errorf("refused after %v", d)
		}
	})
}

// A result that the store does not keep is resolved without it, and the
// resolver is not asked again and again.
func TestResolvedResultTooLarge(t *testing.T) {
	for name, limits := range map[string][2]int{"guard": {1 << 20, 10}, "store": {10, 1 << 20}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := memstore.New(&memstore.Options{MaxResult: limits[0]})
				unknown(t, store, request("k"))
				n := 0
				opts := resolves(func(context.Context, idem.Unknown) (idem.Resolution, error) {
					n++
					return idem.Done(body(strings.Repeat("x", 11))), nil
				})
				opts.Policy.MaxResult = limits[1]
				refused(t, guard(t, store, opts), request("k"), idem.ErrNotStored)
				if n != 1 {
					t.Errorf("asked %d times", n)
				}
			})
		})
	}
}

// A caller that has waited for long before the lease ended still gets what the
// resolver says, and still retries.
func TestUnknownAfterALongWait(t *testing.T) {
	for name, opts := range map[string]*idem.Options{
		"resolve": resolves(func(context.Context, idem.Unknown) (idem.Resolution, error) { return idem.Done(body("done")), nil }),
		"retry":   {Policy: idem.Policy{Unknown: idem.RetryUnknown}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := newStore()
				old, now := request("k"), request("k")
				old.Fingerprint, now.Fingerprint = sum(1, "one"), sum(2, "two")
				now.Rules = oldRules{1: sum(1, "one")}
				cut := faults(store, nil)
				begin(t, guard(t, cut, nil), old)
				cut.set(down("renew"))
				o := *opts
				o.Policy.Wait = time.Minute
				b, err := guard(t, store, &o).Begin(t.Context(), now)
				must(t, err)
				if b.Replayed == (b.Claim != nil) || !soon(time.Now(), start().Add(idem.DefaultLease)) {
					t.Errorf("%+v after %v", b, time.Since(start()))
				}
			})
		})
	}
}

// The owner completes while the resolver thinks: its result stands.
func TestResolverIsTooLate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		old := unknown(t, store, request("k"))
		g := guard(t, store, resolves(func(context.Context, idem.Unknown) (idem.Resolution, error) {
			if err := old.Complete(body("owner")); err != nil {
				t.Errorf("late completion: %v", err)
			}
			return idem.NotDone(), nil
		}))
		replay(t, g, request("k"), "owner")
	})
}

func TestMaxRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		rec := &recorder{}
		g := guard(t, store, &idem.Options{Observer: rec})
		c := begin(t, g, request("k"))
		<-c.Context().Done()
		wants(t, context.Cause(c.Context()), idem.ErrMaxRun)
		if d := time.Since(start()); d != idem.DefaultMaxRun {
			t.Errorf("cancelled after %v", d)
		}
		synctest.Wait()
		state(t, store, request("k"), driver.StateUnknown)
		refused(t, g, request("k"), idem.ErrUnknown)
		if rec.count(idem.EventAbandoned) != 1 {
			t.Errorf("events %v", rec.kinds())
		}
		time.Sleep(time.Hour)
		must(t, c.Complete(body("late")))
		if rec.count(idem.EventLate) != 1 {
			t.Errorf("events %v", rec.kinds())
		}
		replay(t, g, request("k"), "late")
	})
}

// Trap 62: an owner that never finishes, under a store that cannot be told.
func TestTrap62MaxRunWhileTheStoreIsDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		inner := newStore()
		store := faults(inner, nil)
		g := guard(t, store, nil)
		c := begin(t, g, request("k"))
		time.Sleep(idem.DefaultMaxRun - time.Millisecond)
		store.set(down())
		<-c.Context().Done()
		wants(t, context.Cause(c.Context()), idem.ErrMaxRun)
		time.Sleep(idem.DefaultLease)
		state(t, inner, request("k"), driver.StateUnknown)
		store.set(nil)
		refused(t, g, request("k"), idem.ErrUnknown)
	})
}
