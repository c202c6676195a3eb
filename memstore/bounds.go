package memstore

import (
	"math"
	"sync"
	"sync/atomic"

	"github.com/idem-go/idem/driver"
)

// bounds counts what the store bounds, over all shards.
type bounds struct {
	// records and bytes are what the shards have told: see tell.
	records, bytes atomic.Int64
	// unknown counts what has been noticed: leases that ended since are missing,
	// and unknowns that are over are still in it.
	unknown atomic.Int64
	// nextLapse is no later than the first end of a lease that has not been
	// noticed: until then unknown misses nothing.
	nextLapse atomic.Int64

	// mu is held to go over the shards.
	mu sync.Mutex
	// next is the shard at which making room goes on.
	next int
}

// lapses notes the end of a lease.
func (b *bounds) lapses(at int64) {
	for {
		old := b.nextLapse.Load()
		if old <= at || b.nextLapse.CompareAndSwap(old, at) {
			return
		}
	}
}

// tell keeps the counts of all shards about right: a shard tells what it has
// once that is a grain away from what it has told, so that not every call writes
// to memory that all share. All grains together are a hundredth of a bound.
func (s *Store) tell(sh *shard) {
	records := int64(len(sh.heads)) - sh.told.records
	bytes := sh.bytes - sh.told.bytes
	if max(records, -records) <= s.maxRecords/(100*shardCount) && max(bytes, -bytes) <= s.maxBytes/(100*shardCount) {
		return
	}
	s.bounds.records.Add(records)
	s.bounds.bytes.Add(bytes)
	sh.told.records += records
	sh.told.bytes += bytes
}

// room returns ErrFull when the bounds leave no room for a claim of so many
// bytes; fresh says that it adds a record. It takes the locks of shards.
func (s *Store) room(fresh bool, bytes int64) error {
	b := &s.bounds
	now := s.now()
	if now >= b.nextLapse.Load() {
		s.noticeLapses()
	}
	if b.unknown.Load() >= s.maxUnknown {
		s.dropUnknowns()
		if b.unknown.Load() >= s.maxUnknown {
			return driver.ErrFull
		}
	}
	if !s.fits(fresh, bytes) {
		s.makeRoom(fresh, bytes)
		if !s.fits(fresh, bytes) {
			return driver.ErrFull
		}
	}
	return nil
}

// roomy is room where nothing has to be looked at.
func (s *Store) roomy(now int64, fresh bool, bytes int64) bool {
	b := &s.bounds
	return now < b.nextLapse.Load() && b.unknown.Load() < s.maxUnknown && s.fits(fresh, bytes)
}

func (s *Store) fits(fresh bool, bytes int64) bool {
	b := &s.bounds
	return b.bytes.Load() <= s.maxBytes-bytes && (!fresh || b.records.Load() < s.maxRecords)
}

// A visit to a shard holds its lock for at most so many records.
const batch = 64

// noticeLapses turns every lease that has ended into an unknown.
func (s *Store) noticeLapses() {
	b := &s.bounds
	b.mu.Lock()
	defer b.mu.Unlock()
	now := s.now()
	if now < b.nextLapse.Load() {
		return
	}
	// Leases that are granted meanwhile note their ends after this.
	b.nextLapse.Store(math.MaxInt64)
	for i := range s.shards {
		s.drain(&s.shards[i], queueLeases, now)
	}
}

// dropUnknowns drops every unknown that is over.
func (s *Store) dropUnknowns() {
	s.bounds.mu.Lock()
	defer s.bounds.mu.Unlock()
	now := s.now()
	for i := range s.shards {
		s.drain(&s.shards[i], queueUnknown, now)
	}
}

// drain lets all pass whose time has come in one queue of a shard.
func (s *Store) drain(sh *shard, queue int, now int64) {
	for {
		sh.mu.Lock()
		n := 0
		for ; n < batch; n++ {
			h := sh.queues[queue].first(now)
			if h == nil {
				break
			}
			s.pass(sh, h)
		}
		if n < batch {
			if queue == queueLeases && sh.queues[queue].len() > 0 {
				s.bounds.lapses(sh.queues[queue].entries[0].due)
			}
			sh.mu.Unlock()
			return
		}
		sh.mu.Unlock()
	}
}

// makeRoom sweeps until a claim fits, for a bounded while: it goes on where it
// stopped at the next claim that does not fit.
func (s *Store) makeRoom(fresh bool, bytes int64) {
	b := &s.bounds
	b.mu.Lock()
	defer b.mu.Unlock()
	now := s.now()
	for visits, left := 0, 16*batch; visits < shardCount && left > 0 && !s.fits(fresh, bytes); visits++ {
		sh := &s.shards[b.next]
		sh.mu.Lock()
		passed, _ := s.sweep(sh, now, batch)
		sh.mu.Unlock()
		left -= passed
		if passed < batch {
			b.next = (b.next + 1) % shardCount
		}
	}
}
