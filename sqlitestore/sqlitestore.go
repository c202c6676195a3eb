package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idem-go/idem/driver"
)

// Store keeps records in a SQLite database. Its methods may be called from many
// goroutines at once, and by any number of processes on one host. Make one with
// [New] or [Open].
type Store struct {
	db      *sql.DB
	owned   bool
	set     settings
	stmts   statements
	durable bool
	// base is what was last read of the database; see ticks.
	base atomic.Int64

	// gate is held by whoever of this store writes.
	gate chan struct{}
	// life ends with Close.
	life context.Context
	end  context.CancelFunc
	// running are the store's goroutines.
	running sync.WaitGroup
	// stopped is set once a sync has failed.
	stopped atomic.Pointer[error]

	mu         sync.Mutex
	closed     bool
	queue      []*op
	committing bool

	waits waits
}

var (
	_ driver.TxStore[*sql.Tx] = (*Store)(nil)
	_ driver.Waiter           = (*Store)(nil)
	_ driver.Resolver         = (*Store)(nil)
	_ driver.Lister           = (*Store)(nil)
	_ driver.Sweeper          = (*Store)(nil)
	_ driver.Counter          = (*Store)(nil)
	_ driver.Describer        = (*Store)(nil)
	_ driver.Pinger           = (*Store)(nil)
)

// New returns a store in the application's database, whose tables [Migrate] has
// made. The *sql.DB stays the caller's, who closes it after the store. The store
// keeps no connection to itself: it works with a pool of one, too.
//
// New refuses a database without the tables or with those of another version, one
// that is only in memory, and one that cannot be written. What else [Check] would
// warn of is logged once. It starts a goroutine that sweeps, unless
// [Options.SweepEvery] is negative; Close ends it.
func New(ctx context.Context, db *sql.DB, o *Options) (*Store, error) {
	set, err := o.settings()
	if err != nil {
		return nil, err
	}
	findings, err := check(ctx, db, &set, false)
	for _, f := range findings {
		switch f.Severity {
		case driver.SeverityError:
			return nil, fmt.Errorf("sqlitestore: %s: %s; %s", f.Subject, f.Means, f.Remedy)
		case driver.SeverityWarning:
			set.Logger.WarnContext(ctx, "idem: the database's settings weaken the promise",
				"subject", f.Subject, "found", f.Found, "means", f.Means, "remedy", f.Remedy)
		}
	}
	if err != nil {
		return nil, err
	}
	s := &Store{db: db, set: set, gate: make(chan struct{}, 1), durable: durable(findings)}
	s.life, s.end = context.WithCancel(context.Background())
	s.waits.init(s)
	if err := s.stmts.prepare(ctx, db, &s.set); err != nil {
		s.end()
		return nil, explain(err)
	}
	// The first transaction finds out about the clock, and whether writing works.
	err = s.patiently(ctx, func() error {
		return s.write(ctx, func(context.Context, *unit) error { return nil })
	})
	if err != nil {
		s.end()
		return nil, errors.Join(err, s.stmts.close())
	}
	if set.SweepEvery > 0 {
		s.running.Go(s.sweepAll)
	}
	return s, nil
}

// Open is [Connect] and [New]; closing the store closes the database as well.
func Open(ctx context.Context, dsn string, o *Options) (*Store, error) {
	db, err := Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	s, err := New(ctx, db, o)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s.owned = true
	return s, nil
}

// Close ends the store: calls that wait, and every later one, return
// [driver.ErrClosed]. It waits for the transaction that is being committed, but not
// for work in [Store.DoTx], whose transaction may still commit as long as its
// database is open. Closing again does nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	if again {
		return nil
	}
	s.end()
	s.running.Wait()
	err := s.stmts.close()
	if s.owned {
		err = errors.Join(err, s.db.Close())
	}
	return explain(err)
}

// Describe says that the store is shared by the processes of one host,
// transactional, and durable if the settings that [New] read are.
func (s *Store) Describe() driver.Info {
	return driver.Info{
		Name: "sqlite", Durable: s.durable, Shared: true, Transactional: true, MaxResult: s.set.MaxResult,
	}
}

// Ping returns nil when a claim could be made now, [driver.ErrFull] when the bound
// on unknowns has been reached. It does not wait for another's transaction.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	return s.patiently(ctx, func() error {
		var format, base, inFlight, unknown, completed, forgotten int64
		var clock string
		err := s.stmts.counts.QueryRowContext(ctx).Scan(&format, &clock, &base, &inFlight, &unknown, &completed, &forgotten)
		if err != nil {
			return failed(err)
		}
		if err := checkFormat(format); err != nil {
			return err
		}
		if unknown >= s.set.maxUnknown {
			return driver.ErrFull
		}
		return nil
	})
}

// enter is the beginning of every call.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.life.Err() != nil {
		return driver.ErrClosed
	}
	if err := s.stopped.Load(); err != nil {
		return *err
	}
	return nil
}

// stop makes the store answer nothing any more.
func (s *Store) stop(cause error) error {
	err := fmt.Errorf("%w: %w; see to the disk, then start the process again", ErrStopped, cause)
	if s.stopped.CompareAndSwap(nil, &err) {
		s.set.Logger.Error("idem: the store has stopped", "error", err.Error())
		s.waits.wakeAll()
	}
	return err
}

// now is the store's time.
func (s *Store) now() int64 { return s.base.Load() + s.set.sources.ticks.now() }

// every calls f at an interval, until the store is closed.
func (s *Store) every(d time.Duration, f func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			f()
		case <-s.life.Done():
			return
		}
	}
}
