package filestore

import (
	"bytes"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/idem-go/idem/driver"
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

// Flush makes tables of what the engine has in memory, as it does by itself when
// there is enough of it.
func (s *Store) Flush() error { return s.db.Flush() }

// InMemory is how many keys memory knows of.
func (s *Store) InMemory() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.entries.all)
}

// EngineKeys counts the keys of a key space of the engine.
func (s *Store) EngineKeys(space byte) (int, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{space}, UpperBound: []byte{space + 1}})
	if err != nil {
		return 0, err
	}
	n := 0
	for it.First(); it.Valid(); it.Next() {
		n++
	}
	return n, it.Close()
}

// TableBytes is what the engine's tables take on disk: all but its logs, which
// it keeps to write them again.
func (s *Store) TableBytes() int64 {
	total := int64(0)
	names, err := s.dir.fs.List(s.dir.join(engineName))
	if err != nil {
		return 0
	}
	for _, name := range names {
		if info, err := s.dir.fs.Stat(s.dir.fs.PathJoin(s.dir.join(engineName), name)); err == nil && strings.HasSuffix(name, ".sst") {
			total += info.Size()
		}
	}
	return total
}

// Spoil changes a byte of what is on disk of a key: in its claim, its record or
// its result.
func (s *Store) Spoil(what string, key driver.Key) error {
	var k diskKey
	under := claimKey(&k, &key)
	if what != "claim" {
		var r record
		if err := s.load(&key, &r, new(diskKey)); err != nil {
			return err
		}
		under = recordKey(&k, &key)
		if what == "result" {
			under = resultKey(&k, r.due, r.token)
		}
	}
	v, closer, err := s.db.Get(under)
	if err != nil {
		return err
	}
	bad := bytes.Clone(v)
	bad[0] ^= 1
	return errors.Join(closer.Close(), s.db.Set(under, bad, pebble.Sync))
}

// WithLoaded returns the options with a function that is called between reading a
// key and looking whether what was read still holds.
func (o Options) WithLoaded(f func(driver.Key)) Options {
	o.loaded = f
	return o
}

// WithMemTable returns the options with tables in memory of so many bytes: small
// ones are written to disk all the time.
func (o Options) WithMemTable(n uint64) Options {
	o.memTable = n
	return o
}

// WithWalked returns the options with a function that a sweep calls between
// finding what is over and dropping it.
func (o Options) WithWalked(f func()) Options {
	o.walked = f
	return o
}
