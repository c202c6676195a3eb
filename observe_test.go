package idem_test

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

// Each outcome is seen, in order.
func TestEvents(t *testing.T) {
	ctx := context.Background()
	for name, tt := range map[string]struct {
		do   func(t *testing.T, g *idem.Guard, s *faulty)
		want []idem.EventKind
	}{
		"ran": {func(t *testing.T, g *idem.Guard, _ *faulty) {
			must(t, begin(t, g, request("k")).Complete(body("x")))
			replay(t, g, request("k"), "x")
		}, []idem.EventKind{idem.EventClaimed, idem.EventRan, idem.EventReplayed}},
		"released, shared": {func(t *testing.T, g *idem.Guard, _ *faulty) {
			c := begin(t, g, request("k"))
			got := asks(ctx, g, request("k"), 1)
			synctest.Wait()
			must(t, c.Release("no"))
			<-got
		}, []idem.EventKind{idem.EventClaimed, idem.EventReleased, idem.EventShared}},
		"abandoned": {func(t *testing.T, g *idem.Guard, _ *faulty) {
			must(t, begin(t, g, request("k")).Abandon())
			refused(t, g, request("k"), idem.ErrUnknown)
		}, []idem.EventKind{idem.EventClaimed, idem.EventAbandoned, idem.EventUnknown}},
		"conflicted, reused": {func(t *testing.T, g *idem.Guard, _ *faulty) {
			req, other := request("k"), request("k")
			req.Fingerprint, other.Fingerprint = sum(1, "first"), sum(1, "other")
			c := begin(t, g, req)
			refused(t, g, req, idem.ErrInFlight)
			refused(t, g, other, idem.ErrReused)
			must(t, c.Release(nil))
		}, []idem.EventKind{idem.EventClaimed, idem.EventInFlight, idem.EventReused, idem.EventReleased}},
		"not stored": {func(t *testing.T, g *idem.Guard, _ *faulty) {
			must(t, begin(t, g, request("k")).CompleteWithoutResult())
			refused(t, g, request("k"), idem.ErrNotStored)
		}, []idem.EventKind{idem.EventClaimed, idem.EventRan, idem.EventNotStored}},
		"forgotten": {func(t *testing.T, g *idem.Guard, _ *faulty) {
			must(t, begin(t, g, request("k")).Complete(body("x")))
			time.Sleep(idem.DefaultRetention)
			refused(t, g, request("k"), idem.ErrForgotten)
		}, []idem.EventKind{idem.EventClaimed, idem.EventRan, idem.EventForgotten}},
		"unsaved": {func(t *testing.T, g *idem.Guard, s *faulty) {
			c := begin(t, g, request("k"))
			s.set(down("complete"))
			wants(t, c.Complete(body("x")), idem.ErrUnsaved)
			refused(t, g, request("k"), idem.ErrUnsaved)
			s.set(nil)
			time.Sleep(2 * time.Second)
		}, []idem.EventKind{idem.EventClaimed, idem.EventUnsaved, idem.EventUnsaved, idem.EventRan}},
		"store": {func(t *testing.T, g *idem.Guard, s *faulty) {
			s.set(down())
			refused(t, g, request("k"), idem.ErrStore)
			s.set(func(context.Context, string, func(context.Context) error) error { return &driver.UnreadableError{} })
			refused(t, g, request("k"), idem.ErrUnreadable)
			s.set(func(context.Context, string, func(context.Context) error) error { return driver.ErrFull })
			refused(t, g, request("k"), idem.ErrOverloaded)
			s.set(nil)
		}, []idem.EventKind{idem.EventStore, idem.EventUnreadable, idem.EventOverloaded}},
		"not asked": {func(t *testing.T, g *idem.Guard, _ *faulty) {
			refused(t, g, request(""), idem.ErrInvalid)
			gone, cancel := context.WithCancel(ctx)
			cancel()
			_, err := g.Begin(gone, request("k"))
			wants(t, err, context.Canceled)
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				rec := &recorder{}
				store := faults(newStore(), nil)
				tt.do(t, guard(t, store, &idem.Options{Observer: rec}), store)
				synctest.Wait()
				if got := rec.kinds(); !slices.Equal(got, tt.want) {
					t.Errorf("events %v, want %v", got, tt.want)
				}
			})
		})
	}
}

func TestWhatAnEventSays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		rec := &recorder{}
		g := guard(t, newStore(), &idem.Options{Observer: rec})
		req := request("secret")
		req.Route = "pay"
		c := begin(t, g, req)
		got := asks(t.Context(), g, req, 1)
		time.Sleep(3 * time.Second)
		must(t, c.Complete(body("x")))
		<-got
		synctest.Wait()
		hash := driver.KeyOf("s", "secret").Short()
		type said struct {
			kind        idem.EventKind
			route, hash string
			attempt     int
			waited      bool
			took        time.Duration
		}
		want := []said{
			{idem.EventClaimed, "pay", hash, 1, false, 0},
			{idem.EventRan, "pay", hash, 1, false, 3 * time.Second},
			{idem.EventReplayed, "pay", hash, 0, true, 3 * time.Second},
		}
		var heard []said
		for _, e := range rec.events {
			heard = append(heard, said{e.Kind, e.Route, e.KeyHash(), e.Attempt, e.Waited, e.Duration})
		}
		if !slices.Equal(heard, want) {
			t.Errorf("events %+v\nwant   %+v", heard, want)
		}
	})
}

type panics struct{ count }

type count struct {
	mu sync.Mutex
	n  int
}

func (p *panics) Observe(context.Context, idem.Event) {
	p.mu.Lock()
	p.n++
	p.mu.Unlock()
	panic("observer")
}

// Trap 63: an observer that panics changes nothing.
func TestTrap63ObserverPanics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), nil)
		p := &panics{}
		g := guard(t, store, &idem.Options{Observer: p})
		must(t, begin(t, g, request("k")).Complete(body("x")))
		replay(t, g, request("k"), "x")
		c := begin(t, g, request("max-run"))
		<-c.Context().Done()
		synctest.Wait()
		refused(t, g, request("max-run"), idem.ErrUnknown)
		if p.n != 6 {
			t.Errorf("it was told %d times", p.n)
		}
	})
}

// bomb is a fingerprint that panics.
type bomb struct{ exit bool }

func (b bomb) Sum(uint8) (idem.Fingerprint, bool) {
	if b.exit {
		runtime.Goexit()
	}
	panic("fingerprint")
}

// Trap 63: a fingerprint that panics costs its own request, whether it leads or
// follows, and leaves nothing claimed.
func TestTrap63FingerprintPanics(t *testing.T) {
	for _, exit := range []bool{false, true} {
		bothWays(t, func(t *testing.T, owner, waiter *idem.Guard) {
			old, bad := request("k"), request("k")
			old.Fingerprint, bad.Fingerprint, bad.Rules = sum(1, "one"), sum(2, "two"), bomb{exit}
			c := begin(t, owner, old)
			for range 3 {
				gone := make(chan struct{})
				go func() {
					defer close(gone)
					defer func() {
						if p := recover(); (p == nil) != exit {
							t.Errorf("recovered %v", p)
						}
					}()
					_, _ = waiter.Begin(t.Context(), bad)
				}()
				<-gone
			}
			must(t, c.Complete(body("x")))
			replay(t, waiter, old, "x")
		})
	}
}

// Keys are never logged, whatever goes wrong.
func TestLogsHoldNoKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log bytes.Buffer
		store := faults(newStore(), nil)
		g := guard(t, store, &idem.Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), Observer: &panics{}, Policy: idem.Policy{
			Unknown: idem.ResolveUnknown, Resolver: func(context.Context, idem.Unknown) (idem.Resolution, error) { panic("resolver") },
		}})
		c := begin(t, g, request("the-key"))
		store.set(down("renew"))
		<-c.Context().Done()
		store.set(nil)
		refused(t, g, request("the-key"), idem.ErrUnknown)
		must(t, c.Complete(body("the-body")))
		<-begin(t, g, request("the-key-2")).Context().Done()
		c = begin(t, g, request("the-key-3"))
		store.set(down("complete"))
		wants(t, c.Complete(body("the-body")), idem.ErrUnsaved)
		store.set(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		text := log.String()
		if strings.Contains(text, "the-key") || strings.Contains(text, "the-body") {
			t.Errorf("a key or a body was logged:\n%s", text)
		}
		for _, want := range []string{"claim lost", "had lapsed", "resolver gave no answer", "observer panicked", "longer than max-run", "trying on", driver.KeyOf("s", "the-key").Short()} {
			if !strings.Contains(text, want) {
				t.Errorf("nothing logged of %q", want)
			}
		}
	})
}

func TestBounds(t *testing.T) {
	t.Run("claims", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			rec := &recorder{}
			g := guard(t, newStore(), &idem.Options{MaxClaims: 2, Observer: rec})
			a, b := begin(t, g, request("a")), begin(t, g, request("b"))
			refused(t, g, request("c"), idem.ErrOverloaded)
			if rec.count(idem.EventOverloaded) != 1 {
				t.Errorf("events %v", rec.kinds())
			}
			must(t, a.Release(nil))
			c := begin(t, g, request("c"))
			must(t, b.Complete(body("x")))
			must(t, c.Abandon())
			// Everything that was taken has been given back.
			for i := range 10 {
				must(t, begin(t, g, request(itoa(i))).Complete(body("x")))
				replay(t, g, request(itoa(i)), "x")
			}
			refused(t, g, request("c"), idem.ErrUnknown)
			a, b = begin(t, g, request("a")), begin(t, g, request("d"))
			must(t, a.Release(nil))
			must(t, b.Release(nil))
		})
	})
	t.Run("claims that are being saved", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			store := faults(newStore(), down("complete"))
			g := guard(t, store, &idem.Options{MaxClaims: 2})
			for _, id := range []string{"a", "b"} {
				wants(t, begin(t, g, request(id)).Complete(body("x")), idem.ErrUnsaved)
			}
			refused(t, g, request("c"), idem.ErrOverloaded)
			store.set(nil)
			time.Sleep(2 * time.Second)
			must(t, begin(t, g, request("c")).Release(nil))
		})
	})
	t.Run("waiters", func(t *testing.T) {
		for _, opts := range []idem.Options{{MaxWaiters: 3}, {MaxWaitersPerKey: 3}} {
			bubble(t, func(t *testing.T) {
				g := guard(t, newStore(), &opts)
				for range 3 { // what has waited makes room
					c := begin(t, g, request("k"))
					got := asks(t.Context(), g, request("k"), 3)
					synctest.Wait()
					refused(t, g, request("k"), idem.ErrOverloaded)
					other := begin(t, g, request("other"))
					if opts.MaxWaitersPerKey == 0 {
						refused(t, g, request("other"), idem.ErrOverloaded)
					} else {
						more := asks(t.Context(), g, request("other"), 3)
						synctest.Wait()
						if len(more) != 0 {
							t.Errorf("%+v", <-more)
						}
						must(t, other.Release("no"))
						for range 3 {
							<-more
						}
					}
					_ = other.Release("no")
					must(t, c.Release("no"))
					for range 3 {
						if a := <-got; a.Shared != "no" {
							t.Errorf("%+v, %v", a.Begun, a.err)
						}
					}
				}
			})
		}
	})
	t.Run("store", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			store := memstore.New(&memstore.Options{MaxUnknown: 1})
			g := guard(t, store, nil)
			must(t, begin(t, g, request("a")).Abandon())
			refused(t, g, request("b"), idem.ErrOverloaded)
		})
	})
}

// 1,000 waiters on one key, in each of two guards: bounded, asked for by one
// of each, and others go on meanwhile.
func TestTrap34ThousandWaiters(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), nil)
		owner, elsewhere := guard(t, store, nil), guard(t, store, nil)
		c := begin(t, owner, request("k"))
		began := time.Now()
		here, there := asks(t.Context(), owner, request("k"), 1000), asks(t.Context(), elsewhere, request("k"), 1001)
		synctest.Wait()
		refused(t, owner, request("k"), idem.ErrOverloaded)
		refused(t, elsewhere, request("k"), idem.ErrOverloaded)
		for i := range 100 {
			must(t, begin(t, owner, request(itoa(i))).Complete(body("x")))
			must(t, begin(t, elsewhere, request("e"+itoa(i))).Complete(body("x")))
		}
		if d := time.Since(began); d != 0 {
			t.Errorf("other keys waited for %v", d)
		}
		asked := store.count("claim")
		time.Sleep(9 * time.Second)
		if n := store.count("claim") - asked; n > 15 {
			t.Errorf("the store was asked %d times in 9 s", n)
		}
		must(t, c.Complete(body("x")))
		for i := range 2001 {
			var a answer
			if i < 1000 {
				a = <-here
			} else {
				a = <-there
			}
			if !a.Replayed {
				t.Errorf("%+v, %v", a.Begun, a.err)
			}
		}
		if !soon(time.Now(), began.Add(9*time.Second)) {
			t.Errorf("the waiters were told after %v", time.Since(began))
		}
	})
}
