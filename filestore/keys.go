package filestore

import (
	"encoding/binary"

	"github.com/idem-go/idem/driver"
)

// The key spaces of the engine, by the first byte of a key.
//
//	c KEY        a claim: in flight, or its outcome unknown. All are in memory too.
//	r KEY        any other record, its result apart.
//	x DUE KEY    what becomes of the record r KEY at its time, in the order of
//	             time: there is exactly one for each record r.
//	d DUE TOKEN  the result of a completed record. Being in the order in which
//	             they end, results are dropped by ranges, and no compaction
//	             writes them over and over.
//	m NAME       what the store keeps of itself.
//
// DUE and TOKEN are eight bytes each, the most significant first.
const (
	spaceClaim  = 'c'
	spaceRecord = 'r'
	spaceDue    = 'x'
	spaceResult = 'd'
	spaceMeta   = 'm'
)

const (
	metaCounts = "mcounts"
	metaTime   = "mtime"
	metaEpoch  = "mepoch"
)

// diskKey is a key of the engine, on the stack.
type diskKey [1 + 8 + 32]byte

func claimKey(d *diskKey, key *driver.Key) []byte {
	d[0] = spaceClaim
	return d[:1+copy(d[1:], key[:])]
}

func recordKey(d *diskKey, key *driver.Key) []byte {
	d[0] = spaceRecord
	return d[:1+copy(d[1:], key[:])]
}

func dueKey(d *diskKey, due int64, key *driver.Key) []byte {
	d[0] = spaceDue
	binary.BigEndian.PutUint64(d[1:], uint64(due))
	return d[:9+copy(d[9:], key[:])]
}

func resultKey(d *diskKey, due int64, token uint64) []byte {
	d[0] = spaceResult
	binary.BigEndian.PutUint64(d[1:], uint64(due))
	binary.BigEndian.PutUint64(d[9:], token)
	return d[:17]
}

// splitDue takes a key of the space x apart.
func splitDue(b []byte) (due int64, key driver.Key, ok bool) {
	if len(b) != len(diskKey{}) || b[0] != spaceDue {
		return 0, key, false
	}
	return int64(binary.BigEndian.Uint64(b[1:])), driver.Key(b[9:]), true
}

// splitKey takes a key of the spaces c and r apart.
func splitKey(b []byte) (key driver.Key, ok bool) {
	if len(b) != 1+len(key) {
		return key, false
	}
	return driver.Key(b[1:]), true
}
