package mysqlstore

import (
	"context"
	"encoding/hex"
	"strings"
	"sync"
	"time"

	"github.com/idem-go/idem/driver"
)

// Wait is described at [driver.Waiter]. The server does not notify: one
// goroutine of the store, while somebody waits, looks at all claims that are
// waited for, in one query each time (see [Options.PollEvery]). A claim that
// this store itself ends wakes its waiters at once.
func (s *Store) Wait(ctx context.Context, ref driver.Ref) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	done := s.waiters.add(ref)
	defer s.waiters.remove(ref, done)
	select {
	case <-done:
		return nil
	case <-s.closing:
		return driver.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waiters are those who wait for claims.
type waiters struct {
	store *Store
	mu    sync.Mutex
	// byKey has what is closed when a claim has ended, by its key and token.
	byKey map[driver.Key]map[uint64]*waited
	// polling says that the goroutine runs; fresh, that a claim was added since it
	// last looked.
	polling bool
	fresh   chan struct{}
}

// waited is a claim that somebody waits for.
type waited struct {
	done  chan struct{}
	count int
}

func (w *waiters) add(ref driver.Ref) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	tokens := w.byKey[ref.Key]
	if tokens == nil {
		if w.byKey == nil {
			w.byKey = map[driver.Key]map[uint64]*waited{}
			w.fresh = make(chan struct{}, 1)
		}
		tokens = map[uint64]*waited{}
		w.byKey[ref.Key] = tokens
	}
	c := tokens[ref.Token]
	if c == nil {
		c = &waited{done: make(chan struct{})}
		tokens[ref.Token] = c
	}
	c.count++
	if !w.polling {
		w.polling = true
		w.store.start(w.poll)
	}
	select {
	case w.fresh <- struct{}{}:
	default:
	}
	return c.done
}

// remove is told by each who has waited.
func (w *waiters) remove(ref driver.Ref, done <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.byKey[ref.Key][ref.Token]
	if c == nil || c.done != done {
		return
	}
	if c.count--; c.count == 0 {
		w.forget(ref.Key, ref.Token)
	}
}

func (w *waiters) forget(key driver.Key, token uint64) {
	delete(w.byKey[key], token)
	if len(w.byKey[key]) == 0 {
		delete(w.byKey, key)
	}
}

// ended wakes those who wait for claims of a key with tokens below one.
func (w *waiters) ended(key driver.Key, below uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for token := range w.byKey[key] {
		if token < below {
			w.wake(key, token)
		}
	}
}

func (w *waiters) wake(key driver.Key, token uint64) {
	close(w.byKey[key][token].done)
	w.forget(key, token)
}

// keysAtOnce is how many keys one query is about.
const keysAtOnce = 500

// lookPatience is how long an answer is waited for before another connection is
// asked.
const lookPatience = 10 * time.Second

// pollGrowth is how many times as long the pauses become.
const pollGrowth = 10

// poll looks at all claims that are waited for, until nobody waits.
func (w *waiters) poll() {
	every := w.store.opts.PollEvery
	pause := every
	for {
		keys := w.keys()
		if keys == nil {
			return
		}
		next := pollGrowth * every
		woken := false
		for len(keys) > 0 {
			n := min(len(keys), keysAtOnce)
			ended, soonest, err := w.look(keys[:n])
			woken = woken || ended
			if err == nil {
				next = min(next, soonest)
			}
			keys = keys[n:]
		}
		if woken {
			pause = every
		}
		timer := time.NewTimer(max(min(pause, next), every/4))
		pause = min(pause+pause/4, pollGrowth*every)
		select {
		case <-timer.C:
		case <-w.fresh:
			pause = every
		case <-w.store.closing:
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// keys returns the keys that are waited for; nil, once, when there is none, and
// the goroutine ends.
func (w *waiters) keys() []driver.Key {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.byKey) == 0 {
		w.polling = false
		return nil
	}
	keys := make([]driver.Key, 0, len(w.byKey))
	for k := range w.byKey {
		keys = append(keys, k)
	}
	return keys
}

// look wakes those whose claims have ended among the keys, and returns what is
// left of the lease that ends first. A claim that nothing is known of has ended.
func (w *waiters) look(keys []driver.Key) (ended bool, soonest time.Duration, err error) {
	asked := map[driver.Key][]uint64{}
	w.mu.Lock()
	for _, k := range keys {
		for token := range w.byKey[k] {
			asked[k] = append(asked[k], token)
		}
	}
	w.mu.Unlock()
	type flight struct {
		token uint64
		left  int64
	}
	live := map[driver.Key]flight{}
	ctx, cancel := context.WithTimeout(w.store.life, lookPatience)
	defer cancel()
	rows, err := w.store.db.QueryContext(ctx, `SELECT hash, token, due - `+clock+` FROM `+w.store.tables.records+
		` WHERE hash IN (`+hexList(keys)+`) AND format = 1 AND kind = 1 AND due > `+clock)
	if err != nil {
		return false, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var hash []byte
		var f flight
		if err := rows.Scan(&hash, &f.token, &f.left); err != nil {
			return false, 0, err
		}
		live[driver.Key(hash)] = f
	}
	if err := rows.Err(); err != nil {
		return false, 0, err
	}
	soonest = time.Hour
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, tokens := range asked {
		f := live[k]
		for _, token := range tokens {
			if token == f.token {
				soonest = min(soonest, duration(f.left))
				continue
			}
			if w.byKey[k][token] != nil {
				w.wake(k, token)
				ended = true
			}
		}
	}
	return ended, soonest, nil
}

// hexList writes keys as a list of binary literals: 64 digits each and nothing
// else, whatever the bytes are.
func hexList(keys []driver.Key) string {
	var b strings.Builder
	for i, k := range keys {
		if i > 0 {
			b.WriteString(`, `)
		}
		b.WriteString(`x'` + hex.EncodeToString(k[:]) + `'`)
	}
	return b.String()
}
