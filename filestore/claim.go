package filestore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"github.com/idem-go/idem/driver"
)

// Claim is described at [driver.Store]. The store keeps the strings of the
// request while the claim lasts. A grant that the disk refuses gives an error
// that wraps [ErrStopped].
func (s *Store) Claim(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
	if err := s.enter(ctx); err != nil {
		return driver.ClaimReply{}, err
	}
	defer s.leave()
	if err := req.Check(); err != nil {
		return driver.ClaimReply{}, err
	}
	h := s.newHeld()
	defer s.free(h)
	for {
		if err := s.holdToWrite(ctx, &req.Key, h); err != nil {
			return driver.ClaimReply{}, err
		}
		verdict, err := s.judge(h, &req)
		switch {
		case err != nil:
			s.mu.Unlock()
			return driver.ClaimReply{}, err
		case verdict == refuse:
			rec, again, err := s.read(h)
			if again {
				continue
			}
			return driver.ClaimReply{Record: rec}, err
		case verdict == prolong:
			s.entries.place(h.e)
			s.mu.Unlock()
		default:
			next := h.record
			if verdict == grant {
				s.grant(&next, &req, h.now)
			}
			err := s.put(ctx, h, &next, nil)
			if err != nil {
				return driver.ClaimReply{}, err
			}
			h.record = next
		}
		return driver.ClaimReply{Granted: true, Record: s.inFlight(h)}, nil
	}
}

// verdict is what becomes of a claim.
type verdict int

const (
	// refuse: the reply is the record as it is.
	refuse verdict = iota
	// prolong: the claim was granted before, and only memory changes.
	prolong
	// regrant: the claim was granted before, and disk has it as lapsed.
	regrant
	// grant: the claim is new.
	grant
)

// judge says what becomes of a claim. For prolong and regrant the record is in
// flight again when it returns, in memory too for prolong.
func (s *Store) judge(h *held, req *driver.ClaimRequest) (verdict, error) {
	ours := h.nonce == req.Nonce
	switch h.kind {
	case inFlight, lapsed, abandoned:
		if ours && h.kind != abandoned {
			h.kind, h.due = inFlight, after(h.now, req.Lease)
			if h.disk.kind != inFlight {
				return regrant, nil
			}
			if h.due < h.e.due {
				// Who waits does so until the lease's end as it was.
				h.e.wake()
			}
			h.e.kind, h.e.due = h.kind, h.due
			return prolong, nil
		}
		if h.kind != inFlight && req.Retry && h.fingerprint == req.Fingerprint {
			return grant, nil
		}
		return refuse, nil
	case completed, forgotten:
		return refuse, nil
	case releasedByOwner:
		if ours {
			return refuse, driver.ErrLost
		}
		if h.answered && req.Waited != 0 && req.Waited <= h.token {
			return refuse, nil
		}
	}
	return grant, s.room(h.disk.kind == absent, h.now)
}

// counterBits is how many bits of a token count the grants of an epoch. The rest
// is the epoch, which grows with every opening, so that tokens grow for ever;
// for the first million openings they stay below 2^53, which every JSON reader
// takes.
const counterBits = 33

// grant makes r, what is known of a key, the record of a new claim.
func (s *Store) grant(r *record, req *driver.ClaimRequest, now int64) {
	s.grants++
	*r = record{
		kind: inFlight,
		// A count beyond its bits runs into the epoch's, and still grows.
		token:       s.epoch<<counterBits + s.grants,
		attempt:     r.attempt + 1,
		since:       now,
		due:         after(now, req.Lease),
		tombstone:   req.Tombstone,
		nonce:       req.Nonce,
		fingerprint: req.Fingerprint,
		scope:       req.Scope,
		id:          req.ID,
	}
}

// inFlight is the view of a claim that has just been granted.
func (s *Store) inFlight(h *held) driver.Record {
	v := h.view(h.key, s.clock.now())
	v.Left = max(v.Left, 1)
	return v
}

// room returns ErrFull when the bounds leave no room for a claim; fresh says
// that it adds a record. It is called with Store.mu held.
func (s *Store) room(fresh bool, now int64) error {
	s.entries.pass(now)
	if len(s.entries.unknowns.entries) >= s.opts.MaxUnknown {
		return driver.ErrFull
	}
	if most := s.opts.MaxRecords; fresh && most > 0 {
		if int64(len(s.entries.all))+s.counts.completed+s.counts.forgotten+s.counts.released >= most {
			return driver.ErrFull
		}
	}
	if s.space.low.Load() {
		return driver.ErrFull
	}
	return nil
}

// Lookup is described at [driver.Store].
func (s *Store) Lookup(ctx context.Context, key driver.Key) (driver.Record, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Record{}, err
	}
	defer s.leave()
	h := s.newHeld()
	defer s.free(h)
	for {
		if err := s.hold(ctx, &key, h); err != nil {
			return driver.Record{}, err
		}
		if rec, again, err := s.read(h); !again {
			return rec, err
		}
	}
}

// read lets go of Store.mu and returns the record with its result. Again says
// that the record has changed meanwhile.
func (s *Store) read(h *held) (rec driver.Record, again bool, err error) {
	s.mu.Unlock()
	rec = h.view(h.key, h.now)
	if h.kind != completed || h.resultLen() == 0 {
		return rec, false, nil
	}
	data, err := s.result(h)
	if errors.Is(err, pebble.ErrNotFound) {
		return rec, true, s.vanished(h)
	}
	if err != nil {
		return driver.Record{}, false, err
	}
	if h.metaLen > 0 {
		rec.Result.Meta = data[:h.metaLen:h.metaLen]
	}
	if h.bodyLen > 0 {
		rec.Result.Body = data[h.metaLen:]
	}
	return rec, false, nil
}

// result reads the result of a completed record into memory of its own. It gives
// pebble.ErrNotFound when there is none.
func (s *Store) result(h *held) ([]byte, error) {
	var data []byte
	err := s.look(h, func(b []byte) { data = bytes.Clone(b) })
	return data, err
}

// look calls f with the result of a completed record, which f must not keep.
func (s *Store) look(h *held, f func([]byte)) error {
	under := resultKey(&h.under, h.disk.due, h.disk.token)
	v, closer, err := s.db.Get(under)
	if err != nil {
		if errors.Is(err, pebble.ErrNotFound) {
			return err
		}
		return s.readError(h.key, err)
	}
	n := len(v) - 4
	switch {
	case n != h.resultLen():
		err = errMalformed
	case checksum(under, v[:n]) != binary.LittleEndian.Uint32(v[n:]):
		err = errChecksum
	default:
		f(v[:n:n])
	}
	if err != nil {
		err = &driver.UnreadableError{Key: h.key, Reason: "its result: " + err.Error()}
	}
	return errors.Join(err, closer.Close())
}
