package natsstore

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/idem-go/idem/driver"
)

// The server publishes the header of each record again once it is stored, under
// this prefix: whoever waits for a key subscribes to its subject. That costs the
// server one line for a key that is waited for, and others nothing.
func notifyPrefix(bucket string) string { return "idem." + bucket + "." }

// waits are the keys that are waited for, each looked at by one goroutine for all
// who wait for it.
type waits struct {
	mu   sync.Mutex
	keys map[driver.Key]*watch
	done sync.WaitGroup
}

// watch is a key that is waited for.
type watch struct {
	waiters int
	stop    context.CancelFunc
	// look asks for a look at once.
	look chan struct{}
	// Looks are numbered: begun is the last that has begun, shown the last whose
	// finding is here. Token is that of the claim that was in flight then, 0 for
	// none.
	begun, shown uint64
	token        uint64
	// news is closed, and made anew, when there is another finding.
	news chan struct{}
}

// Wait is described at [driver.Waiter]. It hears of an end from the server, and
// looks now and then in case it does not.
func (s *Store) Wait(ctx context.Context, ref driver.Ref) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	w, since := s.join(ref.Key)
	if w == nil {
		return driver.ErrClosed
	}
	defer s.leave(ref.Key, w)
	for {
		s.waits.mu.Lock()
		news, other := w.news, w.shown == 0 || w.token != ref.Token
		fresh := w.shown > since
		if other && !fresh {
			// What was found before may be older than the claim.
			select {
			case w.look <- struct{}{}:
			default:
			}
		}
		s.waits.mu.Unlock()
		if other && fresh {
			return nil
		}
		select {
		case <-news:
		case <-s.closing:
			return driver.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// join adds one who waits for a key, and returns the number of the last look that
// had begun by then; nil when the store is closed.
func (s *Store) join(key driver.Key) (w *watch, since uint64) {
	s.waits.mu.Lock()
	defer s.waits.mu.Unlock()
	if s.life.Err() != nil {
		return nil, 0
	}
	if w := s.waits.keys[key]; w != nil {
		w.waiters++
		return w, w.begun
	}
	ctx, cancel := context.WithCancel(s.life)
	w = &watch{waiters: 1, stop: cancel, look: make(chan struct{}, 1), news: make(chan struct{})}
	if s.waits.keys == nil {
		s.waits.keys = make(map[driver.Key]*watch)
	}
	s.waits.keys[key] = w
	s.waits.done.Go(func() { s.watch(ctx, key, w) })
	return w, 0
}

func (s *Store) leave(key driver.Key, w *watch) {
	s.waits.mu.Lock()
	defer s.waits.mu.Unlock()
	if w.waiters--; w.waiters == 0 {
		w.stop()
		delete(s.waits.keys, key)
	}
}

// watch looks at a key until nobody waits for it: whenever it is heard of, at the
// end of the lease, and every now and then.
func (s *Store) watch(ctx context.Context, key driver.Key, w *watch) {
	// Without the subscription, should it be refused, there is the looking.
	sub, err := s.nc.Subscribe(notifyPrefix(s.opts.Bucket)+"r."+key.String(), func(*nats.Msg) {
		select {
		case w.look <- struct{}{}:
		default:
		}
	})
	if err == nil {
		defer func() { _ = sub.Unsubscribe() }() // the connection may be gone
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.look:
		case <-timer.C:
		}
		next := s.opts.PollEvery/2 + rand.N(s.opts.PollEvery)
		s.waits.mu.Lock()
		w.begun++
		s.waits.mu.Unlock()
		rec, err := s.Lookup(ctx, key)
		switch {
		case err == nil && rec.State == driver.StateInFlight:
			s.found(w, rec.Token)
			next = min(next, rec.Left)
		case err == nil || !unanswered(err):
			// Whoever waits sees an error when it looks itself.
			s.found(w, 0)
		}
		timer.Reset(next)
	}
}

// found tells those who wait what has been found.
func (s *Store) found(w *watch, token uint64) {
	s.waits.mu.Lock()
	defer s.waits.mu.Unlock()
	w.token, w.shown = token, w.begun
	close(w.news)
	w.news = make(chan struct{})
}
