package linearize

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/memstore"
)

func openMemory(t testing.TB) driver.Store {
	s := memstore.New(nil)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func TestMemoryStoreIsLinearizable(t *testing.T) {
	Run(t, drivertest.Harness{New: openMemory}, nil)
}

func TestMemoryStoreIsLinearizableInABubble(t *testing.T) {
	Run(t, drivertest.Bubble(openMemory), nil)
}

// racy is a store that is right for one caller at a time: each of its calls
// reads, lets others run, and then acts on what it had read.
type racy struct {
	driver.Store
	broken string
}

func (s racy) before(ctx context.Context, key driver.Key) driver.Record {
	rec, _ := s.Lookup(ctx, key)
	for range 3 {
		runtime.Gosched()
	}
	return rec
}

func (s racy) Claim(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
	rec := s.before(ctx, req.Key)
	reply, err := s.Store.Claim(ctx, req)
	switch s.broken {
	case "Claim":
		if rec.State == driver.StateAbsent && !rec.Answered && err == nil && reply.Record.State == driver.StateInFlight {
			reply.Granted = true
		}
	case "StaleRead":
		if err == nil && !reply.Granted {
			reply.Record = rec
		}
	}
	return reply, err
}

func (s racy) Complete(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
	rec := s.before(ctx, ref.Key)
	late, err := s.Store.Complete(ctx, ref, c)
	if s.broken == "Complete" && rec.State == driver.StateInFlight && rec.Token == ref.Token && errors.Is(err, driver.ErrCompleted) {
		return false, nil
	}
	return late, err
}

func (s racy) Release(ctx context.Context, ref driver.Ref, r driver.Release) error {
	rec := s.before(ctx, ref.Key)
	if s.broken == "Release" && rec.State == driver.StateInFlight && rec.Token == ref.Token {
		now, _ := s.Lookup(ctx, ref.Key)
		ref.Token = now.Token
	}
	return s.Store.Release(ctx, ref, r)
}

func (s racy) Abandon(ctx context.Context, ref driver.Ref) error {
	rec := s.before(ctx, ref.Key)
	if s.broken == "Abandon" && rec.State == driver.StateInFlight && rec.Token == ref.Token {
		now, _ := s.Lookup(ctx, ref.Key)
		ref.Token = now.Token
	}
	return s.Store.Abandon(ctx, ref)
}

// Stores that are racy in one call are noticed, so the judge is not blind.
func TestRacyStoresAreNoticed(t *testing.T) {
	for _, broken := range []string{"Claim", "StaleRead", "Complete", "Release", "Abandon"} {
		t.Run(broken, func(t *testing.T) {
			o := Options{Seed: drivertest.Seed(t), Rounds: 200, Clients: 8, Calls: 8}
			for range 20 {
				if err := judge(race(t, racy{openMemory(t), broken}, o)); err != nil {
					t.Logf("%.200s…", err)
					return
				}
				o.Seed++
			}
			t.Errorf("a store with a racy %s passed as linearizable (seed %d)", broken, o.Seed)
		})
	}
}

// The store without a fault, wrapped in the same way, passes.
func TestTheWrapperIsLinearizable(t *testing.T) {
	o := Options{Seed: drivertest.Seed(t), Rounds: 100, Clients: 8, Calls: 8}
	if err := judge(race(t, racy{openMemory(t), ""}, o)); err != nil {
		t.Error(err)
	}
}
