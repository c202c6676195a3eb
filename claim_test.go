package idem_test

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

func TestClaimCompleteReplay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		g := guard(t, store, nil)
		c := begin(t, g, request("k"))
		if c.Attempt() != 1 || c.Token() == 0 || c.Key() != request("k").Key {
			t.Fatalf("claim %v, attempt %d, token %d", c.Key(), c.Attempt(), c.Token())
		}
		must(t, c.Complete(idem.Result{Meta: []byte("m"), Body: []byte("b")}))
		b, err := g.Begin(t.Context(), request("k"))
		must(t, err)
		if !b.Replayed || string(b.Result.Meta) != "m" || string(b.Result.Body) != "b" || b.Expires != idem.DefaultRetention {
			t.Fatalf("replay: %+v", b)
		}
	})
}

func TestClaimIsEndedOnce(t *testing.T) {
	ends := map[string]func(*idem.Claim) error{
		"complete": func(c *idem.Claim) error { return c.Complete(body("x")) },
		"without":  (*idem.Claim).CompleteWithoutResult,
		"release":  func(c *idem.Claim) error { return c.Release(nil) },
		"abandon":  (*idem.Claim).Abandon,
	}
	bubble(t, func(t *testing.T) {
		store := newStore()
		g := guard(t, store, nil)
		for first, end := range ends {
			for second, again := range ends {
				c := begin(t, g, request(first+" "+second))
				must(t, end(c))
				before := lookup(t, store, request(first+" "+second))
				wants(t, again(c), idem.ErrEnded)
				if after := lookup(t, store, request(first+" "+second)); after.State != before.State {
					t.Errorf("%s then %s: %v became %v", first, second, before.State, after.State)
				}
				wants(t, context.Cause(c.Context()), idem.ErrEnded)
			}
		}
	})
}

// The bytes given to Complete are the caller's again afterwards, also where
// saving goes on.
func TestCompleteDoesNotKeepTheCallersBytes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), down("complete"))
		g := guard(t, store, nil)
		c := begin(t, g, request("k"))
		b := []byte("first")
		wants(t, c.Complete(idem.Result{Body: b}), idem.ErrUnsaved)
		copy(b, "other")
		store.set(nil)
		time.Sleep(5 * time.Second)
		replay(t, g, request("k"), "first")
	})
}

func TestAttemptsAndTokensGrow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		g := guard(t, store, nil)
		var token uint64
		for attempt := 1; attempt <= 5; attempt++ {
			c := begin(t, g, request("k"))
			if c.Attempt() != attempt || c.Token() <= token {
				t.Fatalf("attempt %d, token %d after %d; want attempt %d", c.Attempt(), c.Token(), token, attempt)
			}
			token = c.Token()
			must(t, c.Release(nil))
		}
	})
}

func TestDeriveIsTheSameAtEachAttempt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := guard(t, newStore(), nil)
		seen := map[string]string{}
		for _, id := range []string{"a", "b"} {
			for range 2 {
				c := begin(t, g, request(id))
				for _, name := range []string{"", "charge", "mail"} {
					k := c.Derive(name)
					if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(k) {
						t.Errorf("%q is no UUID of version 8", k)
					}
					if was, ok := seen[k]; ok && was != id+" "+name {
						t.Errorf("%q and %q have one key", was, id+" "+name)
					}
					seen[k] = id + " " + name
				}
				must(t, c.Release(nil))
			}
		}
		if len(seen) != 6 {
			t.Errorf("%d keys for 6 calls downstream", len(seen))
		}
	})
}

// A golden value: an upgrade must not change the keys of calls downstream.
func TestDeriveIsStable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := begin(t, guard(t, newStore(), nil), &idem.Request{Key: idem.Key{Scope: "charges", ID: "8e03978e"}})
		const want = "e2fa7b81-eca5-88fa-8285-f58dd741612e"
		if got := c.Derive("stripe"); got != want {
			t.Errorf("derived %s, want %s", got, want)
		}
		must(t, c.Release(nil))
	})
}

type ctxKey struct{}

func TestContextOfTheWork(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := guard(t, newStore(), nil)
		ctx, leave := context.WithTimeout(context.WithValue(t.Context(), ctxKey{}, "v"), time.Minute)
		b, err := g.Begin(ctx, request("k"))
		must(t, err)
		work := b.Claim.Context()
		leave()
		if work.Err() != nil {
			t.Error("the work ended with its caller")
		}
		if _, limited := work.Deadline(); limited {
			t.Error("the work has its caller's deadline")
		}
		if work.Value(ctxKey{}) != "v" {
			t.Error("the work lost its caller's values")
		}
		inner, cancel := context.WithCancel(work)
		defer cancel()
		if c, ok := idem.FromContext(inner); !ok || c != b.Claim {
			t.Error("the claim is not in the work's context")
		}
		if _, ok := idem.FromContext(ctx); ok {
			t.Error("a claim in a context without one")
		}
		must(t, b.Claim.Release(nil))
		wants(t, context.Cause(inner), idem.ErrEnded)
	})
}

func TestRequestsThatCannotBeTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), nil)
		g := guard(t, store, nil)
		refused(t, g, request(""), idem.ErrInvalid)
		if n := store.count("claim"); n != 0 {
			t.Errorf("%d claims asked for without an id", n)
		}
		refused(t, g, request(strings.Repeat("x", driver.MaxName+1)), idem.ErrInvalid)
		req := request("k")
		req.Policy = &idem.Policy{Lease: -1}
		refused(t, g, req, idem.ErrInvalid)

		gone, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := g.Begin(gone, request("k"))
		wants(t, err, context.Canceled)
		state(t, store, request("k"), driver.StateAbsent)
	})
}

// A leader whose own request cannot be taken does not speak for the others.
func TestAnInvalidRequestIsItsCallersAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), nil)
		g := guard(t, store, nil)
		hold := make(chan struct{})
		store.set(func(ctx context.Context, _ string, call func(context.Context) error) error { <-hold; return call(ctx) })
		bad := request("k")
		bad.Policy = &idem.Policy{Lease: -1}
		led := make(chan error, 1)
		go func() { _, err := g.Begin(t.Context(), bad); led <- err }()
		synctest.Wait()
		got := make(chan *idem.Claim, 1)
		go func() {
			b, err := g.Begin(t.Context(), request("k"))
			if err != nil {
				t.Errorf("the other caller: %v", err)
			}
			got <- b.Claim
		}()
		synctest.Wait()
		close(hold)
		wants(t, <-led, idem.ErrInvalid)
		if c := <-got; c != nil {
			must(t, c.Release(nil))
		}
	})
}

func TestTrap61ResultOfExactlyTheLimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, tt := range []struct {
			name         string
			store, guard int
		}{{"guard's", 1 << 20, 100}, {"store's", 100, 1 << 20}} {
			t.Logf("the %s limit", tt.name)
			store := memstore.New(&memstore.Options{MaxResult: tt.store})
			g := guard(t, store, &idem.Options{Policy: idem.Policy{MaxResult: tt.guard}})
			fits := idem.Result{Meta: []byte("0123456789"), Body: []byte(strings.Repeat("x", 90))}
			must(t, begin(t, g, request("fits")).Complete(fits))
			replay(t, g, request("fits"), string(fits.Body))
			over := idem.Result{Meta: fits.Meta, Body: append(fits.Body, 'x')}
			must(t, begin(t, g, request("over")).Complete(over))
			refused(t, g, request("over"), idem.ErrNotStored)
		}
	})
}

// Keys are told apart byte for byte.
func TestTrap61AnyBytesInKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := guard(t, newStore(), nil)
		keys := []idem.Key{
			{Scope: "a", ID: "b\x00c"}, {Scope: "a\x00b", ID: "c"}, {Scope: "a", ID: "b\xffc"}, {Scope: "a\xffb", ID: "c"},
			{Scope: "", ID: "\x00"}, {Scope: "\x00", ID: "\x00"}, {Scope: "", ID: "\x00\x00"}, {Scope: "a:b", ID: "c"}, {Scope: "a", ID: "b:c"},
		}
		for _, k := range keys {
			must(t, begin(t, g, &idem.Request{Key: k}).Complete(body(k.Scope+"|"+k.ID)))
		}
		for _, k := range keys {
			replay(t, g, &idem.Request{Key: k}, k.Scope+"|"+k.ID)
		}
	})
}

func TestCompleteWithoutResult(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := guard(t, newStore(), nil)
		must(t, begin(t, g, request("k")).CompleteWithoutResult())
		refused(t, g, request("k"), idem.ErrNotStored)
	})
}

// 32 completions at once: one ends the claim.
func TestTrap62CompletionsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := guard(t, newStore(), nil)
		c := begin(t, g, request("k"))
		errs := make([]error, 32)
		together(32, func(i int) { errs[i] = c.Complete(body(itoa(i))) })
		won := -1
		for i, err := range errs {
			switch {
			case err == nil && won >= 0:
				t.Errorf("completions %d and %d both ended the claim", won, i)
			case err == nil:
				won = i
			case !errors.Is(err, idem.ErrEnded):
				t.Errorf("completion %d: %v", i, err)
			}
		}
		replay(t, g, request("k"), itoa(won))
	})
}
