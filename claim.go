package idem

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"sync/atomic"
	"time"

	"github.com/idem-go/idem/driver"
)

// Claim is the right to run one operation, held until it is ended by Complete,
// Release or Abandon. Its lease is renewed meanwhile. All methods may be called
// from any goroutine.
//
// Whoever holds a claim must end it, in a deferred call too: a claim that is
// never ended becomes unknown after Policy.MaxRun.
type Claim struct {
	guard     *Guard
	key       driver.Key
	scope, id string
	route     string
	policy    *Policy
	// fingerprint is the request's, by the rule its record was made with.
	fingerprint Fingerprint
	token       uint64
	attempt     int
	callCtx     deadlineContext
	detached    detached
	ctx         claimContext
	cancel      context.CancelCauseFunc
	// holding is set by the holder's call that ends the claim.
	holding atomic.Bool
	ending  ending

	// What follows belongs to the key's shard.
	phase    phase
	joined   bool
	waiters  int
	changed  chan struct{}
	end      flightEnd
	recorded Fingerprint
	watched  uint64
	began    time.Time
	saving   time.Time
	leaseEnd time.Time
	// renewAt is when the claim must be renewed next, renewFrom when it may.
	renewAt   time.Time
	renewFrom time.Time
	renewing  bool
}

// Key returns the operation's key.
func (c *Claim) Key() Key { return Key{Scope: c.scope, ID: c.id} }

// Token returns the claim's fencing token, larger at every grant of the key. A
// system that takes fencing tokens can refuse the writes of an older one.
func (c *Claim) Token() uint64 { return c.token }

// Attempt returns how often the key has been claimed, this claim included; 1
// for the first. Releases and crashes do not reset it.
func (c *Claim) Attempt() int { return c.attempt }

// Context returns the context of the work. It has the values of the context
// given to Begin and not its end: the work outlives a caller that leaves. It is
// cancelled when the claim is lost (cause [ErrLost]), has run for too long
// ([ErrMaxRun]), or has ended ([ErrEnded]). [FromContext] finds the claim in it.
func (c *Claim) Context() context.Context { return &c.ctx }

// Derive returns a key for a call downstream that the operation makes, the
// same at every attempt: a UUID (version 8, RFC 9562) from the operation's key
// and the given name, which tells calls of one operation apart.
func (c *Claim) Derive(name string) string {
	h := sha256.New()
	h.Write([]byte("idem derived key 1\x00"))
	h.Write(c.key[:])
	h.Write([]byte(name))
	var u [16]byte
	copy(u[:], h.Sum(nil))
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	var s [36]byte
	hex.Encode(s[:8], u[:4])
	hex.Encode(s[9:13], u[4:6])
	hex.Encode(s[14:18], u[6:8])
	hex.Encode(s[19:23], u[8:10])
	hex.Encode(s[24:], u[10:])
	s[8], s[13], s[18], s[23] = '-', '-', '-', '-'
	return string(s[:])
}

// grant makes the flight's leader the holder of its claim.
func (g *Guard) grant(ctx context.Context, c *Claim, rec *driver.Record, asked time.Time) {
	c.detached = detached{ctx}
	inner, cancel := context.WithCancelCause(&c.detached)
	c.ctx = claimContext{Context: inner, claim: c}
	c.cancel = cancel
	s := g.shard(c.key)
	s.mu.Lock()
	c.token, c.attempt = rec.Token, rec.Attempt
	c.recorded = c.fingerprint
	c.began = asked
	c.leased(asked)
	c.phase = phaseRunning
	c.signal()
	due := c.due()
	s.mu.Unlock()
	g.keeper.expect(due)
}

// leased notes what a lease that was asked for just then gives; the shard is
// held.
func (c *Claim) leased(asked time.Time) {
	lease := c.policy.Lease
	c.leaseEnd = asked.Add(lease)
	c.renewAt = asked.Add(lease / 3)
	c.renewFrom = asked.Add(lease / 4)
}

// ending is what a claim ends with.
type ending struct {
	kind       endingKind
	completion driver.Completion
	release    driver.Release
	answer     any
	late       bool
}

type endingKind uint8

const (
	endComplete endingKind = iota + 1
	endRelease
	endAbandon
)

// Complete ends the claim: the operation was done and gave res, whose bytes
// may be reused once Complete has returned. A result over Policy.MaxResult, or
// over the store's own limit, is not kept; the record is completed all the
// same.
//
// Nil says that the record is durable, as far as the store is. [ErrUnsaved]
// says that the store did not take it within Policy.SaveWait; saving goes on in
// the background, and nobody may be told of the result as final. [ErrLost] says
// that another was granted the key, and nothing was recorded; [ErrSuperseded],
// that somebody else completed the record with another result. A claim that has
// ended gives [ErrEnded].
func (c *Claim) Complete(res Result) error {
	return c.complete(res, res.Size() > c.policy.MaxResult)
}

// CompleteWithoutResult is Complete for a result that cannot be kept: asking
// again gives [ErrNotStored], and the work is not done again.
func (c *Claim) CompleteWithoutResult() error { return c.complete(Result{}, true) }

func (c *Claim) complete(res Result, dropped bool) error {
	if !c.holding.CompareAndSwap(false, true) {
		return ErrEnded
	}
	if dropped {
		res = Result{}
	}
	c.ending.kind = endComplete
	c.ending.completion = driver.Completion{
		Result: res, Dropped: dropped, Scope: c.scope, ID: c.id, Fingerprint: c.fingerprint,
		Retention: c.policy.Retention, Tombstone: c.policy.Tombstone,
	}
	return c.finish()
}

// Release ends the claim: the operation was not done, and the next caller may
// run it. An answer that is not nil is given to those in this process who
// wait for this claim, as Begun.Shared, so that they do not run in their turn;
// with nil one of them runs at once.
//
// Where the store does not answer, releasing goes on in the background, and
// the error is [ErrUnsaved]; those who wait are given the answer all the same. [ErrLost] says that the record is no longer this
// claim's to release.
func (c *Claim) Release(answer any) error {
	if !c.holding.CompareAndSwap(false, true) {
		return ErrEnded
	}
	c.ending.kind = endRelease
	c.ending.answer = answer
	c.ending.release = driver.Release{Answered: answer != nil, Retention: c.policy.Retention}
	return c.finish()
}

// Abandon ends the claim: whether the operation was done cannot be known. Its
// errors are Release's.
func (c *Claim) Abandon() error {
	if !c.holding.CompareAndSwap(false, true) {
		return ErrEnded
	}
	c.ending.kind = endAbandon
	return c.finish()
}

func (c *Claim) finish() error {
	began := time.Now()
	err := c.tryEnd(began)
	if !answered(err) {
		return c.saveLater(began, err)
	}
	return c.ended(err)
}

// tryEnd asks the store once to end the claim.
func (c *Claim) tryEnd(now time.Time) error {
	g := c.guard
	ref := driver.Ref{Key: c.key, Token: c.token}
	ctx, call := g.call(&c.ctx, &c.callCtx, now, min(g.opts.StoreTimeout, c.policy.SaveWait))
	defer call.end()
	switch e := &c.ending; e.kind {
	case endComplete:
		late, err := g.store.Complete(ctx, ref, e.completion)
		if errors.Is(err, driver.ErrTooLarge) {
			e.completion.Result, e.completion.Dropped = Result{}, true
			late, err = g.store.Complete(ctx, ref, e.completion)
		}
		e.late = late
		return err
	case endRelease:
		return g.store.Release(ctx, ref, e.release)
	default:
		return g.store.Abandon(ctx, ref)
	}
}

// ended closes a claim whose end the store has taken or refused.
func (c *Claim) ended(err error) error {
	g, e := c.guard, &c.ending
	kind := EventLost
	if err == nil {
		switch {
		case e.kind == endRelease:
			kind = EventReleased
		case e.kind == endAbandon:
			kind = EventAbandoned
		case e.late:
			kind = EventLate
			g.opts.Logger.Warn("idem: a result was recorded after its claim had lapsed", "key", c.key.Short(), "route", c.route)
		default:
			kind = EventRan
		}
	}
	err = storeError(err)
	end := flightEnd{}
	if err == nil && e.kind == endRelease {
		end.answer = e.answer
	}
	g.settle(c, end)
	c.cancel(ErrEnded)
	if kind == EventLost {
		g.opts.Logger.Warn("idem: the end of a claim was refused", "key", c.key.Short(), "route", c.route, "reason", err)
	}
	g.observe(&c.ctx, c, kind, c.began, false, err)
	return err
}

// saveLater keeps asking the store to end the claim, renewing it meanwhile.
// The holder asked first when it began.
func (c *Claim) saveLater(began time.Time, cause error) error {
	g := c.guard
	g.opts.Logger.Warn("idem: the store does not take the end of a claim; trying on", "key", c.key.Short(), "route", c.route, "error", cause)
	if r := &c.ending.completion.Result; r.Size() > 0 {
		*r = Result{Meta: append([]byte(nil), r.Meta...), Body: append([]byte(nil), r.Body...)}
	}
	s := g.shard(c.key)
	s.mu.Lock()
	if c.phase == phaseRunning {
		c.phase, c.saving = phaseSaving, began
		c.signal()
	}
	s.mu.Unlock()

	done := make(chan error, 1)
	started := g.background(func() {
		for n := 0; ; n++ {
			if pause(context.Background(), g.closing, backoff(n)) != nil {
				g.settle(c, flightEnd{})
				done <- ErrUnsaved
				return
			}
			if err := c.tryEnd(time.Now()); answered(err) {
				done <- c.ended(err)
				return
			}
		}
	})
	if !started {
		g.settle(c, flightEnd{})
		return ErrUnsaved
	}
	if c.ending.kind != endComplete {
		return ErrUnsaved
	}
	t := time.NewTimer(time.Until(began.Add(c.policy.SaveWait)))
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		g.observe(&c.ctx, c, EventUnsaved, c.began, false, ErrUnsaved)
		return ErrUnsaved
	}
}
