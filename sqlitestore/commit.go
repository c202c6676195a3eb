package sqlitestore

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/idem-go/idem/driver"
)

// op is a call that writes. Calls that come while another transaction is under way
// wait for it together, and are one transaction then: SQLite has one writer, and a
// commit costs a sync however much is in it.
type op struct {
	run  func(ctx context.Context, u *unit) error
	done chan struct{}
	err  error
	// state says whether the caller or the committer came first.
	state atomic.Int32
	group *group
}

const (
	opQueued int32 = iota
	opTaken
	opGone
)

// group is the ops of one transaction. It is given up when no caller is left.
type group struct {
	ops    []*op
	left   atomic.Int64
	ctx    context.Context
	cancel context.CancelFunc
}

// largestGroup bounds how long others are held up by one transaction.
const largestGroup = 256

// do queues a call and waits for its answer. A call whose context ends before it
// is begun changes nothing; after that it may take effect.
func (s *Store) do(ctx context.Context, run func(ctx context.Context, u *unit) error) error {
	o := &op{run: run, done: make(chan struct{})}
	if err := s.enqueue(o); err != nil {
		return err
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		o.leave()
		return ctx.Err()
	}
}

// leave is called by a caller that waits no longer.
func (o *op) leave() {
	if o.state.CompareAndSwap(opQueued, opGone) {
		return
	}
	o.group.leave()
}

func (g *group) leave() {
	if g.left.Add(-1) == 0 {
		g.cancel()
	}
}

func (s *Store) enqueue(o *op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return driver.ErrClosed
	}
	s.queue = append(s.queue, o)
	if !s.committing {
		s.committing = true
		s.running.Go(s.commitAll)
	}
	return nil
}

// commitAll commits until nothing is queued.
func (s *Store) commitAll() {
	for {
		closed := s.enterGate(s.life) != nil
		g := s.take()
		if g == nil {
			if !closed {
				s.leaveGate()
			}
			return
		}
		if closed {
			g.answer(driver.ErrClosed)
			continue
		}
		s.commit(g)
		s.leaveGate()
	}
}

// take makes a group of what is queued; nil when the committer may end.
func (s *Store) take() *group {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := &group{}
	g.ctx, g.cancel = context.WithCancel(s.life)
	g.left.Store(1) // until all are in it
	for len(s.queue) > 0 && len(g.ops) < largestGroup {
		o := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		o.group = g
		g.left.Add(1)
		if o.state.CompareAndSwap(opQueued, opTaken) {
			g.ops = append(g.ops, o)
		} else {
			g.left.Add(-1)
		}
	}
	if len(g.ops) == 0 {
		g.cancel()
		s.queue = nil
		s.committing = false
		return nil
	}
	g.leave()
	return g
}

func (g *group) answer(err error) {
	defer g.cancel()
	for _, o := range g.ops {
		o.err = err
		close(o.done)
	}
}

// commit carries a group out. A busy database is tried again for as long as
// anybody waits.
func (s *Store) commit(g *group) {
	defer g.cancel()
	err := s.commitOnce(g.ctx, g.ops)
	if err == nil || len(g.ops) == 1 {
		for _, o := range g.ops {
			if err != nil {
				o.err = err
			}
			close(o.done)
		}
		return
	}
	// What one call does wrong is no fault of the others.
	for _, o := range g.ops {
		if err := s.commitOnce(g.ctx, []*op{o}); err != nil {
			o.err = err
		}
		close(o.done)
	}
}

// commitOnce carries ops out in one transaction, tried again while the database is
// busy. An error is that of the transaction: none of the ops took effect then, as
// far as is known.
func (s *Store) commitOnce(ctx context.Context, ops []*op) error {
	return s.patiently(ctx, func() error {
		return s.write(ctx, func(ctx context.Context, u *unit) error {
			for _, o := range ops {
				o.err = o.run(ctx, u)
				var f *failure
				if errors.As(o.err, &f) {
					return o.err
				}
			}
			return nil
		})
	})
}

// patiently tries f again while the database is busy, until the context ends.
func (s *Store) patiently(ctx context.Context, f func() error) error {
	for try := 0; ; try++ {
		err := f()
		if err == nil {
			return nil
		}
		if isBusy(err) && ctx.Err() == nil && pause(ctx, try) == nil {
			continue
		}
		return s.fault(ctx, err)
	}
}

// fault is what a caller is told of an error of the database's.
func (s *Store) fault(ctx context.Context, err error) error {
	var f *failure
	if !errors.As(err, &f) {
		return err
	}
	if isSync(err) {
		return s.stop(err)
	}
	if s.life.Err() != nil {
		return driver.ErrClosed
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return explain(f.err)
}

// enterGate waits until nobody else of this store writes.
func (s *Store) enterGate(ctx context.Context) error {
	if s.tryGate() {
		return nil
	}
	select {
	case s.gate <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.life.Done():
		return driver.ErrClosed
	}
}

// tryGate is enterGate where that takes no waiting.
func (s *Store) tryGate() bool {
	select {
	case s.gate <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *Store) leaveGate() { <-s.gate }
