package filestore

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// clock is the store's own time, in nanoseconds. While the store is open it
// runs with the process's monotonic clock, so that no step of the wall clock
// moves it. The wall clock decides about one thing: how long the store was
// closed. With each group the store writes its time and the wall clock's side
// by side; the next opening adds the difference of the wall clock's times if it
// is positive, and nothing otherwise. So the store's time never goes back.
//
// A wall clock that was stepped forward while the store was closed, and was
// wrong, ends retentions too early: nothing can tell it from a store that was
// closed for that long. A wall clock that was stepped back ends them too late,
// which is safe.
type clock struct {
	// wall and mono are the clocks of the process, or a test's.
	wall func() int64
	mono func() int64

	base, start int64
}

// maxTime is later than every time.
const maxTime = math.MaxInt64

// newClock returns a clock that goes on where the one that wrote then stopped.
func newClock(src *sources, then *clockPair) clock {
	c := clock{wall: src.wall, mono: src.mono}
	c.start = c.mono()
	c.base = c.wall()
	if then != nil {
		c.base = then.time + max(0, c.wall()-then.wall)
	}
	return c
}

func (c *clock) now() int64 { return c.base + c.mono() - c.start }

func (c *clock) pair() clockPair { return clockPair{time: c.now(), wall: c.wall()} }

// sources are the clocks of a process. The zero value is not ready for use.
type sources struct{ wall, mono func() int64 }

func processClocks() *sources {
	start := time.Now()
	return &sources{
		wall: func() int64 { return time.Now().UnixNano() },
		mono: func() int64 { return int64(time.Since(start)) },
	}
}

// clockPair is the store's time and the wall clock's at one instant.
type clockPair struct{ time, wall int64 }

func (p clockPair) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(p.time))
	return binary.BigEndian.AppendUint64(b, uint64(p.wall))
}

func decodePair(b []byte) (clockPair, error) {
	if len(b) != 16 {
		return clockPair{}, fmt.Errorf("filestore: the stored time has %d bytes, not 16", len(b))
	}
	return clockPair{
		time: int64(binary.BigEndian.Uint64(b)),
		wall: int64(binary.BigEndian.Uint64(b[8:])),
	}, nil
}
