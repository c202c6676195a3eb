// Package filestore keeps idem's records in a directory, durably, for one
// process. Nothing else has to be installed.
//
//	store, err := filestore.Open("idem-data", nil)
//	if err != nil {
//		return err
//	}
//	defer store.Close()
//
// # What it promises
//
// A claim, a result, a release is on disk, synced, before its call returns.
// Calls that come at the same time share one sync. Whatever was in flight when
// the process died is unknown when the store is opened again, at once.
//
// A directory that is damaged, or from which less comes back than had been
// acknowledged, is refused by [Open]; a record that cannot be read refuses its
// own key with [driver.UnreadableError]. Neither is ever taken for empty.
//
// An error of a write or a sync is final: the store stops, every call returns an
// error that wraps [ErrStopped], and nothing is answered from what is in memory
// (an operating system may have dropped what it could not write). The process is
// started again when the disk has been seen to.
//
// # Time
//
// Leases run with the process's monotonic clock. Retentions and tombstones do
// too while the store is open; how long it was closed is told by the wall clock,
// and never less than no time at all. A wall clock that was wrongly set forward
// while the store was closed ends them early; nothing else does.
//
// # What it takes
//
// In memory: the block cache ([Options.CacheBytes]), up to 128 MiB of the
// engine's tables under load, up to 32 MiB of writes that wait for the disk, and
// about 500 bytes and its names for each claim that is in flight or unknown.
// On disk: each record until its tombstone's end, about 120 bytes of it once its
// result is forgotten, and up to six logs of 35 MiB, which are written again and
// again.
package filestore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/idem-go/idem/driver"
)

// Options bound what a store keeps and takes. The zero value of each field is
// its default.
type Options struct {
	// MaxUnknown is the most records whose outcome is unknown, leases that have
	// ended included; past it new claims are refused with [driver.ErrFull]. By
	// default 100,000; a negative number is no bound.
	MaxUnknown int
	// MaxRecords is the most records, tombstones and counts of attempts
	// included; past it claims of new keys are refused with [driver.ErrFull].
	// By default, and if negative, there is no bound but the disk.
	MaxRecords int64
	// MaxResult is the largest result kept, in bytes. By default 16 MiB; a
	// negative number is 1 GiB, the most that the engine takes.
	MaxResult int
	// MinFree is how many bytes of the disk are left alone: with less than that
	// free, new claims are refused with [driver.ErrFull], so that those which
	// stand can be completed. By default 128 MiB; a negative number is none.
	MinFree int64
	// CacheBytes is the size of the cache of what was read, in bytes. By default
	// 32 MiB.
	CacheBytes int64
	// SweepEvery is how often what is over is dropped. What is over reads as over
	// from that very instant in any case. By default every 5 s; a negative
	// duration leaves it to [Store.Sweep].
	SweepEvery time.Duration
	// AcceptLoss opens a directory from which less comes back than was
	// acknowledged, and goes on from there. The keys of the lost records read as
	// absent: their operations run again when they are asked for again. It is for
	// an operator who has no backup and knows that; it must not stay set. It does
	// not open what is damaged in any other way.
	AcceptLoss bool
	// Logger takes what there is to say. By default nothing is said.
	Logger *slog.Logger

	fs       vfs.FS
	sources  *sources
	memTable uint64
	// loaded, in tests, is called between reading a key and looking whether what
	// was read still holds.
	loaded func(driver.Key)
	// walked, in tests, is called between finding what is over and dropping it.
	walked func()
}

const (
	defaultMaxUnknown = 100_000
	defaultMaxResult  = 16 << 20
	defaultMinFree    = 128 << 20
	defaultCache      = 32 << 20
	defaultSweepEvery = 5 * time.Second

	largestResult = 1 << 30
	flushDelay    = 10 * time.Second
)

// withDefaults returns the options with every field filled in; negative bounds
// are gone.
func (o *Options) withDefaults() Options {
	var f Options
	if o != nil {
		f = *o
	}
	fill(&f.MaxUnknown, defaultMaxUnknown, int(^uint(0)>>1))
	fill(&f.MaxResult, defaultMaxResult, largestResult)
	f.MaxResult = min(f.MaxResult, largestResult)
	fill(&f.MinFree, defaultMinFree, 0)
	f.MaxRecords = max(0, f.MaxRecords)
	if f.CacheBytes <= 0 {
		f.CacheBytes = defaultCache
	}
	if f.SweepEvery == 0 {
		f.SweepEvery = defaultSweepEvery
	}
	if f.Logger == nil {
		f.Logger = slog.New(slog.DiscardHandler)
	}
	if f.memTable == 0 {
		f.memTable = memTableSize
	}
	if f.sources == nil {
		f.sources = processClocks()
	}
	return f
}

func fill[T int | int64](field *T, otherwise, negative T) {
	switch {
	case *field == 0:
		*field = otherwise
	case *field < 0:
		*field = negative
	}
}

// ErrStopped is found in the errors of all calls after a write or a sync has
// failed.
var ErrStopped = errors.New("filestore: stopped")

// Store keeps records in a directory. Its methods may be called from many
// goroutines at once. Open one with [Open].
type Store struct {
	opts  Options
	dir   *directory
	gate  *gate
	db    *pebble.DB
	mark  *mark
	clock clock
	log   *slog.Logger

	// life is held for reading by every call, and taken by Close.
	life   sync.RWMutex
	closed atomic.Bool
	// closing is closed by Close, for those who wait.
	closing chan struct{}

	// failed is closed, and cause set, when a write has failed.
	failed   chan struct{}
	failOnce sync.Once
	cause    error

	space   space
	sweeper sweeper

	// committed is closed when the committer has ended.
	committed chan struct{}
	writer    *writer
	// buffers holds results on their way to the committer.
	buffers sync.Pool
	helds   sync.Pool

	// mu guards what follows. It is never held over an access to the disk.
	mu      sync.Mutex
	entries entries
	epoch   uint64
	grants  uint64
	counts  counts
	queue   queue
}

var (
	_ driver.Store     = (*Store)(nil)
	_ driver.Waiter    = (*Store)(nil)
	_ driver.Resolver  = (*Store)(nil)
	_ driver.Lister    = (*Store)(nil)
	_ driver.Sweeper   = (*Store)(nil)
	_ driver.Counter   = (*Store)(nil)
	_ driver.Describer = (*Store)(nil)
	_ driver.Pinger    = (*Store)(nil)
)

// Describe says that the store is durable and not shared, and its largest
// result.
func (s *Store) Describe() driver.Info {
	return driver.Info{Name: "file", Durable: true, MaxResult: s.opts.MaxResult}
}

// Ping returns nil when a claim could be made now; [driver.ErrFull] when a
// bound has been reached or the disk is nearly full, an error that wraps
// [ErrStopped] after a write has failed, and [driver.ErrClosed] after Close.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.room(true, s.clock.now())
}

// enter is the beginning of every call that needs the engine; leave is its end.
func (s *Store) enter(ctx context.Context) error {
	if err := s.refused(ctx); err != nil {
		return err
	}
	s.life.RLock()
	if s.closed.Load() {
		s.life.RUnlock()
		return driver.ErrClosed
	}
	return nil
}

func (s *Store) leave() { s.life.RUnlock() }

func (s *Store) refused(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.closed.Load() {
		return driver.ErrClosed
	}
	select {
	case <-s.failed:
		return s.stopped()
	default:
		return nil
	}
}

// fail stops the store. Its first error counts.
func (s *Store) fail(err error) {
	s.failOnce.Do(func() {
		s.cause = err
		close(s.failed)
		s.log.Error("filestore: stopped", "dir", s.dir.path, "error", err)
	})
}

// stopped is the error of every call after fail.
func (s *Store) stopped() error {
	return fmt.Errorf("%w: a write to %s failed, so nothing is answered from it any more: %w; see to the disk, then start the process again",
		ErrStopped, s.dir.path, s.cause)
}
