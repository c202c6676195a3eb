package pgstore_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/drivertest/linearize"
)

// request is a claim for an id.
func request(id string) driver.ClaimRequest {
	return driver.ClaimRequest{
		Key: driver.KeyOf("scope", id), Scope: "scope", ID: id, Nonce: driver.NewNonce(),
		Fingerprint: driver.Fingerprint{Rule: 1, Sum: driver.KeyOf("fingerprint", "asked")},
		Lease:       time.Minute, Tombstone: time.Hour,
	}
}

func completion(id, body string) driver.Completion {
	req := request(id)
	return driver.Completion{
		Result: driver.Result{Meta: []byte("200"), Body: []byte(body)},
		Scope:  req.Scope, ID: id, Fingerprint: req.Fingerprint, Retention: time.Hour, Tombstone: time.Hour,
	}
}

// spread is a store whose calls are made by n processes, on a schema of its own.
func (b *bed) spread(t testing.TB, n int) *drivertest.ProcessStore {
	t.Helper()
	return drivertest.Processes(t, n, b.schema(t)+" "+b.server.DSN())
}

func TestLinearizableAcrossProcesses(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	h := b.harness()
	h.New = func(t testing.TB) driver.Store { return b.spread(t, 3) }
	linearize.Run(t, h, rounds(60))
}

// 64 callers in 8 processes want one key: one is granted it, and all see the same.
func TestTrap50ManyProcessesOneKey(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	s := b.spread(t, 8)
	for round := range 10 {
		id := fmt.Sprint(round)
		var granted atomic.Int64
		var ref atomic.Pointer[driver.Ref]
		all(64, func(int) {
			reply, err := s.Claim(t.Context(), request(id))
			switch {
			case err != nil:
				t.Error(err)
			case reply.Granted:
				granted.Add(1)
				ref.Store(&driver.Ref{Key: reply.Record.Key, Token: reply.Record.Token})
			case reply.Record.State != driver.StateInFlight:
				t.Errorf("the record is %v", reply.Record.State)
			}
		})
		if granted.Load() != 1 {
			t.Fatalf("round %d: %d were granted it", round, granted.Load())
		}
		var told atomic.Int64
		var waiting sync.WaitGroup
		for range 16 {
			waiting.Go(func() {
				for told.Load() >= 0 {
					if err := s.Wait(t.Context(), *ref.Load()); err != nil {
						t.Error(err)
						return
					}
					rec, err := s.Lookup(t.Context(), ref.Load().Key)
					if err != nil {
						t.Error(err)
						return
					}
					if rec.State == driver.StateCompleted {
						told.Add(1)
						return
					}
				}
			})
		}
		if _, err := s.Complete(t.Context(), *ref.Load(), completion(id, "once")); err != nil {
			t.Fatal(err)
		}
		waiting.Wait()
	}
}

// all runs f n times at once and waits for all to end.
func all(n int, f func(i int)) {
	var start, end sync.WaitGroup
	start.Add(1)
	for i := range n {
		end.Go(func() {
			start.Wait()
			f(i)
		})
	}
	start.Done()
	end.Wait()
}

// eventually waits until a condition holds that something under way brings about.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for !f() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
