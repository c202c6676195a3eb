package natsstore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idem-go/idem/driver"
)

// scanned is a record as a scan comes by it, without its result.
type scanned struct {
	rev uint64
	key driver.Key
	rec record
	// err says why the record cannot be read.
	err error
}

func (r *scanned) readable() bool { return r.err == nil }

// A scan asks for so many records at a time.
const scanBatch = 500

var errGap = errors.New("natsstore: messages of a list were lost on the way: ask again")

// scan calls each for the records in the order in which they were written, from
// a revision on, until each says that it wants no more, or the end as it was at
// the beginning. Results are not read. The records may be those of a replica that
// is a little behind.
func (s *Store) scan(ctx context.Context, from uint64, each func(r scanned) (more bool, err error)) error {
	c, err := s.js.CreateConsumer(ctx, s.stream, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(1, from),
		FilterSubject:     s.subjectPrefix + "r.*",
		AckPolicy:         jetstream.AckNonePolicy,
		HeadersOnly:       true,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: time.Minute,
		MaxWaiting:        8,
	})
	if err != nil {
		return fmt.Errorf("natsstore: list: %w", err)
	}
	name := c.CachedInfo().Name
	defer func() {
		// It goes away by itself as well.
		dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attempt)
		defer cancel()
		_ = s.js.DeleteConsumer(dctx, s.stream, name)
	}()
	pending, seen := c.CachedInfo().NumPending, uint64(0)
	for pending > 0 {
		batch, err := c.FetchNoWait(scanBatch)
		if err != nil {
			return fmt.Errorf("natsstore: list: %w", err)
		}
		before := seen
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return fmt.Errorf("natsstore: list: %w", err)
			}
			if seen++; meta.Sequence.Consumer != seen {
				return errGap
			}
			pending = min(pending-1, meta.NumPending)
			r, ok := s.read(m, meta.Sequence.Stream)
			if !ok {
				continue
			}
			if more, err := each(r); err != nil || !more {
				return err
			}
		}
		if err := batch.Error(); err != nil {
			return fmt.Errorf("natsstore: list: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if seen == before {
			// Nothing came: because there is no more, or because nobody answers.
			i, err := c.Info(ctx)
			switch {
			case err != nil:
				return fmt.Errorf("natsstore: list: %w", err)
			case i.NumPending == 0:
				return nil
			case i.Delivered.Consumer != seen:
				return errGap
			}
		}
	}
	return nil
}

// read makes a record of a message that a scan came by; ok is false when it is
// no record's.
func (s *Store) read(m jetstream.Msg, rev uint64) (r scanned, ok bool) {
	name, ok := strings.CutPrefix(m.Subject(), s.subjectPrefix+"r.")
	if !ok {
		return scanned{}, false
	}
	b, err := hex.DecodeString(name)
	if err != nil || len(b) != len(r.key) {
		return scanned{}, false
	}
	copy(r.key[:], b)
	r.rev = rev
	values := m.Headers()[recordHeader]
	text := ""
	if len(values) > 0 {
		text = values[0]
	}
	r.rec, r.err = decode(text, len(values) == 1, rev)
	r.rec.metaLen = 0 // of a result that is not here
	return r, true
}

// current is what a scanned record has become.
func (s *Store) current(r scanned) current {
	now := s.clock.now()
	return s.sights.saw(r.key, sight{rev: r.rev, seen: now.mono, rec: r.rec}).at(now)
}
