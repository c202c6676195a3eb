package idem_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
)

func seeded(t *testing.T) (*rand.Rand, uint64) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0)), seed
}

// Many callers, few keys, two guards, every way to end a claim: a key is
// completed at most once, and whoever is given a result is given that one.
func TestRaceOfManyCallers(t *testing.T) {
	for name, policy := range map[string]idem.UnknownPolicy{"refuse": idem.RefuseUnknown, "retry": idem.RetryUnknown} {
		t.Run(name, func(t *testing.T) {
			_, seed := seeded(t)
			bubble(t, func(t *testing.T) { race(t, seed, policy) })
		})
	}
}

func race(t *testing.T, seed uint64, policy idem.UnknownPolicy) {
	const callers, rounds, keys = 24, 60, 40
	store := newStore()
	opts := &idem.Options{Policy: idem.Policy{Unknown: policy, Lease: time.Second, Wait: 3 * time.Second, MaxRun: 5 * time.Second}}
	guards := []*idem.Guard{guard(t, store, opts), guard(t, store, opts)}
	var completed, running ledger
	var mu sync.Mutex
	values := map[string]string{}
	sees := func(id, value string) {
		mu.Lock()
		defer mu.Unlock()
		if was, ok := values[id]; ok && was != value {
			t.Errorf("key %s: %q and %q", id, was, value)
		}
		values[id] = value
	}
	together(callers, func(caller int) {
		rng := rand.New(rand.NewPCG(seed, uint64(caller+1)))
		for round := range rounds {
			id := itoa(rng.IntN(keys))
			b, err := guards[rng.IntN(2)].Begin(context.Background(), request(id))
			switch {
			case err != nil:
				if !errors.Is(err, idem.ErrUnknown) && !errors.Is(err, idem.ErrInFlight) {
					t.Errorf("key %s: %v", id, err)
				}
				continue
			case b.Replayed:
				sees(id, string(b.Result.Body))
				continue
			case b.Shared != nil:
				continue
			}
			// Under retry, work past max-run learns of its end while the next begins.
			if n := running.add(id); n != 1 && policy == idem.RefuseUnknown {
				t.Errorf("key %s: %d run at once", id, n)
			}
			takes := time.Duration(rng.IntN(4)) * 700 * time.Millisecond
			if rng.IntN(20) == 0 {
				takes = 6 * time.Second // past max-run
			}
			ended := false
			select {
			case <-time.After(takes):
			case <-b.Claim.Context().Done():
				ended = true
			}
			running.sub(id)
			value := itoa(caller) + "." + itoa(round)
			switch rng.IntN(5) {
			case 0:
				err = b.Claim.Release(nil)
			case 1:
				err = b.Claim.Release("no")
			case 2:
				err = b.Claim.Abandon()
			default:
				if err = b.Claim.Complete(body(value)); err == nil {
					if n := completed.add(id); n != 1 {
						t.Errorf("key %s: completed %d times", id, n)
					}
					sees(id, value)
				}
			}
			if err != nil && !(ended && errors.Is(err, idem.ErrLost)) {
				t.Errorf("key %s: the end of a claim: %v", id, err)
			}
		}
	})
	for id, value := range values {
		r := lookup(t, store, request(id))
		if r.State != driver.StateCompleted || string(r.Result.Body) != value || completed.of(id) != 1 {
			t.Errorf("key %s: %v with %q, completed %d times with %q", id, r.State, r.Result.Body, completed.of(id), value)
		}
	}
	if len(values) == 0 {
		t.Error("nothing was completed")
	}
}

// deriving is a store that makes contexts of its own from those it is given, as
// clients of databases do: what package context starts for them must not meet
// a context that is used again for another call.
type deriving struct{ driver.Store }

func (d deriving) Unwrap() driver.Store { return d.Store }

func (d deriving) Claim(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return d.Store.Claim(ctx, req)
}

func TestContextsOfCallsAreNotUsedAgain(t *testing.T) {
	g := guard(t, deriving{newStore()}, nil)
	must(t, begin(t, g, request("k")).Complete(body("x")))
	together(4, func(int) {
		for range 500 {
			b, err := g.Begin(context.Background(), request("k"))
			if err != nil || !b.Replayed {
				t.Errorf("%+v, %v", b, err)
			}
		}
	})
}

// The context of a call is over when the call is, and stays so during the next
// ones: whatever a store has started with it ends.
func TestContextsOfCallsEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var old []context.Context
		var left sync.WaitGroup
		store := faults(newStore(), func(ctx context.Context, _ string, call func(context.Context) error) error {
			for i, o := range old {
				if o.Err() == nil {
					t.Errorf("the context of call %d lives again", i)
				}
			}
			old = append(old, ctx)
			done := ctx.Done()
			left.Go(func() { <-done })
			return call(ctx)
		})
		g := guard(t, store, nil)
		must(t, begin(t, g, request("k")).Complete(body("x")))
		replay(t, g, request("k"), "x")
		began := time.Now()
		left.Wait()
		if d := time.Since(began); d != 0 {
			t.Errorf("the contexts ended %v after their calls", d)
		}
	})
}
