package idem

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/idem-go/idem/driver"
)

// watch waits until the claim of ref may have ended, or it is time to look
// again: polling is the safety net under the store's own notification.
func (g *Guard) watch(ctx context.Context, ref driver.Ref, until time.Time, n int) error {
	began := time.Now()
	d := min(backoff(n), until.Sub(began))
	if g.waiter == nil {
		return pause(ctx, g.closing, d)
	}
	wctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	err := g.waiter.Wait(wctx, ref)
	switch {
	case isClosed(g.closing):
		return ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	case wctx.Err() != nil:
		return nil
	case err != nil, n > 2 && time.Since(began) < 10*time.Millisecond:
		// A store that cannot wait, or one that says so again and again.
		return pause(ctx, g.closing, min(backoff(0), time.Until(until)))
	}
	return nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// backoff returns how long to wait before the n-th repeat: 50 ms, doubling to
// one second, less up to a fifth at random.
func backoff(n int) time.Duration {
	d := min(50*time.Millisecond<<min(n, 10), time.Second)
	return d - time.Duration(rand.Int64N(int64(d)/5))
}

// pause waits for d. It gives the context's error when that ends first, and
// ErrClosed when the guard is closed.
func pause(ctx context.Context, closing <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-closing:
		return ErrClosed
	}
}
