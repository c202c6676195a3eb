package idem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/idem-go/idem/driver"
)

// TxGuard does operations whose work is itself writes to the store's database:
// the record of an operation and the rows of its work commit in one transaction
// of the type Tx (a pgx.Tx, a *sql.Tx), so there is exactly one effect, whatever
// crashes and whenever. Nothing is durable before the commit, so nothing is ever
// unknown for having been begun here, and no answer may be given before it.
//
// It is safe for use by many goroutines. Callers of one key in one process wait
// for each other here, so that they take one connection and not one each; callers
// in other processes wait in the database.
type TxGuard[Tx any] struct {
	guard *Guard
	store driver.TxStore[Tx]
}

// NewTx returns a guard over a store with transactions, which stays the
// caller's to close. Nil options take the defaults. Of the policy, Lease, SaveWait
// and Tombstone's use for unknown outcomes concern leased claims only.
func NewTx[Tx any](store driver.TxStore[Tx], opts *Options) *TxGuard[Tx] {
	return &TxGuard[Tx]{guard: New(store, opts), store: store}
}

// Guard returns the guard of leased claims over the same store and with the same
// options, for operations whose work is more than a transaction. Both see the same
// records.
func (t *TxGuard[Tx]) Guard() *Guard { return t.guard }

// Close is [Guard.Close].
func (t *TxGuard[Tx]) Close(ctx context.Context) error { return t.guard.Close(ctx) }

// TxEnd is what the work given to [TxGuard.Run] ends with.
type TxEnd struct {
	// Result is recorded, and commits with the rows. Its bytes may be used again
	// once Run has returned.
	Result Result
	// Dropped commits the rows and records that the result was not kept; Result
	// is empty then.
	Dropped bool
	// Rollback, unless nil, undoes all of it: the operation was not done. It is
	// the answer that those who wait in this process are given, as
	// [Begun.Shared], so that they do not run in their turn.
	Rollback any
}

// TxDone is what became of an operation given to [TxGuard.Run]. At most one of
// Ran, Replayed and Shared is set; with none, the work asked for a rollback.
type TxDone struct {
	// Ran says that the work ran, and its transaction is committed.
	Ran bool
	// Replayed, Result and Expires are as in [Begun].
	Replayed bool
	Result   Result
	Expires  time.Duration
	// Shared is as in [Begun].
	Shared any
}

// Run asks for an operation and does its work in a transaction with its record.
// It is what [DoTx] and the HTTP middleware are made of.
//
// When Run returns with Ran set the transaction is committed; otherwise nothing
// that work did in it has taken effect. The work may be called again within one
// Run, in a new transaction, when the database could not do the first (a deadlock,
// a serialization failure, a commit that was not taken), so what it does outside
// of tx must bear that. An error of the work rolls back and is returned as it is;
// a panic rolls back and goes on. A result over Policy.MaxResult or the store's
// limit rolls back and gives [ErrTooLarge].
//
// The work's context has the values of ctx and not its end; it is cancelled after
// Policy.MaxRun with the cause [ErrMaxRun], which rolls back. [FromContext] finds
// the claim in it and [TxFromContext] the transaction. Another's open transaction on
// the key is waited for, at most Policy.Wait: then the error is [ErrInFlight].
// [ErrStore] says that the database does not answer: if it stopped at the very
// commit, the transaction took effect or did not, and asking again tells.
func (t *TxGuard[Tx]) Run(ctx context.Context, req *Request, work func(ctx context.Context, tx Tx) (TxEnd, error)) (TxDone, error) {
	g := t.guard
	if err := ctx.Err(); err != nil {
		return TxDone{}, err
	}
	if req.Key.ID == "" {
		return TxDone{}, fmt.Errorf("%w: the key's id is empty", ErrInvalid)
	}
	pol := req.Policy
	if pol == nil {
		pol = &g.policy
	}
	w := waiting{since: time.Now()}
	key := driver.KeyOf(req.Key.Scope, req.Key.ID)
	for {
		if g.closed.Load() {
			return TxDone{}, ErrClosed
		}
		c, leads := g.enter(key)
		if leads {
			return t.lead(ctx, c, req, pol, &w, work)
		}
		b, again, err := g.follow(ctx, c, req, pol, &w)
		if again {
			continue
		}
		if g.opts.Observer != nil {
			g.observeBegin(ctx, key, req, b, err, &w)
		}
		return TxDone{Replayed: b.Replayed, Result: b.Result, Expires: b.Expires, Shared: b.Shared}, err
	}
}

// rollback is how work that asks for a rollback goes through the store.
type rollback struct{ answer any }

// Error implements error.
func (*rollback) Error() string { return "idem: the work asked for a rollback" }

// lead does the operation for all callers of the key in this process.
func (t *TxGuard[Tx]) lead(ctx context.Context, c *Claim, req *Request, pol *Policy, w *waiting, work func(context.Context, Tx) (TxEnd, error)) (d TxDone, err error) {
	g := t.guard
	end := flightEnd{}
	defer func() { g.settle(c, end) }()
	if g.claims.Load() > int64(g.opts.MaxClaims) {
		err = fmt.Errorf("%w: %d claims are held", ErrOverloaded, g.opts.MaxClaims)
		g.observeBegin(ctx, c.key, req, Begun{}, err, w)
		return d, err
	}
	c.guard, c.scope, c.id, c.route, c.policy = g, req.Key.Scope, req.Key.ID, req.Route, pol
	c.fingerprint = req.Fingerprint
	for n, turns := 0, 0; ; n++ {
		run := &txRun[Tx]{guard: g, claim: c, work: work}
		reply, err := t.ask(ctx, run, pol, w)
		var back *rollback
		switch {
		case err != nil && errors.As(err, &back):
			end.answer = back.answer
			g.observe(ctx, c, EventReleased, c.began, w.waited, nil)
			return d, nil
		case err != nil && run.failed != nil && errors.Is(err, run.failed):
			g.observe(ctx, c, EventReleased, c.began, w.waited, err)
			return d, err
		case err != nil:
			err = txError(err)
			g.observeBegin(ctx, c.key, req, Begun{}, err, w)
			return d, err
		case reply.Ran:
			if c.wasJoined() { // who joins from now on looks again
				end.record = run.record()
			}
			g.observe(ctx, c, EventRan, c.began, w.waited, nil)
			return TxDone{Ran: true}, nil
		}
		rec := &reply.Record
		turn, b, err := g.read(rec, req, pol)
		switch turn {
		case turnReclaim:
			if rec.State == driver.StateUnknown {
				c.fingerprint = rec.Fingerprint // made by another rule, by which the requests are the same
			}
			turns++
		case turnResolve:
			g.watchFrom(c, rec)
			err = g.resolve(ctx, c, rec, pol)
			turns++
		case turnWait:
			g.watchFrom(c, rec)
			w.waited = true
			until := w.since.Add(pol.Wait)
			if pol.Wait <= 0 || !time.Now().Before(until) {
				err = &InFlightError{Age: rec.Age}
			} else {
				err = g.watch(ctx, driver.Ref{Key: c.key, Token: rec.Token}, until, n)
			}
		}
		if err == nil && turn != turnAnswer && turns > maxTurns {
			err = fmt.Errorf("%w: it refuses a claim over a record that is %v", ErrStore, rec.State)
		}
		if err == nil && turn != turnAnswer {
			continue
		}
		if turn == turnAnswer && c.wasJoined() {
			shared := *rec
			end.record = &shared
		}
		g.observeBegin(ctx, c.key, req, b, err, w)
		return TxDone{Replayed: b.Replayed, Result: b.Result, Expires: b.Expires}, err
	}
}

// txError turns an error of the store's into the package's own.
func txError(err error) error {
	switch {
	case errors.Is(err, driver.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, driver.ErrClosed):
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	return storeError(err)
}

// errSlow is why a transaction is given up that the database does not get on with.
var errSlow = errors.New("idem: the database took longer than Options.StoreTimeout")

// ask runs the operation in the store once. The caller's end does not end it; a
// database that hangs before the work, or after it, does.
func (t *TxGuard[Tx]) ask(ctx context.Context, run *txRun[Tx], pol *Policy, w *waiting) (driver.TxReply, error) {
	g, c := t.guard, run.claim
	wait := max(0, time.Until(w.since.Add(pol.Wait)))
	if pol.Wait < 0 {
		wait = 0
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	run.patience = time.AfterFunc(wait+g.opts.StoreTimeout, func() { cancel(errSlow) })
	defer run.patience.Stop()
	reply, err := t.store.DoTx(ctx, driver.TxRequest{
		Key: c.key, Scope: c.scope, ID: c.id, Fingerprint: c.fingerprint, Wait: wait,
		Retry: pol.Unknown == RetryUnknown, CountAttempts: pol.CountAttempts, Retention: pol.Retention,
	}, run.do)
	if err != nil && run.failed == nil && context.Cause(ctx) != nil && !errors.Is(err, errSlow) {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return reply, err
}

// txRun is one call of the store's DoTx.
type txRun[Tx any] struct {
	guard    *Guard
	claim    *Claim
	work     func(context.Context, Tx) (TxEnd, error)
	patience *time.Timer
	end      TxEnd
	failed   error // what the work returned
}

// do calls the work in a transaction that the store has claimed the key in.
func (r *txRun[Tx]) do(ctx context.Context, tx Tx, granted driver.Record) (driver.Completion, error) {
	g, c := r.guard, r.claim
	r.failed, r.end = nil, TxEnd{}
	inTime := r.patience.Stop()
	// The store has the rest to do, be it a commit or another try.
	defer r.patience.Reset(g.opts.StoreTimeout)
	if !inTime {
		return driver.Completion{}, errSlow // ctx is about to end: what fails by that is not the work's
	}
	if ctx.Err() != nil {
		return driver.Completion{}, context.Cause(ctx)
	}
	pol := c.policy
	limit, stop := context.WithTimeoutCause(ctx, pol.MaxRun, ErrMaxRun)
	defer stop()
	g.begin(c, context.WithValue(limit, txKey[Tx]{}, tx), &granted)
	end, err := r.work(&c.ctx, tx)
	c.cancel(ErrEnded)
	switch cause := context.Cause(limit); {
	case err != nil && cause != nil && !errors.Is(err, cause):
		err = fmt.Errorf("%w: %w", cause, err)
	case err == nil && cause != nil:
		err = cause // nobody must think that it was in time
	case err == nil && end.Rollback != nil:
		err = &rollback{end.Rollback}
	}
	if err != nil {
		r.failed = err
		return driver.Completion{}, err
	}
	if end.Result.Size() > pol.MaxResult {
		return driver.Completion{}, fmt.Errorf("%w: %d bytes, Policy.MaxResult is %d", driver.ErrTooLarge, end.Result.Size(), pol.MaxResult)
	}
	r.end = end
	return driver.Completion{
		Result: end.Result, Dropped: end.Dropped, Scope: c.scope, ID: c.id, Fingerprint: c.fingerprint,
		Retention: pol.Retention, Tombstone: pol.Tombstone,
	}, nil
}

// record is what was committed, for those who wait: with a copy of the result,
// whose bytes are the caller's.
func (r *txRun[Tx]) record() *driver.Record {
	c, res := r.claim, r.end.Result
	return &driver.Record{
		Key: c.key, State: driver.StateCompleted, Token: c.token, Attempt: c.attempt, Fingerprint: c.fingerprint,
		Result:  driver.Result{Meta: bytes.Clone(res.Meta), Body: bytes.Clone(res.Body)},
		Dropped: r.end.Dropped, Left: c.policy.Retention,
	}
}

// begin makes the flight's leader the holder of a claim that is part of a
// transaction: it is neither renewed nor ended by its holder.
func (g *Guard) begin(c *Claim, ctx context.Context, granted *driver.Record) { //nolint:revive // the claim comes first, as in grant
	inner, cancel := context.WithCancelCause(ctx)
	c.holding.Store(true)
	s := g.shard(c.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.ctx = claimContext{Context: inner, claim: c}
	c.cancel = cancel
	c.token, c.attempt = granted.Token, granted.Attempt
	c.recorded = c.fingerprint
	c.began = time.Now()
	c.phase = phaseInTx
	c.signal()
}

type txKey[Tx any] struct{}

// TxFromContext returns the transaction that the work of ctx runs in, and false
// where there is none of that type. It is the guard's to commit and to roll back.
func TxFromContext[Tx any](ctx context.Context) (Tx, bool) {
	tx, ok := ctx.Value(txKey[Tx]{}).(Tx)
	return tx, ok
}

// DoTx runs work once for the request's key, in a transaction with its record,
// and returns its value; asked again, it returns the recorded value without
// running work. There is exactly one effect, provided that work does nothing that
// matters outside of tx. Values are recorded as JSON, as by [Do].
//
// What becomes of it when work does not return a value:
//
//   - an error marked by [KeepError] is the outcome: it is recorded, the rows
//     written so far commit with it, and asking again gives a [*KeptError];
//   - any other error rolls everything back and is returned: the next caller runs
//     work. [ReleaseError]'s is given to those in this process who wait, too;
//   - a panic, or runtime.Goexit, rolls everything back and goes on.
//
// A value that cannot be encoded, or is too large, rolls everything back as well.
// Besides, DoTx returns the errors of [TxGuard.Run], where it is said when work may
// be called again.
func DoTx[T, Tx any](ctx context.Context, g *TxGuard[Tx], req Request, work func(ctx context.Context, tx Tx) (T, error)) (T, error) {
	o, err := DoTxOutcome(ctx, g, req, work)
	return o.Value, err
}

// DoTxOutcome is [DoTx], telling besides whether the value was replayed.
func DoTxOutcome[T, Tx any](ctx context.Context, g *TxGuard[Tx], req Request, work func(ctx context.Context, tx Tx) (T, error)) (Outcome[T], error) {
	var value T
	var kept, released error
	d, err := g.Run(ctx, &req, func(ctx context.Context, tx Tx) (TxEnd, error) {
		kept, released = nil, nil
		v, err := work(ctx, tx)
		if err == nil {
			value = v
			body, err := encode(v)
			if err != nil {
				return TxEnd{}, fmt.Errorf("idem: the value cannot be encoded: %w", err)
			}
			return TxEnd{Result: Result{Meta: []byte(metaValue), Body: body}}, nil
		}
		c, _ := FromContext(ctx)
		verdict, bare := verdictOf(c, err)
		switch verdict {
		case ErrorKeep:
			kept = bare
			return TxEnd{Result: Result{Meta: []byte(metaError), Body: []byte(bare.Error())}}, nil
		case ErrorRelease:
			released = bare
			return TxEnd{Rollback: bare}, nil
		}
		return TxEnd{}, err
	})
	switch {
	case err != nil:
		return Outcome[T]{}, err
	case d.Ran && kept != nil:
		return Outcome[T]{}, kept
	case d.Ran:
		return Outcome[T]{Value: value}, nil
	case d.Replayed:
		return decode[T](d.Result)
	case d.Shared != nil:
		if err, ok := d.Shared.(error); ok {
			return Outcome[T]{}, err
		}
		return Outcome[T]{}, &InFlightError{}
	}
	return Outcome[T]{}, released
}

// CompleteTx completes a leased claim inside of a transaction of the
// application's on the store's database: the result is recorded when that
// transaction commits, with its rows. Claim and work may take long, call services
// and be renewed meanwhile; only their end is one transaction. The caller commits
// and tells what came of it:
//
//	settle, err := idem.CompleteTx(ctx, claim, tx, idem.Result{Body: body})
//	if err != nil {
//		return err // the transaction is rolled back
//	}
//	err = settle(tx.Commit(ctx))
//
// A claim that was lost fails the whole transaction: it is rolled back, and the
// error is [ErrLost], or [ErrSuperseded] where the record is completed already, by
// somebody else or by a commit of this claim's whose answer was lost. [ErrTooLarge]
// and [ErrStore] leave the claim held: the caller rolls back, and may try again or
// end the claim otherwise.
//
// Settle must be called once. Given nil, it ends the claim. Given the commit's
// error, it looks the record up: nil says that the commit took effect and only its
// answer was lost, and the claim has ended; otherwise the error is returned and the
// claim is still held. Where even that cannot be asked, the error is [ErrStore], the
// claim is held and must not be used for a second try before it can be.
func CompleteTx[Tx any](ctx context.Context, c *Claim, tx Tx, res Result) (settle func(commit error) error, err error) {
	g := c.guard
	store, ok := driver.As[driver.TxStore[Tx]](g.store)
	if !ok {
		return nil, fmt.Errorf("%w: the store has no transactions of the type %T", ErrInvalid, tx)
	}
	if res.Size() > c.policy.MaxResult {
		return nil, fmt.Errorf("%w: %d bytes, Policy.MaxResult is %d", ErrTooLarge, res.Size(), c.policy.MaxResult)
	}
	if !c.holding.CompareAndSwap(false, true) {
		return nil, ErrEnded
	}
	late, err := store.CompleteTx(ctx, tx, driver.Ref{Key: c.key, Token: c.token}, driver.Completion{
		Result: res, Scope: c.scope, ID: c.id, Fingerprint: c.fingerprint,
		Retention: c.policy.Retention, Tombstone: c.policy.Tombstone,
	})
	c.ending.kind, c.ending.late = endComplete, late
	switch {
	case errors.Is(err, driver.ErrLost), errors.Is(err, driver.ErrCompleted):
		return nil, c.ended(err)
	case err != nil:
		c.holding.Store(false)
		return nil, txError(err)
	}
	var settled atomic.Bool
	return func(commit error) error {
		if !settled.CompareAndSwap(false, true) {
			return ErrEnded
		}
		if commit != nil {
			if err := c.committed(commit); err != nil {
				c.holding.Store(false)
				return err
			}
		}
		return c.ended(nil)
	}, nil
}

// committed returns nil when a commit took effect whose answer was an error.
func (c *Claim) committed(commit error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(&c.ctx), c.guard.opts.StoreTimeout)
	defer cancel()
	rec, err := c.guard.store.Lookup(ctx, c.key)
	switch {
	case err != nil:
		return errors.Join(storeError(err), commit)
	case rec.Token == c.token && (rec.State == driver.StateCompleted || rec.State == driver.StateForgotten):
		return nil
	}
	return commit
}
