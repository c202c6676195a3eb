package natsstore

import (
	"sync"

	"github.com/idem-go/idem/driver"
)

// sight is what this process last knew of a key. It is no truth: whoever acts
// on it does so in a write that the server takes only if the revision is still
// the last one, and nobody is refused because of it.
type sight struct {
	rev uint64
	// seen is when, on the monotonic clock, the revision was first seen. For a
	// write of this process it is when the write was sent: whoever owns the claim
	// began to count before that. For another's it is when it was received, which
	// is after its owner began to count.
	seen int64
	// rec is the record as it was stored, unless ended says that it is completed or
	// a tombstone: of such a key it is of use to know that there is a record, so
	// that the next claim reads it at once, and no more is kept of it.
	rec   record
	ended bool
}

// sights remembers the keys used last, in a bounded piece of memory. To forget
// one is always safe: its lease is observed anew, and so ends later, and a
// write of its owner costs a read.
type sights struct {
	mu sync.Mutex
	// young takes what is used; once it is full it becomes old, and what was old
	// is forgotten.
	young, old map[driver.Key]sight
	bytes      int
}

const (
	// sightsBytes bounds each of the two generations.
	sightsBytes = 16 << 20
	sightBytes  = 320
)

// get returns what is remembered of a key: zero for nothing.
func (s *sights) get(key driver.Key) sight {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, _ := s.find(key)
	return e
}

func (s *sights) find(key driver.Key) (sight, bool) {
	if e, ok := s.young[key]; ok {
		return e, true
	}
	e, ok := s.old[key]
	if ok {
		s.put(key, e)
	}
	return e, ok
}

// saw notes a revision that was read, or written, and returns it with the time
// at which it was seen first. An answer that was overtaken by a newer one does
// not replace that.
func (s *sights) saw(key driver.Key, e sight) sight {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.find(key)
	switch {
	case ok && known.rev == e.rev:
		e.seen = min(e.seen, known.seen)
		return e
	case ok && known.rev > e.rev:
		return e
	}
	s.put(key, e)
	return e
}

// gone notes that nothing is stored for a key any more.
func (s *sights) gone(key driver.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.young[key]; ok {
		s.bytes -= e.size()
		delete(s.young, key)
	}
	delete(s.old, key)
}

func (s *sights) put(key driver.Key, e sight) {
	if e.rec.kind == completed || e.rec.kind == forgotten {
		e.rec, e.ended = record{}, true
	}
	if before, ok := s.young[key]; ok {
		s.bytes -= before.size()
	}
	if s.young == nil || s.bytes+e.size() > sightsBytes {
		s.young, s.old, s.bytes = make(map[driver.Key]sight), s.young, 0
	}
	s.young[key] = e
	s.bytes += e.size()
}

func (e sight) size() int {
	return sightBytes + len(e.rec.scope) + len(e.rec.id) + len(e.rec.note)
}
