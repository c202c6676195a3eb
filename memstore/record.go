package memstore

import (
	"bytes"
	"time"
	"unsafe"

	"github.com/idem-go/idem/driver"
)

// kind is the state of a record as it is kept. It tells more than a
// [driver.State]: who ended a claim decides what its owner may still do.
type kind uint8

const (
	inFlight kind = iota
	lapsed
	abandoned
	completed
	forgotten
	releasedByOwner
	releasedByResolve
)

func (k kind) state() driver.State {
	switch k {
	case inFlight:
		return driver.StateInFlight
	case lapsed, abandoned:
		return driver.StateUnknown
	case completed:
		return driver.StateCompleted
	case forgotten:
		return driver.StateForgotten
	}
	return driver.StateAbsent
}

// queue is the shard's queue that records of this kind wait in for what
// becomes of them next.
func (k kind) queue() int {
	switch k {
	case inFlight:
		return queueLeases
	case lapsed, abandoned:
		return queueUnknown
	}
	return queueKept
}

// head is what is known of a key in every state. For a tombstone, or the
// attempt count of a released key, it is all there is.
type head struct {
	key   driver.Key
	nonce driver.Nonce
	token uint64
	// due is when the lease ends, a completed record is forgotten, or any other
	// is gone.
	due int64
	// since is when the claim was granted, the record completed, or forgotten.
	since int64
	// full is the record that this is the head of, nil where there is no more.
	full    *record
	attempt int32
	// pos is the head's place in its queue.
	pos      int32
	kind     kind
	answered bool
	dropped  bool
	// late says of a completed record that its claim was no longer in flight.
	late bool
}

// record is a head with the rest.
type record struct {
	head
	fingerprint driver.Fingerprint
	// bodyAt is where in data the body begins.
	bodyAt    uint32
	scope, id string
	// data is the result: its meta and its body. It is shared with all who have
	// read it, and never changed.
	data []byte
	// tombstone is how long the key is known after the lease's end, or the
	// retention's.
	tombstone time.Duration
	// rare is what few records have; nil for the others.
	rare *rare
}

// rare is what few records have.
type rare struct {
	note string
	// done is closed when the claim ends; nil while nobody waits.
	done chan struct{}
}

func (r *record) note() string {
	if r.rare == nil {
		return ""
	}
	return r.rare.note
}

// extra returns the record's rare part, to be written to.
func (r *record) extra() *rare {
	if r.rare == nil {
		r.rare = &rare{}
	}
	return r.rare
}

// What a record takes, its places in the map and in a queue included.
const (
	slotBytes   = 100
	headBytes   = int64(unsafe.Sizeof(head{})) + slotBytes
	recordBytes = int64(unsafe.Sizeof(record{})) + slotBytes
)

func (h *head) bytes() int64 {
	if h.full == nil {
		return headBytes
	}
	r := h.full
	return recordBytes + int64(len(r.scope)+len(r.id)+len(r.note())+len(r.data))
}

// view writes the record as a caller sees it into v, which is zero: records are
// large, and not copied more often than they must be.
func (h *head) view(v *driver.Record, now int64) {
	v.Key = h.key
	v.State = h.kind.state()
	v.Token = h.token
	v.Attempt = int(h.attempt)
	v.Answered = h.answered
	v.Dropped = h.dropped
	v.Age = time.Duration(now - h.since)
	if v.State != driver.StateAbsent {
		v.Left = time.Duration(h.due - now)
	}
	r := h.full
	if r == nil {
		return
	}
	v.Scope, v.ID, v.Note = r.scope, r.id, r.note()
	v.Fingerprint = r.fingerprint
	if r.bodyAt > 0 {
		v.Result.Meta = r.data[:r.bodyAt:r.bodyAt]
	}
	if n := len(r.data); n > int(r.bodyAt) {
		v.Result.Body = r.data[r.bodyAt:n:n]
	}
}

// holds reports that a completed record has this result.
func (h *head) holds(res driver.Result, dropped bool) bool {
	r := h.full
	return h.dropped == dropped && int(r.bodyAt) == len(res.Meta) &&
		bytes.Equal(r.data[:r.bodyAt], res.Meta) && bytes.Equal(r.data[r.bodyAt:], res.Body)
}

// wake tells those who wait for the record's claim that it may have ended.
func (h *head) wake() {
	if h.full == nil || h.full.rare == nil {
		return
	}
	if r := h.full.rare; r.done != nil {
		close(r.done)
		r.done = nil
	}
}

// pack makes one copy of both parts of a result.
func pack(res driver.Result) []byte {
	if res.Size() == 0 {
		return nil
	}
	b := make([]byte, 0, res.Size())
	return append(append(b, res.Meta...), res.Body...)
}
