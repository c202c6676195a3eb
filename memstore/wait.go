package memstore

import (
	"context"
	"time"

	"github.com/idem-go/idem/driver"
)

// Wait is described at [driver.Waiter]. No notification is lost, and none
// comes early but when a lease is made shorter. A claim that was never granted
// counts as ended.
func (s *Store) Wait(ctx context.Context, ref driver.Ref) error {
	var timer *time.Timer
	for {
		if err := s.enter(ctx); err != nil {
			return err
		}
		done, left := s.watch(ref)
		if done == nil {
			return nil
		}
		if timer == nil {
			timer = time.NewTimer(left)
			defer timer.Stop()
		} else {
			timer.Reset(left)
		}
		select {
		case <-done:
			return nil
		case <-timer.C: // unless it has been renewed, the lease has ended
		case <-s.closing:
			return driver.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watch returns what is closed when a claim ends, and what is left of its
// lease; nil when it has ended.
func (s *Store) watch(ref driver.Ref) (done <-chan struct{}, left time.Duration) {
	sh := s.shardOf(ref.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	h, err := s.owned(sh, ref, now)
	if err != nil || h.kind != inFlight {
		return nil, 0
	}
	r := h.full.extra()
	if r.done == nil {
		r.done = make(chan struct{})
	}
	return r.done, time.Duration(h.due - now)
}
