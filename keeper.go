package idem

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/idem-go/idem/driver"
)

// keeper renews the claims of a guard. One goroutine looks after all of them:
// it scans the flights when the next one is due, and ends when there is none,
// so that a claim costs no goroutine and no timer.
type keeper struct {
	guard *Guard
	wake  chan struct{}

	// tasks are the keeper's goroutines.
	tasks sync.WaitGroup

	mu      sync.Mutex
	running bool
	stopped bool
	// next is when the claim that is due first must be looked at; never, while
	// a scan has not found out yet.
	next time.Time
}

// maxRenewals bounds the renewals that wait for the store at once.
const maxRenewals = 64

// due returns when the keeper must look at the claim; the shard is held.
func (c *Claim) due() time.Time {
	overrun := c.began.Add(c.policy.MaxRun)
	if c.phase == phaseRunning && overrun.Before(c.renewAt) {
		return overrun
	}
	return c.renewAt
}

// expect tells the keeper that a claim is due at t.
func (k *keeper) expect(t time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stopped {
		return
	}
	if !k.running {
		k.running, k.next = true, t
		k.tasks.Go(func() { k.run(t) })
		return
	}
	if t.Before(k.next) {
		k.next = t
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
}

// stop waits for the keeper's goroutines, which the guard's closing has told.
func (k *keeper) stop() {
	k.mu.Lock()
	k.stopped = true
	k.mu.Unlock()
	k.tasks.Wait()
}

func (k *keeper) run(next time.Time) {
	never := next.AddDate(100, 0, 0)
	slots := make(chan struct{}, maxRenewals)
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-k.wake:
		case <-k.guard.closing:
			return
		}
		k.mu.Lock()
		// Claims that begin during the scan and are missed by it compare their
		// time with this one, and wake the keeper again.
		k.next = never
		k.mu.Unlock()
		next, some := k.scan(slots)
		k.mu.Lock()
		if !some && k.next.Equal(never) {
			k.running = false
			k.mu.Unlock()
			return
		}
		if next.Before(k.next) {
			k.next = next
		}
		timer.Reset(time.Until(k.next))
		k.mu.Unlock()
	}
}

// scan starts what is due and returns when to look again, and whether there
// is anything to look after. What is due soon is renewed now, so that many
// claims that began one after another do not cost a scan each.
func (k *keeper) scan(slots chan struct{}) (next time.Time, some bool) {
	g := k.guard
	now := time.Now()
	next = now.Add(30 * time.Minute)
	var due []*Claim
	for i := range g.shards {
		s := &g.shards[i]
		s.mu.Lock()
		for _, c := range s.flights {
			if c.phase != phaseRunning && c.phase != phaseSaving {
				continue
			}
			some = true
			if c.renewing {
				continue
			}
			at := c.due()
			if !now.Before(at) || !now.Before(c.renewFrom) {
				c.renewing = true
				due = append(due, c)
			} else if at.Before(next) {
				next = at
			}
		}
		s.mu.Unlock()
	}
	for _, c := range due {
		slots <- struct{}{}
		k.tasks.Go(func() {
			defer func() { <-slots }()
			k.look(c)
		})
	}
	return next, some
}

// errLeaseOver is why a claim is lost that the store could not be asked about.
var errLeaseOver = errors.New("its lease ended without the store having been reached")

// look renews a claim, or ends one that ran for too long.
func (k *keeper) look(c *Claim) {
	g := k.guard
	s := g.shard(c.key)
	asked := time.Now()
	s.mu.Lock()
	now := c.phase
	overrun := now == phaseRunning && !asked.Before(c.began.Add(c.policy.MaxRun))
	left := c.leaseEnd.Sub(asked)
	s.mu.Unlock()
	if overrun {
		k.stopRun(c)
		return
	}
	// A store that hangs does not keep it from the work that its lease is over.
	limit := min(g.opts.StoreTimeout, c.policy.Lease)
	if left > 0 {
		limit = min(limit, left)
	}
	err := errLeaseOver
	if left > 0 || now == phaseSaving {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(&c.ctx), limit)
		err = g.store.Renew(ctx, driver.Ref{Key: c.key, Token: c.token}, c.policy.Lease)
		cancel()
	}

	s.mu.Lock()
	c.renewing = false
	answered := time.Now()
	lost := false
	switch {
	case err == nil:
		c.leased(asked)
	case errors.Is(err, driver.ErrLost), errors.Is(err, driver.ErrLapsed):
		lost = true
	default:
		// An ErrCompleted meets a claim that ends this instant.
		c.renewAt = answered.Add(min(c.policy.Lease/10, time.Second))
		c.renewFrom = c.renewAt
		lost = !answered.Before(c.leaseEnd)
	}
	running := c.phase == phaseRunning
	alive := running && !lost || c.phase == phaseSaving
	if lost && !running {
		// Saving goes on: the store decides whether it comes too late.
		c.renewAt = answered.Add(c.policy.Lease / 3)
		c.renewFrom = c.renewAt
	}
	due := c.due()
	s.mu.Unlock()
	if lost && running {
		k.lose(c, err)
	}
	if alive {
		k.expect(due)
	}
}

// lose tells the work that its claim is no longer its own.
func (k *keeper) lose(c *Claim, err error) {
	g := k.guard
	g.opts.Logger.Warn("idem: claim lost while its work runs", "key", c.key.Short(), "route", c.route, "reason", err)
	c.cancel(ErrLost)
	g.settle(c, flightEnd{})
	g.observe(&c.ctx, c, EventLost, c.began, false, ErrLost)
}

// stopRun ends a claim whose work ran for too long: its outcome is unknown,
// unless it completes late all the same.
func (k *keeper) stopRun(c *Claim) {
	g := k.guard
	g.opts.Logger.Warn("idem: work ran longer than max-run; its outcome is unknown", "key", c.key.Short(), "route", c.route, "max_run", c.policy.MaxRun)
	c.cancel(ErrMaxRun)
	for n := 0; ; n++ {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(&c.ctx), g.opts.StoreTimeout)
		err := g.store.Abandon(ctx, driver.Ref{Key: c.key, Token: c.token})
		cancel()
		// The lease ends the claim where the store cannot be told.
		if answered(err) || !time.Now().Before(c.leaseEnd) || pause(context.Background(), g.closing, backoff(n)) != nil {
			break
		}
	}
	g.settle(c, flightEnd{})
	g.observe(&c.ctx, c, EventAbandoned, c.began, false, ErrMaxRun)
}
