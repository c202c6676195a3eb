package filestore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/filestore"
)

// faults lets operations of a kind fail, from one on or only one.
type faults struct {
	on     atomic.Bool
	kind   string
	err    error
	sticky bool
	left   atomic.Int64
}

func (f *faults) MaybeError(op errorfs.Op) error {
	if !f.on.Load() {
		return nil
	}
	hit := false
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		hit = f.kind == "sync" || f.kind == "any"
	case errorfs.OpFileWrite, errorfs.OpFileWriteAt:
		hit = f.kind == "write" || f.kind == "any"
	case errorfs.OpCreate, errorfs.OpRename, errorfs.OpReuseForWrite, errorfs.OpLink, errorfs.OpOpenDir:
		hit = f.kind == "any" && op.Kind != errorfs.OpOpenDir
	}
	if !hit {
		return nil
	}
	left := f.left.Add(-1)
	if left == 0 || left < 0 && f.sticky {
		return f.err
	}
	return nil
}

func (f *faults) String() string { return "faults" }

// Traps 7, 8, 52: a sync or a write fails, or the disk is full, at a random
// moment under load. The store stops, every call says so in bounded time, and
// when it is opened again everything acknowledged is there and nothing completed
// is granted again.
func TestTrap52TheDiskFails(t *testing.T) {
	runs := 300
	if testing.Short() || raceEnabled {
		runs = 40
	}
	seed := drivertest.Seed(t)
	t.Logf("%d failures from %s=%d", runs, drivertest.SeedVariable, seed)
	for i := range runs {
		if !t.Run(fmt.Sprint("seed=", seed+uint64(i)), func(t *testing.T) { diskFails(t, seed+uint64(i)) }) {
			return
		}
	}
}

func diskFails(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	f := &faults{
		kind:   []string{"sync", "write", "any"}[rng.IntN(3)],
		err:    []error{syscall.EIO, syscall.ENOSPC}[rng.IntN(2)],
		sticky: rng.IntN(2) == 0,
	}
	f.left.Store(1 + rng.Int64N(200))
	opts, most := small(), 200
	if rng.IntN(3) == 0 {
		most, opts.MaxResult = 60_000, 60_000
	}
	mem := vfs.NewCrashableMem()
	clock := filestore.NewTestClock()
	s, err := filestore.Open("/data", opts.WithClock(clock).WithFS(errorfs.Wrap(mem, f)))
	if err != nil {
		t.Fatal(err)
	}
	f.on.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	workers := make([]*worker, 1+rng.IntN(6))
	var wg sync.WaitGroup
	for i := range workers {
		w := &worker{
			s: s, name: fmt.Sprintf("w%d-", i), rng: rand.New(rand.NewPCG(seed, uint64(i)+2)), most: most,
			known: map[string]*knownKey{},
		}
		workers[i] = w
		wg.Go(func() {
			for {
				if err := w.step(ctx); err != nil {
					stopped(t, "a call under way", err, f.err)
					return
				}
			}
		})
	}
	wg.Wait()
	key := driver.KeyOf("power", "w0-0")
	_, err = s.Lookup(ctx, key)
	stopped(t, "Lookup", err, f.err)
	_, err = s.Claim(ctx, driver.ClaimRequest{Key: key, Nonce: driver.NewNonce(), Lease: time.Minute, Tombstone: time.Minute})
	stopped(t, "Claim", err, f.err)
	stopped(t, "Ping", s.Ping(ctx), f.err)
	stopped(t, "Wait", s.Wait(ctx, driver.Ref{Key: key}), f.err)
	_, err = s.Stats(ctx)
	stopped(t, "Stats", err, f.err)
	_, err = s.List(ctx, driver.Query{Limit: 1})
	stopped(t, "List", err, f.err)
	stopped(t, "Close", s.Close(), f.err)

	// The disk is well again. What it has depends on whether the machine went
	// down too.
	left := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 100}[rng.IntN(3)], RNG: rng})
	after, err := filestore.Open("/data", opts.WithClock(clock).WithFS(left))
	if err != nil {
		t.Fatalf("Open after the failure (%s, %v): %v", f.kind, f.err, err)
	}
	for _, w := range workers {
		w.check(t, after, w.acked(), true)
	}
	closeStore(t, after)
}

func stopped(t testing.TB, call string, err, cause error) {
	t.Helper()
	if !errors.Is(err, filestore.ErrStopped) || !errors.Is(err, cause) {
		t.Errorf("%s: %v; it should say that the store stopped, and why: %v", call, err, cause)
	}
}

// Trap 52: the disk fails while a store is opened.
func TestTrap52TheDiskFailsAtTheStart(t *testing.T) {
	b := newBed(t, small())
	fill(t, b, "s", 0, 20, 100)
	base := b.fs.CrashClone(vfs.CrashCloneCfg{})
	closeStore(t, b.Store)
	for n := int64(1); ; n++ {
		mem := base.CrashClone(vfs.CrashCloneCfg{})
		f := &faults{kind: "any", err: syscall.ENOSPC, sticky: true}
		f.left.Store(n)
		f.on.Store(true)
		s, err := filestore.Open("/data", b.opts.WithClock(b.clock).WithFS(errorfs.Wrap(mem, f)))
		if err == nil {
			if f.left.Load() < 0 {
				t.Fatalf("operation %d failed, and the store opened", n)
			}
			closeFailing(t, s)
			if n < 10 {
				t.Fatalf("opening has %d operations", n)
			}
			return
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("operation %d failed: %v", n, err)
		}
		// The directory was given back, and nothing of it is lost.
		again := &bed{fs: mem, clock: b.clock, opts: b.opts}
		again.open(t)
		stateOf(t, again, "s", "19", driver.StateCompleted)
		closeStore(t, again.Store)
	}
}

// closeFailing closes a store of which nothing is known.
func closeFailing(t testing.TB, s *filestore.Store) {
	t.Helper()
	if err := s.Close(); err != nil && !errors.Is(err, filestore.ErrStopped) {
		t.Errorf("Close: %v", err)
	}
}

// A disk that hangs holds up nobody for longer than its context lasts, and what
// waits for it is bounded.
func TestTrap9TheDiskHangs(t *testing.T) {
	var hang atomic.Bool
	release := make(chan struct{})
	b := &bed{fs: vfs.NewCrashableMem(), clock: filestore.NewTestClock(), opts: small()}
	fs := errorfs.Wrap(b.fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if hang.Load() && op.Kind == errorfs.OpFileSyncData {
			<-release
		}
		return nil
	}))
	s, err := filestore.Open("/data", b.opts.WithClock(b.clock).WithFS(fs))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, s, "s", 0, 1, 10)
	hang.Store(true)
	for i := range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		req := driver.ClaimRequest{
			Key: driver.KeyOf("s", fmt.Sprint("hung", i)), Nonce: driver.NewNonce(), Lease: time.Minute, Tombstone: time.Minute,
		}
		if _, err := s.Claim(ctx, req); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a claim on a disk that hangs: %v", err)
		}
		cancel()
	}
	// What is on disk is still answered.
	stateOf(t, s, "s", "0", driver.StateCompleted)
	hang.Store(false)
	close(release)
	for i := range 5 {
		stateOf(t, s, "", fmt.Sprint("none", i), driver.StateAbsent)
	}
	fill(t, s, "s", 1, 1, 10)
	closeStore(t, s)
}

// The disk is nearly full: new claims are refused, those that stand come to
// their ends, and with room again all is as before.
func TestTheDiskIsNearlyFull(t *testing.T) {
	o := small()
	b := newBed(t, o)
	claim := func(id string) (driver.ClaimReply, error) {
		return b.Claim(t.Context(), driver.ClaimRequest{
			Key: driver.KeyOf("s", id), Nonce: driver.NewNonce(), Lease: time.Minute, Tombstone: time.Minute,
		})
	}
	reply, err := claim("standing")
	if err != nil {
		t.Fatal(err)
	}
	b.fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 20})
	b.CheckSpace()
	if _, err := claim("new"); !errors.Is(err, driver.ErrFull) {
		t.Errorf("a new claim on a disk that is nearly full: %v", err)
	}
	if err := b.Ping(t.Context()); !errors.Is(err, driver.ErrFull) {
		t.Errorf("Ping on a disk that is nearly full: %v", err)
	}
	if _, err := b.Complete(t.Context(), driver.Ref{Key: driver.KeyOf("s", "standing"), Token: reply.Record.Token}, driver.Completion{
		Result: driver.Result{Body: []byte("r")}, Retention: time.Hour, Tombstone: time.Hour,
	}); err != nil {
		t.Errorf("Complete on a disk that is nearly full: %v", err)
	}
	stateOf(t, b, "s", "standing", driver.StateCompleted)
	b.fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 40})
	b.CheckSpace()
	if _, err := claim("new"); err != nil {
		t.Errorf("a new claim with room again: %v", err)
	}
}

func TestMaxRecords(t *testing.T) {
	o := small()
	o.MaxRecords = 10
	b := newBed(t, o)
	fill(t, b, "s", 0, 10, 10)
	if err := pair(t.Context(), b, "s", "11", nil); !errors.Is(err, driver.ErrFull) {
		t.Errorf("the eleventh record: %v", err)
	}
	b.clock.Advance(2 * time.Hour)
	if _, err := b.Sweep(t.Context(), 1000); err != nil {
		t.Fatal(err)
	}
	fill(t, b, "s", 20, 10, 10)
}

// A store that is closed leaves no goroutine behind.
func TestCloseLeavesNoGoroutine(t *testing.T) {
	fill := func() {
		s := mustOpen(t, t.TempDir(), &filestore.Options{})
		fill(t, s, "s", 0, 10, 10)
		closeStore(t, s)
	}
	fill()
	before := runtime.NumGoroutine()
	for range 5 {
		fill()
	}
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
		runtime.Gosched()
	}
}
