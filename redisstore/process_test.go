package redisstore_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/drivertest/linearize"
	"github.com/idem-go/idem/redisstore"
)

// spread is a store that n processes open on one server.
func spread(t testing.TB, n int, dsn string) *drivertest.ProcessStore {
	t.Helper()
	dsn = with(t, dsn, "prefix", freshPrefix())
	o, err := redisstore.OptionsOf(dsn, nil)
	must(t, err)
	must(t, redisstore.Migrate(t.Context(), connect(t, dsn), o))
	return drivertest.Processes(t, n, dsn)
}

func acrossProcesses(t *testing.T, dsn string) {
	t.Helper()
	o := &linearize.Options{Rounds: 100}
	if testing.Short() {
		o.Rounds = 20
	}
	linearize.Run(t, drivertest.Harness{
		New:     func(t testing.TB) driver.Store { return spread(t, 3, dsn) },
		Advance: func(testing.TB, driver.Store, time.Duration) { panic("no time passes") },
		Slack:   20 * time.Second,
	}, o)
}

func TestLinearizableAcrossProcesses(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	acrossProcesses(t, server.DSN())
}

// 64 callers in 8 processes want one key: one is granted it, and whoever waits
// gets its result.
func TestTrap1ManyProcessesOneKey(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	s := spread(t, 8, server.DSN())
	for round := range 5 {
		id := fmt.Sprint(round)
		var effects atomic.Int64
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				p := s.Process(i % 8)
				for {
					req := request(id)
					reply, err := p.Claim(t.Context(), req)
					ref := driver.Ref{Key: req.Key, Token: reply.Record.Token}
					switch {
					case err != nil:
						t.Error(err)
						return
					case reply.Granted:
						effects.Add(1)
						if _, err := p.Complete(t.Context(), ref, completion(req, "done")); err != nil {
							t.Error(err)
						}
						return
					case reply.Record.State == driver.StateCompleted:
						if string(reply.Record.Result.Body) != "done" {
							t.Errorf("the result is %q", reply.Record.Result.Body)
						}
						return
					}
					if err := p.Wait(t.Context(), ref); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if n := effects.Load(); n != 1 {
			t.Fatalf("granted %d times", n)
		}
	}
}

// A process that is killed leaves an unknown behind, not a second run.
func TestTrap7AKilledOwner(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	s := spread(t, 2, server.DSN())
	req := request("k")
	req.Lease = 300 * time.Millisecond
	reply, err := s.Process(0).Claim(t.Context(), req)
	must(t, err)
	s.Process(0).Kill()
	eventually(t, 10*time.Second, func() error {
		rec, err := s.Process(1).Lookup(t.Context(), req.Key)
		must(t, err)
		if rec.State != driver.StateUnknown || rec.Token != reply.Record.Token {
			return fmt.Errorf("the record is %v", rec.State)
		}
		return nil
	})
	again, err := s.Process(1).Claim(t.Context(), request("k"))
	must(t, err)
	if again.Granted || again.Record.State != driver.StateUnknown {
		t.Errorf("granted %v, the record is %v", again.Granted, again.Record.State)
	}
}
