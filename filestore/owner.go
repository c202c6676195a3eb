package filestore

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/idem-go/idem/driver"
)

// Renew is described at [driver.Store]. It does not touch the disk: after a
// crash nothing is in flight any more.
func (s *Store) Renew(ctx context.Context, ref driver.Ref, lease time.Duration) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	if err := driver.CheckLease(lease); err != nil {
		return err
	}
	h := s.newHeld()
	defer s.free(h)
	if err := s.hold(ctx, &ref.Key, h); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if err := h.owned(ref); err != nil {
		return err
	}
	if err := h.kind.ended(); err != nil {
		return err
	}
	due := after(h.now, lease)
	if due < h.e.due {
		// Who waits does so until the lease's end as it was.
		h.e.wake()
	}
	h.e.due = due
	s.entries.place(h.e)
	return nil
}

// owned returns ErrLost unless ref names the newest claim of the key.
func (h *held) owned(ref driver.Ref) error {
	if h.kind == absent || h.token != ref.Token {
		return driver.ErrLost
	}
	return nil
}

// Complete is described at [driver.Store].
func (s *Store) Complete(ctx context.Context, ref driver.Ref, c driver.Completion) (late bool, err error) {
	if err := s.enter(ctx); err != nil {
		return false, err
	}
	defer s.leave()
	if err := c.Check(s.opts.MaxResult); err != nil {
		return false, err
	}
	data := s.pack(c.Result)
	h := s.newHeld()
	defer s.free(h)
	for {
		if err := s.holdToWrite(ctx, &ref.Key, h); err != nil {
			s.unpack(data)
			return false, err
		}
		if err = h.owned(ref); err == nil {
			switch h.kind {
			case completed:
				s.mu.Unlock()
				same, again, err := s.same(h, c.Result, c.Dropped)
				if again && err == nil {
					continue
				}
				s.unpack(data)
				if err == nil && !same {
					err = driver.ErrCompleted
				}
				return h.late && err == nil, err
			case forgotten:
				s.mu.Unlock()
				s.unpack(data)
				return h.late, nil
			case releasedByOwner:
				err = driver.ErrLost
			}
		}
		if err != nil {
			s.mu.Unlock()
			s.unpack(data)
			return false, err
		}
		next := h.record
		if h.kind == releasedByResolve {
			next.scope, next.id, next.fingerprint = c.Scope, c.ID, c.Fingerprint
		}
		next.late = h.kind != inFlight
		next.complete(c.Result, c.Dropped, h.now, c.Retention, c.Tombstone)
		return next.late, s.put(ctx, h, &next, data)
	}
}

// complete makes a record completed.
func (r *record) complete(res driver.Result, dropped bool, now int64, retention, tombstone time.Duration) {
	r.kind, r.since, r.due, r.tombstone = completed, now, after(now, retention), tombstone
	r.dropped, r.answered = dropped, false
	r.nonce = driver.Nonce{}
	r.metaLen, r.bodyLen = len(res.Meta), len(res.Body)
}

// same reports whether a completed record has this result. Again says that the
// record has changed meanwhile.
func (s *Store) same(h *held, res driver.Result, dropped bool) (same, again bool, err error) {
	if h.dropped != dropped || h.metaLen != len(res.Meta) || h.bodyLen != len(res.Body) {
		return false, false, nil
	}
	if h.resultLen() == 0 {
		return true, false, nil
	}
	err = s.look(h, func(b []byte) {
		same = bytes.Equal(b[:h.metaLen], res.Meta) && bytes.Equal(b[h.metaLen:], res.Body)
	})
	if errors.Is(err, pebble.ErrNotFound) {
		return false, true, s.vanished(h)
	}
	return same, false, err
}

// vanished tells a result that was dropped since its record was read, which
// gives nil, from one that is missing.
func (s *Store) vanished(h *held) error {
	var now record
	if err := s.load(&h.key, &now, &h.under); err != nil {
		return err
	}
	if placeOf(&now) != h.disk {
		return nil
	}
	return &driver.UnreadableError{Key: h.key, Reason: "its result is missing"}
}

// Release is described at [driver.Store].
func (s *Store) Release(ctx context.Context, ref driver.Ref, r driver.Release) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	if err := r.Check(); err != nil {
		return err
	}
	h := s.newHeld()
	defer s.free(h)
	if err := s.holdToWrite(ctx, &ref.Key, h); err != nil {
		return err
	}
	err := h.owned(ref)
	if err == nil {
		if h.kind == releasedByOwner || h.kind == releasedByResolve {
			s.mu.Unlock()
			return nil
		}
		err = h.kind.ended()
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	next := h.record
	next.answered = r.Answered
	if r.Unused {
		next.attempt--
	}
	next.release(releasedByOwner, after(h.now, r.Retention))
	return s.put(ctx, h, &next, nil)
}

// release makes a key absent; what is kept of it is kept until due.
func (r *record) release(k kind, due int64) {
	r.kind, r.due, r.tombstone = k, due, 0
	r.strip()
}

// Abandon is described at [driver.Store].
func (s *Store) Abandon(ctx context.Context, ref driver.Ref) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	h := s.newHeld()
	defer s.free(h)
	if err := s.holdToWrite(ctx, &ref.Key, h); err != nil {
		return err
	}
	err := h.owned(ref)
	next := h.record
	if err == nil {
		switch h.kind {
		case inFlight:
			next.due = after(h.now, next.tombstone)
		case lapsed:
		case abandoned:
			s.mu.Unlock()
			return nil
		default:
			err = h.kind.ended()
		}
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	next.kind = abandoned
	return s.put(ctx, h, &next, nil)
}
