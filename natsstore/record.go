package natsstore

import (
	"bytes"
	"math"
	"time"

	"github.com/idem-go/idem/driver"
)

// kind is the state of a record as it is kept. It tells more than a
// [driver.State]: who ended a claim decides what its owner may still do. The
// numbers are stored; they do not change.
type kind uint8

const (
	absent            kind = 0
	inFlight          kind = 1
	lapsed            kind = 2
	abandoned         kind = 3
	completed         kind = 4
	forgotten         kind = 5
	releasedByOwner   kind = 6
	releasedByResolve kind = 7
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

// isUnknown says that the outcome of such a record is unknown.
func (k kind) isUnknown() bool { return k == lapsed || k == abandoned }

// ended is what an owner is told who goes on with a claim that has ended; nil
// while it is in flight.
func (k kind) ended() error {
	switch k {
	case inFlight:
		return nil
	case lapsed, abandoned:
		return driver.ErrLapsed
	case completed, forgotten:
		return driver.ErrCompleted
	}
	return driver.ErrLost
}

// record is what is kept of a key. Its instants are nanoseconds of the server's
// clock: see clock. It is not changed once it has been shared.
type record struct {
	kind     kind
	answered bool
	dropped  bool
	// late says that the claim was completed when it was no longer in flight.
	late    bool
	attempt uint32
	token   uint64
	// since is when the claim was granted, the record completed, or forgotten.
	since int64
	// due is when a completed record is forgotten, or any other is gone. Of a
	// record in flight it is not stored: it is the end of the lease as this
	// process has observed it.
	due int64
	// lease is how long a record in flight lasts from when it is first seen.
	lease time.Duration
	// tombstone is how long the key is known after the lease's end, or the
	// retention's.
	tombstone   time.Duration
	nonce       driver.Nonce
	fingerprint driver.Fingerprint
	scope, id   string
	note        string
	// data is the result: its meta, of metaLen bytes, and its body.
	data    []byte
	metaLen int
}

// view is the record as a caller sees it.
func (r *record) view(key driver.Key, now int64) driver.Record {
	v := driver.Record{
		Key:         key,
		Scope:       r.scope,
		ID:          r.id,
		State:       r.kind.state(),
		Token:       r.token,
		Attempt:     int(r.attempt),
		Fingerprint: r.fingerprint,
		Answered:    r.answered,
		Dropped:     r.dropped,
		Note:        r.note,
	}
	if v.State != driver.StateAbsent {
		// Another process's reckoning of the server's clock may be a little ahead.
		v.Age = max(0, time.Duration(now-r.since))
		v.Left = max(1, time.Duration(r.due-now))
	}
	if r.metaLen > 0 {
		v.Result.Meta = r.data[:r.metaLen:r.metaLen]
	}
	if n := len(r.data); n > r.metaLen {
		v.Result.Body = r.data[r.metaLen:n:n]
	}
	return v
}

// holds reports that a completed record has this result.
func (r *record) holds(res driver.Result, dropped bool) bool {
	return r.dropped == dropped && bytes.Equal(r.data[:r.metaLen], res.Meta) && bytes.Equal(r.data[r.metaLen:], res.Body)
}

// strip takes from a record everything that a tombstone, or the attempt count
// of a released key, does not need. What an operator noted is kept, and then
// the record's name with it.
func (r *record) strip() {
	r.fingerprint = driver.Fingerprint{}
	r.data, r.metaLen = nil, 0
	r.dropped = false
	r.lease, r.tombstone = 0, 0
	if r.note == "" {
		r.scope, r.id = "", ""
	}
	if r.kind != releasedByOwner {
		r.nonce = driver.Nonce{}
	}
}

// forget makes a tombstone of a completed record.
func (r *record) forget(at int64, tombstone time.Duration) {
	r.kind, r.since, r.due = forgotten, at, after(at, tombstone)
	r.strip()
}

// end completes a record.
func (r *record) end(now int64, res driver.Result, dropped, late bool, retention, tombstone time.Duration) {
	r.kind, r.since, r.due = completed, now, after(now, retention)
	r.tombstone, r.lease = tombstone, 0
	r.nonce = driver.Nonce{}
	r.dropped, r.late, r.answered = dropped, late, false
	r.data, r.metaLen = pack(res), len(res.Meta)
}

// free makes a key absent; what is kept of it is kept until due.
func (r *record) free(k kind, due int64, answered bool) {
	r.kind, r.since, r.due, r.answered = k, 0, due, answered
	r.strip()
}

// settle lets pass what time has changed since the record was written. A record
// that is over becomes absent.
func (r *record) settle(now int64) {
	if r.kind == inFlight && r.due <= now {
		// The tombstone counts from the end of the lease, whenever that is noticed.
		r.kind, r.due, r.lease = lapsed, after(r.due, r.tombstone), 0
	}
	if r.kind == completed && r.due <= now {
		r.forget(r.due, r.tombstone)
	}
	if r.kind != absent && r.due <= now {
		*r = record{}
	}
}

// after is an instant d after now, or the last there is.
func after(now int64, d time.Duration) int64 {
	if t := now + int64(d); t >= now {
		return t
	}
	return math.MaxInt64
}

// pack makes one copy of both parts of a result.
func pack(res driver.Result) []byte {
	if res.Size() == 0 {
		return nil
	}
	b := make([]byte, 0, res.Size())
	return append(append(b, res.Meta...), res.Body...)
}
