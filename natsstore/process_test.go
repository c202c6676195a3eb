package natsstore_test

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

// spread is a harness whose stores are a bucket that n processes use.
func spread(n int, dsn func(bucket, query string) string, query string) drivertest.Harness {
	return drivertest.Harness{
		New: func(t testing.TB) driver.Store {
			_, full := migrated(t, dsn, query)
			return drivertest.Processes(t, n, full)
		},
		Advance: func(testing.TB, driver.Store, time.Duration) { panic("no time passes") },
		Slack:   20 * time.Second,
	}
}

func rounds(n int) *linearize.Options {
	if testing.Short() {
		n /= 5
	}
	return &linearize.Options{Rounds: n}
}

func TestLinearizableAcrossProcesses(t *testing.T) {
	t.Parallel()
	s := alone(t)
	if s == nil {
		return
	}
	linearize.Run(t, spread(3, one(s), ""), rounds(100))
}

func TestLinearizableOnAClusterAcrossProcesses(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	if c == nil {
		return
	}
	linearize.Run(t, spread(3, one(c.Server), "?replicas=3"), rounds(100))
}

// 64 callers in 8 processes want one key: one is granted it, and all see the same.
func TestTrap1ManyProcessesOneKey(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	if c == nil {
		return
	}
	_, dsn := migrated(t, one(c.Server), "?replicas=3")
	s := drivertest.Processes(t, 8, dsn)
	for round := range 10 {
		req := request(fmt.Sprint(round))
		var granted, failed atomic.Int64
		var token atomic.Uint64
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				mine := req
				mine.Nonce = driver.NewNonce()
				reply, err := s.Claim(t.Context(), mine)
				switch {
				case err != nil:
					failed.Add(1)
					t.Error(err)
				case reply.Granted:
					granted.Add(1)
					token.Store(reply.Record.Token)
				case reply.Record.State != driver.StateInFlight:
					t.Errorf("the record is %v", reply.Record.State)
				}
			})
		}
		wg.Wait()
		if granted.Load() != 1 || failed.Load() != 0 {
			t.Fatalf("granted %d times, %d failed", granted.Load(), failed.Load())
		}
		ref := driver.Ref{Key: req.Key, Token: token.Load()}
		if _, err := s.Complete(t.Context(), ref, completion(req, "done")); err != nil {
			t.Fatal(err)
		}
		if rec, err := s.Lookup(t.Context(), req.Key); err != nil || string(rec.Result.Body) != "done" {
			t.Fatalf("%+v %v", rec, err)
		}
	}
}
