package idem_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
)

func TestTrap9StoreIsDownAtTheClaim(t *testing.T) {
	for name, broken := range map[string]fault{"down": down(), "hang": hang()} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := faults(newStore(), broken)
				g := guard(t, store, nil)
				var l ledger
				began := time.Now()
				together(20, func(int) {
					if _, err := idem.Do(t.Context(), g, *request("k"), work(&l, "k", 0)); !errors.Is(err, idem.ErrStore) {
						t.Errorf("%v", err)
					}
				})
				if d := time.Since(began); d > 2*idem.DefaultStoreTimeout {
					t.Errorf("refused after %v", d)
				}
				if n := l.of("k"); n != 0 {
					t.Errorf("%d effects", n)
				}
				store.set(nil)
				time.Sleep(time.Minute)
				c := begin(t, g, request("k"))
				if c.Attempt() != 1 {
					t.Errorf("attempt %d: a store that did not answer counts as one", c.Attempt())
				}
				must(t, c.Release(nil))
			})
		})
	}
}

// The claim was applied and its answer lost: its owner is recognised.
func TestTrap10ClaimWhoseAnswerWasLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), nil)
		g := guard(t, store, nil)
		store.set(func(ctx context.Context, op string, call func(context.Context) error) error {
			store.set(nil)
			return deaf()(ctx, op, call)
		})
		c := begin(t, g, request("k"))
		if c.Attempt() != 1 || store.count("claim") != 2 {
			t.Errorf("attempt %d after %d calls", c.Attempt(), store.count("claim"))
		}
		must(t, c.Complete(body("x")))
		replay(t, g, request("k"), "x")
	})
}

// No answer came at all: what may have been claimed is given back.
func TestTrap10LostClaimIsGivenBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), deaf("claim"))
		g := guard(t, store, nil)
		refused(t, g, request("k"), idem.ErrStore)
		state(t, store, request("k"), driver.StateInFlight)
		store.set(nil)
		time.Sleep(time.Second)
		state(t, store, request("k"), driver.StateAbsent)
		c := begin(t, guard(t, store, nil), request("k"))
		if c.Attempt() != 1 {
			t.Errorf("a store that did not answer made this attempt %d (K9)", c.Attempt())
		}
		must(t, c.Complete(body("x")))
	})
}

// The claim arrives at the store after its caller has given up.
func TestTrap10ClaimThatArrivesLate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		inner := newStore()
		store := faults(inner, nil)
		g := guard(t, store, nil)
		arrived := make(chan struct{}, 2)
		store.set(func(ctx context.Context, op string, call func(context.Context) error) error {
			if op != "claim" {
				return call(ctx)
			}
			<-ctx.Done()
			time.AfterFunc(2*time.Second, func() {
				_, err := inner.Claim(context.Background(), driver.ClaimRequest{
					Key: driver.KeyOf("s", "k"), Scope: "s", ID: "k", Nonce: store.nonce(), Lease: idem.DefaultLease, Tombstone: time.Hour,
				})
				if err != nil {
					t.Errorf("the late claim: %v", err)
				}
				arrived <- struct{}{}
			})
			return ctx.Err()
		})
		refused(t, g, request("k"), idem.ErrStore)
		<-arrived
		store.set(nil)
		state(t, inner, request("k"), driver.StateInFlight)
		time.Sleep(2 * idem.DefaultStoreTimeout)
		state(t, inner, request("k"), driver.StateAbsent)
	})
}

// Somebody else's claim is not given back in its stead.
func TestGivingBackSparesOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		inner := newStore()
		store := faults(inner, down("claim"))
		g := guard(t, store, nil)
		refused(t, g, request("k"), idem.ErrStore)
		c := begin(t, guard(t, inner, nil), request("k"))
		store.set(nil)
		time.Sleep(time.Minute)
		state(t, inner, request("k"), driver.StateInFlight)
		must(t, c.Complete(body("x")))
	})
}

// An unknown of somebody else's is not taken over to be given back.
func TestGivingBackSparesUnknowns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		inner := newStore()
		store := faults(inner, down("claim"))
		g := guard(t, store, &idem.Options{Policy: idem.Policy{Unknown: idem.RetryUnknown}})
		refused(t, g, request("k"), idem.ErrStore)
		must(t, begin(t, guard(t, inner, nil), request("k")).Abandon())
		store.set(nil)
		time.Sleep(time.Minute)
		if r := state(t, inner, request("k"), driver.StateUnknown); r.Attempt != 1 {
			t.Errorf("attempt %d", r.Attempt)
		}
	})
}

// A caller that leaves while the store is asked does not break the call off:
// what it claims is known.
func TestCallerLeavesDuringTheClaim(t *testing.T) {
	for name, wrap := range map[string]func(driver.Store) driver.Store{
		"store of this process": func(s driver.Store) driver.Store { return s },
		"shared store":          func(s driver.Store) driver.Store { return polled{s} },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(context.WithValue(t.Context(), ctxKey{}, "v"))
				store := faults(newStore(), func(ctx context.Context, op string, call func(context.Context) error) error {
					cancel()
					if ctx.Err() != nil || ctx.Value(ctxKey{}) != "v" {
						t.Errorf("%s: %v, value %v", op, ctx.Err(), ctx.Value(ctxKey{}))
					}
					if d, ok := ctx.Deadline(); !ok || time.Until(d) != idem.DefaultStoreTimeout {
						t.Errorf("%s: limited to %v, %v", op, time.Until(d), ok)
					}
					return call(ctx)
				})
				b, err := guard(t, wrap(store), nil).Begin(ctx, request("k"))
				must(t, err)
				must(t, b.Claim.Complete(body("x")))
			})
		})
	}
}

func TestUnreadableRecord(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), func(ctx context.Context, op string, call func(context.Context) error) error {
			return &driver.UnreadableError{Reason: "of a newer version"}
		})
		g := guard(t, store, nil)
		err := refused(t, g, request("k"), idem.ErrUnreadable)
		var u *driver.UnreadableError
		if !errors.As(err, &u) || store.count("claim") != 1 {
			t.Errorf("%v after %d calls", err, store.count("claim"))
		}
	})
}

// A store that answers nonsense is a store that does not answer.
func TestNonsense(t *testing.T) {
	for name, tt := range map[string]struct {
		reply driver.ClaimReply
		err   error
		want  error
	}{
		"no known state":      {driver.ClaimReply{Record: driver.Record{State: 9, Token: 1}}, nil, idem.ErrUnreadable},
		"refused over absent": {driver.ClaimReply{}, nil, idem.ErrStore},
		"granted, no token":   {driver.ClaimReply{Granted: true}, nil, idem.ErrStore},
		"always released":     {driver.ClaimReply{}, driver.ErrLost, idem.ErrStore},
		"full":                {driver.ClaimReply{}, driver.ErrFull, idem.ErrOverloaded},
		"closed":              {driver.ClaimReply{}, driver.ErrClosed, idem.ErrStore},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				store := nonsense{faults(newStore(), nil), tt.reply, tt.err}
				refused(t, guard(t, store, nil), request("k"), tt.want)
				if n := store.count("claim"); n > 20 || time.Since(start()) > time.Second {
					t.Errorf("asked %d times in %v", n, time.Since(start()))
				}
			})
		})
	}
}

type nonsense struct {
	*faulty
	reply driver.ClaimReply
	err   error
}

func (n nonsense) Claim(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
	_, _ = n.faulty.Claim(ctx, driver.ClaimRequest{}) // counted, and refused
	return n.reply, n.err
}
