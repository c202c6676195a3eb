package redisstore

import (
	"context"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
)

// waiters are those who wait in this process. All share one subscription.
type waiters struct {
	mu      sync.Mutex
	started bool
	waiting map[driver.Key]*waited
}

// waited is a key that somebody waits for.
type waited struct {
	// ended is closed, and replaced, when a claim of the key has ended.
	ended chan struct{}
	count int
}

func (w *waiters) init() { w.waiting = map[driver.Key]*waited{} }

// join begins to wait for a key.
func (w *waiters) join(key driver.Key) *waited {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.waiting[key]
	if e == nil {
		e = &waited{ended: make(chan struct{})}
		w.waiting[key] = e
	}
	e.count++
	return e
}

func (w *waiters) leave(key driver.Key, e *waited) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.count--; e.count == 0 {
		delete(w.waiting, key)
	}
}

// next is closed at the next end of a claim of the key.
func (w *waiters) next(e *waited) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return e.ended
}

func (w *waiters) wake(key driver.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.waiting[key]; e != nil {
		close(e.ended)
		e.ended = make(chan struct{})
	}
}

// wakeAll makes everybody look again.
func (w *waiters) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.waiting {
		close(e.ended)
		e.ended = make(chan struct{})
	}
}

// Wait is described at [driver.Waiter]. The end of a claim is published by the
// server to all processes that wait; each looks again at the end of the lease,
// and each Options.PollEvery. A claim that was never granted counts as ended.
func (s *Store) Wait(ctx context.Context, ref driver.Ref) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.subscribe()
	e := s.waiters.join(ref.Key)
	defer s.waiters.leave(ref.Key, e)
	record, _ := s.layout.keys(&ref.Key)
	look := step{&s.scripts.watch, []string{record}, []string{tokenText(ref.Token)}}
	for first := true; ; first = false {
		// First the channel and then the look, so that no end is in between.
		ended := s.waiters.next(e)
		m, err := s.run(ctx, &look, false)
		left := int64(never)
		switch {
		case err == nil:
			if left, err = m.ToInt64(); err != nil {
				return errNonsense
			}
		case first || ctx.Err() != nil || s.closed.Load():
			return unreadable(err, ref.Key)
		default:
			// The server is away for a while, such as for a failover.
		}
		if left <= 0 {
			return nil
		}
		t := time.NewTimer(min(span(left)+time.Millisecond, s.opts.PollEvery))
		select {
		case <-ended:
		case <-t.C:
		case <-s.closing:
			t.Stop()
			return driver.ErrClosed
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		t.Stop()
	}
}

// subscribe starts the subscription at the first Wait.
func (s *Store) subscribe() {
	w := &s.waiters
	w.mu.Lock()
	first := !w.started
	w.started = true
	w.mu.Unlock()
	if first && s.begin() {
		go s.listen()
	}
}

// listen hears of ends of claims until the store is closed. What was published
// while it did not hear is made up for by a look of everybody who waits.
func (s *Store) listen() {
	defer s.running.Done()
	ctx, cancel := s.untilClosed()
	defer cancel()
	ctx = rueidis.WithOnSubscriptionHook(ctx, func(rueidis.PubSubSubscription) { s.waiters.wakeAll() })
	said := false
	for try := 1; ctx.Err() == nil; try = min(try+1, tries) {
		err := s.client.Receive(ctx, s.client.B().Subscribe().Channel(s.layout.channel()).Build(), func(m rueidis.PubSubMessage) {
			try = 1
			var key driver.Key
			if len(m.Message) == len(key) {
				copy(key[:], m.Message)
				s.waiters.wake(key)
			}
		})
		if _, refused := rueidis.IsRedisErr(err); refused && !said {
			said = true
			s.opts.Logger.WarnContext(ctx, "redisstore: whoever waits for a claim polls, since the server lets nobody subscribe", "error", explain(ctx, err))
		}
		s.pause(ctx, try)
	}
}
