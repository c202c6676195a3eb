package natsstore

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/idem-go/idem/driver"
)

// A record is one message: its result is the message's data, and everything
// else stands in this header, so that lists and sweeps need not read results.
// The header is the format's version, a dot, and the bytes below in base64.
const (
	recordHeader  = "Idem"
	recordVersion = "1"
)

// The flags of a stored record.
const (
	flagAnswered = 1 << iota
	flagDropped
	flagLate
	flagNonce
	flagFingerprint
	flagNames
	flagNote
)

// The reasons why a record cannot be read.
var (
	errNoHeader  = errors.New("it was not written by idem")
	errVersion   = errors.New("its format is of another version")
	errMalformed = errors.New("it is malformed")
	errKind      = errors.New("its state is not known")
)

// appendMeta appends all of a record but its result, as it is stored. A token of
// 0 stands for the revision of the message itself: it is that of a claim that
// is granted by this very message.
func appendMeta(b []byte, r *record) []byte {
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

	b = append(b, byte(r.kind), flags)
	b = binary.AppendUvarint(b, uint64(r.attempt))
	b = binary.AppendUvarint(b, r.token)
	b = binary.AppendVarint(b, r.since)
	if r.kind == inFlight {
		b = binary.AppendVarint(b, int64(r.lease))
	} else {
		b = binary.AppendVarint(b, r.due)
	}
	b = binary.AppendVarint(b, int64(r.tombstone))
	if flags&flagNonce != 0 {
		b = append(b, r.nonce[:]...)
	}
	if flags&flagFingerprint != 0 {
		b = append(b, r.fingerprint.Rule)
		b = append(b, r.fingerprint.Sum[:]...)
	}
	if flags&flagNames != 0 {
		b = appendString(b, r.scope)
		b = appendString(b, r.id)
	}
	if flags&flagNote != 0 {
		b = appendString(b, r.note)
	}
	return binary.AppendUvarint(b, uint64(r.metaLen))
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// encodeMeta is the text of the record's header.
func encodeMeta(r *record) string {
	var stack [512]byte
	meta := appendMeta(stack[:0], r)
	var text strings.Builder
	text.Grow(len(recordVersion) + 1 + base64.RawURLEncoding.EncodedLen(len(meta)))
	text.WriteString(recordVersion)
	text.WriteByte('.')
	text.Write(base64.RawURLEncoding.AppendEncode(nil, meta))
	return text.String()
}

// decodeMeta reads what encodeMeta has written, stored in the message of the
// revision. The result is left to the caller.
func decodeMeta(text string, rev uint64) (record, error) {
	version, encoded, ok := strings.Cut(text, ".")
	if !ok {
		return record{}, errMalformed
	}
	if version != recordVersion {
		return record{}, errVersion
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || len(b) < 2 {
		return record{}, errMalformed
	}
	r := record{kind: kind(b[0])}
	if r.kind < inFlight || r.kind > releasedByResolve {
		return record{}, errKind
	}
	flags := b[1]
	if flags >= flagNote<<1 {
		return record{}, errMalformed
	}
	r.answered, r.dropped, r.late = flags&flagAnswered != 0, flags&flagDropped != 0, flags&flagLate != 0
	d := decoder{b: b[2:]}
	attempt := d.uvarint()
	if attempt > math.MaxUint32 {
		return record{}, errMalformed
	}
	r.attempt = uint32(attempt)
	if r.token = d.uvarint(); r.token == 0 {
		r.token = rev
	}
	r.since = d.varint()
	if r.kind == inFlight {
		r.lease = time.Duration(d.varint())
	} else {
		r.due = d.varint()
	}
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
		r.scope = string(d.take(d.length()))
		r.id = string(d.take(d.length()))
	}
	if flags&flagNote != 0 {
		r.note = string(d.take(d.length()))
	}
	metaLen := d.uvarint()
	if d.bad || len(d.b) > 0 || metaLen > math.MaxInt32 || r.lease < 0 || r.tombstone < 0 || r.token > rev {
		return record{}, errMalformed
	}
	r.metaLen = int(metaLen)
	return r, nil
}

// attach adds the result to a record that has been decoded.
func (r *record) attach(data []byte) error {
	if len(data) > 0 && r.kind != completed || r.metaLen > len(data) || r.dropped && len(data) > 0 {
		return errMalformed
	}
	if len(data) > 0 {
		r.data = data
	}
	return nil
}

// decoder reads the parts of a record. After an error it reads nothing more.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() { d.bad, d.b = true, nil }

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// length reads the length of something that follows.
func (d *decoder) length() int {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.fail()
		return nil
	}
	t := d.b[:n:n]
	d.b = d.b[n:]
	return t
}
