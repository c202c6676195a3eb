package memstore

import (
	"context"
	"time"

	"github.com/idem-go/idem/driver"
)

// Renew is described at [driver.Store].
func (s *Store) Renew(ctx context.Context, ref driver.Ref, lease time.Duration) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	if err := driver.CheckLease(lease); err != nil {
		return err
	}
	sh := s.shardOf(ref.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	h, err := s.owned(sh, ref, now)
	if err != nil {
		return err
	}
	if err := h.kind.ended(); err != nil {
		return err
	}
	due := after(now, lease)
	if due < h.due {
		// Who waits does so until the lease's end as it was.
		h.wake()
	}
	s.lease(sh, h, due)
	return nil
}

// Complete is described at [driver.Store].
func (s *Store) Complete(ctx context.Context, ref driver.Ref, c driver.Completion) (late bool, err error) {
	if err := s.enter(ctx); err != nil {
		return false, err
	}
	if err := c.Check(s.maxResult); err != nil {
		return false, err
	}
	data := pack(c.Result)
	sh := s.shardOf(ref.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	h, err := s.owned(sh, ref, now)
	if err != nil {
		return false, err
	}
	switch h.kind {
	case completed:
		if !h.holds(c.Result, c.Dropped) {
			return false, driver.ErrCompleted
		}
		return h.late, nil
	case forgotten:
		return h.late, nil
	case releasedByOwner:
		return false, driver.ErrLost
	case releasedByResolve:
		h = s.widen(sh, h)
		sh.bytes -= h.bytes()
		h.full.scope, h.full.id, h.full.fingerprint = c.Scope, c.ID, c.Fingerprint
		sh.bytes += h.bytes()
	}
	late = h.kind != inFlight
	s.end(sh, h, outcome{data, uint32(len(c.Result.Meta)), c.Dropped, late, c.Retention, c.Tombstone}, now)
	s.tidy(sh, now)
	return late, nil
}

// outcome is what a record is completed with.
type outcome struct {
	data                 []byte
	bodyAt               uint32
	dropped, late        bool
	retention, tombstone time.Duration
}

// end completes a record.
func (s *Store) end(sh *shard, h *head, o outcome, now int64) {
	s.turn(sh, h, completed, after(now, o.retention))
	h.since, h.dropped, h.late = now, o.dropped, o.late
	r := h.full
	r.data, r.bodyAt, r.tombstone = o.data, o.bodyAt, o.tombstone
	sh.bytes += int64(len(o.data))
	s.tell(sh)
	h.wake()
}

// Release is described at [driver.Store].
func (s *Store) Release(ctx context.Context, ref driver.Ref, r driver.Release) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	if err := r.Check(); err != nil {
		return err
	}
	sh := s.shardOf(ref.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	h, err := s.owned(sh, ref, now)
	if err != nil {
		return err
	}
	if h.kind == releasedByOwner || h.kind == releasedByResolve {
		return nil
	}
	if err := h.kind.ended(); err != nil {
		return err
	}
	h.answered = r.Answered
	if r.Unused {
		h.attempt--
	}
	s.free(sh, h, releasedByOwner, after(now, r.Retention))
	s.tidy(sh, now)
	return nil
}

// free makes a key absent; what is kept of it is kept until due.
func (s *Store) free(sh *shard, h *head, k kind, due int64) *head {
	h.wake()
	s.turn(sh, h, k, due)
	return s.strip(sh, h)
}

// Abandon is described at [driver.Store].
func (s *Store) Abandon(ctx context.Context, ref driver.Ref) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	sh := s.shardOf(ref.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	h, err := s.owned(sh, ref, now)
	if err != nil {
		return err
	}
	switch h.kind {
	case inFlight:
		s.turn(sh, h, abandoned, after(now, h.full.tombstone))
		h.wake()
	case lapsed:
		s.turn(sh, h, abandoned, h.due)
	case abandoned:
		return nil
	default:
		return h.kind.ended()
	}
	s.tidy(sh, now)
	return nil
}

// Lookup is described at [driver.Store].
func (s *Store) Lookup(ctx context.Context, key driver.Key) (rec driver.Record, err error) {
	if err := s.enter(ctx); err != nil {
		return driver.Record{}, err
	}
	sh := s.shardOf(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	h := s.get(sh, key, now)
	if h == nil {
		return driver.Record{Key: key}, nil
	}
	h.view(&rec, now)
	return rec, nil
}

// owned returns the head whose newest claim ref names.
func (s *Store) owned(sh *shard, ref driver.Ref, now int64) (*head, error) {
	h := s.get(sh, ref.Key, now)
	if h == nil || h.token != ref.Token {
		return nil, driver.ErrLost
	}
	return h, nil
}

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
