package natsstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// link follows whether the connection is up. Requests under way when it breaks
// get no answer any more, and what is published while it is down would be sent
// when it is back, long after its caller has given up: a claim that nobody
// knows of. So the first are ended at once, and the second are not sent.
type link struct {
	mu sync.Mutex
	// back is closed while the connection is up.
	back chan struct{}
	// lost ends when the connection does.
	lost context.Context
	lose context.CancelFunc
	// since is when the connection went down.
	since time.Time
}

var errDown = errors.New("natsstore: not connected to the server")

func newLink(up bool) *link {
	l := &link{back: make(chan struct{}), since: time.Now()}
	l.lost, l.lose = context.WithCancel(context.Background())
	l.lose()
	l.set(up)
	return l
}

// set takes in whether the connection is up.
func (l *link) set(up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.lost.Err() == nil
	switch {
	case up && !was:
		l.lost, l.lose = context.WithCancel(context.Background())
		close(l.back)
	case !up && was:
		l.lose()
		l.back = make(chan struct{})
		l.since = time.Now()
	}
}

// up returns a context that ends with the connection, once there is one. It
// waits for one only in the first patience of its absence.
func (l *link) up(ctx context.Context, patience time.Duration, closing <-chan struct{}) (context.Context, error) {
	for {
		l.mu.Lock()
		lost, back, since := l.lost, l.back, l.since
		l.mu.Unlock()
		if lost.Err() == nil {
			return lost, nil
		}
		left := patience - time.Since(since)
		if left <= 0 {
			return nil, errDown
		}
		timer := time.NewTimer(left)
		select {
		case <-back:
		case <-timer.C:
		case <-closing:
			timer.Stop()
			return nil, errDown
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		timer.Stop()
	}
}

// follow keeps the link up to date until done ends.
func (l *link) follow(nc *nats.Conn, changed <-chan nats.Status, done <-chan struct{}) {
	for {
		select {
		case _, ok := <-changed:
			if !ok {
				l.set(false)
				return
			}
			l.set(nc.Status() == nats.CONNECTED)
		case <-done:
			return
		}
	}
}
