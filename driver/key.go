package driver

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// Key is the name of a record: a SHA-256 over the length-prefixed parts of an
// operation's key, so that no bytes of one part can pass for another's.
type Key [32]byte

// KeyOf makes the key of a scope and an id. Both are taken byte for byte, and
// may hold any bytes.
func KeyOf(scope, id string) Key {
	var stack [512]byte
	b := append(stack[:0], "idem key 1\x00"...)
	b = binary.AppendUvarint(b, uint64(len(scope)))
	b = append(b, scope...)
	b = binary.AppendUvarint(b, uint64(len(id)))
	b = append(b, id...)
	return sha256.Sum256(b)
}

// String returns the key as 64 hexadecimal digits.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// Short returns the first 12 hexadecimal digits: enough to find a record by in
// a log, and no way back to the key.
func (k Key) Short() string { return hex.EncodeToString(k[:6]) }

// Nonce is a random value that names one claim.
type Nonce [16]byte

// NewNonce returns a nonce from the system's source of randomness.
func NewNonce() Nonce {
	var n Nonce
	_, _ = rand.Read(n[:]) // never fails since Go 1.24: it ends the program instead
	return n
}

// Fingerprint is a hash of what was asked for, with the version of the rule
// that made it. Fingerprints are equal when both parts are.
type Fingerprint struct {
	// Rule is the version of the rule; 0 for no fingerprint.
	Rule uint8
	// Sum is what the rule gave.
	Sum [32]byte
}

// IsZero reports that there is no fingerprint.
func (f Fingerprint) IsZero() bool { return f == Fingerprint{} }
