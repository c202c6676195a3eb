package filestore_test

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/filestore"
)

// bed is a store on a file system in memory, with a clock that a test moves.
type bed struct {
	*filestore.Store
	fs    *vfs.MemFS
	clock *filestore.TestClock
	opts  filestore.Options
}

func small() filestore.Options {
	return filestore.Options{MaxResult: 10_000, SweepEvery: -1, CacheBytes: 1 << 20}.WithMemTable(1 << 20)
}

func newBed(t testing.TB, opts filestore.Options) *bed {
	t.Helper()
	b := &bed{fs: vfs.NewCrashableMem(), clock: filestore.NewTestClock(), opts: opts}
	b.open(t)
	return b
}

func (b *bed) open(t testing.TB) {
	t.Helper()
	o := b.opts.WithClock(b.clock).WithFS(b.fs)
	s, err := filestore.Open("/data", o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	b.Store = s
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

// crash throws away what was not synced, and opens what is left.
func (b *bed) crash(t testing.TB) *bed {
	t.Helper()
	after := &bed{fs: b.fs.CrashClone(vfs.CrashCloneCfg{}), clock: b.clock, opts: b.opts}
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	after.open(t)
	return after
}

// closed closes the store and opens it again.
func (b *bed) closed(t testing.TB) *bed {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	after := &bed{fs: b.fs, clock: b.clock, opts: b.opts}
	after.open(t)
	return after
}

func harness() drivertest.Harness {
	return drivertest.Harness{
		New:     func(t testing.TB) driver.Store { return newBed(t, small()) },
		Advance: func(_ testing.TB, s driver.Store, d time.Duration) { s.(*bed).clock.Advance(d) },
		Reopen:  func(t testing.TB, s driver.Store) driver.Store { return s.(*bed).crash(t) },
		NewBounded: func(t testing.TB, maxUnknown int) driver.Store {
			o := small()
			o.MaxUnknown = maxUnknown
			return newBed(t, o)
		},
	}
}

func TestConformance(t *testing.T) { drivertest.Run(t, harness()) }

func TestConformanceClosedInOrder(t *testing.T) {
	h := harness()
	h.Reopen = func(t testing.TB, s driver.Store) driver.Store { return s.(*bed).closed(t) }
	drivertest.Run(t, h)
}

func TestModel(t *testing.T) {
	o := &drivertest.ModelOptions{Histories: 40}
	if testing.Short() {
		o.Histories = 10
	}
	drivertest.RunModel(t, harness(), o)
}
