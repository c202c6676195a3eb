package pgstore

import (
	"context"
	"sync"
	"time"

	"github.com/idem-go/idem/driver"
)

// turns lets one caller of this process at a time wait at the server for a key
// that a transaction holds: the others wait here, where it costs no connection.
type turns struct {
	mu   sync.Mutex
	keys map[driver.Key]*turn
}

type turn struct {
	// free holds one token while it is nobody's turn.
	free chan struct{}
	// takers have it or wait for it.
	takers int
}

// taken reports that somebody has the key's turn.
func (t *turns) taken(key driver.Key) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.keys[key] != nil
}

// take waits for the key's turn for at most wait, and gives it back by done. It
// is not ok when that time is over; with none left it does not wait.
func (t *turns) take(ctx context.Context, closing <-chan struct{}, key driver.Key, wait time.Duration) (done func(), ok bool, err error) {
	t.mu.Lock()
	if t.keys == nil {
		t.keys = map[driver.Key]*turn{}
	}
	mine := t.keys[key]
	if mine == nil {
		mine = &turn{free: make(chan struct{}, 1)}
		mine.free <- struct{}{}
		t.keys[key] = mine
	}
	mine.takers++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if mine.takers--; mine.takers == 0 {
			delete(t.keys, key)
		}
	}
	done = func() {
		mine.free <- struct{}{}
		leave()
	}
	select {
	case <-mine.free:
		return done, true, nil
	default:
	}
	if wait <= 0 {
		leave()
		return nil, false, nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-mine.free:
		return done, true, nil
	case <-timer.C:
		leave()
		return nil, false, nil
	case <-ctx.Done():
		leave()
		return nil, false, ctx.Err()
	case <-closing:
		leave()
		return nil, false, driver.ErrClosed
	}
}
