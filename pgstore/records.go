package pgstore

import (
	"context"
	"sync"

	"github.com/idem-go/idem/driver"
)

// records is what both stores are: all of it but how statements reach the
// server.
type records struct {
	db   database
	opts Options
	name names
	text *texts
	info driver.Info

	// group takes claims and completions of many callers together; nil where
	// each is a statement of its own.
	group *grouper
	// quickTx says that a transaction may begin with an impatient claim.
	quickTx bool
	turns   turns
	bound   bound
	waits   watcher
	// pairs holds those who hold a connection and wait for a second one; nil
	// where there is no bound on connections.
	pairs chan struct{}

	// closing is closed by Close, and ctx ends with it. running are the store's
	// goroutines.
	mu      sync.Mutex
	closed  bool
	closing chan struct{}
	running sync.WaitGroup
	ctx     context.Context
	cancel  context.CancelFunc
	// finish gives back what the store has opened itself; nil for nothing.
	finish func()
}

// background runs f in a goroutine that Close waits for, or not at all once the
// store is closed.
func (r *records) background(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.running.Go(f)
	return true
}

// enter is the beginning of every call.
func (r *records) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-r.closing:
		return driver.ErrClosed
	default:
		return nil
	}
}

// Close ends the store and waits for its goroutines: every later call returns
// [driver.ErrClosed], and so does every Wait that waits. Calls that are under
// way may still end otherwise. What New was given stays open; what Open has
// opened is closed. Closing again does nothing. It always returns nil.
func (r *records) Close() error {
	r.mu.Lock()
	first := !r.closed
	if first {
		r.closed = true
		close(r.closing)
		r.cancel()
	}
	r.mu.Unlock()
	r.running.Wait()
	if first && r.finish != nil {
		r.finish()
	}
	return nil
}

// Describe says that the store is shared and transactional, that it is durable
// unless the server was found not to be when the store was made, and its largest
// result.
func (r *records) Describe() driver.Info { return r.info }

// Ping returns nil when a claim could be made now, [driver.ErrFull] when the
// bound on unknowns has been reached, and an error when the server does not
// answer, takes no writes, or lacks the tables.
func (r *records) Ping(ctx context.Context) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	return r.insist(ctx, func() error {
		var readOnly bool
		if err := r.one(ctx, statement{text: r.text.ping}, &readOnly); err != nil {
			return err
		}
		if readOnly {
			return errReadOnly
		}
		if err := r.readable(ctx); err != nil {
			return err
		}
		room, err := r.bound.look(ctx, r)
		if err == nil && !room {
			err = driver.ErrFull
		}
		return err
	})
}

// one reads the one row that a statement answers with.
func (r *records) one(ctx context.Context, s statement, dest ...any) error {
	n := 0
	err := r.db.query(ctx, s, func(scan scanner) error {
		n++
		return scan(dest...)
	})
	if err == nil && n == 0 {
		return errNoRow
	}
	return err
}

// read returns the row of a key, nil for none.
func (r *records) read(ctx context.Context, q querier, key driver.Key) (*row, error) {
	var found *row
	err := q.query(ctx, statement{r.text.lookup, []any{key[:]}}, func(scan scanner) error {
		found = &row{}
		return scan(found.fields()...)
	})
	return found, err
}

// Lookup is described at [driver.Store].
func (r *records) Lookup(ctx context.Context, key driver.Key) (rec driver.Record, err error) {
	if err := r.enter(ctx); err != nil {
		return driver.Record{}, err
	}
	err = r.insist(ctx, func() error {
		found, err := r.read(ctx, r.db, key)
		if err != nil {
			return err
		}
		rec, err = found.view(key)
		return err
	})
	return rec, err
}
