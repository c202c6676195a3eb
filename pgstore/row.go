package pgstore

import (
	"fmt"
	"math"
	"time"

	"github.com/idem-go/idem/driver"
)

// format is the version of a row's format.
const format = 1

// kind is the state of a record as it is kept. It tells more than a
// [driver.State]: who ended a claim decides what its owner may still do.
type kind int16

// The kinds. Their numbers are stored; they do not change.
const (
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

// row is a row of the table of records. Times are microseconds since 1970 by
// the server's clock, durations are microseconds.
type row struct {
	key                     []byte
	format                  int64
	kind                    kind
	token                   int64
	attempt                 int64
	since, due, tombstone   int64
	rule                    int64
	answered, dropped, late bool
	watched                 bool
	nonce, sum, scope, id   []byte
	meta, body, note        []byte
	// now is when the row was like this.
	now int64
}

// columns are those of row, in the order of fields.
const columns = "key, format, kind, token, attempt, since, due, tombstone, rule, answered, dropped, late, watched, nonce, sum, scope, id, meta, body, note"

func (r *row) fields() []any {
	return []any{
		&r.key, &r.format, (*int16)(&r.kind), &r.token, &r.attempt, &r.since, &r.due, &r.tombstone, &r.rule,
		&r.answered, &r.dropped, &r.late, &r.watched, &r.nonce, &r.sum, &r.scope, &r.id, &r.meta, &r.body, &r.note,
		&r.now,
	}
}

// unpack sets what the answer to a claim's quick statement has in arrays.
func (r *row) unpack(numbers []int64, parts [][]byte) bool {
	if len(numbers) != 8 || len(parts) != 7 {
		return false
	}
	r.format, r.kind, r.tombstone, r.rule = numbers[0], kind(numbers[1]), numbers[2], numbers[3]
	r.answered, r.dropped, r.late, r.now = numbers[4] != 0, numbers[5] != 0, numbers[6] != 0, numbers[7]
	r.nonce, r.sum, r.scope, r.id, r.meta, r.body, r.note = parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], parts[6]
	return true
}

// check returns an error unless the row can be understood.
func (r *row) check(key driver.Key) error {
	unreadable := func(format string, args ...any) error {
		return &driver.UnreadableError{Key: key, Reason: fmt.Sprintf(format, args...)}
	}
	size := func(b []byte, n int) bool { return len(b) == 0 || len(b) == n }
	switch {
	case r.format != format:
		return unreadable("its format %d is not known to this version", r.format)
	case r.kind < inFlight || r.kind > releasedByResolve:
		return unreadable("its kind %d is not known to this version", r.kind)
	case string(r.key) != string(key[:]):
		return unreadable("it is another key's")
	case !size(r.nonce, len(driver.Nonce{})):
		return unreadable("its nonce has %d bytes", len(r.nonce))
	case !size(r.sum, len(driver.Fingerprint{}.Sum)):
		return unreadable("its fingerprint has %d bytes", len(r.sum))
	case r.rule < 0 || r.rule > math.MaxUint8:
		return unreadable("the rule of its fingerprint is %d", r.rule)
	case r.token < 1 || r.attempt < 0 || r.attempt > math.MaxInt32 || r.tombstone < 0:
		return unreadable("its token, attempt or tombstone is less than it can be")
	}
	return nil
}

// settle brings the row to its own now: what is over has passed on. It reports
// whether anything is known of the key still.
func (r *row) settle() bool {
	for r.due <= r.now {
		switch r.kind {
		case inFlight:
			r.kind, r.due = lapsed, r.due+r.tombstone
		case completed:
			r.kind, r.since, r.due = forgotten, r.due, r.due+r.tombstone
			r.rule, r.sum, r.meta, r.body, r.dropped = 0, nil, nil, nil, false
			if len(r.note) == 0 {
				r.scope, r.id = nil, nil
			}
		default:
			return false
		}
	}
	return true
}

// record is the settled row as callers see it.
func (r *row) record(key driver.Key) driver.Record {
	v := driver.Record{
		Key: key, State: r.kind.state(), Token: uint64(r.token), Attempt: int(r.attempt),
		Scope: string(r.scope), ID: string(r.id), Fingerprint: r.fingerprint(),
		Answered: r.answered, Dropped: r.dropped, Note: string(r.note),
		Result: driver.Result{Meta: r.meta, Body: r.body},
	}
	v.Age = duration(max(0, r.now-r.since))
	if v.State == driver.StateAbsent {
		v.Age = 0
	} else {
		v.Left = duration(r.due - r.now)
	}
	return v
}

func (r *row) fingerprint() driver.Fingerprint {
	f := driver.Fingerprint{Rule: uint8(r.rule)}
	copy(f.Sum[:], r.sum)
	return f
}

// view checks and settles a row, which may be nil, and returns it as callers
// see it.
func (r *row) view(key driver.Key) (driver.Record, error) {
	if r == nil {
		return driver.Record{Key: key}, nil
	}
	if err := r.check(key); err != nil {
		return driver.Record{}, err
	}
	if !r.settle() {
		return driver.Record{Key: key}, nil
	}
	return r.record(key), nil
}

// verdict is what becomes of a claim.
type verdict int

const (
	refuse verdict = iota
	grant
	lost
)

// decide says what becomes of a claim over a settled row. It is what the
// statement's condition says, for those who share a row that another's claim
// has read.
func (r *row) decide(req *driver.ClaimRequest) verdict {
	ours := string(r.nonce) == string(req.Nonce[:])
	again := req.Retry && r.fingerprint() == req.Fingerprint
	switch r.kind {
	case inFlight:
		if ours {
			return grant
		}
	case lapsed:
		if ours || again {
			return grant
		}
	case abandoned:
		if again {
			return grant
		}
	case releasedByOwner:
		switch {
		case ours:
			return lost
		case r.answered && req.Waited != 0 && req.Waited <= uint64(r.token):
		default:
			return grant
		}
	case releasedByResolve:
		return grant
	}
	return refuse
}

// microseconds rounds up: a lease is not shorter than was asked for.
func microseconds(d time.Duration) int64 {
	us := int64(d / time.Microsecond)
	if d%time.Microsecond > 0 {
		us++
	}
	return us
}

// duration is of microseconds, at most the longest there is.
func duration(us int64) time.Duration {
	if us > math.MaxInt64/1000 {
		return math.MaxInt64
	}
	return time.Duration(us) * time.Microsecond
}

// orNull makes NULL of nothing.
func orNull(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// sumOrNull makes NULL of a sum that is all zeros, which is what no fingerprint has.
func sumOrNull(f driver.Fingerprint) []byte {
	if f.Sum == (driver.Fingerprint{}).Sum {
		return nil
	}
	return f.Sum[:]
}
