package mysqlstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/mysqlstore"
)

// An operator and a late owner at once: whatever both are told, what the owner
// was told is kept, is.
func TestResolveRacesTheOwner(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{})
	for round := range 60 {
		req := claimOf("s", fmt.Sprint(round))
		ref := grant(t, s, req)
		if err := s.Abandon(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		var done, released error
		var wg sync.WaitGroup
		wg.Go(func() { _, done = s.Complete(context.Background(), ref, completionOf(req, "", "late")) })
		wg.Go(func() {
			_, released = s.Resolve(context.Background(), req.Key, driver.Resolution{Action: driver.ResolveRelease, Retention: time.Hour, Tombstone: time.Hour})
		})
		wg.Wait()
		if done != nil || released != nil && !errors.Is(released, driver.ErrState) {
			t.Fatalf("Complete: %v, Resolve: %v", done, released)
		}
		if rec := lookup(t, s, req.Key, driver.StateCompleted); string(rec.Result.Body) != "late" {
			t.Fatalf("the result is %q", rec.Result.Body)
		}
	}
}

// An operator whose resolution waits for a transaction that completes the record
// judges the record as that left it.
func TestResolveWaitsForATransaction(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{})
	req := claimOf("s", "k")
	ref := grant(t, s, req)
	if err := s.Abandon(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	tx, err := b.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if late, err := s.CompleteTx(t.Context(), tx, ref, completionOf(req, "", "in a transaction")); err != nil || !late {
		t.Fatalf("CompleteTx: %v, %v", late, err)
	}
	resolved := make(chan error, 1)
	go func() {
		_, err := s.Resolve(context.Background(), req.Key, driver.Resolution{Action: driver.ResolveRelease, Retention: time.Hour, Tombstone: time.Hour})
		resolved <- err
	}()
	s.blocked(t)
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-resolved; !errors.Is(err, driver.ErrState) {
		t.Errorf("Resolve: %v", err)
	}
	if rec := lookup(t, s, req.Key, driver.StateCompleted); string(rec.Result.Body) != "in a transaction" {
		t.Errorf("the result is %q", rec.Result.Body)
	}
}

// A sweep that has found a lease that was over looks again before it changes
// the row: the owner may have come back.
func TestSweepRacesTheOwner(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{})
	stop := make(chan struct{})
	var sweeps atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.Sweep(context.Background(), 10); err != nil {
					t.Errorf("Sweep: %v", err)
					return
				}
				sweeps.Add(1)
			}
		})
	}
	defer wg.Wait()
	defer close(stop)
	req := claimOf("s", "k")
	ref := grant(t, s, req)
	for range 150 {
		if err := s.Renew(t.Context(), ref, time.Microsecond); err != nil {
			t.Fatalf("Renew: %v", err)
		}
		// The claim is repeated, as by an owner that has lost its answer.
		again := req
		again.Lease = time.Hour
		if got := grant(t, s, again); got != ref {
			t.Fatalf("the repeat has the token %d, not %d", got.Token, ref.Token)
		}
		if err := s.Renew(t.Context(), ref, time.Hour); err != nil {
			t.Fatalf("Renew: %v", err)
		}
	}
	t.Logf("%d sweeps", sweeps.Load())
}

// Two who take over one record, each with its own statement after one that read
// it: one is granted, whatever the record was.
func TestTwoTakeOver(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	for _, with := range []mysqlstore.Options{{}, mysqlstore.Options{}.Plain()} {
		s := b.open(t, with)
		for round := range 30 {
			id := fmt.Sprint(round)
			ref := grant(t, s, claimOf("s", id))
			if round%2 == 0 {
				if err := s.Abandon(t.Context(), ref); err != nil {
					t.Fatal(err)
				}
			} else if err := s.Release(t.Context(), ref, driver.Release{Retention: time.Hour}); err != nil {
				t.Fatal(err)
			}
			var granted atomic.Int64
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					req := claimOf("s", id)
					req.Retry = true
					reply, err := s.Claim(context.Background(), req)
					if err != nil {
						t.Errorf("Claim: %v", err)
					}
					if reply.Granted {
						granted.Add(1)
						if reply.Record.Attempt != 2 || reply.Record.Token <= ref.Token {
							t.Errorf("attempt %d, token %d after %d", reply.Record.Attempt, reply.Record.Token, ref.Token)
						}
					}
				})
			}
			wg.Wait()
			if granted.Load() != 1 {
				t.Fatalf("%d were granted it", granted.Load())
			}
		}
	}
}
