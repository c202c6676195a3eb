package redisstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
)

// Store keeps records in Redis or Valkey. Its methods may be called from many
// goroutines at once, and many stores in many processes may share the records.
// Make one with [New] or [Open].
type Store struct {
	client  rueidis.Client
	opts    Options
	layout  layout
	scripts *scripts
	durable bool
	// ownsClient says that Close closes the client too.
	ownsClient bool

	// suspect says that the last call got no answer: calls are then made in
	// goroutines that may outlast their contexts.
	suspect atomic.Bool

	bound   bound
	waiters waiters

	closed  atomic.Bool
	closing chan struct{}
	// mu is held to begin what running counts, and to close.
	mu      sync.Mutex
	running sync.WaitGroup
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

// New returns a store of the records that a server, its sentinels or a cluster
// keeps. The client stays the caller's, who closes it after the store. The server
// must have been made ready by [Migrate]. New refuses a server that evicts keys, a
// replica, and one of a version before 6.2; whatever else weakens the promise
// is logged, see [Check].
//
// It starts a goroutine that sweeps, see Options.SweepEvery, and another at the
// first Wait. Close ends both.
func New(ctx context.Context, client rueidis.Client, o *Options) (*Store, error) {
	set, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	nodes, err := readNodes(ctx, client)
	if err != nil {
		return nil, err
	}
	partitions, err := readFormat(ctx, client, set.Prefix)
	if err != nil {
		return nil, err
	}
	if partitions == 0 {
		return nil, fmt.Errorf("redisstore: the server has not been made ready for the prefix %q; run 'idem store migrate'", set.Prefix)
	}
	for _, f := range judge(nodes, client.Mode(), set.WaitReplicas) {
		switch f.Severity {
		case driver.SeverityError:
			return nil, fmt.Errorf("redisstore: %s is %s: %s %s", f.Subject, f.Found, f.Means, f.Remedy)
		case driver.SeverityWarning, driver.SeverityUnknown:
			set.Logger.WarnContext(ctx, "redisstore: "+f.Means, "setting", f.Subject, "is", f.Found, "remedy", f.Remedy)
		case driver.SeverityOK:
		}
	}
	s := &Store{
		client: client, opts: set, layout: newLayout(set.Prefix, partitions), scripts: readScripts(),
		durable: durable(nodes), closing: make(chan struct{}),
	}
	s.bound.start = time.Now()
	s.waiters.init()
	if err := s.Ping(ctx); err != nil && !errors.Is(err, driver.ErrFull) {
		return nil, err
	}
	if set.SweepEvery > 0 && s.begin() {
		go s.sweepOn()
	}
	return s, nil
}

// Open is [Connect] and [New] in one, with what the DSN says of the store (see
// [OptionsOf]). Close then closes the connections as well.
func Open(ctx context.Context, dsn string, o *Options) (*Store, error) {
	o, err := OptionsOf(dsn, o)
	if err != nil {
		return nil, err
	}
	client, err := Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	s, err := New(ctx, client, o)
	if err != nil {
		client.Close()
		return nil, err
	}
	s.ownsClient = true
	return s, nil
}

// Close ends the store: every later call returns [driver.ErrClosed], and so does
// every [Store.Wait] that waits. It returns when the store's goroutines have
// ended. Closing again does nothing. It always returns nil.
func (s *Store) Close() error {
	s.mu.Lock()
	first := s.closed.CompareAndSwap(false, true)
	s.mu.Unlock()
	if !first {
		return nil
	}
	close(s.closing)
	if s.ownsClient {
		s.client.Close()
	}
	s.running.Wait()
	return nil
}

// begin counts a goroutine that Close waits for, unless the store is closed.
func (s *Store) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return false
	}
	s.running.Add(1)
	return true
}

// untilClosed is a context that ends when the store is closed.
func (s *Store) untilClosed() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
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

// Describe says that the store is shared, and whether the server has said, at
// the time of New, that it is durable: it writes each command to its disk before
// it answers (appendfsync always), and has no replica that could take its place
// without having them.
func (s *Store) Describe() driver.Info {
	return driver.Info{Name: "redis", Shared: true, Durable: s.durable, MaxResult: s.opts.MaxResult}
}

// Ping returns nil when a claim could be made now; [driver.ErrFull] when the
// bound on unknowns or the server's memory is reached; [driver.ErrClosed] after
// Close.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	// A key of the store's own, which a cluster may have on any of its masters.
	probe := formatKey(s.opts.Prefix) + ":ping"
	_, err := askOf(ctx, s.client, func(b rueidis.Builder) rueidis.Completed {
		return b.Set().Key(probe).Value("1").Px(time.Minute).Build()
	})
	switch {
	case err != nil && s.closed.Load():
		return driver.ErrClosed
	case err != nil:
		return explain(ctx, err)
	}
	full, err := s.full(ctx)
	if err != nil {
		return err
	}
	if full {
		return driver.ErrFull
	}
	return nil
}
