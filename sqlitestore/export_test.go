package sqlitestore

import (
	"context"
	"database/sql"
	"sync/atomic"
	"time"
)

// TestClock is the clocks of a host, moved by hand. Stores that share it are on one
// host.
type TestClock struct {
	wall, ticks atomic.Int64
	id          atomic.Pointer[string]
}

// NewTestClock returns a clock that stands.
func NewTestClock() *TestClock {
	c := new(TestClock)
	c.wall.Store(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	c.Restart("first")
	return c
}

// Advance lets time pass.
func (c *TestClock) Advance(d time.Duration) {
	c.wall.Add(int64(d))
	c.ticks.Add(int64(d))
}

// StepWall sets the wall clock, as an operator or NTP does.
func (c *TestClock) StepWall(d time.Duration) { c.wall.Add(int64(d)) }

// Restart makes it the clock of a host that has just been started.
func (c *TestClock) Restart(id string) {
	c.id.Store(&id)
	c.ticks.Store(int64(time.Minute))
}

// WithClock returns the options with a clock of the test's.
func (o Options) WithClock(c *TestClock) *Options {
	o.sources = &sources{ticks: ticks{id: *c.id.Load(), now: c.ticks.Load}, wall: c.wall.Load}
	return &o
}

// WithOwnClock returns the options with a clock as it is where the host's cannot be
// read.
func (o Options) WithOwnClock() *Options {
	o.sources = processClocks()
	o.sources.ticks = ownTicks()
	return &o
}

// WithGap returns the options with a function that is called between two steps of a
// call.
func (o Options) WithGap(f func(where string)) *Options {
	o.gap = f
	return &o
}

// DB is the store's pool.
func (s *Store) DB() *sql.DB { return s.db }

// HoldGate keeps the store from writing until release is called.
func (s *Store) HoldGate() (release func()) {
	_ = s.enterGate(context.Background())
	return s.leaveGate
}

// Queued is how many calls wait to be committed.
func (s *Store) Queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

// Watching is how many wait.
func (s *Store) Watching() int {
	s.waits.mu.Lock()
	defer s.waits.mu.Unlock()
	n := 0
	for _, w := range s.waits.byKey {
		n += len(w)
	}
	return n
}

// Code is SQLite's result code of an error.
func Code(err error) int { return code(err) }

// FileOf is the file of a DSN.
func FileOf(dsn string) (string, error) { return fileOf(dsn) }

// SchemaFormat is the version of the schema.
const SchemaFormat = schemaFormat
