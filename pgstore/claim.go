package pgstore

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/idem-go/idem/driver"
)

// groupWait is how long a statement waits for a row that another transaction
// holds, while other callers may wait for the statement.
const groupWait = 50 * time.Millisecond

// claimCall is a claim that is asked for, and its answer.
type claimCall struct {
	req  *driver.ClaimRequest
	room bool
	// again says that the claim was asked for before, without an answer.
	again bool
	// found is the row that answers, as it is after the statement; nil for none.
	found   *row
	granted bool
}

func (c *claimCall) args() []any {
	req := c.req
	return []any{
		req.Key[:], req.Nonce[:], microseconds(req.Lease), microseconds(req.Tombstone),
		req.Retry, int64(min(req.Waited, math.MaxInt64)), c.room,
		int64(req.Fingerprint.Rule), sumOrNull(req.Fingerprint), []byte(req.Scope), []byte(req.ID),
	}
}

// take reads a row of the statement's answer.
func (c *claimCall) take(found *row, granted bool) { c.found, c.granted = found, granted }

// scanClaim reads a row of the answer to a claim's statement, and more of what
// comes after it.
func scanClaim(scan scanner, more ...any) (found *row, granted bool, err error) {
	found = &row{}
	var prompt int
	err = scan(append(append(found.fields(), &granted, &prompt), more...)...)
	return found, granted, err
}

// reply is what the caller is told; errRaced when it has to be asked again.
func (c *claimCall) reply() (driver.ClaimReply, error) {
	key := c.req.Key
	if c.found == nil {
		if !c.room {
			return driver.ClaimReply{}, driver.ErrFull
		}
		return driver.ClaimReply{}, errRaced
	}
	if err := c.found.check(key); err != nil {
		return driver.ClaimReply{}, err
	}
	if c.granted {
		// What is left of the lease is more than nothing when it was granted.
		c.found.now = min(c.found.now, c.found.due-1)
		return driver.ClaimReply{Granted: true, Record: c.found.record(key)}, nil
	}
	known := c.found.settle()
	if !known || c.found.decide(c.req) == grant {
		if !c.room {
			return driver.ClaimReply{}, driver.ErrFull
		}
		return driver.ClaimReply{}, errRaced
	}
	if c.found.decide(c.req) == lost {
		return driver.ClaimReply{}, driver.ErrLost
	}
	return driver.ClaimReply{Record: c.found.record(key)}, nil
}

// Claim is described at [driver.Store]. It is one statement, which may be
// shared with the claims of others. A key that is held by a transaction of
// somebody's for longer than Options.ClaimWait is answered as in flight, with
// nothing else known of it.
func (r *records) Claim(ctx context.Context, req driver.ClaimRequest) (reply driver.ClaimReply, err error) {
	if err := r.enter(ctx); err != nil {
		return reply, err
	}
	if err := req.Check(); err != nil {
		return reply, err
	}
	until := time.Now().Add(r.opts.ClaimWait)
	asked := int64(0)
	defer func() { r.bound.done(asked) }()
	err = r.insist(ctx, func() error {
		asked++
		room, err := r.bound.room(ctx, r)
		if err != nil {
			return err
		}
		c := &claimCall{req: &req, room: room, again: asked > 1}
		err = r.ask(ctx, c)
		if code(err) == codeLockTimeout {
			if reply, err = r.claimApart(ctx, c, until); err != nil {
				return err
			}
			return nil
		}
		if err != nil {
			return err
		}
		reply, err = c.reply()
		return err
	})
	if err != nil {
		return driver.ClaimReply{}, err
	}
	return reply, nil
}

// ask sends a claim, with those of others where there are some.
func (r *records) ask(ctx context.Context, c *claimCall) error {
	if r.turns.taken(c.req.Key) {
		return errHeld
	}
	if r.group != nil {
		return r.group.claim(ctx, c)
	}
	return r.claimAlone(ctx, c, groupWait)
}

// claimQuick asks for a claim in the way that is mostly the quickest.
func (r *records) claimQuick(ctx context.Context, q querier, c *claimCall) error {
	c.take(nil, false)
	return q.query(ctx, statement{r.text.claimQuick, c.args()}, c.scanQuick)
}

func (c *claimCall) scanQuick(scan scanner) error {
	var prompt int
	var numbers []int64
	var parts [][]byte
	found := &row{key: c.req.Key[:]}
	if err := scan(&prompt, &found.token, &found.attempt, &found.since, &found.due, &numbers, &parts); err != nil {
		return err
	}
	granted := numbers == nil
	if granted {
		found.format, found.kind, found.tombstone = format, inFlight, microseconds(c.req.Tombstone)
		found.nonce, found.scope, found.id = c.req.Nonce[:], []byte(c.req.Scope), []byte(c.req.ID)
		found.rule, found.sum = int64(c.req.Fingerprint.Rule), c.req.Fingerprint.Sum[:]
		// The clock was read for each of both columns.
		found.now = found.due - microseconds(c.req.Lease)
	} else if !found.unpack(numbers, parts) {
		return errNoRow
	}
	c.take(found, granted)
	return nil
}

func (r *records) claimAlone(ctx context.Context, c *claimCall, wait time.Duration) error {
	c.found, c.granted = nil, false
	return r.db.query(ctx, statement{r.text.claim, append(c.args(), milliseconds(wait))}, func(scan scanner) error {
		found, granted, err := scanClaim(scan)
		c.take(found, granted)
		return err
	})
}

// claimApart asks for a key that somebody's transaction holds: one caller at a
// time, so that they do not take all connections.
func (r *records) claimApart(ctx context.Context, c *claimCall, until time.Time) (reply driver.ClaimReply, err error) {
	held := driver.ClaimReply{Record: heldRecord(c.req.Key)}
	done, ok, err := r.turns.take(ctx, r.closing, c.req.Key, time.Until(until))
	if err != nil {
		return reply, err
	}
	if !ok {
		return held, nil
	}
	defer done()
	err = r.claimAlone(ctx, c, time.Until(until))
	if code(err) == codeLockTimeout && !time.Now().Before(until) {
		return held, nil
	}
	if err != nil {
		return reply, err
	}
	return c.reply()
}

// heldRecord is what is told of a key that another's open transaction holds:
// nobody outside can see what is in it.
func heldRecord(key driver.Key) driver.Record {
	return driver.Record{Key: key, State: driver.StateInFlight, Left: time.Second}
}

// errHeld says that a key is known to be held by a transaction, as if the
// server had said so.
var errHeld error = &codedError{codeLockTimeout, "pgstore: a transaction holds the key"}

var errNoRow = errors.New("pgstore: the server answered with no row")
