package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/idem-go/idem/driver"
)

const (
	// mostTries bounds how often work is called because of the database alone.
	mostTries = 12
	// grace is what a transaction that need not wait may take to begin.
	grace = 100 * time.Millisecond
	// settling bounds the look at what became of a commit.
	settling = 5 * time.Second
)

// errExpired: another's writing transaction was open for longer than Wait.
var errExpired = errors.New("sqlitestore: another transaction is open for longer than was to be waited")

// errClocks: processes whose clocks have nothing to do with each other write in
// turn, so that nobody can tell the time.
var errClocks = errors.New("sqlitestore: processes on several hosts, or in several time namespaces, write to the file; let those of one write alone")

// DoTx is described at [driver.TxStore]. A transaction that is open holds up every
// other, of other keys too: SQLite has one writer. So a key that is absent is
// answered as in-flight when any writing transaction has been open for Wait;
// records that are known are answered without waiting.
//
// Work must not call the store, see the package's comment.
func (s *Store) DoTx(ctx context.Context, req driver.TxRequest, work driver.TxWork[*sql.Tx]) (driver.TxReply, error) {
	if err := s.enter(ctx); err != nil {
		return driver.TxReply{}, err
	}
	if err := req.Check(); err != nil {
		return driver.TxReply{}, err
	}
	r := &run{
		s: s, req: &req, work: work, until: time.Now().Add(req.Wait),
		claim: driver.ClaimRequest{
			Key: req.Key, Scope: req.Scope, ID: req.ID, Fingerprint: req.Fingerprint, Retry: req.Retry,
			Nonce: driver.NewNonce(), Lease: maxTime, Tombstone: maxTime,
		},
	}
	return r.do(ctx)
}

// run is one call of DoTx.
type run struct {
	s     *Store
	req   *driver.TxRequest
	claim driver.ClaimRequest
	work  driver.TxWork[*sql.Tx]
	until time.Time
	// attempt is what has been counted outside of the transaction, 0 for nothing.
	attempt int64
	// worked says that work has been called.
	worked bool
	// unsure is what was committed when nobody knows whether that took effect; it
	// has no token otherwise.
	unsure driver.Record
}

func (r *run) do(ctx context.Context) (driver.TxReply, error) {
	defer r.uncount()
	for try := 1; ; try++ {
		// Where nobody writes, the transaction itself finds out what there is. Otherwise
		// it is looked at first: what is known is answered without waiting.
		reply, err := driver.TxReply{}, errExpired
		if try == 1 && r.s.tryGate() {
			reply, err = r.once(ctx, min(r.req.Wait, grace), true)
		}
		if errors.Is(err, errExpired) {
			rec, now, rerr := r.s.read(ctx, r.req.Key)
			if rerr != nil {
				return driver.TxReply{}, rerr
			}
			if rec.judge(&r.claim) != granted {
				return driver.TxReply{Record: rec.full(now)}, nil
			}
			r.s.set.gap("tx")
			reply, err = r.once(ctx, max(0, time.Until(r.until)), false)
		}
		var w *workError
		switch {
		case err == nil:
			return reply, nil
		case errors.Is(err, errExpired):
			return r.waiting(ctx)
		case r.unsure.Token != 0:
			ran, lerr := r.look(ctx)
			switch {
			case ran.Ran:
				return ran, nil
			case lerr != nil || code(err) != 0 || ctx.Err() != nil || try == mostTries:
				return driver.TxReply{}, r.s.fault(ctx, err)
			}
			r.unsure = driver.Record{} // it did not take effect, and nobody knows why
		case isBusy(err) && try < mostTries && ctx.Err() == nil:
		case errors.As(err, &w):
			return driver.TxReply{}, w.err
		default:
			return driver.TxReply{}, r.s.fault(ctx, err)
		}
		if err := pause(ctx, try); err != nil {
			return driver.TxReply{}, err
		}
	}
}

// look finds out whether a commit took effect that gave an error, by the nonce that
// nobody else has: the token of a transaction that was rolled back may be given to
// another.
func (r *run) look(ctx context.Context) (driver.TxReply, error) {
	r.s.set.gap("look")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settling)
	defer cancel()
	rec, _, err := r.s.read(ctx, r.req.Key)
	if err == nil && rec.kind == completed && rec.nonce == r.claim.Nonce {
		return driver.TxReply{Ran: true, Record: r.unsure}, nil
	}
	return driver.TxReply{}, err
}

// waiting is the answer when somebody else's transaction was open for too long: the
// record as it is, or in-flight where nothing is known of it, since that
// transaction may be about this key.
func (r *run) waiting(ctx context.Context) (driver.TxReply, error) {
	rec, now, err := r.s.read(ctx, r.req.Key)
	if err != nil {
		return driver.TxReply{}, err
	}
	v := rec.full(now)
	if rec.judge(&r.claim) == granted {
		v = driver.Record{Key: r.req.Key, State: driver.StateInFlight, Left: time.Second}
	}
	return driver.TxReply{Record: v}, nil
}

// once makes one transaction, and waits no longer than that for others to end
// theirs: errExpired. Only within it is anybody else of this store kept from writing;
// held says that this has been arranged.
func (r *run) once(ctx context.Context, wait time.Duration, held bool) (reply driver.TxReply, err error) {
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(wait+grace, func() { cancel(errExpired) })
	defer patience.Stop()
	defer func() {
		if err != nil && outer.Err() == nil && errors.Is(context.Cause(ctx), errExpired) {
			err = errExpired
		}
	}()
	if !held {
		if err := r.s.enterGate(ctx); err != nil {
			return reply, err
		}
	}
	defer r.s.leaveGate()
	if r.req.CountAttempts && r.attempt == 0 {
		if reply.Record, err = r.count(ctx); err != nil || r.attempt == 0 {
			return reply, err
		}
	}
	tx, err := r.s.db.BeginTx(ctx, nil)
	if err != nil {
		return reply, failed(err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit; undoes a panic's
	rec := &record{key: r.req.Key}
	u, err := r.s.beginFresh(ctx, tx, r.req.Key)
	if err == nil && u == nil {
		if u, err = r.s.begin(ctx, tx); err == nil {
			rec, err = u.load(ctx, r.req.Key)
		}
	}
	if err != nil {
		return reply, err
	}
	if !patience.Stop() {
		return reply, errExpired
	}
	if rec.judge(&r.claim) != granted {
		return driver.TxReply{Record: rec.full(u.now)}, nil
	}
	return r.inside(ctx, u, rec)
}

// inside does the work in a transaction that has the key.
func (r *run) inside(ctx context.Context, u *unit, rec *record) (driver.TxReply, error) {
	rec.begin(&r.claim, u.token(rec), u.now)
	if r.attempt > 0 {
		rec.attempt = r.attempt
	}
	token := rec.token
	r.worked = true
	c, err := r.work(ctx, u.tx, driver.Record{
		Key: rec.key, Scope: rec.scope, ID: rec.id, Token: token, Attempt: int(rec.attempt),
		State: driver.StateInFlight, Fingerprint: rec.fingerprint, Left: time.Duration(maxTime),
	})
	if err != nil {
		return driver.TxReply{}, &workError{err}
	}
	if err := c.Check(r.s.set.MaxResult); err != nil {
		return driver.TxReply{}, &workError{err}
	}
	u.now = r.s.now()
	if _, err := u.complete(ctx, rec, token, &c); err != nil {
		return driver.TxReply{}, err
	}
	done := driver.TxReply{Ran: true, Record: rec.full(u.now)}
	r.s.set.gap("commit")
	if err := u.tx.Commit(); err != nil {
		// SQLite says that it is busy, or full, only of what it has not done.
		if c := primary(err); c != codeBusy && c != codeFull && !isSync(err) {
			r.unsure = done.Record
		}
		return driver.TxReply{}, failed(err)
	}
	r.s.waits.wake(u.ended)
	return done, nil
}

// count counts the attempt where the end of the transaction does not undo it. It
// leaves attempt 0, and returns the record, where a claim would not be granted.
func (r *run) count(ctx context.Context) (there driver.Record, err error) {
	attempt := int64(0)
	err = r.s.write(ctx, func(ctx context.Context, u *unit) error {
		rec, err := u.load(ctx, r.req.Key)
		if err != nil {
			return err
		}
		if rec.judge(&r.claim) != granted {
			there = rec.full(u.now)
			return nil
		}
		rec.attempt++
		attempt = rec.attempt
		if rec.kind == absent {
			rec.kind = releasedByOwner
		}
		if rec.kind.state() == driver.StateAbsent {
			rec.due = max(rec.due, after(u.now, r.req.Retention))
		}
		return u.save(ctx, rec)
	})
	if err == nil {
		r.attempt = attempt
	}
	return there, err
}

// uncount takes back what was counted for work that was not called: waiting is no
// attempt. Nobody waits for it. A process that dies first leaves it counted.
func (r *run) uncount() {
	if r.attempt == 0 || r.worked {
		return
	}
	// Of a closed store it stays counted as well.
	_ = r.s.enqueue(&op{done: make(chan struct{}), run: func(ctx context.Context, u *unit) error {
		rec, err := u.load(ctx, r.req.Key)
		if err != nil || rec.attempt == 0 {
			return err
		}
		rec.attempt--
		if rec.attempt == 0 && rec.kind == releasedByOwner && rec.token == 0 {
			rec.kind = absent
		}
		return u.save(ctx, rec)
	}})
}

// workError is an error of the work's own, or of what it returned.
type workError struct{ err error }

// Error implements error.
func (w *workError) Error() string { return w.err.Error() }

// Unwrap gives what the work returned.
func (w *workError) Unwrap() error { return w.err }

// CompleteTx is described at [driver.TxStore]. The transaction must be one of the
// store's own *sql.DB. When it has not written before, CompleteTx makes it the
// database's writer; an error that says the database is busy leaves the claim as it
// was, and the caller rolls back and begins anew. One that reads before it writes,
// in a transaction that was not begun as IMMEDIATE, gets that error whenever
// somebody has written in between.
func (s *Store) CompleteTx(ctx context.Context, tx *sql.Tx, ref driver.Ref, c driver.Completion) (late bool, err error) {
	if err := s.enter(ctx); err != nil {
		return false, err
	}
	if err := c.Check(s.set.MaxResult); err != nil {
		return false, err
	}
	u, err := s.begin(ctx, tx)
	if err != nil {
		return false, s.fault(ctx, err)
	}
	r, err := u.load(ctx, ref.Key)
	if err != nil {
		return false, s.fault(ctx, err)
	}
	late, err = u.complete(ctx, r, ref.Token, &c)
	switch {
	case errors.Is(err, driver.ErrLost), errors.Is(err, driver.ErrCompleted):
		if rerr := tx.Rollback(); rerr != nil {
			return false, fmt.Errorf("%w, and rolling back: %w", err, explain(rerr))
		}
		return false, err
	case err != nil:
		return false, s.fault(ctx, err)
	}
	return late, nil
}
