package mysqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/idem-go/idem/driver"
)

const (
	// txConflicts is how often a transaction is run again because of others.
	txConflicts = 10
	// claimConflicts is how often a claim in a transaction is made again because
	// of others who want the same key.
	claimConflicts = 100
	// txLease is the lease of a claim that nobody sees before its end, unless work
	// makes a statement that commits by itself, such as CREATE TABLE.
	txLease = 15 * time.Minute
	// commitPatience is how long a commit that may be under way is waited for.
	commitPatience = 10 * time.Second
)

// DoTx is described at [driver.TxStore]. It costs two statements more than work's
// transaction alone (and one that nobody waits for), and a third, with a commit of its own, where attempts are
// counted; on MySQL, which bounds the wait for others only by a variable of the
// connection, two more. Work may use the store, for other keys, while the
// pool has more connections than there are calls of DoTx.
//
// Work must return the error of a statement that failed: after a deadlock the
// server has rolled back the whole transaction, and what work goes on to write
// is committed at once and by itself. Statements that commit by themselves
// (CREATE TABLE and its like) are not to be made in it.
func (s *Store) DoTx(ctx context.Context, req driver.TxRequest, work driver.TxWork[*sql.Tx]) (driver.TxReply, error) {
	if err := s.enter(ctx); err != nil {
		return driver.TxReply{}, err
	}
	if err := req.Check(); err != nil {
		return driver.TxReply{}, err
	}
	if req.CountAttempts && s.counting != nil {
		if cap(s.counting) == 0 {
			return driver.TxReply{}, errors.New("mysqlstore: to count attempts takes a second connection, and the pool has one; raise its limit")
		}
		// Who holds one connection and waits for another must not be everybody.
		select {
		case s.counting <- struct{}{}:
			defer func() { <-s.counting }()
		case <-s.closing:
			return driver.TxReply{}, driver.ErrClosed
		case <-ctx.Done():
			return driver.TxReply{}, ctx.Err()
		}
	}
	d := &doing{store: s, req: req, work: work, deadline: time.Now().Add(req.Wait)}
	reply, err := d.run(ctx)
	if err != nil {
		return driver.TxReply{}, err
	}
	return reply, nil
}

// doing is one call of DoTx.
type doing struct {
	store *Store
	req   driver.TxRequest
	work  driver.TxWork[*sql.Tx]
	// deadline is until when another's open transaction is waited for.
	deadline time.Time
	// attempts is how often work was begun, counted outside; 0 before it was.
	attempts int
	// unanswered is the run whose commit got no answer; nil for none.
	unanswered *txRun

	// How often what has failed.
	claims, conflicts, lost int
}

// txRun is one run of a transaction.
type txRun struct {
	nonce  driver.Nonce
	token  int64
	record driver.Record
	// cause is why the commit got no answer.
	cause error
}

// phase is how far a run has come.
type phase uint8

const (
	claiming phase = iota
	working
	completing
	committing
)

func (d *doing) run(ctx context.Context) (driver.TxReply, error) {
	s := d.store
	for n := 0; ; n++ {
		reply, at, err := d.once(ctx)
		if err == nil && at == claiming {
			if err := s.logged(ctx, &reply.Record); err != nil {
				return driver.TxReply{}, d.silent(err)
			}
		}
		if err == nil {
			return reply, nil
		}
		switch {
		case at == working && !isConflict(err) && (ctx.Err() == nil || !isLost(err) && !errors.Is(err, sql.ErrTxDone)):
			return reply, err
		case ctx.Err() != nil:
			return reply, d.silent(ctx.Err())
		case isContract(err):
			return reply, err
		case at == committing && !isConflict(err):
			// Whether it took effect is asked for by claiming anew.
			d.deadline = time.Now().Add(max(commitPatience, d.req.Wait))
			if d.lost++; d.lost > lostTries {
				return reply, d.silent(err)
			}
		case at == claiming && (numberOf(err) == errLockWaitTimeout || numberOf(err) == errNoWait):
			if !time.Now().Before(d.deadline) {
				if d.unanswered != nil {
					return reply, d.silent(err)
				}
				return d.held(), nil
			}
			n = min(n, 4)
		case at == claiming && isConflict(err):
			if d.claims++; d.claims > claimConflicts {
				return reply, d.silent(explained(err))
			}
		case isConflict(err):
			if d.conflicts++; d.conflicts > txConflicts {
				if at == working {
					return reply, err
				}
				return reply, explained(err)
			}
		case isLost(err):
			if d.lost++; d.lost > lostTries {
				return reply, d.silent(explained(err))
			}
		default:
			return reply, d.silent(explained(err))
		}
		if err := s.pause(ctx, n); err != nil {
			return reply, d.silent(err)
		}
	}
}

// silent adds to an error that a commit before it got no answer.
func (d *doing) silent(err error) error {
	if d.unanswered == nil {
		return err
	}
	return fmt.Errorf("mysqlstore: the commit was not answered (%w), and whether it took effect cannot be asked: %w", d.unanswered.cause, err)
}

// held is the reply while another's transaction on the key is open.
func (d *doing) held() driver.TxReply {
	return driver.TxReply{Record: driver.Record{Key: d.req.Key, State: driver.StateInFlight, Left: time.Second}}
}

// once runs the transaction once. The phase says where it failed.
func (d *doing) once(ctx context.Context) (reply driver.TxReply, at phase, err error) {
	s := d.store
	run := &txRun{nonce: driver.NewNonce()}
	claim := driver.ClaimRequest{
		Key: d.req.Key, Scope: d.req.Scope, ID: d.req.ID, Fingerprint: d.req.Fingerprint, Nonce: run.nonce,
		Lease: txLease, Tombstone: d.req.Retention, Retry: d.req.Retry,
	}
	open, a, err := s.claimTx(ctx, &claim, time.Until(d.deadline))
	if open != nil {
		// On every way out, a panic of work included.
		defer open.rollback(ctx)
	}
	if err != nil {
		return reply, claiming, err
	}
	if !a.granted {
		if u := d.unanswered; u != nil && a.record.kind == completed && a.record.token == u.token && string(a.record.ended) == string(u.nonce[:]) {
			s.waiters.ended(d.req.Key, uint64(u.token)+1)
			return driver.TxReply{Ran: true, Record: u.record}, claiming, nil
		}
		return driver.TxReply{Record: a.record.view(d.req.Key)}, claiming, nil
	}
	d.unanswered = nil
	run.token = a.record.token
	run.record = a.record.view(d.req.Key)
	run.record.Left, run.record.Age = txLease, 0
	text, args := s.tables.completeOwn, []any(nil)
	if d.req.CountAttempts {
		if d.attempts == 0 {
			counted, err := s.countAttempt(ctx, d.req.Key, d.req.Retention)
			if err != nil {
				return reply, completing, err
			}
			d.attempts = counted
		}
		run.record.Attempt += d.attempts - 1
		text, args = s.tables.completeCounted, []any{run.record.Attempt}
	}
	c, err := d.work(ctx, open.tx, run.record)
	if err != nil {
		return reply, working, err
	}
	if err := c.Check(s.maxResult); err != nil {
		return reply, completing, err
	}
	args = append(args, bytesOrNull(c.Result.Meta), bytesOrNull(c.Result.Body), c.Dropped, micros(c.Tombstone), micros(c.Retention),
		d.req.Key[:], run.token)
	done, _, err := s.complete(ctx, open.tx, text, args)
	if err == nil && !done {
		err = errors.New("mysqlstore: the claim is no longer part of the transaction: work has ended the transaction, or went on after a deadlock")
		return reply, working, err
	}
	if err == nil && d.req.CountAttempts {
		err = s.uncountAttempts(ctx, open.tx, d.req.Key)
	}
	if err != nil {
		return reply, completing, err
	}
	run.record.State, run.record.Dropped = driver.StateCompleted, c.Dropped
	run.record.Left = c.Retention
	if err := open.commit(ctx); err != nil {
		if ctx.Err() != nil && (errors.Is(err, sql.ErrTxDone) || errors.Is(err, ctx.Err())) {
			return reply, completing, err // the commit was not begun
		}
		if errors.Is(err, sql.ErrTxDone) {
			return reply, working, errors.New("mysqlstore: work has ended the transaction, which is not work's to end")
		}
		if !isConflict(err) {
			run.cause = err
			d.unanswered = run
		}
		return reply, committing, err
	}
	s.logWrites.know(d.req.Key, uint64(run.token))
	s.waiters.ended(d.req.Key, uint64(run.token)+1)
	return driver.TxReply{Ran: true, Record: run.record}, committing, nil
}
