package mysqlstore

import (
	"fmt"
	"math"
	"time"

	"github.com/idem-go/idem/driver"
)

// kind is the state of a record as it is kept. It tells more than a
// [driver.State]: who ended a claim decides what its owner may still do. The
// numbers are stored, and stand in the statements; they do not change.
type kind uint8

const (
	absent            kind = 0 // not stored
	inFlight          kind = 1
	lapsed            kind = 2
	abandoned         kind = 3
	completed         kind = 4
	forgotten         kind = 5
	releasedByOwner   kind = 6
	releasedByResolve kind = 7
)

// recordFormat is the version of the format of a row. A row of another one is
// neither read nor changed.
const recordFormat = 1

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

// refusal is what an owner is told who goes on with a claim that has ended; nil
// while it is in flight.
func (k kind) refusal() error {
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

// row is what a table row says of a key. Times are microseconds of the server's
// clock since 1970.
type row struct {
	format, kind  uint8
	late, dropped uint8
	attempt       uint32
	token         int64
	since, due    int64
	// tombstone is how long the key is known after the lease's end, or the
	// retention's.
	tombstone int64
	// answered is the token again where the claim was released with an answer.
	answered *int64
	// nonce names a claim that its owner may still ask for again, ended the one
	// that was released or completed.
	nonce, ended []byte
	fingerprint  []byte
	scope, id    []byte
	note         []byte
	meta, body   []byte
	// now is the server's clock when the statement began.
	now int64
}

// columns are what row.scan takes. A result that is over is left where it is.
const columns = `format, kind, late, dropped, attempt, token, since, due, tombstone, answered, nonce, ended, fingerprint, scope, id, note, ` +
	`IF(kind = 4 AND due > ` + clock + `, result_meta, NULL), IF(kind = 4 AND due > ` + clock + `, result_body, NULL), ` + clock

// bareColumns are columns without the result.
const bareColumns = `format, kind, late, dropped, attempt, token, since, due, tombstone, answered, nonce, ended, fingerprint, scope, id, note, ` +
	`NULL, NULL, ` + clock

// scanner is a *sql.Row or *sql.Rows.
type scanner interface{ Scan(dest ...any) error }

// scan reads columns; before them whatever more was asked for.
func (r *row) scan(from scanner, more ...any) error {
	return from.Scan(append(more, &r.format, &r.kind, &r.late, &r.dropped, &r.attempt, &r.token, &r.since, &r.due, &r.tombstone,
		&r.answered, &r.nonce, &r.ended, &r.fingerprint, &r.scope, &r.id, &r.note, &r.meta, &r.body, &r.now)...)
}

// record is a row that was understood, as it is at the time of its statement.
type record struct {
	kind kind
	row
}

// settle understands a row and lets pass what time has changed since it was
// written. A row that says what no row can gives a [*driver.UnreadableError]; no
// row, nil, is an absent record.
func (r *row) settle(key driver.Key) (record, error) {
	if r == nil {
		return record{}, nil
	}
	unreadable := func(format string, args ...any) (record, error) {
		return record{}, &driver.UnreadableError{Key: key, Reason: fmt.Sprintf(format, args...)}
	}
	if r.format != recordFormat {
		return unreadable("it has the format version %d, this program reads %d", r.format, recordFormat)
	}
	k := kind(r.kind)
	live := k == inFlight || k == lapsed
	switch {
	case k < inFlight || k > releasedByResolve:
		return unreadable("it is in a state that nobody knows: %d", r.kind)
	case r.token <= 0 || r.tombstone < 0:
		return unreadable("its numbers are out of bounds")
	case live && len(r.nonce) != len(driver.Nonce{}) || k == releasedByOwner && len(r.ended) != len(driver.Nonce{}):
		return unreadable("its nonce has a size that none has")
	case len(r.fingerprint) != 0 && len(r.fingerprint) != 1+len(driver.Fingerprint{}.Sum):
		return unreadable("its fingerprint has a size that none has")
	}
	s := record{kind: k, row: *r}
	if s.kind == inFlight && s.due <= s.now {
		// The tombstone counts from the end of the lease, whenever that is noticed.
		s.kind, s.due = lapsed, s.due+s.tombstone
	}
	if s.kind == completed && s.due <= s.now {
		s.kind, s.since, s.due = forgotten, s.due, s.due+s.tombstone
		s.fingerprint, s.dropped = nil, 0
		s.meta, s.body = nil, nil
		if s.note == nil {
			s.scope, s.id = nil, nil
		}
	}
	if s.due <= s.now {
		s = record{row: row{now: s.now}}
	}
	return s, nil
}

// view is the record as a caller sees it.
func (r *record) view(key driver.Key) driver.Record {
	v := driver.Record{
		Key:      key,
		Scope:    string(r.scope),
		ID:       string(r.id),
		State:    r.kind.state(),
		Token:    uint64(r.token),
		Attempt:  int(r.attempt),
		Answered: r.answered != nil,
		Dropped:  r.dropped != 0,
		Note:     string(r.note),
	}
	if len(r.fingerprint) > 0 {
		v.Fingerprint.Rule = r.fingerprint[0]
		copy(v.Fingerprint.Sum[:], r.fingerprint[1:])
	}
	if v.State != driver.StateAbsent {
		v.Left = duration(r.due - r.now)
		v.Age = duration(max(0, r.now-r.since))
	}
	if len(r.meta) > 0 {
		v.Result.Meta = r.meta
	}
	if len(r.body) > 0 {
		v.Result.Body = r.body
	}
	return v
}

// holds reports that a completed record has this result.
func (r *record) holds(res driver.Result, dropped bool) bool {
	return (r.dropped != 0) == dropped && string(r.meta) == string(res.Meta) && string(r.body) == string(res.Body)
}

// nameBytes is a scope or an id as it is stored.
func nameBytes(s string) []byte { return bytesOrNull([]byte(s)) }

// fingerprintBytes is a fingerprint as it is stored: NULL for none.
func fingerprintBytes(f driver.Fingerprint) []byte {
	if f.IsZero() {
		return nil
	}
	return append([]byte{f.Rule}, f.Sum[:]...)
}

// bytesOrNull is nil, which is stored as NULL, for no bytes.
func bytesOrNull(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// micros is a duration as it is stored, rounded up: no positive one becomes
// zero. The longest there is reaches 292 years from now, far from where the sum
// of two of them and the clock would overflow.
func micros(d time.Duration) int64 {
	us := int64(d / time.Microsecond)
	if d%time.Microsecond > 0 {
		us++
	}
	return us
}

// duration is the time of so many microseconds, or the longest there is.
func duration(us int64) time.Duration {
	if us > math.MaxInt64/int64(time.Microsecond) {
		return math.MaxInt64
	}
	return time.Duration(us) * time.Microsecond
}

// tokenOf is a token as it is stored; one that no store of this kind granted
// becomes one that no row has.
func tokenOf(token uint64) int64 {
	if token > math.MaxInt64 {
		return -1
	}
	return int64(token)
}
