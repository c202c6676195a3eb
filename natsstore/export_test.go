package natsstore

import (
	"sync/atomic"
	"time"

	"github.com/idem-go/idem/driver"
)

// WithShift makes a store add a shift, in nanoseconds, to its monotonic clock.
func (o Options) WithShift(shift *atomic.Int64) *Options {
	o.shift = shift
	return &o
}

// Encode and Decode are the stored form of a record, as a test sees it.
func Encode(v driver.Record, r Stored) (header string, data []byte) {
	rec := record{
		kind: kind(r.Kind), answered: v.Answered, dropped: v.Dropped, late: r.Late, attempt: uint32(v.Attempt), token: v.Token,
		since: r.Since, due: r.Due, lease: r.Lease, tombstone: r.Tombstone, nonce: r.Nonce, fingerprint: v.Fingerprint,
		scope: v.Scope, id: v.ID, note: v.Note, data: pack(v.Result), metaLen: len(v.Result.Meta),
	}
	return encodeMeta(&rec), rec.data
}

// Decode reads the stored form of a record.
func Decode(header string, data []byte, rev uint64) (v driver.Record, r Stored, err error) {
	rec, err := decodeMeta(header, rev)
	if err == nil {
		err = rec.attach(data)
	}
	if err != nil {
		return v, r, err
	}
	v = rec.view(driver.Key{}, 0)
	v.Age, v.Left = 0, 0
	return v, Stored{byte(rec.kind), rec.late, rec.since, rec.due, rec.lease, rec.tombstone, rec.nonce}, nil
}

// Stored is what a record holds besides what its caller sees.
type Stored struct {
	Kind             byte
	Late             bool
	Since, Due       int64
	Lease, Tombstone time.Duration
	Nonce            driver.Nonce
}

// Fill makes a store remember n keys, and returns how many it does then.
func (s *Store) Fill(n int, req func(i int) (driver.Key, string)) int {
	for i := range n {
		key, scope := req(i)
		s.sights.saw(key, sight{rev: uint64(i + 1), rec: record{kind: inFlight, scope: scope}})
	}
	return len(s.sights.young) + len(s.sights.old)
}

// Forget makes a store remember nothing.
func (s *Store) Forget() {
	s.sights.mu.Lock()
	defer s.sights.mu.Unlock()
	s.sights.young, s.sights.old, s.sights.bytes = nil, nil, 0
}

// Watches is how many keys are waited for.
func (s *Store) Watches() int {
	s.waits.mu.Lock()
	defer s.waits.mu.Unlock()
	return len(s.waits.keys)
}

// Chunks is how many parts of the bucket the sweeper remembers.
func (s *Store) Chunks() int { return len(s.sweeper.chunks) }

// Supported is supported.
func Supported(version string) bool { return supported(version) }

// Saw makes a store remember a revision of a key, and Remembered says which one it
// does.
func (s *Store) Saw(key driver.Key, rev uint64) {
	s.sights.saw(key, sight{rev: rev, rec: record{kind: inFlight}})
}

// Remembered is the revision of a key that is remembered.
func (s *Store) Remembered(key driver.Key) uint64 {
	return s.sights.get(key).rev
}
