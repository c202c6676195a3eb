package pgstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/idem-go/idem/driver"
)

const attemptText = `INSERT INTO {attempts} AS c (key, attempts, due) VALUES ($1, 1, {clock} + $2::bigint)
ON CONFLICT (key) DO UPDATE SET due = excluded.due, attempts = CASE WHEN c.due <= {clock} THEN 1 ELSE c.attempts + 1 END
RETURNING attempts`

const (
	// txTries is how often a transaction is tried that fails for a reason of the
	// database's alone.
	txTries = 30
	// settleWait is how long the outcome of a commit whose answer was lost is
	// looked for once the caller's context has ended, and how long the commit
	// itself may take by then.
	settleWait = 2 * time.Second
	// txLease is the lease of a claim in a transaction. It is of no account but to
	// work that has committed the transaction itself, which it must not.
	txLease = 24 * time.Hour
	// theirWait is how long CompleteTx waits for a row that another transaction
	// holds.
	theirWait = 10 * time.Second
)

// txRun is one call of DoTx.
type txRun[Tx any] struct {
	*records
	db  beginner[Tx]
	req *driver.TxRequest
	// nonce is the same at every try: it is never seen outside of a transaction
	// that is open.
	nonce driver.Nonce
	work  driver.TxWork[Tx]
	until time.Time

	// counted is how often work was begun, by the count outside; 0 until it has
	// been counted.
	counted int
	// paired says that the call has leave to wait for a second connection.
	paired bool
	// sent are the tokens of the transactions whose commit was sent and not
	// answered.
	sent []uint64
	// lost is why the last of them was not.
	lost error
}

// doTx is DoTx of both stores.
func doTx[Tx any](ctx context.Context, r *records, db beginner[Tx], req driver.TxRequest, work driver.TxWork[Tx]) (driver.TxReply, error) {
	if err := r.enter(ctx); err != nil {
		return driver.TxReply{}, err
	}
	if err := req.Check(); err != nil {
		return driver.TxReply{}, err
	}
	until := time.Now().Add(req.Wait)
	done, ok, err := r.turns.take(ctx, r.closing, req.Key, req.Wait)
	if err != nil {
		return driver.TxReply{}, err
	}
	if !ok {
		return driver.TxReply{Record: heldRecord(req.Key)}, nil
	}
	defer done()
	run := &txRun[Tx]{records: r, db: db, req: &req, nonce: driver.NewNonce(), work: work, until: until}
	return run.do(ctx)
}

func (t *txRun[Tx]) do(ctx context.Context) (driver.TxReply, error) {
	busyTries, silentTries := 0, 0
	for try := 0; ; try++ {
		reply, again, err := t.try(ctx, try == 0)
		if !again {
			return reply, err
		}
		switch {
		case errors.Is(err, errRaced) || code(err) == codeDivision:
		case busy(err):
			if busyTries++; busyTries >= txTries {
				if len(t.sent) > 0 {
					return driver.TxReply{}, t.lostCommit()
				}
				return driver.TxReply{}, explain(err)
			}
		case code(err) == codeLockTimeout:
		default:
			// Nothing was answered. What was not begun is begun a few times, what may
			// have been committed is asked for as long as the caller waits.
			if silentTries++; silentTries > silences && len(t.sent) == 0 {
				return driver.TxReply{}, explain(err)
			}
		}
		if ctx.Err() != nil && len(t.sent) == 0 {
			return driver.TxReply{}, ctx.Err()
		}
		if ctx.Err() != nil {
			return t.settle(ctx)
		}
		if err := t.pause(ctx, try); err != nil && len(t.sent) == 0 {
			return driver.TxReply{}, err
		}
	}
}

// try is one transaction. It is tried again when it is told so; nothing of it
// has remained then, unless its token is among those sent.
func (t *txRun[Tx]) try(ctx context.Context, first bool) (reply driver.TxReply, again bool, err error) {
	counts := t.req.CountAttempts && t.counted == 0
	if counts {
		if err := t.second(ctx); err != nil {
			return reply, false, err
		}
		defer t.both()
	}
	c := t.claimCall()
	tx, err := t.begin(ctx, c, first)
	if err != nil {
		return t.notBegun(ctx, err)
	}
	ended := false
	defer func() {
		// A panic of work passes through here.
		if !ended {
			tx.rollback()
		}
	}()
	if !c.granted {
		claim, err := c.reply()
		if err != nil {
			return reply, errors.Is(err, errRaced), err
		}
		return t.refused(claim.Record), false, nil
	}
	// The key is free, so those that were sent have had no effect.
	t.sent = nil
	granted := driver.Record{
		Key: t.req.Key, State: driver.StateInFlight, Token: uint64(c.found.token), Attempt: int(c.found.attempt),
		Scope: t.req.Scope, ID: t.req.ID, Fingerprint: t.req.Fingerprint, Left: txLease,
	}
	if counts {
		if err := t.count(ctx); err != nil {
			return reply, false, err
		}
		t.both()
	}
	if t.counted > 0 {
		granted.Attempt += t.counted - 1
	}
	completion, err := t.work(ctx, tx.tx(), granted)
	if err == nil {
		err = tx.failed()
	}
	if err != nil {
		return reply, busy(err) && ctx.Err() == nil, err
	}
	if err := completion.Check(t.opts.MaxResult); err != nil {
		return reply, false, err
	}
	if err := ctx.Err(); err != nil {
		return reply, false, err
	}
	err = t.commit(ctx, tx, t.last(granted, &completion))
	if err != nil {
		return t.notCommitted(ctx, granted.Token, err)
	}
	tx.rollback() // gives the connection back before others are told
	ended = true
	return driver.TxReply{Ran: true, Record: t.ran(granted, &completion)}, false, nil
}

func (t *txRun[Tx]) claimCall() *claimCall {
	return &claimCall{room: true, req: &driver.ClaimRequest{
		Key: t.req.Key, Scope: t.req.Scope, ID: t.req.ID, Fingerprint: t.req.Fingerprint,
		Nonce: t.nonce, Retry: t.req.Retry, Lease: txLease, Tombstone: txLease,
	}}
}

func (t *txRun[Tx]) begin(ctx context.Context, c *claimCall, first bool) (transaction[Tx], error) {
	wait := time.Until(t.until)
	if first && t.quickTx && wait > 2*slowWait {
		return t.db.begin(ctx, statement{t.text.claimQuick, c.args()}, true, c.scanQuick)
	}
	if len(t.sent) > 0 {
		// A commit that is under way is waited for however long it takes.
		wait = max(wait, ownWait)
	}
	claim := statement{t.text.claimTx, append(c.args(), milliseconds(wait))}
	return t.db.begin(ctx, claim, false, func(scan scanner) error {
		var setting string
		found, granted, err := scanClaim(scan, &setting)
		c.take(found, granted)
		return err
	})
}

// notBegun says what comes of a transaction whose claim was not answered.
func (t *txRun[Tx]) notBegun(ctx context.Context, err error) (reply driver.TxReply, again bool, _ error) {
	switch {
	case ctx.Err() != nil && len(t.sent) == 0:
		return reply, false, ctx.Err()
	case code(err) == codeLockTimeout && len(t.sent) == 0 && time.Until(t.until) < time.Millisecond:
		return driver.TxReply{Record: heldRecord(t.req.Key)}, false, nil
	case code(err) == codeLockTimeout, code(err) == codeDivision, busy(err), silent(err):
		return reply, true, err
	}
	if len(t.sent) > 0 {
		return reply, false, t.lostCommit()
	}
	return reply, false, explain(err)
}

func (t *txRun[Tx]) lostCommit() error {
	return fmt.Errorf("pgstore: the answer of a commit was lost, and the server does not say what came of it: %w", t.lost)
}

// refused is what is told of a key that was not granted. It may be that an
// earlier transaction of this call, whose answer was lost, has completed it.
func (t *txRun[Tx]) refused(rec driver.Record) driver.TxReply {
	done := rec.State == driver.StateCompleted || rec.State == driver.StateForgotten
	return driver.TxReply{Ran: done && slices.Contains(t.sent, rec.Token), Record: rec}
}

// last is the statement that completes the record.
func (t *txRun[Tx]) last(granted driver.Record, c *driver.Completion) statement {
	args := (&completeCall{ref: driver.Ref{Key: t.req.Key, Token: granted.Token}, c: c}).args()[:7]
	if t.counted > 0 {
		return statement{t.text.completeTxCounted, append(args, int64(granted.Attempt))}
	}
	return statement{t.text.completeTx, args}
}

// commit ends the transaction. What is being committed is not rolled back
// because the caller leaves.
func (t *txRun[Tx]) commit(ctx context.Context, tx transaction[Tx], last statement) error {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	timer := time.AfterFunc(math.MaxInt64, cancel)
	defer timer.Stop()
	stop := context.AfterFunc(ctx, func() { timer.Reset(settleWait) })
	defer stop()
	return tx.commit(late, last)
}

// notCommitted says what comes of a transaction whose commit failed, or was not
// answered.
func (t *txRun[Tx]) notCommitted(ctx context.Context, token uint64, err error) (reply driver.TxReply, again bool, _ error) {
	if silent(err) {
		t.sent, t.lost = append(t.sent, token), err
		return reply, true, err
	}
	return reply, busy(err) && ctx.Err() == nil, explainTx(err)
}

// explainTx leaves the application its own errors, such as a constraint that is
// checked at the commit.
func explainTx(err error) error {
	return fmt.Errorf("pgstore: the transaction was not committed: %w", err)
}

// settle looks for the outcome of a commit whose answer was lost, once the
// caller has left.
func (t *txRun[Tx]) settle(ctx context.Context) (driver.TxReply, error) {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleWait)
	defer cancel()
	for try := 0; ; try++ {
		c := t.claimCall()
		tx, err := t.begin(late, c, false)
		if err == nil {
			granted := c.granted
			tx.rollback()
			claim, err := c.reply()
			switch {
			case granted:
				return driver.TxReply{}, ctx.Err() // it had no effect
			case err == nil:
				return t.refused(claim.Record), nil
			}
		}
		if err := t.pause(late, try); err != nil {
			return driver.TxReply{}, t.lostCommit()
		}
	}
}

// ran is the record as the transaction has completed it.
func (t *txRun[Tx]) ran(granted driver.Record, c *driver.Completion) driver.Record {
	granted.State, granted.Left, granted.Dropped, granted.Result = driver.StateCompleted, c.Retention, c.Dropped, c.Result
	return granted
}

// second takes leave to hold one connection while waiting for another one. One
// connection less than there are may be held that way: so somebody always gets
// on.
func (t *txRun[Tx]) second(ctx context.Context) error {
	if t.pairs == nil {
		return nil
	}
	if cap(t.pairs) == 0 {
		return fmt.Errorf("%w: attempts are counted on a second connection, and the pool has one; make it larger", driver.ErrInvalid)
	}
	select {
	case t.pairs <- struct{}{}:
		t.paired = true
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.closing:
		return driver.ErrClosed
	}
}

// both says that no second connection is waited for any more.
func (t *txRun[Tx]) both() {
	if t.paired {
		t.paired = false
		<-t.pairs
	}
}

// count counts an attempt, outside of the transaction.
func (t *txRun[Tx]) count(ctx context.Context) error {
	return t.insist(ctx, func() error {
		return t.one(ctx, statement{t.text.attempt, []any{t.req.Key[:], microseconds(t.req.Retention)}}, &t.counted)
	})
}

// completeTx is CompleteTx of both stores.
func completeTx[Tx any](ctx context.Context, r *records, db beginner[Tx], tx Tx, ref driver.Ref, c driver.Completion) (late bool, err error) {
	if err := r.enter(ctx); err != nil {
		return false, err
	}
	if err := c.Check(r.opts.MaxResult); err != nil {
		return false, err
	}
	q := db.in(tx)
	for try := 0; ; try++ {
		call := &completeCall{ref: ref, c: &c}
		var setting string
		err = r.completeAlone(ctx, q, r.text.completeTheirs, call, theirWait, &setting)
		if err == nil && call.done {
			return call.late, nil
		}
		if err == nil {
			if _, err = r.completed(ctx, q, ref, &c); err == nil {
				// The rows of this transaction would be a second effect.
				err = driver.ErrCompleted
			}
		}
		if !errors.Is(err, errRaced) || try == silences {
			break
		}
	}
	db.fail(ctx, tx, err)
	if !answered(err) && ctx.Err() == nil {
		err = explain(err)
	}
	return false, err
}
