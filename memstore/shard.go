package memstore

import (
	"maps"
	"sync"
	"time"

	"github.com/idem-go/idem/driver"
)

// The shard of a key is its first bits, so that shards are in the order of the
// keys, which lists depend on.
const (
	shardBits  = 6
	shardCount = 1 << shardBits
)

// The queues of a shard.
const (
	queueLeases = iota
	queueUnknown
	queueKept
	queueCount
)

// shard holds a part of the records.
type shard struct {
	mu     sync.Mutex
	heads  map[driver.Key]*head
	queues [queueCount]queue
	// completed and forgotten count those states; the other counts are the
	// lengths of the queues.
	completed, forgotten int
	// peak is the most heads there have been since the map was made.
	peak int
	// bytes is what the records take. What of it, and of their number, the bounds
	// of the store have been told is told.
	bytes int64
	told  struct{ records, bytes int64 }

	_ [32]byte // to whole cache lines, so that neighbours do not share one
}

func (s *Store) shardOf(key driver.Key) *shard {
	return &s.shards[key[0]>>(8-shardBits)]
}

// get returns what is known of a key now; nil for nothing. As every method of
// the store that takes a shard, it is called with the shard's lock held.
func (s *Store) get(sh *shard, key driver.Key, now int64) *head {
	return s.settle(sh, sh.heads[key], now)
}

// settle brings what is known of a key, which may be nil, up to now.
func (s *Store) settle(sh *shard, h *head, now int64) *head {
	for h != nil && h.due <= now {
		h, _ = s.pass(sh, h)
	}
	return h
}

// pass lets a record whose time has come become what it becomes: nil when it is
// gone. Swept says that it was dropped or became a tombstone.
func (s *Store) pass(sh *shard, h *head) (next *head, swept bool) {
	switch h.kind {
	case inFlight:
		// The tombstone counts from the end of the lease, whenever that is noticed.
		s.turn(sh, h, lapsed, after(h.due, h.full.tombstone))
		h.wake()
		return h, false
	case completed:
		return s.forget(sh, h, h.due, h.full.tombstone), true
	}
	s.drop(sh, h)
	return nil, true
}

// add puts a new head into the shard; its kind and due are set.
func (s *Store) add(sh *shard, h *head) {
	if sh.heads == nil {
		sh.heads = make(map[driver.Key]*head)
	}
	sh.heads[h.key] = h
	sh.peak = max(sh.peak, len(sh.heads))
	sh.queues[h.kind.queue()].push(h)
	s.count(sh, h.kind, 1)
	sh.bytes += h.bytes()
	s.tell(sh)
}

// turn gives a head another kind and due.
func (s *Store) turn(sh *shard, h *head, k kind, due int64) {
	from, to := h.kind.queue(), k.queue()
	s.count(sh, h.kind, -1)
	s.count(sh, k, 1)
	if from == to {
		h.kind, h.due = k, due
		sh.queues[to].move(h)
		return
	}
	sh.queues[from].remove(h)
	h.kind, h.due = k, due
	sh.queues[to].push(h)
}

// drop removes a head: nothing is known of its key any more.
func (s *Store) drop(sh *shard, h *head) {
	sh.queues[h.kind.queue()].remove(h)
	delete(sh.heads, h.key)
	sh.shrink()
	s.count(sh, h.kind, -1)
	sh.bytes -= h.bytes()
	s.tell(sh)
}

// shrink makes the map anew once little is left in it: a map of Go's keeps the
// memory of its largest day.
func (sh *shard) shrink() {
	if sh.peak < 1024 || len(sh.heads) > sh.peak/8 {
		return
	}
	heads := make(map[driver.Key]*head, len(sh.heads))
	maps.Copy(heads, sh.heads)
	sh.heads, sh.peak = heads, len(heads)
}

// forget makes a tombstone of a completed record.
func (s *Store) forget(sh *shard, h *head, at int64, tombstone time.Duration) *head {
	s.turn(sh, h, forgotten, after(at, tombstone))
	h.since = at
	h.dropped = false
	return s.strip(sh, h)
}

// strip takes from a head everything that a tombstone or a released key does
// not need. What an operator noted is kept, and then the record's name with it.
func (s *Store) strip(sh *shard, h *head) *head {
	sh.bytes -= h.bytes()
	if h.full.note() != "" {
		h.full.fingerprint = driver.Fingerprint{}
		h.full.data, h.full.bodyAt = nil, 0
	} else {
		small := *h
		small.full = nil
		h = &small
		sh.heads[h.key] = h
		sh.queues[h.kind.queue()].replace(h)
	}
	sh.bytes += h.bytes()
	s.tell(sh)
	return h
}

// widen puts a full record in the place of a head that has none.
func (s *Store) widen(sh *shard, h *head) *head {
	if h.full != nil {
		return h
	}
	sh.bytes += recordBytes - headBytes
	r := &record{head: *h}
	r.full = r
	sh.heads[h.key] = &r.head
	sh.queues[h.kind.queue()].replace(&r.head)
	return &r.head
}

func (s *Store) count(sh *shard, k kind, n int) {
	switch k {
	case lapsed, abandoned:
		s.bounds.unknown.Add(int64(n))
	case completed:
		sh.completed += n
	case forgotten:
		sh.forgotten += n
	}
}

// tidy drops a few of the shard's records that are over, so that what is added
// is paid for: no write brings more than one record, and none is over more
// often than three times.
func (s *Store) tidy(sh *shard, now int64) { s.sweep(sh, now, 4) }

// sweep lets up to limit records of the shard pass whose time has come, and
// returns how many passed, and how many of them were swept.
func (s *Store) sweep(sh *shard, now int64, limit int) (passed, swept int) {
	for i := range sh.queues {
		for passed < limit {
			h := sh.queues[i].first(now)
			if h == nil {
				break
			}
			passed++
			if _, gone := s.pass(sh, h); gone {
				swept++
			}
		}
	}
	return passed, swept
}
