package idem

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idem-go/idem/driver"
)

// Guard grants claims on a store's records and keeps them alive. It is safe
// for use by many goroutines. Callers of one key in one process wait for each
// other here, so that the store is asked once; callers in other processes, or
// of another guard, meet in the store.
type Guard struct {
	store  driver.Store
	waiter driver.Waiter
	shared bool
	opts   Options
	policy Policy

	shards  [flightShards]flightShard
	pool    sync.Pool
	claims  atomic.Int64
	waiters atomic.Int64

	keeper keeper

	closing   chan struct{}
	closeOnce sync.Once
	closed    atomic.Bool
	saving    sync.WaitGroup
	savingMu  sync.Mutex
}

// New returns a guard over a store, which stays the caller's to close. Nil
// options take the defaults. New starts nothing: a goroutine that renews claims
// runs while there are any.
func New(store driver.Store, opts *Options) *Guard {
	g := &Guard{store: store, opts: opts.withDefaults(), closing: make(chan struct{})}
	g.policy = g.opts.Policy
	g.waiter, _ = driver.As[driver.Waiter](store)
	if d, ok := driver.As[driver.Describer](store); ok {
		g.shared = d.Describe().Shared
	} else {
		g.shared = true
	}
	for i := range g.shards {
		g.shards[i].flights = make(map[driver.Key]*Claim)
	}
	g.pool.New = func() any { return new(Claim) }
	g.keeper.guard = g
	g.keeper.wake = make(chan struct{}, 1)
	return g
}

// Store returns the guard's store.
func (g *Guard) Store() driver.Store { return g.store }

// Close ends what the guard does in the background. Begin gives [ErrClosed]
// from then on. Close waits, until ctx ends, for results that are still being
// saved; what is not saved by then is reported by the error, and its outcome
// will be unknown. Claims that are still held are no longer renewed. When Close
// returns the guard makes no call to its store, unless a holder ends its claim;
// a call that is under way is waited for, at most Options.StoreTimeout. A
// second call waits likewise.
func (g *Guard) Close(ctx context.Context) error {
	g.savingMu.Lock()
	g.closed.Store(true)
	g.savingMu.Unlock()
	done := make(chan struct{})
	go func() { g.saving.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("idem: closed with results that could not be saved: %w", ctx.Err())
	}
	g.closeOnce.Do(func() { close(g.closing) })
	<-done
	g.keeper.stop()
	return err
}

// background runs f in a goroutine that Close waits for, unless the guard is
// closed already.
func (g *Guard) background(f func()) bool {
	g.savingMu.Lock()
	defer g.savingMu.Unlock()
	if g.closed.Load() {
		return false
	}
	g.saving.Go(f)
	return true
}

// Begin asks for an operation. It gives a claim, a result to replay, or the
// answer of a release that this caller has waited for; or one of the errors
// above ([ErrInFlight], [ErrUnknown], [ErrReused], [ErrNotStored],
// [ErrForgotten], [ErrUnreadable], [ErrOverloaded], [ErrStore], [ErrInvalid],
// [ErrClosed], or the context's), in which case nothing was claimed.
//
// A second call with the same key waits for the first, at most Policy.Wait,
// and for the store, at most Options.StoreTimeout for each call to it. When ctx
// ends while it waits, the claim it waits for is left alone.
func (g *Guard) Begin(ctx context.Context, req *Request) (Begun, error) {
	if err := ctx.Err(); err != nil {
		return Begun{}, err
	}
	if req.Key.ID == "" {
		return Begun{}, fmt.Errorf("%w: the key's id is empty", ErrInvalid)
	}
	pol := req.Policy
	if pol == nil {
		pol = &g.policy
	}
	w := waiting{since: time.Now()}
	key := driver.KeyOf(req.Key.Scope, req.Key.ID)
	for {
		if g.closed.Load() {
			return Begun{}, ErrClosed
		}
		var b Begun
		var again bool
		var err error
		c, leads := g.enter(key)
		switch {
		case !leads:
			b, again, err = g.follow(ctx, c, req, pol, &w)
		case g.claims.Load() > int64(g.opts.MaxClaims):
			g.settle(c, flightEnd{})
			err = fmt.Errorf("%w: %d claims are held", ErrOverloaded, g.opts.MaxClaims)
		default:
			b, err = g.lead(ctx, c, req, pol, &w)
		}
		if again {
			continue
		}
		if g.opts.Observer != nil {
			g.observeBegin(ctx, key, req, b, err, &w)
		}
		return b, err
	}
}

// waiting is what a caller of Begin has gone through.
type waiting struct {
	since time.Time
	// token is that of the last claim waited for.
	token  uint64
	waited bool
}
