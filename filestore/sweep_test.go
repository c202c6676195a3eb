package filestore_test

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/filestore"
)

// sweepAll sweeps until nothing is over.
func sweepAll(t testing.TB, s driver.Sweeper) int {
	t.Helper()
	total := 0
	for {
		n, err := s.Sweep(t.Context(), 1000)
		if err != nil {
			t.Fatalf("Sweep: %v", err)
		}
		if total += n; n == 0 {
			return total
		}
	}
}

// falls waits until the engine's tables take less than so many bytes: it drops
// them in its own time.
func falls(t testing.TB, s *filestore.Store, below int64) int64 {
	t.Helper()
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		now := s.TableBytes()
		if now < below {
			return now
		}
		if time.Now().After(deadline) {
			t.Fatalf("the tables take %d bytes; they should take less than %d", now, below)
		}
		runtime.Gosched()
	}
}

// Trap 35: what is over leaves the disk and the memory, and each record leaves
// exactly nothing in the engine.
func TestTrap35TheDiskGoesDown(t *testing.T) {
	// Parts that end at the same time, of a size that no batch of the sweeper has.
	const part, size = 207, 2000
	parts := 60
	if raceEnabled {
		parts = 20
	}
	n := parts * part
	o := small()
	clock := filestore.NewTestClock()
	s, err := filestore.Open("/data", o.WithClock(clock).WithFS(vfs.NewMem()))
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	for i := range parts {
		fill(t, s, "s", i*part, part, size)
		clock.Advance(time.Second)
		if i%10 == 9 {
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	full := s.TableBytes()
	if full < int64(n*size) {
		t.Fatalf("%d records of %d bytes take %d bytes", n, size, full)
	}
	if m := s.InMemory(); m != 0 {
		t.Errorf("memory knows of %d keys; all are completed", m)
	}
	clock.Advance(time.Hour)
	if got := sweepAll(t, s); got != n {
		t.Errorf("%d results were swept; %d should be", got, n)
	}
	tombstones := falls(t, s, full/5)
	clock.Advance(time.Hour)
	if got := sweepAll(t, s); got != n {
		t.Errorf("%d tombstones were swept; %d should be", got, n)
	}
	for _, space := range "crxd" {
		if k, err := s.EngineKeys(byte(space)); err != nil || k != 0 {
			t.Errorf("%d keys are left in the space %c: %v", k, space, err)
		}
	}
	end := falls(t, s, full/20)
	st, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("tables take %d bytes with %d records of %d bytes, %d with their tombstones, %d after those; all files %d then", full, n, size, tombstones, end, st.Bytes)
}

// Sweeping races with everything else: a record that is changed while it is
// swept is neither lost nor brought back.
func TestSweepRacesWithWrites(t *testing.T) {
	b := newBed(t, small())
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			if _, err := b.Sweep(t.Context(), 1000); err != nil {
				t.Errorf("Sweep: %v", err)
				return
			}
		}
	})
	// Each key lives through its times while others do; the clock goes on a
	// millisecond for each round of all.
	const keys, rounds = 40, 60
	all(8, keys, func(i int) {
		for round := range rounds {
			id := fmt.Sprint(i)
			key := driver.KeyOf("s", id)
			req := driver.ClaimRequest{
				Key: key, Scope: "s", ID: id, Nonce: driver.NewNonce(), Retry: true,
				Lease: time.Hour, Tombstone: time.Hour,
			}
			reply, err := b.Claim(t.Context(), req)
			if err != nil {
				t.Errorf("Claim: %v", err)
				return
			}
			if !reply.Granted {
				if reply.Record.State != driver.StateCompleted && reply.Record.State != driver.StateForgotten {
					t.Errorf("round %d: %s is %v", round, id, reply.Record.State)
				}
				b.clock.Advance(time.Millisecond)
				continue
			}
			body := []byte(fmt.Sprint(id, "-", round))
			if _, err := b.Complete(t.Context(), driver.Ref{Key: key, Token: reply.Record.Token}, driver.Completion{
				Result: driver.Result{Body: body}, Scope: "s", ID: id,
				Retention: time.Duration(1+i%7) * time.Millisecond, Tombstone: time.Duration(1+i%3) * time.Millisecond,
			}); err != nil {
				t.Errorf("Complete: %v", err)
				return
			}
			rec, err := b.Lookup(t.Context(), key)
			if err != nil {
				t.Errorf("Lookup: %v", err)
				return
			}
			if rec.State == driver.StateCompleted && string(rec.Result.Body) != string(body) {
				t.Errorf("%s has the result %q; it should be %q", id, rec.Result.Body, body)
			}
		}
	})
	stop.Store(true)
	wg.Wait()
	b.clock.Advance(time.Hour)
	sweepAll(t, b)
	for _, space := range "crxd" {
		if k, err := b.EngineKeys(byte(space)); err != nil || k != 0 {
			t.Errorf("%d keys are left in the space %c: %v", k, space, err)
		}
	}
	st, err := b.Stats(t.Context())
	if err != nil || st.Completed+st.Forgotten+st.InFlight+st.Unknown != 0 {
		t.Errorf("counted %+v: %v", st, err)
	}
}

// Between finding a record that is over and dropping it, its key is claimed and
// completed anew: that record stays.
func TestSweepLooksAgain(t *testing.T) {
	var meanwhile func()
	b := newBed(t, small().WithWalked(func() {
		if meanwhile != nil {
			meanwhile()
			meanwhile = nil
		}
	}))
	for _, n := range []int{1, 100} { // one by one, and as a range
		b.clock.Advance(time.Hour)
		for i := range n {
			fill(t, b, "s", i, 1, 10)
			b.clock.Advance(time.Millisecond)
		}
		b.clock.Advance(2 * time.Hour)
		meanwhile = func() { fill(t, b, "s", n/2, 1, 20) }
		sweepAll(t, b)
		rec := stateOf(t, b, "s", fmt.Sprint(n/2), driver.StateCompleted)
		if len(rec.Result.Body) != 20 {
			t.Errorf("the result has %d bytes; it should be the new one", len(rec.Result.Body))
		}
		b.clock.Advance(2 * time.Hour)
		sweepAll(t, b)
		for _, space := range "crxd" {
			if k, err := b.EngineKeys(byte(space)); err != nil || k != 0 {
				t.Errorf("%d keys are left in the space %c: %v", k, space, err)
			}
		}
	}
}

// The store sweeps by itself.
func TestItSweepsByItself(t *testing.T) {
	o := small()
	o.SweepEvery = time.Millisecond
	b := newBed(t, o)
	fill(t, b, "s", 0, 100, 10)
	b.clock.Advance(3 * time.Hour)
	deadline := time.Now().Add(30 * time.Second)
	for {
		k, err := b.EngineKeys('r')
		if err != nil {
			t.Fatal(err)
		}
		if k == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d records are left", k)
		}
		runtime.Gosched()
	}
}
