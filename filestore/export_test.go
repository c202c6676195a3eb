package filestore

import (
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestClock is the clocks of a process, moved by hand.
type TestClock struct{ wall, mono atomic.Int64 }

// NewTestClock returns a clock that stands.
func NewTestClock() *TestClock {
	c := new(TestClock)
	c.wall.Store(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	return c
}

// Advance lets time pass.
func (c *TestClock) Advance(d time.Duration) {
	c.wall.Add(int64(d))
	c.mono.Add(int64(d))
}

// StepWall sets the wall clock, as an operator or NTP does.
func (c *TestClock) StepWall(d time.Duration) { c.wall.Add(int64(d)) }

// WithClock returns the options with a clock of the test's.
func (o Options) WithClock(c *TestClock) *Options {
	o.sources = &sources{wall: c.wall.Load, mono: c.mono.Load}
	return &o
}

// WithFS returns the options with a file system of the test's.
func (o Options) WithFS(fs vfs.FS) *Options {
	o.fs = fs
	return &o
}

// CheckSpace looks at the room on the disk now.
func (s *Store) CheckSpace() { s.space.check(s) }
