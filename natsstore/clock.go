package natsstore

import (
	"sync/atomic"
	"time"
)

// clock tells two times. Leases go by the first alone: this process's monotonic
// clock, which nobody can set. Retentions and tombstones, which must mean the
// same in every process, go by the second: the server's clock, as the server
// itself last told it, carried on by the first. The wall clock of this machine
// is never read.
type clock struct {
	begin time.Time
	told  atomic.Pointer[told]
	// shift is added to the monotonic clock; a test lets time pass with it.
	shift *atomic.Int64
}

// told is an instant that is known on both clocks.
type told struct{ mono, server int64 }

// instant is one moment on both clocks, in nanoseconds.
type instant struct{ mono, server int64 }

func newClock(shift *atomic.Int64) *clock {
	if shift == nil {
		shift = new(atomic.Int64)
	}
	c := &clock{begin: time.Now(), shift: shift}
	c.told.Store(&told{})
	return c
}

// running is the monotonic clock as it runs by itself.
func (c *clock) running() int64 { return int64(time.Since(c.begin)) }

func (c *clock) now() instant {
	run, shift, t := c.running(), c.shift.Load(), c.told.Load()
	return instant{mono: run + shift, server: t.server + run - t.mono + shift}
}

// hear takes in what the server told of its clock, in an answer to a question
// that was asked and answered at these times of the monotonic clock.
func (c *clock) hear(server time.Time, asked, answered int64) {
	c.told.Store(&told{mono: asked + (answered-asked)/2, server: server.UnixNano()})
}

// onServer is an instant of the monotonic clock on the server's.
func (i instant) onServer(mono int64) int64 {
	if mono >= i.mono {
		return after(i.server, time.Duration(mono-i.mono))
	}
	return i.server - (i.mono - mono)
}
