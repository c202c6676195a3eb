package idem_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/internal/memtx"
)

func (b *txBed) claim(t *testing.T) *idem.Claim {
	t.Helper()
	begun, err := b.guard.Guard().Begin(t.Context(), &idem.Request{Key: order("k").Key, Fingerprint: order("k").Fingerprint})
	if err != nil || begun.Claim == nil {
		t.Fatalf("%+v %v", begun, err)
	}
	return begun.Claim
}

func TestCompleteTx(t *testing.T) {
	withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
		c := b.claim(t)
		time.Sleep(2 * time.Minute) // it is renewed meanwhile
		tx := b.store.Begin()
		_ = tx.Insert("k")
		settle, err := idem.CompleteTx(t.Context(), c, tx, idem.Result{Meta: []byte("idem/json/1"), Body: []byte("8")})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Complete(idem.Result{}); !errors.Is(err, idem.ErrEnded) {
			t.Errorf("completed besides: %v", err)
		}
		b.state("k", driver.StateInFlight)
		if err := settle(tx.Commit()); err != nil {
			t.Error(err)
		}
		if err := settle(nil); !errors.Is(err, idem.ErrEnded) {
			t.Errorf("settled twice: %v", err)
		}
		if !errors.Is(context.Cause(c.Context()), idem.ErrEnded) {
			t.Errorf("the work's context: %v", context.Cause(c.Context()))
		}
		if o, err := b.do("k"); err != nil || !o.Replayed || o.Value != 8 {
			t.Errorf("%+v %v", o, err)
		}
		b.rows("k", 1)
	})
}

// A transaction that was rolled back leaves the claim held; one whose commit
// lost its answer has ended it.
func TestTrap44CompleteTxAndItsCommit(t *testing.T) {
	lost := errors.New("the line is cut")
	withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
		c := b.claim(t)
		for n, commits := range []bool{false, true} {
			tx := b.store.Begin()
			_ = tx.Insert("k")
			settle, err := idem.CompleteTx(t.Context(), c, tx, idem.Result{Body: []byte("8")})
			if err != nil {
				t.Fatal(n, err)
			}
			if commits {
				_ = tx.Commit()
			} else {
				tx.Rollback()
			}
			switch err := settle(lost); {
			case commits && err != nil:
				t.Errorf("a commit that lost its answer: %v", err)
			case !commits && !errors.Is(err, lost):
				t.Errorf("a commit that was not taken: %v", err)
			}
		}
		b.rows("k", 1)
		b.state("k", driver.StateCompleted)
		if _, err := idem.CompleteTx(t.Context(), c, b.store.Begin(), idem.Result{}); !errors.Is(err, idem.ErrEnded) {
			t.Errorf("a claim that has ended: %v", err)
		}
	})
}

// Trap 38: a paused owner and its successor do not both commit.
func TestTrap38CompleteTxOfALostClaim(t *testing.T) {
	withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
		paused := b.claim(t)
		rec, err := b.store.Resolve(t.Context(), driver.KeyOf("orders", "k"), driver.Resolution{
			Action: driver.ResolveRelease, Force: true, Retention: time.Hour, Tombstone: time.Hour,
		})
		if err != nil {
			t.Fatal(rec, err)
		}
		begun, err := b.other.Begin(t.Context(), &idem.Request{Key: order("k").Key})
		if err != nil {
			t.Fatal(err)
		}
		tx := b.store.Begin()
		_ = tx.Insert("successor")
		settle, err := idem.CompleteTx(t.Context(), begun.Claim, tx, idem.Result{Body: []byte("1")})
		if err != nil || settle(tx.Commit()) != nil {
			t.Fatal(err)
		}
		tx = b.store.Begin()
		_ = tx.Insert("paused")
		if _, err := idem.CompleteTx(t.Context(), paused, tx, idem.Result{Body: []byte("2")}); !errors.Is(err, idem.ErrLost) {
			t.Errorf("%v", err)
		}
		if err := tx.Commit(); err == nil {
			t.Error("the transaction of a lost claim was committed")
		}
		b.rows("successor", 1)
		b.rows("paused", 0)
	})
}

func TestCompleteTxRefusals(t *testing.T) {
	withTx(t, idem.Options{Policy: idem.Policy{MaxResult: 10}}, func(t *testing.T, b *txBed) {
		c := b.claim(t)
		if _, err := idem.CompleteTx(t.Context(), c, "no transaction", idem.Result{}); !errors.Is(err, idem.ErrInvalid) {
			t.Errorf("a transaction of another type: %v", err)
		}
		if _, err := idem.CompleteTx(t.Context(), c, b.store.Begin(), idem.Result{Body: make([]byte, 11)}); !errors.Is(err, idem.ErrTooLarge) {
			t.Errorf("too large: %v", err)
		}
		done := b.store.Begin()
		done.Rollback()
		if _, err := idem.CompleteTx(t.Context(), c, done, idem.Result{}); !errors.Is(err, memtx.ErrDone) {
			t.Errorf("a transaction that has ended: %v", err)
		}
		if err := c.Release(nil); err != nil {
			t.Errorf("the claim is no longer held: %v", err)
		}
	})
}
