package filestore

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/idem-go/idem/driver"
)

// writer turns changes of records into batches of the engine. It is used by one
// goroutine at a time: by Open, then by the committer, then by Close.
type writer struct {
	db    *pebble.DB
	batch *pebble.Batch
	// counts are those of the batch, done those of the batches since took.
	counts, done counts
	// from and to are the range of due times that the batch, or one before it
	// since the last sync, has dropped.
	from, to int64

	buf  []byte
	keys diskKey
	due  record
}

// batchBytes is how large a batch becomes before the next one begins.
const batchBytes = 4 << 20

func newWriter(db *pebble.DB) *writer { return &writer{db: db, batch: db.NewBatch()} }

func (w *writer) size() int { return w.batch.Len() }

// epoch writes the store's epoch.
func (w *writer) epoch(epoch uint64) error {
	w.buf = binary.AppendUvarint(w.buf[:0], epoch)
	return w.batch.Set([]byte(metaEpoch), w.buf, nil)
}

// move writes that a record changes from what it is on disk to r, which may be
// absent. data is the result of a completed one, its meta and body in a row.
func (w *writer) move(key *driver.Key, from place, r *record, data []byte) error {
	k := &w.keys
	// An engine's batch only fails on a closed engine; its errors are kept to be
	// looked at once.
	var err error
	note := func(e error) {
		if err == nil {
			err = e
		}
	}
	kept := !r.kind.isClaim() && r.kind != absent
	switch {
	case from.kind.isClaim():
		if !r.kind.isClaim() {
			note(w.batch.Delete(claimKey(k, key), nil))
		}
	case from.kind != absent:
		w.counts.count(from.kind, -1)
		if from.due < w.from || from.due >= w.to {
			note(w.batch.Delete(dueKey(k, from.due, key), nil))
			if from.result {
				note(w.batch.Delete(resultKey(k, from.due, from.token), nil))
			}
		}
		if !kept {
			note(w.batch.Delete(recordKey(k, key), nil))
		}
	}
	switch {
	case r.kind.isClaim():
		note(w.record(claimKey(k, key), r))
	case kept:
		w.counts.count(r.kind, 1)
		note(w.record(recordKey(k, key), r))
		note(w.record(dueKey(k, r.due, key), w.dueRecord(r)))
		if r.resultLen() > 0 {
			under := resultKey(k, r.due, r.token)
			op := w.batch.SetDeferred(len(under), len(data)+4)
			copy(op.Key, under)
			n := copy(op.Value, data)
			binary.LittleEndian.PutUint32(op.Value[n:], checksum(under, data))
			note(op.Finish())
		}
	}
	return err
}

// dueRecord is what the space x keeps of a record: all that its tombstone needs.
func (w *writer) dueRecord(r *record) *record {
	w.due = *r
	w.due.strip()
	w.due.bodyLen = r.resultLen()
	return &w.due
}

func (w *writer) record(under []byte, r *record) error {
	w.buf = appendRecord(w.buf[:0], under, r)
	return w.batch.Set(under, w.buf, nil)
}

// dropRange drops all entries of due times in [from, to), and the results that
// end then. What the batch writes after it is not touched.
func (w *writer) dropRange(from, to int64) error {
	w.from, w.to = from, to
	for _, space := range []byte{spaceDue, spaceResult} {
		first := binary.BigEndian.AppendUint64([]byte{space}, uint64(from))
		end := binary.BigEndian.AppendUint64([]byte{space}, uint64(to))
		if err := w.batch.DeleteRange(first, end, nil); err != nil {
			return err
		}
	}
	return nil
}

// flush gives the batch to the engine without a sync.
func (w *writer) flush(now clockPair) error { return w.apply(now, pebble.NoSync) }

// sync gives the batch to the engine and returns when it, and all before it,
// are on disk.
func (w *writer) sync(now clockPair) error {
	w.from, w.to = 0, 0
	return w.apply(now, pebble.Sync)
}

func (w *writer) apply(now clockPair, how *pebble.WriteOptions) error {
	w.counts.batches = 1
	w.buf = w.counts.append(w.buf[:0])
	if err := w.batch.Merge([]byte(metaCounts), w.buf, nil); err != nil {
		return fmt.Errorf("filestore: write: %w", err)
	}
	w.buf = now.append(w.buf[:0])
	if err := w.batch.Set([]byte(metaTime), w.buf, nil); err != nil {
		return fmt.Errorf("filestore: write: %w", err)
	}
	if err := w.batch.Commit(how); err != nil {
		return fmt.Errorf("filestore: commit: %w", err)
	}
	w.done.add(w.counts)
	w.counts = counts{}
	w.batch.Reset()
	return nil
}

// took returns what the batches since the last call count together.
func (w *writer) took() counts {
	c := w.done
	w.done = counts{}
	return c
}
