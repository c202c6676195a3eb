package sqlitestore

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idem-go/idem/driver"
)

// waits are those who wait for claims to end. What this store ends they are told
// by its units; what another process, or a transaction of the application's, ends
// is found by the poller: one for the whole store, which runs while anybody waits,
// and looks at the records only when something has been written.
type waits struct {
	s       *Store
	mu      sync.Mutex
	byKey   map[driver.Key][]*watch
	polling bool
}

// watch is one who waits.
type watch struct {
	ref   driver.Ref
	ended chan struct{}
	once  sync.Once
	// due is when the lease ends, as it was last read.
	due atomic.Int64
}

func (w *watch) wake() { w.once.Do(func() { close(w.ended) }) }

func (ws *waits) init(s *Store) { ws.s, ws.byKey = s, map[driver.Key][]*watch{} }

// Wait is described at [driver.Waiter]. A claim that was never granted counts as
// ended.
func (s *Store) Wait(ctx context.Context, ref driver.Ref) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	w, err := s.waits.add(ref)
	if err != nil {
		return err
	}
	defer s.waits.remove(w)
	// Only now, so that what ends between this look and the wait is noticed.
	for {
		r, now, err := s.read(ctx, ref.Key)
		if err != nil {
			return err
		}
		if r.owned(ref.Token) != inFlight {
			return nil
		}
		w.due.Store(r.due)
		end := time.NewTimer(time.Duration(r.due - now))
		select {
		case <-w.ended:
			end.Stop()
			return s.enter(ctx)
		case <-end.C: // unless it has been renewed, the lease has ended
		case <-s.life.Done():
			end.Stop()
			return driver.ErrClosed
		case <-ctx.Done():
			end.Stop()
			return ctx.Err()
		}
	}
}

func (ws *waits) add(ref driver.Ref) (*watch, error) {
	w := &watch{ref: ref, ended: make(chan struct{})}
	w.due.Store(maxTime)
	ws.s.mu.Lock() // so that no goroutine begins after Close
	defer ws.s.mu.Unlock()
	if ws.s.closed {
		return nil, driver.ErrClosed
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.byKey[ref.Key] = append(ws.byKey[ref.Key], w)
	if !ws.polling {
		ws.polling = true
		ws.s.running.Go(ws.poll)
	}
	return w, nil
}

func (ws *waits) remove(w *watch) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	all := ws.byKey[w.ref.Key]
	for i := range all {
		if all[i] == w {
			all[i] = all[len(all)-1]
			all[len(all)-1] = nil
			all = all[:len(all)-1]
			break
		}
	}
	if len(all) == 0 {
		delete(ws.byKey, w.ref.Key)
		return
	}
	ws.byKey[w.ref.Key] = all
}

// wake tells all who wait for a claim on one of the keys.
func (ws *waits) wake(keys []driver.Key) {
	if len(keys) == 0 {
		return
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, k := range keys {
		for _, w := range ws.byKey[k] {
			w.wake()
		}
	}
}

func (ws *waits) wakeAll() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, all := range ws.byKey {
		for _, w := range all {
			w.wake()
		}
	}
}

// poll looks until nobody waits any more.
func (ws *waits) poll() {
	last := int64(-1)
	t := time.NewTicker(ws.s.set.PollEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ws.s.life.Done():
			return
		}
		// First the count: whoever is in the list after it was read, and began to
		// wait before something was written, is looked at.
		var writes int64
		err := ws.s.stmts.writes.QueryRowContext(ws.s.life).Scan(&writes)
		if err != nil {
			writes = -1 // a busy database, say: the next round looks at all
		}
		watched, some := ws.watched()
		if !some {
			return
		}
		if err != nil {
			continue
		}
		now := ws.s.now()
		for len(watched) > 0 {
			n := min(batch, len(watched))
			some := watched[:n]
			watched = watched[n:]
			if writes == last && !anyDue(some, now) {
				continue
			}
			if ws.look(some, now) != nil {
				writes = -1
				break
			}
		}
		last = writes
	}
}

func anyDue(all []*watch, now int64) bool {
	for _, w := range all {
		if w.due.Load() <= now {
			return true
		}
	}
	return false
}

// watched returns who waits; some is false when nobody does, and the poller must
// end.
func (ws *waits) watched() (all []*watch, some bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, w := range ws.byKey {
		all = append(all, w...)
	}
	ws.polling = len(all) > 0
	return all, ws.polling
}

// look wakes those whose claims are in flight no more, or whose leases seem to have
// ended.
func (ws *waits) look(some []*watch, now int64) error {
	keys := make([]any, batch)
	for i := range keys {
		keys[i] = some[min(i, len(some)-1)].ref.Key[:]
	}
	rows, err := ws.s.stmts.watched.QueryContext(ws.s.life, keys...)
	if err != nil {
		return err
	}
	defer rows.Close()
	held := map[driver.Ref]bool{}
	for rows.Next() {
		var key []byte
		var ref driver.Ref
		var token int64
		if err := rows.Scan(&key, &token); err != nil {
			return err
		}
		copy(ref.Key[:], key)
		ref.Token = uint64(token)
		held[ref] = true
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, w := range some {
		if !held[w.ref] || w.due.Load() <= now {
			w.wake()
		}
	}
	return nil
}
