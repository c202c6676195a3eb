package filestore

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2"
)

// counts are sums over all batches that the engine has. Each batch carries its
// own as an operand of a merge, so that the sum says how many batches came
// back after a crash, whichever are missing.
type counts struct {
	// batches counts the batches themselves.
	batches int64
	// The others count the records of a kind outside of memory.
	completed, forgotten, released int64
}

func (c *counts) add(d counts) {
	c.batches += d.batches
	c.completed += d.completed
	c.forgotten += d.forgotten
	c.released += d.released
}

// count adds n records of a kind.
func (c *counts) count(k kind, n int64) {
	switch k {
	case completed:
		c.completed += n
	case forgotten:
		c.forgotten += n
	case releasedByOwner, releasedByResolve:
		c.released += n
	}
}

func (c counts) append(b []byte) []byte {
	b = binary.AppendVarint(b, c.batches)
	b = binary.AppendVarint(b, c.completed)
	b = binary.AppendVarint(b, c.forgotten)
	return binary.AppendVarint(b, c.released)
}

var errCounts = errors.New("filestore: the stored counts are malformed")

func decodeCounts(b []byte) (counts, error) {
	d := decoder{b: b}
	c := counts{d.varint(), d.varint(), d.varint(), d.varint()}
	if d.bad || len(d.b) > 0 {
		return counts{}, errCounts
	}
	return c, nil
}

// sum is the merge of counts. Its order does not matter.
type sum counts

func (s *sum) MergeNewer(value []byte) error {
	c, err := decodeCounts(value)
	if err != nil {
		return err
	}
	(*counts)(s).add(c)
	return nil
}

func (s *sum) MergeOlder(value []byte) error { return s.MergeNewer(value) }

func (s *sum) Finish(bool) ([]byte, io.Closer, error) {
	return counts(*s).append(nil), nil, nil
}

// sumMerger is stored by its name: it does not change.
func sumMerger() *pebble.Merger {
	return &pebble.Merger{
		Name: "idem.sum.1",
		Merge: func(_, value []byte) (pebble.ValueMerger, error) {
			s := new(sum)
			return s, s.MergeNewer(value)
		},
	}
}
