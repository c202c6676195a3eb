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

// work is what the traps run: an effect, told to the ledger, in its own time.
func work(l *ledger, id string, takes time.Duration) func(context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		select {
		case <-time.After(takes):
			return l.add(id), nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func TestTrap1HundredAtOnceThroughTwoGuards(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		guards := []*idem.Guard{guard(t, store, nil), guard(t, store, nil)}
		var l ledger
		together(100, func(i int) {
			v, err := idem.Do(t.Context(), guards[i%2], *request("k"), work(&l, "k", time.Second))
			if v != 1 || err != nil {
				t.Errorf("caller %d: %d, %v", i, v, err)
			}
		})
		if n := l.of("k"); n != 1 {
			t.Errorf("%d effects", n)
		}
	})
}

// The store says what it said before another ran: a stale "absent" of one
// caller must not become a claim of its own.
func TestTrap2LooksAgainAfterAPause(t *testing.T) {
	bubble(t, func(t *testing.T) {
		inner := newStore()
		var l ledger
		paused, goOn := make(chan struct{}), make(chan struct{})
		slow := faults(inner, func(ctx context.Context, op string, call func(context.Context) error) error {
			if op == "claim" {
				close(paused)
				<-goOn
			}
			return call(ctx)
		})
		b := guard(t, slow, nil)
		done := make(chan error, 1)
		go func() {
			_, err := idem.Do(t.Context(), b, *request("k"), work(&l, "k", time.Second))
			done <- err
		}()
		<-paused
		_, err := idem.Do(t.Context(), guard(t, inner, nil), *request("k"), work(&l, "k", time.Second))
		must(t, err)
		close(goOn)
		must(t, <-done)
		if n := l.of("k"); n != 1 {
			t.Errorf("%d effects", n)
		}
	})
}

func TestTrap3WorkLongerThanTheLease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		opts := &idem.Options{Policy: idem.Policy{Lease: time.Second, Wait: time.Minute}}
		g, other := guard(t, store, opts), guard(t, store, opts)
		var l ledger
		together(4, func(i int) {
			v, err := idem.Do(t.Context(), []*idem.Guard{g, other}[i%2], *request("k"), work(&l, "k", 30*time.Second))
			if v != 1 || err != nil {
				t.Errorf("caller %d: %d, %v", i, v, err)
			}
		})
		if n := l.of("k"); n != 1 {
			t.Errorf("%d effects", n)
		}
	})
}

// Each of many claims is renewed in time, whenever it began.
func TestTrap3ManyClaimsAreRenewed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		rec := &recorder{}
		g := guard(t, newStore(), &idem.Options{Policy: idem.Policy{Lease: 3 * time.Second}, Observer: rec})
		together(500, func(i int) {
			time.Sleep(time.Duration(i) * 7 * time.Millisecond)
			c := begin(t, g, request(itoa(i)))
			time.Sleep(10*time.Second + time.Duration(i)*time.Millisecond)
			if err := c.Complete(body("x")); err != nil {
				t.Errorf("claim %d: %v", i, err)
			}
		})
		if rec.count(idem.EventRan) != 500 || rec.count(idem.EventLate) != 0 {
			t.Errorf("%d ran, %d late", rec.count(idem.EventRan), rec.count(idem.EventLate))
		}
	})
}

// The keeper ends with its last claim, and begins anew with the next.
func TestRenewalBeginsAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), nil)
		g := guard(t, store, &idem.Options{Policy: idem.Policy{Lease: 3 * time.Second}})
		for i := range 3 {
			before := store.count("renew")
			c := begin(t, g, request(itoa(i)))
			time.Sleep(10 * time.Second)
			if n := store.count("renew") - before; n < 9 || n > 15 {
				t.Errorf("%d renewals in three and a third leases", n)
			}
			must(t, c.Complete(body("x")))
			time.Sleep(2 * time.Hour)
		}
	})
}

// A lease may be longer than the keeper otherwise sleeps.
func TestLongLeasesAreRenewed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := guard(t, newStore(), &idem.Options{Policy: idem.Policy{Lease: 12 * time.Hour, MaxRun: 1000 * time.Hour}})
		short := request("short")
		short.Policy = g.Policy(idem.Policy{Lease: time.Minute})
		a := begin(t, g, request("long"))
		time.Sleep(3 * time.Hour)
		b := begin(t, g, short)
		time.Sleep(200 * time.Hour)
		for _, c := range []*idem.Claim{a, b} {
			if c.Context().Err() != nil {
				t.Errorf("%s: %v", c.Key().ID, context.Cause(c.Context()))
			}
			must(t, c.Complete(body("x")))
		}
	})
}

// The owner is paused past its lease (its renewals do not reach the store), and
// another is granted the key: whatever it does afterwards changes nothing.
func TestTrap4PausedOwner(t *testing.T) {
	for name, end := range map[string]func(*idem.Claim) error{
		"complete": func(c *idem.Claim) error { return c.Complete(body("old")) },
		"release":  func(c *idem.Claim) error { return c.Release(nil) },
		"abandon":  (*idem.Claim).Abandon,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				inner := newStore()
				paused := faults(inner, nil)
				g := guard(t, paused, nil)
				old := begin(t, g, request("k"))
				paused.set(down("renew"))
				time.Sleep(idem.DefaultLease)
				synctest.Wait()
				wants(t, context.Cause(old.Context()), idem.ErrLost)

				now := begin(t, guard(t, inner, &idem.Options{Policy: idem.Policy{Unknown: idem.RetryUnknown}}), request("k"))
				if now.Token() <= old.Token() || now.Attempt() != 2 {
					t.Errorf("token %d after %d, attempt %d", now.Token(), old.Token(), now.Attempt())
				}
				paused.set(nil)
				wants(t, end(old), idem.ErrLost)
				state(t, inner, request("k"), driver.StateInFlight)
				must(t, now.Complete(body("new")))
				replay(t, g, request("k"), "new")
			})
		})
	}
}

// A renewal that is told of another owner cancels the work at once.
func TestLostClaimCancelsItsWork(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), nil)
		rec := &recorder{}
		g := guard(t, store, &idem.Options{Observer: rec})
		c := begin(t, g, request("k"))
		resolver, _ := driver.As[driver.Resolver](store)
		_, err := resolver.Resolve(t.Context(), driver.KeyOf("s", "k"), driver.Resolution{
			Action: driver.ResolveRelease, Force: true, Retention: time.Hour, Tombstone: time.Hour,
		})
		must(t, err)
		other := begin(t, guard(t, store, nil), request("k"))
		began := time.Now()
		<-c.Context().Done()
		wants(t, context.Cause(c.Context()), idem.ErrLost)
		if d := time.Since(began); d > idem.DefaultLease/3 {
			t.Errorf("told after %v", d)
		}
		synctest.Wait()
		writes := store.count("renew")
		time.Sleep(time.Minute)
		if n := rec.count(idem.EventLost); n != 1 {
			t.Errorf("%d events of the loss", n)
		}
		// The other claim is renewed all the while; the lost one is not: its
		// renewals would come on top.
		if n := store.count("renew") - writes; n > 8 {
			t.Errorf("%d renewals in a minute for one claim", n)
		}
		must(t, other.Complete(body("x")))
		wants(t, c.Complete(body("y")), idem.ErrLost)
	})
}

// A store that hangs cannot keep the loss of the lease from the work.
func TestLossIsToldWhileTheStoreHangs(t *testing.T) {
	for _, n := range []int{1, 500} {
		bubble(t, func(t *testing.T) {
			store := faults(newStore(), nil)
			g := guard(t, store, nil)
			claims := make([]*idem.Claim, n)
			for i := range claims {
				claims[i] = begin(t, g, request(itoa(i)))
			}
			store.set(hang())
			for _, c := range claims {
				<-c.Context().Done()
				wants(t, context.Cause(c.Context()), idem.ErrLost)
			}
			if d := time.Since(start()); d != idem.DefaultLease {
				t.Errorf("the last of %d was told after %v", n, d)
			}
			store.set(nil)
		})
	}
}

// start is when every bubble's time begins.
func start() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }

func TestTrap5TwoAtAStaleLease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		owner := faults(store, nil)
		begin(t, guard(t, owner, nil), request("k"))
		owner.set(down())
		time.Sleep(idem.DefaultLease)
		retry := &idem.Options{Policy: idem.Policy{Unknown: idem.RetryUnknown, Wait: -1}}
		guards := []*idem.Guard{guard(t, store, retry), guard(t, store, retry)}
		granted := make([]*idem.Claim, 100)
		together(100, func(i int) {
			b, err := guards[i%2].Begin(t.Context(), request("k"))
			if granted[i] = b.Claim; b.Claim == nil && !errors.Is(err, idem.ErrInFlight) {
				t.Errorf("caller %d: %v", i, err)
			}
		})
		n := 0
		for _, c := range granted {
			if c != nil {
				n++
				must(t, c.Complete(body("x")))
			}
		}
		if n != 1 {
			t.Errorf("%d were granted one stale record", n)
		}
	})
}

// The lease is over exactly at its end, for everybody at once.
func TestTrap62AtTheBoundary(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		owner := faults(store, nil)
		begin(t, guard(t, owner, nil), request("k"))
		owner.set(down())
		other := guard(t, store, &idem.Options{Policy: idem.Policy{Unknown: idem.RetryUnknown, Wait: -1}})
		time.Sleep(idem.DefaultLease - 1)
		refused(t, other, request("k"), idem.ErrInFlight)
		time.Sleep(time.Nanosecond)
		must(t, begin(t, other, request("k")).Complete(body("x")))
	})
}

// A caller that leaves does not stop its work, and the retry gets the result.
func TestTrap11CallerLeaves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := guard(t, newStore(), nil)
		var l ledger
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		left := make(chan struct{})
		go func() {
			defer close(left)
			_, _ = idem.Do(ctx, g, *request("k"), work(&l, "k", 600*time.Millisecond))
		}()
		<-ctx.Done()
		v, err := idem.Do(t.Context(), g, *request("k"), work(&l, "k", time.Millisecond))
		if v != 1 || err != nil || l.of("k") != 1 {
			t.Errorf("the retry: %d, %v, after %d effects", v, err, l.of("k"))
		}
		<-left
	})
}

// After its time a key is refused as forgotten, then runs anew exactly once.
func TestTrap32AfterItsTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := guard(t, newStore(), &idem.Options{Policy: idem.Policy{Retention: time.Hour, Tombstone: 2 * time.Hour}})
		var l ledger
		do := func() (int, error) { return idem.Do(t.Context(), g, *request("k"), work(&l, "k", time.Second)) }
		_, err := do()
		must(t, err)
		time.Sleep(time.Hour - 1)
		v, err := do()
		if v != 1 || err != nil {
			t.Fatalf("before the end of retention: %d, %v", v, err)
		}
		time.Sleep(time.Nanosecond)
		refused(t, g, request("k"), idem.ErrForgotten)
		other := request("k")
		other.Fingerprint = sum(1, "another")
		refused(t, g, other, idem.ErrForgotten)
		time.Sleep(2*time.Hour - 1)
		refused(t, g, request("k"), idem.ErrForgotten)
		time.Sleep(time.Nanosecond)
		together(10, func(int) {
			if v, err := do(); v != 2 || err != nil {
				t.Errorf("after the tombstone: %d, %v", v, err)
			}
		})
	})
}
