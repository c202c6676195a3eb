package sqlitestore

import (
	"bytes"
	"fmt"
	"math"
	"time"

	"github.com/idem-go/idem/driver"
)

// kind is the state of a record as it is kept. It tells more than a
// [driver.State]: who ended a claim decides what its owner may still do. The
// numbers are stored; they do not change.
type kind int64

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

// The flags of a stored record.
const (
	flagAnswered = 1 << iota
	flagDropped
	flagLate

	allFlags = 1<<iota - 1
)

// recordVersion is the version of a row's meaning. Rows of another are not read.
const recordVersion = 1

// record is a row. Times are the store's own: see ticks.
type record struct {
	// n is the row's number, 0 while it has none.
	n        int64
	key      driver.Key
	kind     kind
	answered bool
	dropped  bool
	// late says that the claim was completed when it was no longer in flight.
	late    bool
	attempt int64
	token   uint64
	// since is when the claim was granted, the record completed, or forgotten.
	since int64
	// due is when the lease ends, a completed record is forgotten, or any other
	// is gone.
	due int64
	// lease is how long the lease was when it began, or was renewed.
	lease time.Duration
	// tombstone is how long the key is known after the lease's end, or the
	// retention's.
	tombstone   time.Duration
	nonce       driver.Nonce
	fingerprint driver.Fingerprint
	scope, id   string
	note        string

	// size is the bytes of the result.
	size   int
	result driver.Result
	// moved says that the row has become much smaller, and is better written anew.
	moved bool
}

// view is the record as a caller sees it, its result apart.
func (r *record) view(now int64) driver.Record {
	v := driver.Record{
		Key:         r.key,
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
		v.Left = time.Duration(r.due - now)
		v.Age = time.Duration(now - r.since)
	}
	return v
}

// full is the record as a caller sees it.
func (r *record) full(now int64) driver.Record {
	v := r.view(now)
	if r.kind == completed {
		v.Result = r.result
	}
	return v
}

// strip takes from a record everything that a tombstone, or the attempt count
// of a released key, does not need. What an operator noted is kept, and then
// the record's name with it.
func (r *record) strip() {
	r.fingerprint = driver.Fingerprint{}
	r.moved = r.moved || r.size > 0
	r.size, r.result = 0, driver.Result{}
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

// free makes a key absent; what is kept of it is kept until due.
func (r *record) free(k kind, due int64) {
	r.kind, r.due = k, due
	r.strip()
}

// settle lets pass what time has changed since the record was written. A record
// that is over becomes absent; its row, if it has one, stays until it is used
// again or swept.
func (r *record) settle(now int64) {
	if r.kind == inFlight && r.due <= now {
		// The tombstone counts from the end of the lease, whenever that is noticed.
		r.kind, r.due = lapsed, after(r.due, r.tombstone)
	}
	if r.kind == completed && r.due <= now {
		r.forget(r.due, r.tombstone)
	}
	if r.kind != absent && r.due <= now {
		*r = record{n: r.n, key: r.key}
	}
}

// begin makes the record that of a new claim.
func (r *record) begin(req *driver.ClaimRequest, token uint64, now int64) {
	*r = record{
		n: r.n, key: req.Key, kind: inFlight, attempt: r.attempt + 1, token: token, nonce: req.Nonce,
		scope: req.Scope, id: req.ID, fingerprint: req.Fingerprint,
		since: now, tombstone: req.Tombstone,
	}
	r.hold(req.Lease, now)
}

// hold makes the lease of a claim begin.
func (r *record) hold(lease time.Duration, now int64) {
	r.kind, r.lease, r.due = inFlight, lease, after(now, lease)
}

// end completes the record.
func (r *record) end(res driver.Result, dropped, late bool, retention, tombstone time.Duration, now int64) {
	r.kind, r.since, r.due = completed, now, after(now, retention)
	r.lease, r.tombstone = 0, tombstone
	r.dropped, r.late, r.answered = dropped, late, false
	r.result, r.size = res, res.Size()
}

// holds reports that a completed record has this result.
func (r *record) holds(res driver.Result, dropped bool) bool {
	return r.dropped == dropped && bytes.Equal(r.result.Meta, res.Meta) && bytes.Equal(r.result.Body, res.Body)
}

// owned is the kind of the claim that a token names; absent when that is not the
// newest.
func (r *record) owned(token uint64) kind {
	if token == 0 || r.token != token {
		return absent
	}
	return r.kind
}

func (r *record) flags() int64 {
	f := int64(0)
	for _, b := range []struct {
		on   bool
		flag int64
	}{{r.answered, flagAnswered}, {r.dropped, flagDropped}, {r.late, flagLate}} {
		if b.on {
			f |= b.flag
		}
	}
	return f
}

// columns are those of a record in the order of raw's fields.
const columns = "r.n, r.key, r.version, r.kind, r.flags, r.attempt, r.token, r.since, r.due, r.lease, r.tombstone, r.size, " +
	"r.nonce, r.fingerprint, r.scope, r.id, r.note"

// raw is a row as it is stored.
type raw struct {
	n                                                                        int64
	key                                                                      []byte
	version, kind, flags, attempt, token, since, due, lease, tombstone, size int64
	nonce, fingerprint, scope, id, note                                      []byte
}

func (w *raw) targets() []any {
	return []any{
		&w.n, &w.key, &w.version, &w.kind, &w.flags, &w.attempt, &w.token, &w.since, &w.due, &w.lease, &w.tombstone, &w.size,
		&w.nonce, &w.fingerprint, &w.scope, &w.id, &w.note,
	}
}

// decode reads a row, and says why it cannot be read: such a row is never taken
// for absent.
func (w *raw) decode(r *record) error {
	*r = record{n: w.n}
	if len(w.key) != len(r.key) {
		return fmt.Errorf("its key has %d bytes", len(w.key))
	}
	copy(r.key[:], w.key)
	bad := func(format string, args ...any) error {
		return &driver.UnreadableError{Key: r.key, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case w.version != recordVersion:
		return bad("it has the format version %d, this program reads %d", w.version, recordVersion)
	case w.kind < int64(inFlight) || w.kind > int64(releasedByResolve):
		return bad("it is in a state that nobody knows: %d", w.kind)
	case w.flags&^allFlags != 0:
		return bad("it has flags that nobody knows: %d", w.flags)
	case w.attempt < 0 || w.attempt > math.MaxInt32:
		return bad("its attempt count is %d", w.attempt)
	case w.token < 0 || w.token == 0 && kind(w.kind) != releasedByOwner:
		return bad("its token is %d", w.token)
	case w.lease < 0 || w.tombstone < 0:
		return bad("its durations are %d and %d", w.lease, w.tombstone)
	case w.size < 0 || w.size > 0 && kind(w.kind) != completed:
		return bad("its result has %d bytes", w.size)
	case len(w.nonce) != 0 && len(w.nonce) != len(r.nonce):
		return bad("its nonce has %d bytes", len(w.nonce))
	case len(w.fingerprint) != 0 && len(w.fingerprint) != 1+len(r.fingerprint.Sum):
		return bad("its fingerprint has %d bytes", len(w.fingerprint))
	}
	r.kind = kind(w.kind)
	r.answered, r.dropped, r.late = w.flags&flagAnswered != 0, w.flags&flagDropped != 0, w.flags&flagLate != 0
	r.attempt, r.token = w.attempt, uint64(w.token)
	r.since, r.due = w.since, w.due
	r.lease, r.tombstone = time.Duration(w.lease), time.Duration(w.tombstone)
	r.size = int(w.size)
	copy(r.nonce[:], w.nonce)
	if len(w.fingerprint) > 0 {
		r.fingerprint.Rule = w.fingerprint[0]
		copy(r.fingerprint.Sum[:], w.fingerprint[1:])
	}
	r.scope, r.id, r.note = string(w.scope), string(w.id), string(w.note)
	return nil
}

// values are those of the record in the order of the columns after key.
func (r *record) values() []any {
	nonce, fingerprint := []byte{}, []byte{}
	if r.nonce != (driver.Nonce{}) {
		nonce = r.nonce[:]
	}
	if !r.fingerprint.IsZero() {
		fingerprint = append([]byte{r.fingerprint.Rule}, r.fingerprint.Sum[:]...)
	}
	return []any{
		int64(recordVersion), int64(r.kind), r.flags(), r.attempt, int64(r.token), r.since, r.due,
		int64(r.lease), int64(r.tombstone), int64(r.size),
		nonce, fingerprint, blob(r.scope), blob(r.id), blob(r.note), nonNil(r.result.Meta), nonNil(r.result.Body),
	}
}

// nonNil keeps an empty part of a result from being NULL.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// blob is a string's bytes; never nil, which would be NULL.
func blob(s string) []byte { return append([]byte{}, s...) }
