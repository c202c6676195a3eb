// Package memstore keeps idem's records in the memory of one process: for
// tests, for caches, and wherever a restart may forget what was done. It is the
// reference store: whatever the contract of package driver says, it does
// exactly.
//
// Nothing runs in the background. What is over reads as over from that very
// instant, and its memory is given back by later writes, each of which drops a
// few records that are over, or by [Store.Sweep].
package memstore

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/idem-go/idem/driver"
)

// Options bound what a store keeps. In each field 0 means the default, and a
// negative number no bound. A store never gives up a record before its time to
// make room: past a bound it refuses new claims with [driver.ErrFull], while
// the claims that stand go on to their ends, and replays go on.
type Options struct {
	// MaxRecords is the most records kept, tombstones and counts of attempts
	// included. By default 4,194,304.
	MaxRecords int
	// MaxBytes is the most bytes that records may take, by the store's own
	// reckoning, before new claims are refused. A completion is taken even so:
	// the claims in flight may go over it by one result each. By default 1 GiB.
	MaxBytes int64
	// MaxUnknown is the most records whose outcome is unknown, leases that have
	// ended included. By default 100,000.
	MaxUnknown int
	// MaxResult is the largest result kept, in bytes. By default 16 MiB; at most,
	// and with a negative number, 2 GiB.
	MaxResult int
}

const (
	defaultMaxRecords = 1 << 22
	defaultMaxBytes   = 1 << 30
	defaultMaxUnknown = 100_000
	defaultMaxResult  = 16 << 20
)

// Store keeps records in memory. Its methods may be called from many
// goroutines at once. Make one with [New].
type Store struct {
	start  time.Time
	closed atomic.Bool
	// closing is closed by Close, for those who wait.
	closing chan struct{}

	maxRecords, maxBytes, maxUnknown int64
	maxResult                        int

	// What is written at every claim is apart from what every call reads.
	_      [64]byte
	token  atomic.Uint64
	_      [56]byte
	bounds bounds
	_      [64]byte
	shards [shardCount]shard
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

// New returns an empty store; nil options are the defaults. A store that is no
// longer used needs no Close to be collected.
func New(o *Options) *Store {
	if o == nil {
		o = &Options{}
	}
	s := &Store{
		start:      time.Now(),
		closing:    make(chan struct{}),
		maxRecords: bound(int64(o.MaxRecords), defaultMaxRecords),
		maxBytes:   bound(o.MaxBytes, defaultMaxBytes),
		maxUnknown: bound(int64(o.MaxUnknown), defaultMaxUnknown),
	}
	s.maxResult = int(min(bound(int64(o.MaxResult), defaultMaxResult), math.MaxInt32))
	s.bounds.nextLapse.Store(math.MaxInt64)
	return s
}

func bound(n, otherwise int64) int64 {
	switch {
	case n < 0:
		return math.MaxInt64
	case n == 0:
		return otherwise
	}
	return n
}

// Close ends the store: every later call returns [driver.ErrClosed], and so
// does every [Store.Wait] that waits. Closing again does nothing. It always
// returns nil.
func (s *Store) Close() error {
	if s.closed.CompareAndSwap(false, true) {
		close(s.closing)
	}
	return nil
}

// Describe says that the store is neither durable nor shared, and its largest
// result.
func (s *Store) Describe() driver.Info {
	return driver.Info{Name: "memory", MaxResult: s.maxResult}
}

// Ping returns nil when a claim could be made now, [driver.ErrFull] when a
// bound has been reached, and [driver.ErrClosed] after Close.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	return s.room(true, recordBytes)
}

// enter is the beginning of every call.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.closed.Load() {
		return driver.ErrClosed
	}
	return nil
}

// now is the store's time: nanoseconds of the monotonic clock since New.
func (s *Store) now() int64 { return int64(time.Since(s.start)) }

// after is an instant d after now, or the last there is.
func after(now int64, d time.Duration) int64 {
	if t := now + int64(d); t >= now {
		return t
	}
	return math.MaxInt64
}
