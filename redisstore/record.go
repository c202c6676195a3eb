package redisstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/idem-go/idem/driver"
)

// kind is the state of a record as it is kept. It tells more than a
// [driver.State]: who ended a claim decides what its owner may still do. The
// numbers are stored, and known to the scripts; they do not change.
type kind uint8

const (
	absent   kind = 0
	inFlight kind = 1
	// lapsed is not stored: it is what a claim in flight becomes at its due.
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

// The flags of a stored record.
const (
	flagAnswered = 1 << iota
	flagDropped
	flagLate
	// flagWatched says that somebody waits for the end of the claim.
	flagWatched
)

// The parts that may follow a stored record's head, in this order.
const (
	partNote = 1 << iota
	partNonce
	partFingerprint
	partNames
	partResult
)

// recordVersion is the version of a record's format. Every version that was ever
// written stays readable.
const recordVersion = 1

// A record begins with a head. All numbers are big-endian, and times are the
// server's in microseconds since 1970.
//
//	 0  version        1 byte
//	 1  kind           1 byte
//	 2  flags          1 byte
//	 3  attempt        4 bytes
//	 7  since          8 bytes
//	15  due            8 bytes
//	23  token          8 bytes
//	31  tombstone      8 bytes, a duration in microseconds
//	39  parts          1 byte
const headSize = 40

// never is the last time there is: the scripts count in doubles, which are exact
// up to here, the year 2255. A token is a time, or a little more.
const never = 1<<53 - 1

// record is what is kept of a key. Its byte slices are shared with the answer
// that they came in.
type record struct {
	kind        kind
	flags       byte
	attempt     uint32
	since, due  int64
	token       uint64
	tombstone   int64
	note        string
	nonce       driver.Nonce
	fingerprint driver.Fingerprint
	scope, id   string
	meta, body  []byte
}

// micros is a duration as the scripts take it, at least as long as d.
func micros(d time.Duration) int64 {
	us := int64(d / time.Microsecond)
	if d%time.Microsecond != 0 {
		us++
	}
	return min(us, never)
}

func span(us int64) time.Duration {
	if us > math.MaxInt64/int64(time.Microsecond) {
		return math.MaxInt64
	}
	return time.Duration(us) * time.Microsecond
}

func later(at, d int64) int64 { return min(at+d, never) }

// settle lets pass what time has changed since the record was written. A record
// that is over becomes absent.
func (r *record) settle(now int64) {
	if r.kind == inFlight && r.due <= now {
		// The tombstone counts from the end of the lease, whenever that is noticed.
		r.kind, r.due = lapsed, later(r.due, r.tombstone)
	}
	if r.kind == completed && r.due <= now {
		r.kind, r.since, r.due = forgotten, r.due, later(r.due, r.tombstone)
		r.fingerprint = driver.Fingerprint{}
		r.meta, r.body = nil, nil
		r.flags &^= flagDropped
		if r.note == "" {
			r.scope, r.id = "", ""
		}
	}
	if r.kind != absent && r.due <= now {
		*r = record{}
	}
}

// view writes the record as a caller sees it into v, which is zero.
func (r *record) view(v *driver.Record, key driver.Key, now int64) {
	v.Key = key
	v.Scope, v.ID = r.scope, r.id
	v.State = r.kind.state()
	v.Token = r.token
	v.Attempt = int(r.attempt)
	v.Fingerprint = r.fingerprint
	v.Answered = r.flags&flagAnswered != 0
	v.Dropped = r.flags&flagDropped != 0
	v.Note = r.note
	v.Result = driver.Result{Meta: r.meta, Body: r.body}
	if v.State != driver.StateAbsent {
		// The clock of a server may have been set back.
		v.Age = span(max(now-r.since, 0))
		v.Left = span(r.due - now)
	}
}

// appendClaim appends the part of a claim's record that its owner knows: all
// from the tombstone on.
func appendClaim(b []byte, req *driver.ClaimRequest) []byte {
	parts := byte(partNonce | partFingerprint)
	if req.Scope != "" || req.ID != "" {
		parts |= partNames
	}
	b = binary.BigEndian.AppendUint64(b, uint64(micros(req.Tombstone)))
	b = append(b, parts)
	b = append(b, req.Nonce[:]...)
	b = appendFingerprint(b, &req.Fingerprint)
	return appendNames(b, req.Scope, req.ID)
}

func claimSize(req *driver.ClaimRequest) int {
	return 8 + 1 + 16 + 33 + 4 + len(req.Scope) + len(req.ID)
}

// appendCompleted appends a completed record, in which the script sets attempt
// and times.
func appendCompleted(b []byte, token uint64, c *driver.Completion) []byte {
	flags, parts := byte(0), byte(partFingerprint)
	if c.Dropped {
		flags |= flagDropped
	}
	if c.Scope != "" || c.ID != "" {
		parts |= partNames
	}
	if c.Result.Size() > 0 {
		parts |= partResult
	}
	b = append(b, recordVersion, byte(completed), flags)
	b = append(b, make([]byte, 4+8+8)...)
	b = binary.BigEndian.AppendUint64(b, token)
	b = binary.BigEndian.AppendUint64(b, uint64(micros(c.Tombstone)))
	b = append(b, parts)
	b = appendFingerprint(b, &c.Fingerprint)
	b = appendNames(b, c.Scope, c.ID)
	return appendResult(b, c.Result)
}

func completedSize(c *driver.Completion) int {
	return headSize + 33 + 4 + len(c.Scope) + len(c.ID) + 4 + c.Result.Size()
}

func appendFingerprint(b []byte, f *driver.Fingerprint) []byte {
	return append(append(b, f.Rule), f.Sum[:]...)
}

func appendNames(b []byte, scope, id string) []byte {
	if scope == "" && id == "" {
		return b
	}
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(scope))), scope...)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(id))), id...)
}

func appendResult(b []byte, r driver.Result) []byte {
	if r.Size() == 0 {
		return b
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Meta)))
	return append(append(b, r.Meta...), r.Body...)
}

var (
	errMalformed = errors.New("it is malformed")
	// errShort says that a beginning of a record was not enough.
	errShort = errors.New("it is cut short")
)

// decode reads a record, and keeps references to b. With beginning set b may
// end anywhere in the record's result, which is not read; errShort says that it
// ends before that.
func (r *record) decode(b []byte, beginning bool) error {
	if err := r.decodeHead(b); err != nil {
		return err
	}
	d := decoder{b: b[headSize:]}
	parts := b[headSize-1]
	if parts&partNote != 0 {
		r.note = string(d.take(d.uint32()))
	}
	if parts&partNonce != 0 {
		copy(r.nonce[:], d.take(len(r.nonce)))
	}
	if parts&partFingerprint != 0 {
		if f := d.take(1 + len(r.fingerprint.Sum)); !d.short {
			r.fingerprint.Rule = f[0]
			copy(r.fingerprint.Sum[:], f[1:])
		}
	}
	if parts&partNames != 0 {
		r.scope, r.id = d.names()
	}
	switch {
	case beginning && d.short:
		return errShort
	case beginning:
		return nil
	case parts&partResult != 0:
		r.meta = d.take(d.uint32())
		r.body, d.b = d.b[:len(d.b):len(d.b)], nil
		if len(r.meta) == 0 {
			r.meta = nil
		}
		if len(r.body) == 0 {
			r.body = nil
		}
	}
	if d.short || len(d.b) > 0 {
		return errMalformed
	}
	return nil
}

// decodeHead reads a record's head.
func (r *record) decodeHead(b []byte) error {
	if len(b) < headSize {
		return errMalformed
	}
	if b[0] != recordVersion {
		return fmt.Errorf("it has the format version %d, this program reads %d", b[0], recordVersion)
	}
	*r = record{
		kind: kind(b[1]), flags: b[2],
		attempt: binary.BigEndian.Uint32(b[3:]),
		since:   int64(binary.BigEndian.Uint64(b[7:])), due: int64(binary.BigEndian.Uint64(b[15:])),
		token: binary.BigEndian.Uint64(b[23:]), tombstone: int64(binary.BigEndian.Uint64(b[31:])),
	}
	parts := b[headSize-1]
	if r.kind < inFlight || r.kind == lapsed || r.kind > releasedByResolve {
		return fmt.Errorf("it is in a state that nobody knows: %d", r.kind)
	}
	claim := r.kind == inFlight || r.kind == abandoned
	switch {
	case r.since < 0 || r.since > never || r.due < 0 || r.due > never || r.tombstone < 0 || r.tombstone > never,
		r.attempt > math.MaxInt32, r.flags >= flagWatched<<1, parts >= partResult<<1,
		claim && parts&^partNames != partNonce|partFingerprint,
		parts&partResult != 0 && r.kind != completed:
		return errMalformed
	}
	return nil
}

// decoder reads the parts of a record. Where there is too little it reads
// nothing more.
type decoder struct {
	b     []byte
	short bool
}

func (d *decoder) take(n int) []byte {
	if d.short || n > len(d.b) {
		d.short, d.b = true, nil
		return nil
	}
	t := d.b[:n:n]
	d.b = d.b[n:]
	return t
}

func (d *decoder) uint32() int {
	b := d.take(4)
	if b == nil {
		return 0
	}
	return int(binary.BigEndian.Uint32(b))
}

// names reads two strings into one piece of memory.
func (d *decoder) names() (string, string) {
	one := func() []byte {
		b := d.take(2)
		if b == nil {
			return nil
		}
		return d.take(int(binary.BigEndian.Uint16(b)))
	}
	first, second := one(), one()
	if d.short {
		return "", ""
	}
	var stack [128]byte
	both := string(append(append(stack[:0], first...), second...))
	return both[:len(first)], both[len(first):]
}
