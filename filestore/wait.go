package filestore

import (
	"context"
	"time"

	"github.com/idem-go/idem/driver"
)

// Wait is described at [driver.Waiter]. No notification is lost, and none comes
// early but when a lease is made shorter. A claim that was never granted counts
// as ended. A failed write ends it with an error that wraps [ErrStopped].
func (s *Store) Wait(ctx context.Context, ref driver.Ref) error {
	var timer *time.Timer
	for {
		if err := s.refused(ctx); err != nil {
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
		case <-s.failed:
			return s.stopped()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watch returns what is closed when a claim ends, and what is left of its
// lease; nil when it has ended.
func (s *Store) watch(ref driver.Ref) (done <-chan struct{}, left time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries.all[ref.Key]
	if e == nil {
		return nil, 0
	}
	now := s.clock.now()
	s.entries.settle(e, now)
	if e.kind != inFlight || e.token != ref.Token {
		return nil, 0
	}
	if e.done == nil {
		e.done = make(chan struct{})
	}
	return e.done, time.Duration(e.due - now)
}
