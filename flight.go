package idem

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/idem-go/idem/driver"
)

// A flight is a key that some caller in this process is busy with: its leader
// asks the store, and the others wait for what becomes of it. It is represented
// by the leader's Claim, from before the claim is granted until it has ended,
// so that a claim costs no second object.

const flightShards = 64

type flightShard struct {
	mu      sync.Mutex
	flights map[driver.Key]*Claim
	_       [40]byte // keeps neighbours off one cache line
}

type phase uint8

const (
	// phaseClaiming: the leader asks the store; what there is, is not known.
	phaseClaiming phase = iota
	// phaseWatching: the claim is held elsewhere, and the leader waits for it.
	phaseWatching
	// phaseRunning: the leader holds the claim.
	phaseRunning
	// phaseSaving: the work is over, and the store did not take its end yet.
	phaseSaving
	// phaseInTx: the leader's work runs in a transaction with its record.
	phaseInTx
	// phaseEnded: the flight is no longer in the map.
	phaseEnded
)

// flightEnd is what followers learn from a flight's end. The zero value says:
// look again.
type flightEnd struct {
	record *driver.Record
	answer any
	err    error
}

func (g *Guard) shard(key driver.Key) *flightShard {
	return &g.shards[key[0]%flightShards]
}

// enter joins the key's flight, or opens one and leads it.
func (g *Guard) enter(key driver.Key) (c *Claim, leads bool) {
	s := g.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.flights[key]; c != nil {
		c.joined = true
		return c, false
	}
	c = g.pool.Get().(*Claim)
	c.key = key
	s.flights[key] = c
	g.claims.Add(1)
	return c, true
}

// settle ends a flight and wakes its followers. A second call does nothing.
func (g *Guard) settle(c *Claim, end flightEnd) {
	s := g.shard(c.key)
	s.mu.Lock()
	ended := c.phase == phaseEnded
	granted := c.token != 0
	if !ended {
		c.phase, c.end = phaseEnded, end
		delete(s.flights, c.key)
		c.signal()
	}
	reusable := !ended && !granted && !c.joined && c.callCtx.reusable()
	s.mu.Unlock()
	if ended {
		return
	}
	g.claims.Add(-1)
	if reusable {
		*c = Claim{}
		g.pool.Put(c)
	}
}

// signal wakes the followers; the shard is held.
func (c *Claim) signal() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

func (c *Claim) wasJoined() bool {
	s := c.guard.shard(c.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.joined
}

// watchFrom tells the followers what the leader waits for.
func (g *Guard) watchFrom(c *Claim, rec *driver.Record) {
	s := g.shard(c.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.phase = phaseWatching
	c.watched = rec.Token
	c.recorded = rec.Fingerprint
	c.began = time.Now().Add(-rec.Age)
	c.signal()
}

// follow waits for what becomes of another caller's flight.
func (g *Guard) follow(ctx context.Context, c *Claim, req *Request, pol *Policy, w *waiting) (b Begun, again bool, err error) {
	if g.waiters.Add(1) > int64(g.opts.MaxWaiters) {
		g.waiters.Add(-1)
		return Begun{}, false, fmt.Errorf("%w: %d callers wait", ErrOverloaded, g.opts.MaxWaiters)
	}
	s := g.shard(c.key)
	s.mu.Lock()
	full := c.waiters >= g.opts.MaxWaitersPerKey
	if !full {
		c.waiters++
	}
	s.mu.Unlock()
	if full {
		g.waiters.Add(-1)
		return Begun{}, false, fmt.Errorf("%w: %d callers wait for this key", ErrOverloaded, g.opts.MaxWaitersPerKey)
	}
	defer func() {
		s.mu.Lock()
		c.waiters--
		s.mu.Unlock()
		g.waiters.Add(-1)
	}()
	var timer *time.Timer
	late := false
	for first := true; ; first = false {
		s.mu.Lock()
		now := c.phase
		end, recorded, began, saving := c.end, c.recorded, c.began, c.saving
		if now != phaseClaiming && now != phaseEnded {
			w.token = max(c.token, c.watched)
		}
		var releasing bool
		var answer any
		if now == phaseSaving && c.ending.kind == endRelease {
			releasing, answer = true, c.ending.answer
			// Who comes only now has not waited for that answer.
			late = late || first
		}
		var changed chan struct{}
		if now != phaseEnded {
			if c.changed == nil {
				c.changed = make(chan struct{})
			}
			changed = c.changed
		}
		s.mu.Unlock()

		if now == phaseEnded {
			return g.landed(end, recorded, req, pol)
		}
		var limit <-chan time.Time
		if now != phaseClaiming {
			if err := sameRequest(recorded, req); err != nil {
				return Begun{}, false, err
			}
			w.waited = true
			if answer != nil && !late {
				return Begun{Shared: answer}, false, nil
			}
			left := time.Until(w.since.Add(pol.Wait))
			if pol.Wait < 0 {
				left = 0
			}
			refusal := error(&InFlightError{Age: time.Since(began)})
			if now == phaseSaving && !releasing {
				if l := time.Until(saving.Add(pol.SaveWait)); l < left {
					left, refusal = l, ErrUnsaved
				}
			}
			if left <= 0 {
				return Begun{}, false, refusal
			}
			if timer == nil {
				timer = time.NewTimer(left)
				defer timer.Stop()
			} else {
				timer.Reset(left)
			}
			limit = timer.C
		}
		select {
		case <-changed:
		case <-limit:
		case <-ctx.Done():
			return Begun{}, false, ctx.Err()
		case <-g.closing:
			return Begun{}, false, ErrClosed
		}
	}
}

// landed turns a flight's end into a follower's answer. What a claim was
// released with is for those who asked for the same; others look again, since
// the release has forgotten what the key was for.
func (g *Guard) landed(end flightEnd, recorded Fingerprint, req *Request, pol *Policy) (b Begun, again bool, err error) {
	switch {
	case end.answer != nil && sameRequest(recorded, req) != nil:
		return Begun{}, true, nil //nolint:nilerr // asking again tells what the key is for now
	case end.answer != nil:
		return Begun{Shared: end.answer}, false, nil
	case end.err != nil:
		return Begun{}, false, end.err
	case end.record != nil:
		turn, b, err := g.read(end.record, req, pol)
		return b, turn != turnAnswer, err
	}
	return Begun{}, true, nil
}
