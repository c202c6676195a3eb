package idem

import (
	"context"
	"sync"
	"time"
)

type claimKey struct{}

// claimContext is the context of a claim's work.
type claimContext struct {
	context.Context
	claim *Claim
}

func (c *claimContext) Value(key any) any {
	if key == (claimKey{}) {
		return c.claim
	}
	return c.Context.Value(key)
}

// detached is a context that has the values of another and not its end.
type detached struct{ context.Context }

func (detached) Deadline() (deadline time.Time, ok bool) { return }
func (detached) Done() <-chan struct{}                   { return nil }
func (detached) Err() error                              { return nil }

// FromContext returns the claim that the work of ctx runs under, and false
// where there is none. The claim is there to be asked (its key, its attempt,
// its token, a derived key), not to be ended: that is its holder's.
func FromContext(ctx context.Context) (*Claim, bool) {
	c, ok := ctx.Value(claimKey{}).(*Claim)
	return c, ok
}

// call returns the context of one call to the store: the values of parent, not
// its end, and a time limit of its own. The call begins now; reading the clock
// costs as much as the rest.
func (g *Guard) call(parent context.Context, own *deadlineContext, now time.Time, limit time.Duration) (context.Context, call) {
	if g.shared {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(parent), limit)
		return ctx, call{cancel: cancel}
	}
	if !own.reusable() {
		own = new(deadlineContext)
	}
	own.start(parent, now.Add(limit))
	return own, call{own: own}
}

// call ends the context of one call to the store. It is no closure, which
// would be one allocation for each call.
type call struct {
	own    *deadlineContext
	cancel context.CancelFunc
}

func (c call) end() {
	if c.own != nil {
		c.own.stop()
		return
	}
	c.cancel()
}

// deadlineContext is a context with a time limit whose timer and channel exist
// only once somebody waits on them. A store in this process answers before it
// would, mostly, and then the limit costs no allocation.
type deadlineContext struct {
	mu       sync.Mutex
	parent   context.Context
	deadline time.Time
	done     chan struct{}
	timer    *time.Timer
	stopped  bool
	// shown says that a channel was given out, at any call: a goroutine that
	// package context started for it may come back to this object at any time.
	shown bool
}

func (d *deadlineContext) start(parent context.Context, deadline time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parent, d.deadline, d.done, d.timer, d.stopped = parent, deadline, nil, nil, false
}

func (d *deadlineContext) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && d.timer.Stop() {
		close(d.done)
	}
	d.parent, d.stopped = nil, true
}

// reusable reports that nobody can hold on to the context any more.
func (d *deadlineContext) reusable() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.shown
}

// Deadline implements context.Context.
func (d *deadlineContext) Deadline() (time.Time, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.deadline, true
}

// Done implements context.Context.
func (d *deadlineContext) Done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shown = true
	if d.done == nil {
		done := make(chan struct{})
		d.done = done
		if d.stopped {
			close(done)
			return done
		}
		d.timer = time.AfterFunc(time.Until(d.deadline), func() { close(done) })
	}
	return d.done
}

// Err implements context.Context.
func (d *deadlineContext) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.stopped:
		return context.Canceled
	case time.Now().Before(d.deadline):
		return nil
	}
	return context.DeadlineExceeded
}

// Value implements context.Context.
func (d *deadlineContext) Value(key any) any {
	d.mu.Lock()
	parent := d.parent
	d.mu.Unlock()
	if parent == nil {
		return nil
	}
	return parent.Value(key)
}
