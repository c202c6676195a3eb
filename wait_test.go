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

// answer is what one caller of Begin got.
type answer struct {
	idem.Begun
	err error
	at  time.Time
}

// soon says that a notification was not missed: what came of it is there, at
// most a moment after it could be.
func soon(at, end time.Time) bool { return !at.Before(end) && at.Sub(end) <= 60*time.Millisecond }

// asks calls Begin n times at once and gives the answers as they come.
func asks(ctx context.Context, g *idem.Guard, req *idem.Request, n int) <-chan answer {
	c := make(chan answer, n)
	for range n {
		go func() {
			b, err := g.Begin(ctx, req)
			c <- answer{b, err, time.Now()}
		}()
	}
	return c
}

// An owner may be in the same guard as those who wait, or meet them in the
// store alone.
func bothWays(t *testing.T, f func(t *testing.T, owner, waiter *idem.Guard)) {
	t.Run("same guard", func(t *testing.T) {
		bubble(t, func(t *testing.T) { g := guard(t, newStore(), nil); f(t, g, g) })
	})
	t.Run("another guard", func(t *testing.T) {
		bubble(t, func(t *testing.T) { s := newStore(); f(t, guard(t, s, nil), guard(t, s, nil)) })
	})
}

func TestWaitersGetTheResultAtOnce(t *testing.T) {
	bothWays(t, func(t *testing.T, owner, waiter *idem.Guard) {
		c := begin(t, owner, request("k"))
		got := asks(t.Context(), waiter, request("k"), 10)
		time.Sleep(7*time.Second + 300*time.Millisecond)
		must(t, c.Complete(body("x")))
		done := time.Now()
		for range 10 {
			a := <-got
			if a.err != nil || !a.Replayed || string(a.Result.Body) != "x" || !soon(a.at, done) {
				t.Errorf("%+v, %v, %v after the end", a.Begun, a.err, a.at.Sub(done))
			}
		}
	})
}

func TestWaitIsBounded(t *testing.T) {
	bothWays(t, func(t *testing.T, owner, waiter *idem.Guard) {
		c := begin(t, owner, request("k"))
		time.Sleep(time.Second)
		began := time.Now()
		got := asks(t.Context(), waiter, request("k"), 10)
		for range 10 {
			a := <-got
			var inFlight *idem.InFlightError
			if !errors.As(a.err, &inFlight) || inFlight.Age != 11*time.Second || a.at.Sub(began) != idem.DefaultWait {
				t.Errorf("%v after %v", a.err, a.at.Sub(began))
			}
		}
		req := request("k")
		req.Policy = waiter.Policy(idem.Policy{Wait: -1})
		refused(t, waiter, req, idem.ErrInFlight)
		if time.Since(began) != idem.DefaultWait {
			t.Error("a caller that does not wait did")
		}
		must(t, c.Complete(body("x")))
	})
}

func TestTrap6WaiterGivesUp(t *testing.T) {
	bothWays(t, func(t *testing.T, owner, waiter *idem.Guard) {
		c := begin(t, owner, request("k"))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		got := asks(ctx, waiter, request("k"), 5)
		for range 5 {
			a := <-got
			if !errors.Is(a.err, context.DeadlineExceeded) || a.at.Sub(began) != 3*time.Second {
				t.Errorf("%v after %v", a.err, a.at.Sub(began))
			}
		}
		refused(t, waiter, request("k"), idem.ErrInFlight)
		if c.Context().Err() != nil {
			t.Error("the owner's work was cancelled")
		}
		must(t, c.Complete(body("x")))
		replay(t, waiter, request("k"), "x")
	})
}

// The one that asks the store for all leaves: another takes its place.
func TestWaitersSurviveTheirLeader(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		c := begin(t, guard(t, store, nil), request("k"))
		g := guard(t, store, nil)
		ctx, cancel := context.WithCancel(t.Context())
		leader := asks(ctx, g, request("k"), 1)
		synctest.Wait()
		others := asks(t.Context(), g, request("k"), 5)
		synctest.Wait()
		cancel()
		wants(t, (<-leader).err, context.Canceled)
		time.Sleep(time.Second)
		must(t, c.Complete(body("x")))
		for range 5 {
			if a := <-others; !a.Replayed || a.err != nil {
				t.Errorf("%+v, %v", a.Begun, a.err)
			}
		}
	})
}

// One that takes over from a leader who left has waited, too: an answer given
// in between is not for it to run after.
func TestWhoTakesOverHasWaited(t *testing.T) {
	bubble(t, func(t *testing.T) {
		inner := newStore()
		owner := guard(t, inner, nil)
		c := begin(t, owner, request("k"))
		store := faults(inner, nil)
		g := guard(t, store, nil)
		ctx, cancel := context.WithCancel(t.Context())
		leader := asks(ctx, g, request("k"), 1)
		synctest.Wait()
		other := asks(t.Context(), g, request("k"), 1)
		synctest.Wait()
		hold := make(chan struct{})
		store.set(func(ctx context.Context, _ string, call func(context.Context) error) error { <-hold; return call(ctx) })
		cancel()
		wants(t, (<-leader).err, context.Canceled)
		synctest.Wait()
		must(t, c.Release("503"))
		close(hold)
		if a := <-other; !errors.Is(a.err, idem.ErrInFlight) {
			t.Errorf("%+v, %v", a.Begun, a.err)
		}
	})
}

// Ten wait, and the first is answered 503: one run, not ten in a row.
func TestTrap57AnsweredReleaseIsShared(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		g, elsewhere := guard(t, store, nil), guard(t, store, nil)
		c := begin(t, g, request("k"))
		here, there := asks(t.Context(), g, request("k"), 10), asks(t.Context(), elsewhere, request("k"), 10)
		time.Sleep(time.Second)
		must(t, c.Release("503"))
		for range 10 {
			if a := <-here; a.err != nil || a.Shared != "503" || a.Replayed || a.Claim != nil || a.Expires != 0 {
				t.Errorf("here: %+v, %v", a.Begun, a.err)
			}
			if a := <-there; !errors.Is(a.err, idem.ErrInFlight) {
				t.Errorf("elsewhere: %+v, %v", a.Begun, a.err)
			}
		}
		// It is not a result: the next caller runs.
		next := begin(t, elsewhere, request("k"))
		if next.Attempt() != 2 {
			t.Errorf("attempt %d", next.Attempt())
		}
		must(t, next.Complete(body("x")))
	})
}

// After a release without an answer the waiters run one after another, never
// two at once.
func TestSilentReleaseLetsOneWaiterRun(t *testing.T) {
	bothWays(t, func(t *testing.T, owner, waiter *idem.Guard) {
		c := begin(t, owner, request("k"))
		got := asks(t.Context(), waiter, request("k"), 10)
		time.Sleep(time.Second)
		must(t, c.Release(nil))
		synctest.Wait()
		a := <-got
		if a.Claim == nil || a.Claim.Attempt() != 2 {
			t.Fatalf("%+v, %v", a.Begun, a.err)
		}
		synctest.Wait()
		if len(got) > 0 {
			t.Fatalf("a second waiter went on: %+v", <-got)
		}
		must(t, a.Claim.Complete(body("x")))
		for range 9 {
			if a := <-got; !a.Replayed {
				t.Errorf("%+v, %v", a.Begun, a.err)
			}
		}
	})
}

// An answer belongs to those who asked for the same.
func TestAnswerIsNotSharedWithAnotherRequest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), nil)
		g := guard(t, store, nil)
		hold := make(chan struct{})
		store.set(func(ctx context.Context, _ string, call func(context.Context) error) error { <-hold; return call(ctx) })
		first, other := request("k"), request("k")
		first.Fingerprint, other.Fingerprint = sum(1, "first"), sum(1, "other")
		leader := make(chan struct{})
		go func() {
			defer close(leader)
			b, err := g.Begin(t.Context(), first)
			if err != nil {
				t.Errorf("first: %v", err)
				return
			}
			// It ends before the follower has looked at it once.
			if err := b.Claim.Release("first's answer"); err != nil {
				t.Errorf("release: %v", err)
			}
		}()
		synctest.Wait()
		got := asks(t.Context(), g, other, 1)
		synctest.Wait()
		close(hold)
		<-leader
		a := <-got
		if a.Shared != nil {
			t.Fatalf("another request was given %v", a.Shared)
		}
		// Which of the two came first decides whether it is refused or runs.
		if a.Claim != nil {
			must(t, a.Claim.Release(nil))
		} else {
			wants(t, a.err, idem.ErrReused)
		}
	})
}

func TestTrap16AnotherFingerprintIsSaidFirst(t *testing.T) {
	for name, end := range map[string]func(*idem.Claim) error{
		"in flight": func(*idem.Claim) error { return nil },
		"completed": func(c *idem.Claim) error { return c.Complete(body("x")) },
		"dropped":   (*idem.Claim).CompleteWithoutResult,
		"unknown":   (*idem.Claim).Abandon,
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, owner, waiter *idem.Guard) {
				req, other, none := request("k"), request("k"), request("k")
				req.Fingerprint, other.Fingerprint = sum(1, "first"), sum(1, "other")
				c := begin(t, owner, req)
				must(t, end(c))
				// Somebody who asks for the same waits, and leads.
				ctx, cancel := context.WithCancel(t.Context())
				waits := asks(ctx, waiter, req, 1)
				synctest.Wait()
				began := time.Now()
				refused(t, waiter, other, idem.ErrReused)
				refused(t, waiter, none, idem.ErrReused)
				for _, unknown := range []idem.UnknownPolicy{idem.RetryUnknown, idem.ResolveUnknown} {
					other.Policy = waiter.Policy(idem.Policy{Unknown: unknown, Resolver: func(context.Context, idem.Unknown) (idem.Resolution, error) {
						t.Error("the resolver was asked for another request")
						return idem.NotDone(), nil
					}})
					refused(t, waiter, other, idem.ErrReused)
				}
				if time.Since(began) != 0 {
					t.Errorf("said after %v", time.Since(began))
				}
				cancel()
				<-waits
				_ = c.Abandon()
			})
		})
	}
}

type oldRules map[uint8]idem.Fingerprint

func (r oldRules) Sum(rule uint8) (idem.Fingerprint, bool) { f, ok := r[rule]; return f, ok }

func TestFingerprintsOfOlderRules(t *testing.T) {
	bothWays(t, func(t *testing.T, owner, waiter *idem.Guard) {
		old := request("k")
		old.Fingerprint = sum(1, "as rule 1 says")
		c := begin(t, owner, old)
		same, other, unknown, blind := request("k"), request("k"), request("k"), request("k")
		for _, r := range []*idem.Request{same, other, unknown, blind} {
			r.Fingerprint = sum(2, "as rule 2 says")
			r.Policy = waiter.Policy(idem.Policy{Wait: -1})
		}
		same.Rules = oldRules{1: sum(1, "as rule 1 says")}
		other.Rules = oldRules{1: sum(1, "something else")}
		unknown.Rules = oldRules{3: sum(3, "as rule 1 says")}
		refused(t, waiter, same, idem.ErrInFlight)
		refused(t, waiter, other, idem.ErrReused)
		refused(t, waiter, unknown, idem.ErrUnreadable)
		refused(t, waiter, blind, idem.ErrUnreadable)
		must(t, c.Complete(body("x")))
		replay(t, waiter, same, "x")
		refused(t, waiter, other, idem.ErrReused)
		refused(t, waiter, unknown, idem.ErrUnreadable)
	})
}

// The policy retry compares by the older rule, too, and the late completion of
// what was claimed so.
func TestRetryOverAnOlderRule(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := guard(t, newStore(), &idem.Options{Policy: idem.Policy{Unknown: idem.RetryUnknown}})
		old, same := request("k"), request("k")
		old.Fingerprint, same.Fingerprint = sum(1, "one"), sum(2, "two")
		same.Rules = oldRules{1: sum(1, "one")}
		must(t, begin(t, g, old).Abandon())
		must(t, begin(t, g, same).Complete(body("x")))
		replay(t, g, same, "x")
	})
}

// A release forgets the fingerprint: another request may come under the key.
func TestReleaseForgetsTheFingerprint(t *testing.T) {
	bothWays(t, func(t *testing.T, owner, waiter *idem.Guard) {
		req, other := request("k"), request("k")
		req.Fingerprint, other.Fingerprint = sum(1, "first"), sum(1, "other")
		must(t, begin(t, owner, req).Release("503"))
		c := begin(t, waiter, other)
		if c.Attempt() != 2 {
			t.Errorf("attempt %d", c.Attempt())
		}
		must(t, c.Complete(body("x")))
		refused(t, owner, req, idem.ErrReused)
	})
}

// deafened is a store whose notifications are lost, or come all the time.
type deafened struct {
	*faulty
	early bool
}

func (d deafened) Wait(ctx context.Context, _ driver.Ref) error {
	if d.early {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestTrap65LostNotification(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), nil)
		c := begin(t, guard(t, store, nil), request("k"))
		got := asks(t.Context(), guard(t, deafened{faulty: store}, nil), request("k"), 3)
		time.Sleep(5 * time.Second)
		must(t, c.Complete(body("x")))
		done := time.Now()
		for range 3 {
			if a := <-got; !a.Replayed || a.at.Sub(done) > time.Second {
				t.Errorf("%+v, %v, after %v", a.Begun, a.err, a.at.Sub(done))
			}
		}
	})
}

// Notifications that come for nothing do not make the waiters spin.
func TestEarlyNotifications(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), nil)
		c := begin(t, guard(t, store, nil), request("k"))
		before := store.count("claim")
		refused(t, guard(t, deafened{store, true}, nil), request("k"), idem.ErrInFlight)
		if n := store.count("claim") - before; n > 300 {
			t.Errorf("the store was asked %d times in 10 s", n)
		}
		must(t, c.Complete(body("x")))
	})
}

// polled hides the store's notifications.
type polled struct{ driver.Store }

func TestStoreWithoutNotifications(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newStore()
		g, waiter := guard(t, polled{store}, nil), guard(t, polled{store}, nil)
		c := begin(t, g, request("k"))
		got := asks(t.Context(), waiter, request("k"), 3)
		time.Sleep(5 * time.Second)
		must(t, c.Complete(body("x")))
		done := time.Now()
		for range 3 {
			if a := <-got; !a.Replayed || a.at.Sub(done) > time.Second {
				t.Errorf("%+v, %v, after %v", a.Begun, a.err, a.at.Sub(done))
			}
		}
	})
}
