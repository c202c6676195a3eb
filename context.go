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

// FromContext returns the claim that the work of ctx runs under, and false
// where there is none. The claim is there to be asked (its key, its attempt,
// its token, a derived key), not to be ended: that is its holder's.
func FromContext(ctx context.Context) (*Claim, bool) {
	c, ok := ctx.Value(claimKey{}).(*Claim)
	return c, ok
}

// call returns the context of one call to the store: the values of parent, not
// its end, and a time limit of its own.
func (g *Guard) call(parent context.Context, own *deadlineContext) (context.Context, func()) {
	if g.shared {
		return context.WithTimeout(context.WithoutCancel(parent), g.opts.StoreTimeout)
	}
	own.start(parent, g.opts.StoreTimeout)
	return own, own.stop
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
}

func (d *deadlineContext) start(parent context.Context, limit time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parent, d.deadline, d.done, d.timer = parent, time.Now().Add(limit), nil, nil
}

func (d *deadlineContext) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.parent = nil
}

// Deadline implements context.Context.
func (d *deadlineContext) Deadline() (time.Time, bool) { return d.deadline, true }

// Done implements context.Context.
func (d *deadlineContext) Done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == nil {
		done := make(chan struct{})
		d.done = done
		d.timer = time.AfterFunc(time.Until(d.deadline), func() { close(done) })
	}
	return d.done
}

// Err implements context.Context.
func (d *deadlineContext) Err() error {
	if time.Now().Before(d.deadline) {
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
