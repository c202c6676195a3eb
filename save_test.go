package idem_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
)

// The store fails exactly at the save: the retry gets the first answer.
func TestTrap8StoreFailsAtTheSave(t *testing.T) {
	for name, broken := range map[string]fault{"lost question": down("complete"), "lost answer": deaf("complete"), "hang": hang("complete")} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := faults(newStore(), broken)
				g := guard(t, store, nil)
				var l ledger
				time.AfterFunc(4*time.Second, func() { store.set(nil) })
				together(3, func(int) {
					v, err := idem.Do(t.Context(), g, *request("k"), work(&l, "k", time.Second))
					if v != 1 || err != nil {
						t.Errorf("%d, %v", v, err)
					}
				})
				if n := l.of("k"); n != 1 {
					t.Errorf("%d effects", n)
				}
			})
		})
	}
}

func TestSaveWait(t *testing.T) {
	for name, broken := range map[string]fault{"down": down("complete"), "hang": hang("complete")} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := faults(newStore(), broken)
				rec := &recorder{}
				g := guard(t, store, &idem.Options{Policy: idem.Policy{SaveWait: 3 * time.Second}, Observer: rec})
				c := begin(t, g, request("k"))
				waiting := asks(t.Context(), g, request("k"), 5)
				elsewhere := asks(t.Context(), guard(t, store, nil), request("k"), 1)
				synctest.Wait()
				err := c.Complete(body("x"))
				wants(t, err, idem.ErrUnsaved)
				wants(t, err, idem.ErrUnknown)
				if d := time.Since(start()); d != 3*time.Second {
					t.Errorf("the owner was told after %v", d)
				}
				for range 5 {
					if a := <-waiting; !errors.Is(a.err, idem.ErrUnsaved) || a.at.Sub(start()) != 3*time.Second {
						t.Errorf("%+v, %v after %v", a.Begun, a.err, a.at.Sub(start()))
					}
				}
				if a := <-elsewhere; !errors.Is(a.err, idem.ErrInFlight) {
					t.Errorf("elsewhere: %+v, %v", a.Begun, a.err)
				}
				// It is renewed for as long as it takes: nobody takes it for unknown.
				time.Sleep(10 * idem.DefaultLease)
				state(t, store, request("k"), driver.StateInFlight)
				before := time.Now()
				refused(t, g, request("k"), idem.ErrUnsaved)
				if time.Since(before) != 0 {
					t.Errorf("a later caller waited for %v", time.Since(before))
				}
				store.set(nil)
				later := request("k")
				later.Policy = g.Policy(idem.Policy{SaveWait: time.Hour, Wait: time.Hour})
				replay(t, g, later, "x")
				if d := time.Since(before); d > 10*time.Second {
					t.Errorf("saved %v after the store was back", d)
				}
				synctest.Wait()
				if rec.count(idem.EventRan) != 1 || rec.count(idem.EventLate) != 0 || rec.count(idem.EventLost) != 0 {
					t.Errorf("events %v", rec.kinds())
				}
			})
		})
	}
}

// Longer than max-run: work that is done is not taken for a run.
func TestSavingIsNotARun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), down("complete"))
		g := guard(t, store, nil)
		wants(t, begin(t, g, request("k")).Complete(body("x")), idem.ErrUnsaved)
		time.Sleep(2 * idem.DefaultMaxRun)
		state(t, store, request("k"), driver.StateInFlight)
		store.set(nil)
		time.Sleep(5 * time.Second)
		replay(t, g, request("k"), "x")
	})
}

// The whole store is away for longer than the lease, then the result is saved.
func TestSavedAfterAnOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), nil)
		rec := &recorder{}
		g := guard(t, store, &idem.Options{Observer: rec})
		c := begin(t, g, request("k"))
		store.set(down())
		wants(t, c.Complete(body("x")), idem.ErrUnsaved)
		time.Sleep(5 * time.Minute)
		refused(t, g, request("k"), idem.ErrUnsaved)
		store.set(nil)
		time.Sleep(5 * time.Second)
		replay(t, g, request("k"), "x")
		if rec.count(idem.EventLate) != 1 {
			t.Errorf("events %v", rec.kinds())
		}
	})
}

// Trap 56: the answer was lost and the owner asks again: success.
func TestTrap56LostAnswers(t *testing.T) {
	once := func(op string) (*faulty, fault) {
		store := faults(newStore(), nil)
		return store, func(ctx context.Context, o string, call func(context.Context) error) error {
			if o == op {
				store.set(nil)
			}
			return deaf(op)(ctx, o, call)
		}
	}
	t.Run("complete", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			store, f := once("complete")
			g := guard(t, store, nil)
			c := begin(t, g, request("k"))
			store.set(f)
			must(t, c.Complete(body("x")))
			if store.count("complete") != 2 {
				t.Errorf("%d calls", store.count("complete"))
			}
			replay(t, g, request("k"), "x")
		})
	})
	t.Run("renew", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			store, f := once("renew")
			g := guard(t, store, nil)
			c := begin(t, g, request("k"))
			store.set(f)
			time.Sleep(time.Minute)
			if err := c.Context().Err(); err != nil {
				t.Errorf("the work was cancelled: %v", context.Cause(c.Context()))
			}
			must(t, c.Complete(body("x")))
		})
	})
	for _, op := range []string{"release", "abandon"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store, f := once(op)
				rec := &recorder{}
				g := guard(t, store, &idem.Options{Observer: rec})
				c := begin(t, g, request("k"))
				store.set(f)
				if op == "release" {
					wants(t, c.Release(nil), idem.ErrUnsaved)
				} else {
					wants(t, c.Abandon(), idem.ErrUnsaved)
				}
				time.Sleep(time.Second)
				if rec.count(idem.EventLost) != 0 || rec.count(idem.EventReleased)+rec.count(idem.EventAbandoned) != 1 {
					t.Errorf("events %v", rec.kinds())
				}
			})
		})
	}
}

// Trap 56: a release that the store does not take is tried again while the
// claim is renewed, and those who wait lose nothing by it.
func TestTrap56ReleaseWhileTheStoreIsDown(t *testing.T) {
	for name, answer := range map[string]any{"answered": "503", "silent": nil} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := faults(newStore(), nil)
				g := guard(t, store, nil)
				c := begin(t, g, request("k"))
				got := asks(t.Context(), g, request("k"), 5)
				synctest.Wait()
				store.set(down("release"))
				wants(t, c.Release(answer), idem.ErrUnsaved)
				if answer != nil {
					for range 5 {
						if a := <-got; a.Shared != answer || a.err != nil {
							t.Errorf("%+v, %v", a.Begun, a.err)
						}
					}
				} else {
					for range 5 {
						// Nothing was done: no reason to call it unknown.
						if a := <-got; !errors.Is(a.err, idem.ErrInFlight) {
							t.Errorf("%+v, %v", a.Begun, a.err)
						}
					}
				}
				refused(t, g, request("k"), idem.ErrInFlight)
				time.Sleep(2 * idem.DefaultLease)
				state(t, store, request("k"), driver.StateInFlight)
				store.set(nil)
				time.Sleep(2 * time.Second)
				c = begin(t, g, request("k"))
				if c.Attempt() != 2 {
					t.Errorf("attempt %d", c.Attempt())
				}
				must(t, c.Complete(body("x")))
			})
		})
	}
}
