package filestore

import (
	"math"

	"github.com/idem-go/idem/driver"
)

// entry is a key that memory knows of: a claim, or a record that is being
// changed.
type entry struct {
	record
	key driver.Key
	// disk is where the key's record is on disk.
	disk place
	// group is the group that the entry's next state is written with; nil when
	// nothing is being written.
	group *group
	// done is closed when the claim ends; nil while nobody waits.
	done chan struct{}
	// heap is the heap that the entry is in, nil for none, and pos its place
	// there.
	heap *heap
	pos  int
}

// place is where a record is on disk, and what it counts as.
type place struct {
	kind   kind
	due    int64
	token  uint64
	result bool
}

func placeOf(r *record) place {
	return place{kind: r.kind, due: r.due, token: r.token, result: r.resultLen() > 0}
}

// wake tells those who wait for the entry's claim that it may have ended.
func (e *entry) wake() {
	if e.done != nil {
		close(e.done)
		e.done = nil
	}
}

// entries are the keys that memory knows of. They are guarded by Store.mu.
type entries struct {
	all map[driver.Key]*entry
	// leases holds what is in flight, unknowns what has an unknown outcome; each
	// in the order in which it is due.
	leases, unknowns heap
	// gens counts, for a stripe of the keys each, how often an entry was given
	// up: what was read from disk before is no longer what is there.
	gens [stripes]uint32
	// unsaved are entries that have lapsed, which only memory knows; over, those
	// that are no longer known and still on disk. Either may have changed since.
	unsaved, over []*entry
	// unreadable counts the claims that cannot be read.
	unreadable int
}

const stripes = 4096

func stripe(key *driver.Key) int { return int(key[0])<<4 | int(key[1])>>4 }

func (t *entries) init() { t.all = make(map[driver.Key]*entry) }

// load takes in a claim that was on disk at the opening.
func (t *entries) load(e *entry) {
	t.all[e.key] = e
	if e.kind == unreadable {
		t.unreadable++
	}
	t.place(e)
}

// place puts an entry into the heap of its kind.
func (t *entries) place(e *entry) {
	var to *heap
	switch {
	case e.kind == inFlight:
		to = &t.leases
	case e.kind.isUnknown():
		to = &t.unknowns
	}
	switch {
	case e.heap == to && to != nil:
		to.fix(e.pos)
	case e.heap != to:
		if e.heap != nil {
			e.heap.remove(e)
		}
		if to != nil {
			to.push(e)
		}
	}
}

// settle brings an entry up to now.
func (t *entries) settle(e *entry, now int64) {
	if e.kind == inFlight && e.due <= now {
		e.record.settle(now)
		e.wake()
		if e.kind == lapsed {
			t.unsaved = append(t.unsaved, e)
		}
		t.place(e)
	}
	if e.kind.isUnknown() && e.due <= now {
		e.record.settle(now)
		t.place(e)
	}
	if e.kind == absent && e.disk.kind.isClaim() && e.heap == nil && e.group == nil && !e.overNoted() {
		t.over = append(t.over, e)
		e.pos = overNoted
	}
}

// overNoted, as the place of an entry that is in no heap, says that it is in
// the list of those that are over.
const overNoted = -2

func (e *entry) overNoted() bool { return e.heap == nil && e.pos == overNoted }

// pass lets all pass whose time has come.
func (t *entries) pass(now int64) {
	for _, h := range []*heap{&t.leases, &t.unknowns} {
		for len(h.entries) > 0 && h.entries[0].due <= now {
			t.settle(h.entries[0], now)
		}
	}
}

// drop gives an entry up: its record is on disk only, or nowhere.
func (t *entries) drop(e *entry) {
	if t.all[e.key] == e {
		delete(t.all, e.key)
	}
	t.gens[stripe(&e.key)]++
}

// oldestUnknown is when the oldest of the unknowns was granted.
func (t *entries) oldestUnknown() int64 {
	oldest := int64(math.MaxInt64)
	for _, e := range t.unknowns.entries {
		oldest = min(oldest, e.since)
	}
	return oldest
}

// heap holds entries in the order in which they are due. Each node has four
// children.
type heap struct{ entries []*entry }

const arity = 4

func (h *heap) push(e *entry) {
	h.entries = append(h.entries, nil)
	e.heap = h
	h.set(len(h.entries)-1, e)
	h.up(e.pos)
}

func (h *heap) remove(e *entry) {
	i, last := e.pos, len(h.entries)-1
	moved := h.entries[last]
	h.entries[last] = nil
	h.entries = h.entries[:last]
	e.heap, e.pos = nil, -1
	if i != last {
		h.set(i, moved)
		h.fix(i)
	}
	if c := cap(h.entries); c > 1024 && last < c/4 {
		h.entries = append(make([]*entry, 0, c/2), h.entries...)
	}
}

func (h *heap) set(i int, e *entry) {
	h.entries[i] = e
	e.pos = i
}

// fix gives the entry at i its place after its due has changed.
func (h *heap) fix(i int) {
	if !h.down(i) {
		h.up(i)
	}
}

func (h *heap) up(i int) {
	e := h.entries[i]
	for i > 0 {
		parent := (i - 1) / arity
		if h.entries[parent].due <= e.due {
			break
		}
		h.set(i, h.entries[parent])
		i = parent
	}
	h.set(i, e)
}

// down reports whether the entry moved.
func (h *heap) down(i int) bool {
	e, from := h.entries[i], i
	for {
		child := i*arity + 1
		if child >= len(h.entries) {
			break
		}
		least := child
		for c := child + 1; c < min(child+arity, len(h.entries)); c++ {
			if h.entries[c].due < h.entries[least].due {
				least = c
			}
		}
		if h.entries[least].due >= e.due {
			break
		}
		h.set(i, h.entries[least])
		i = least
	}
	h.set(i, e)
	return i != from
}
