package idem

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	saving    sync.WaitGroup
	savingMu  sync.Mutex
	closed    bool
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

// Close ends what the guard does in the background. It waits, until ctx ends,
// for results that are still being saved; what is not saved by then is
// reported by the error, and its outcome will be unknown. Claims that are still
// held are no longer renewed. A second call waits likewise.
func (g *Guard) Close(ctx context.Context) error {
	g.savingMu.Lock()
	g.closed = true
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
	return err
}

// background runs f in a goroutine that Close waits for, unless the guard is
// closed already.
func (g *Guard) background(f func()) bool {
	g.savingMu.Lock()
	defer g.savingMu.Unlock()
	if g.closed {
		return false
	}
	g.saving.Go(f)
	return true
}

// Begin asks for an operation. It gives a claim, a result to replay, or the
// answer of a release that this caller has waited for; or one of the errors
// above ([ErrInFlight], [ErrUnknown], [ErrReused], [ErrNotStored],
// [ErrForgotten], [ErrUnreadable], [ErrOverloaded], [ErrStore], [ErrInvalid],
// or the context's), in which case nothing was claimed.
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
		select {
		case <-g.closing:
			return Begun{}, ErrClosed
		default:
		}
		c, leads := g.enter(key)
		if leads && g.claims.Load() > int64(g.opts.MaxClaims) {
			g.settle(c, flightEnd{})
			return Begun{}, fmt.Errorf("%w: %d claims are held", ErrOverloaded, g.opts.MaxClaims)
		}
		var b Begun
		var again bool
		var err error
		if leads {
			b, again, err = g.lead(ctx, c, req, pol, &w)
		} else {
			b, again, err = g.follow(ctx, c, req, pol, &w)
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

// lead asks the store on behalf of all callers of the key in this process.
func (g *Guard) lead(ctx context.Context, c *Claim, req *Request, pol *Policy, w *waiting) (b Begun, again bool, err error) {
	end := flightEnd{}
	keep := false
	defer func() {
		if !keep {
			g.settle(c, end)
		}
	}()
	c.guard, c.scope, c.id, c.route, c.policy = g, req.Key.Scope, req.Key.ID, req.Route, pol
	c.fingerprint = req.Fingerprint
	nonce := driver.NewNonce()
	for n := 0; ; n++ {
		asked := time.Now()
		reply, err := g.askClaim(ctx, c, driver.ClaimRequest{
			Key: c.key, Scope: c.scope, ID: c.id, Fingerprint: c.fingerprint, Nonce: nonce,
			Lease: pol.Lease, Tombstone: pol.Tombstone, Retry: pol.Unknown == RetryUnknown, Waited: w.token,
		})
		if errors.Is(err, driver.ErrLost) && n < maxTurns {
			nonce = driver.NewNonce()
			continue
		}
		if err != nil {
			end.err = storeError(err)
			return Begun{}, false, end.err
		}
		if reply.Granted {
			keep = true
			g.grant(ctx, c, &reply.Record, asked)
			return Begun{Claim: c}, false, nil
		}
		rec := &reply.Record
		turn, b, err := g.read(rec, req, pol)
		switch turn {
		case turnAnswer:
			if c.wasJoined() {
				shared := *rec
				end.record = &shared
			}
			return b, false, err
		case turnReclaim:
			if rec.State == driver.StateUnknown {
				// The record was made by another rule, by which the requests
				// are the same: the store compares what it has.
				c.fingerprint = rec.Fingerprint
			}
			if n >= maxTurns {
				return Begun{}, false, &UnknownError{Age: rec.Age, Attempt: rec.Attempt}
			}
		case turnResolve:
			g.watchFrom(c, rec)
			if err := g.resolve(ctx, c, rec, pol); err != nil {
				return Begun{}, false, err
			}
			if n >= maxTurns {
				return Begun{}, false, &UnknownError{Age: rec.Age, Attempt: rec.Attempt}
			}
			w.token = 0
		case turnWait:
			g.watchFrom(c, rec)
			w.token, w.waited = rec.Token, true
			until := w.since.Add(pol.Wait)
			if pol.Wait <= 0 || !time.Now().Before(until) {
				return Begun{}, false, &InFlightError{Age: rec.Age}
			}
			if err := g.watch(ctx, driver.Ref{Key: c.key, Token: rec.Token}, until, n); err != nil {
				return Begun{}, false, err
			}
		}
	}
}

// maxTurns bounds how often a leader comes back to the store where it should
// not have to, so that a store that answers nonsense ends in an error.
const maxTurns = 8

// turn is what a record that was not granted means for its caller.
type turn uint8

const (
	turnAnswer turn = iota
	turnWait
	turnReclaim
	turnResolve
)

// read says what a record means for a request that was not granted its claim.
// Another fingerprint is said before anything else that depends on it.
func (g *Guard) read(rec *driver.Record, req *Request, pol *Policy) (turn, Begun, error) {
	switch rec.State {
	case driver.StateForgotten:
		return turnAnswer, Begun{}, ErrForgotten
	case driver.StateAbsent:
		if rec.Answered {
			return turnAnswer, Begun{}, &InFlightError{Age: rec.Age}
		}
		return turnReclaim, Begun{}, nil
	case driver.StateInFlight, driver.StateCompleted, driver.StateUnknown:
	default:
		return turnAnswer, Begun{}, fmt.Errorf("%w: the store gave a record in no known state", ErrUnreadable)
	}
	if err := sameRequest(rec.Fingerprint, req); err != nil {
		return turnAnswer, Begun{}, err
	}
	switch {
	case rec.State == driver.StateInFlight:
		return turnWait, Begun{}, nil
	case rec.State == driver.StateCompleted && rec.Dropped:
		return turnAnswer, Begun{}, ErrNotStored
	case rec.State == driver.StateCompleted:
		return turnAnswer, Begun{Replayed: true, Result: rec.Result, Expires: rec.Left}, nil
	case pol.Unknown == RetryUnknown:
		return turnReclaim, Begun{}, nil
	case pol.Unknown == ResolveUnknown && pol.Resolver != nil:
		return turnResolve, Begun{}, nil
	}
	return turnAnswer, Begun{}, &UnknownError{Age: rec.Age, Attempt: rec.Attempt}
}

// sameRequest compares a record's fingerprint with the request's, by the rule
// that made the record's.
func sameRequest(have Fingerprint, req *Request) error {
	switch {
	case have == req.Fingerprint, have.IsZero():
		return nil
	case have.Rule == req.Fingerprint.Rule, req.Fingerprint.IsZero():
		return ErrReused
	case req.Rules == nil:
		return fmt.Errorf("%w: its fingerprint was made by the unknown rule %d", ErrUnreadable, have.Rule)
	}
	sum, ok := req.Rules.Sum(have.Rule)
	if !ok {
		return fmt.Errorf("%w: its fingerprint was made by the unknown rule %d", ErrUnreadable, have.Rule)
	}
	if sum != have {
		return ErrReused
	}
	return nil
}

// askClaim asks the store for a claim, a second time where it did not answer
// at once. A claim that may have been granted without our knowing is given back
// in the background, so that nobody meets an owner that never ran.
func (g *Guard) askClaim(ctx context.Context, c *Claim, req driver.ClaimRequest) (driver.ClaimReply, error) {
	began := time.Now()
	for try := 0; ; try++ {
		call, cancel := g.call(ctx, &c.callCtx)
		reply, err := g.store.Claim(call, req)
		cancel()
		if answered(err) {
			return reply, err
		}
		if try > 0 || time.Since(began) > g.opts.StoreTimeout/4 {
			g.disown(req)
			return reply, err
		}
		if pause(ctx, g.closing, 20*time.Millisecond) != nil {
			g.disown(req)
			return reply, err
		}
	}
}

// disown gives back a claim whose answer was lost.
func (g *Guard) disown(req driver.ClaimRequest) {
	if g.claims.Add(1) > int64(g.opts.MaxClaims) {
		g.claims.Add(-1)
		return
	}
	started := g.background(func() {
		defer g.claims.Add(-1)
		for n := 0; n < 100; n++ {
			if pause(context.Background(), g.closing, backoff(n)) != nil {
				return
			}
			if g.tryDisown(req) {
				return
			}
		}
	})
	if !started {
		g.claims.Add(-1)
	}
}

func (g *Guard) tryDisown(req driver.ClaimRequest) bool {
	ctx, cancel := context.WithTimeout(context.Background(), g.opts.StoreTimeout)
	defer cancel()
	// Looking first keeps an absent record absent: asking for it would count
	// an attempt that nobody made.
	rec, err := g.store.Lookup(ctx, req.Key)
	if err != nil {
		return answered(err)
	}
	if rec.State != driver.StateInFlight && rec.State != driver.StateUnknown {
		return true
	}
	req.Retry = false
	reply, err := g.store.Claim(ctx, req)
	if err != nil || !reply.Granted {
		return answered(err)
	}
	err = g.store.Release(ctx, driver.Ref{Key: req.Key, Token: reply.Record.Token}, driver.Release{Retention: g.policy.Retention})
	return answered(err)
}

// watch waits until the claim of ref may have ended, or it is time to look
// again: polling is the safety net under the store's own notification.
func (g *Guard) watch(ctx context.Context, ref driver.Ref, until time.Time, n int) error {
	d := min(backoff(n), time.Until(until))
	if g.waiter == nil || n > 2 && n%2 == 0 {
		return pause(ctx, g.closing, d)
	}
	if n > 2 {
		d = min(time.Second, time.Until(until))
	}
	wctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	err := g.waiter.Wait(wctx, ref)
	if err != nil && wctx.Err() == nil {
		return pause(wctx, g.closing, d)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return nil
}

// backoff returns how long to wait before the n-th repeat: 50 ms, doubling to
// one second, less up to a fifth at random.
func backoff(n int) time.Duration {
	d := min(50*time.Millisecond<<min(n, 10), time.Second)
	return d - time.Duration(rand.Int64N(int64(d)/5))
}

// pause waits for d. It gives the context's error when that ends first, and
// ErrClosed when the guard is closed.
func pause(ctx context.Context, closing <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-closing:
		return ErrClosed
	}
}

func (g *Guard) observeBegin(ctx context.Context, key driver.Key, req *Request, b Begun, err error, w *waiting) {
	kind := EventStore
	switch {
	case b.Claim != nil:
		kind = EventClaimed
	case b.Replayed:
		kind = EventReplayed
	case b.Shared != nil:
		kind = EventShared
	case errors.Is(err, ErrInFlight):
		kind = EventInFlight
	case errors.Is(err, ErrUnsaved):
		kind = EventUnsaved
	case errors.Is(err, ErrUnknown):
		kind = EventUnknown
	case errors.Is(err, ErrReused):
		kind = EventReused
	case errors.Is(err, ErrForgotten):
		kind = EventForgotten
	case errors.Is(err, ErrNotStored):
		kind = EventNotStored
	case errors.Is(err, ErrUnreadable):
		kind = EventUnreadable
	case errors.Is(err, ErrOverloaded):
		kind = EventOverloaded
	case !errors.Is(err, ErrStore):
		return // the caller left, or asked for nothing
	}
	at := Claim{key: key, route: req.Route}
	if b.Claim != nil {
		at.attempt = b.Claim.attempt
	}
	g.observe(ctx, &at, kind, w.since, w.waited, err)
}
