// Package load sends HTTP requests as fast as a server answers them, over
// connections that are kept alive, and checks every answer. It speaks just
// enough HTTP/1.1 to be much lighter than what it measures.
package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idem-go/idem/bench/internal/stats"
)

// Keys says which Idempotency-Key the requests carry.
type Keys uint8

const (
	// NoKeys sends none.
	NoKeys Keys = iota
	// FreshKeys sends another with every request.
	FreshKeys
	// RepeatedKeys sends those that were sent before the measurement.
	RepeatedKeys
)

// RepeatedPerConn is how many keys each connection repeats.
const RepeatedPerConn = 64

// Options describe one run.
type Options struct {
	// Addr is the server's host and port.
	Addr string
	// Conns is the number of connections; each has one request under way.
	Conns int
	// Warmup and Duration are how long requests are sent before they are
	// counted, and while.
	Warmup, Duration time.Duration
	// Keys says which keys are sent.
	Keys Keys
	// Replays says that requests with repeated keys must be answered by
	// replays. A server without idem runs them again.
	Replays bool
	// Prefix, 16 hexadecimal digits, tells the keys of one run from another's.
	Prefix string
	// ResponseSize is the length that every answer's body must have, in bytes.
	ResponseSize int64
	// Measuring and Measured, unless nil, are called when the counted part
	// begins and ends, and may take their own measurements.
	Measuring, Measured func()
}

// Result is what one run gave.
type Result struct {
	// Counted is the number of answers in the counted part, which took Elapsed.
	Counted int64
	Elapsed time.Duration
	// Total is the number of answers in all, those before it included.
	Total int64
	// Latency is of the counted answers.
	Latency *stats.Histogram
}

// Rate returns the answers per second.
func (r *Result) Rate() float64 { return float64(r.Counted) / r.Elapsed.Seconds() }

const (
	phaseWarm int32 = iota
	phaseCount
	phaseStop
)

// Run runs the load. An answer that is not what it must be ends the run with
// an error.
func Run(ctx context.Context, o Options) (*Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var phase atomic.Int32
	var ready, done sync.WaitGroup
	ready.Add(o.Conns) // all of them, before the first may wait for the rest
	clients := make([]*client, o.Conns)
	for i := range clients {
		c := &client{opts: &o, number: i}
		clients[i] = c
		done.Go(func() {
			err := c.dial(ctx)
			if err == nil {
				defer c.close()
				err = c.prepare()
			}
			ready.Done()
			if err == nil {
				ready.Wait()
				err = c.run(&phase)
			}
			if err != nil {
				cancel(fmt.Errorf("load: connection %d: %w", i, err))
			}
		})
	}
	ready.Wait()
	waitFor(ctx, o.Warmup)
	if o.Measuring != nil {
		o.Measuring()
	}
	began := time.Now()
	phase.Store(phaseCount)
	waitFor(ctx, o.Duration)
	phase.Store(phaseStop)
	elapsed := time.Since(began)
	if o.Measured != nil {
		o.Measured()
	}
	done.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	res := &Result{Elapsed: elapsed, Latency: new(stats.Histogram)}
	for _, c := range clients {
		res.Total += c.total
		res.Latency.Merge(&c.latency)
	}
	res.Counted = res.Latency.Count()
	if res.Counted == 0 {
		return nil, errors.New("load: no answer came while they were counted")
	}
	return res, nil
}

// waitFor lets the load run for d, or until it has failed.
func waitFor(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
