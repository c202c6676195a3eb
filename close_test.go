package idem_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
)

func TestCloseWaitsForSaving(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), down("complete"))
		g := idem.New(store, &idem.Options{Logger: slog.New(slog.DiscardHandler)})
		wants(t, begin(t, g, request("k")).Complete(body("x")), idem.ErrUnsaved)
		time.AfterFunc(time.Minute, func() { store.set(nil) })
		must(t, g.Close(t.Context()))
		replay(t, guard(t, store, nil), request("k"), "x")
	})
}

func TestCloseGivesUpWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), down("complete"))
		g := idem.New(store, &idem.Options{Logger: slog.New(slog.DiscardHandler)})
		held := begin(t, g, request("held"))
		wants(t, begin(t, g, request("k")).Complete(body("x")), idem.ErrUnsaved)
		elsewhere := begin(t, guard(t, store, nil), request("elsewhere"))
		waiting := asks(t.Context(), g, request("held"), 2)
		watching := asks(t.Context(), g, request("elsewhere"), 2)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wants(t, g.Close(ctx), context.DeadlineExceeded)
		for _, c := range []<-chan answer{waiting, waiting, watching, watching} {
			if a := <-c; !errors.Is(a.err, idem.ErrClosed) {
				t.Errorf("a waiter got %+v, %v", a.Begun, a.err)
			}
		}
		refused(t, g, request("new"), idem.ErrClosed)
		renewals := store.count("renew")
		must(t, elsewhere.Release(nil))
		time.Sleep(idem.DefaultLease)
		if n := store.count("renew") - renewals; n != 0 {
			t.Errorf("%d renewals after Close", n)
		}
		state(t, store, request("k"), driver.StateUnknown)
		store.set(nil)
		// What is still held can be ended, once, without help.
		must(t, held.Complete(body("late")))
		must(t, g.Close(t.Context()))
	})
}

// From the call of Close on nothing new begins, and nothing is left behind.
func TestCloseRefusesWhatIsNew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), down("complete"))
		g := idem.New(store, &idem.Options{Logger: slog.New(slog.DiscardHandler)})
		wants(t, begin(t, g, request("k")).Complete(body("x")), idem.ErrUnsaved)
		closed := make(chan error)
		go func() { closed <- g.Close(context.Background()) }()
		synctest.Wait()
		refused(t, g, request("new"), idem.ErrClosed)
		store.set(nil)
		must(t, <-closed)
	})
}

// When Close has returned, no call to the store is under way.
func TestCloseWaitsForRenewals(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := faults(newStore(), nil)
		g := idem.New(store, nil)
		begin(t, g, request("k"))
		ended := false
		store.set(func(ctx context.Context, _ string, call func(context.Context) error) error {
			<-ctx.Done()
			ended = true
			return ctx.Err()
		})
		time.Sleep(idem.DefaultLease/3 + time.Second)
		synctest.Wait()
		must(t, g.Close(t.Context()))
		if !ended {
			t.Error("a renewal goes on after Close")
		}
	})
}
