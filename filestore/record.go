package filestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
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

	// unreadable is not stored: it stands for a claim on disk that cannot be read.
	unreadable kind = 255
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

// isClaim says that records of this kind are held in memory, and on disk among
// the claims.
func (k kind) isClaim() bool { return k == inFlight || k == lapsed || k == abandoned }

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

// record is what is kept of a key, its result apart. Times are the store's own:
// see clock.
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
	// due is when the lease ends, a completed record is forgotten, or any other
	// is gone.
	due int64
	// tombstone is how long the key is known after the lease's end, or the
	// retention's.
	tombstone   time.Duration
	nonce       driver.Nonce
	fingerprint driver.Fingerprint
	scope, id   string
	note        string
	// metaLen and bodyLen are the sizes of the two parts of the result.
	metaLen, bodyLen int
}

func (r *record) resultLen() int { return r.metaLen + r.bodyLen }

// view is the record as a caller sees it, its result apart.
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
		v.Left = time.Duration(r.due - now)
		v.Age = time.Duration(now - r.since)
	}
	return v
}

// strip takes from a record everything that a tombstone, or the attempt count
// of a released key, does not need. What an operator noted is kept, and then
// the record's name with it.
func (r *record) strip() {
	r.fingerprint = driver.Fingerprint{}
	r.metaLen, r.bodyLen = 0, 0
	r.dropped = false
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
	r.tombstone = 0
	r.strip()
}

// settle lets pass what time has changed since the record was written. A record
// that is over becomes absent.
func (r *record) settle(now int64) {
	if r.kind == inFlight && r.due <= now {
		// The tombstone counts from the end of the lease, whenever that is noticed.
		r.kind, r.due = lapsed, after(r.due, r.tombstone)
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

// recordVersion is the version of the format below. Every version that was ever
// written stays readable.
const recordVersion = 1

// The flags of a stored record.
const (
	flagAnswered = 1 << iota
	flagDropped
	flagLate
	flagNonce
	flagFingerprint
	flagNames
	flagNote
	flagResult
)

// castagnoli is the table of the checksums; making it again costs nothing.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// appendRecord appends a record to b. Its checksum covers the key on disk that
// it is stored under, so that it cannot pass for another's.
func appendRecord(b, under []byte, r *record) []byte {
	start := len(b)
	flags := byte(0)
	set := func(on bool, flag byte) {
		if on {
			flags |= flag
		}
	}
	set(r.answered, flagAnswered)
	set(r.dropped, flagDropped)
	set(r.late, flagLate)
	set(r.nonce != driver.Nonce{}, flagNonce)
	set(!r.fingerprint.IsZero(), flagFingerprint)
	set(r.scope != "" || r.id != "", flagNames)
	set(r.note != "", flagNote)
	set(r.resultLen() > 0, flagResult)

	b = append(b, recordVersion, byte(r.kind), flags)
	b = binary.AppendUvarint(b, uint64(r.attempt))
	b = binary.AppendUvarint(b, r.token)
	b = binary.AppendVarint(b, r.since)
	b = binary.AppendVarint(b, r.due)
	b = binary.AppendVarint(b, int64(r.tombstone))
	if flags&flagNonce != 0 {
		b = append(b, r.nonce[:]...)
	}
	if flags&flagFingerprint != 0 {
		b = append(b, r.fingerprint.Rule)
		b = append(b, r.fingerprint.Sum[:]...)
	}
	if flags&flagNames != 0 {
		b = appendString(appendString(b, r.scope), r.id)
	}
	if flags&flagNote != 0 {
		b = appendString(b, r.note)
	}
	if flags&flagResult != 0 {
		b = binary.AppendUvarint(b, uint64(r.metaLen))
		b = binary.AppendUvarint(b, uint64(r.bodyLen))
	}
	return binary.LittleEndian.AppendUint32(b, checksum(under, b[start:]))
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func checksum(under, b []byte) uint32 {
	return crc32.Update(crc32.Checksum(under, castagnoli()), castagnoli(), b)
}

var (
	errChecksum  = errors.New("its checksum does not fit")
	errMalformed = errors.New("it is malformed")
)

// decodeRecord reads what appendRecord wrote. It keeps no reference to b.
func decodeRecord(b, under []byte, r *record) error {
	if len(b) < 4 {
		return errMalformed
	}
	body := b[:len(b)-4]
	if checksum(under, body) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return errChecksum
	}
	if len(body) < 3 {
		return errMalformed
	}
	if body[0] != recordVersion {
		return fmt.Errorf("it has the format version %d, this program reads %d", body[0], recordVersion)
	}
	*r = record{kind: kind(body[1])}
	if r.kind < inFlight || r.kind > releasedByResolve {
		return fmt.Errorf("it is in a state that nobody knows: %d", body[1])
	}
	flags := body[2]
	r.answered = flags&flagAnswered != 0
	r.dropped = flags&flagDropped != 0
	r.late = flags&flagLate != 0

	d := decoder{b: body[3:]}
	attempt := d.uvarint()
	if attempt > math.MaxUint32 {
		return errMalformed
	}
	r.attempt = uint32(attempt)
	r.token = d.uvarint()
	r.since = d.varint()
	r.due = d.varint()
	r.tombstone = time.Duration(d.varint())
	if flags&flagNonce != 0 {
		copy(r.nonce[:], d.take(len(r.nonce)))
	}
	if flags&flagFingerprint != 0 {
		if f := d.take(1 + len(r.fingerprint.Sum)); !d.bad {
			r.fingerprint.Rule = f[0]
			copy(r.fingerprint.Sum[:], f[1:])
		}
	}
	if flags&flagNames != 0 {
		r.scope, r.id = d.strings()
	}
	if flags&flagNote != 0 {
		r.note = string(d.take(d.length()))
	}
	if flags&flagResult != 0 {
		r.metaLen, r.bodyLen = d.length32(), d.length32()
	}
	if d.bad || len(d.b) > 0 {
		return errMalformed
	}
	return nil
}

// decoder reads the parts of a record. After an error it reads nothing more.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// length reads the length of something that follows.
func (d *decoder) length() int {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return 0
	}
	return int(n)
}

// length32 reads the length of something that is elsewhere.
func (d *decoder) length32() int {
	n := d.uvarint()
	if n > math.MaxInt32 {
		d.bad, d.b = true, nil
		return 0
	}
	return int(n)
}

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.bad, d.b = true, nil
		return nil
	}
	t := d.b[:n:n]
	d.b = d.b[n:]
	return t
}

// strings reads two strings into one piece of memory.
func (d *decoder) strings() (string, string) {
	first := d.take(d.length())
	second := d.take(d.length())
	if d.bad {
		return "", ""
	}
	var stack [128]byte
	both := string(append(append(stack[:0], first...), second...))
	return both[:len(first)], both[len(first):]
}
