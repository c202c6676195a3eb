package memstore

import (
	"context"

	"github.com/idem-go/idem/driver"
)

// Claim is described at [driver.Store]. The store keeps the strings of the
// request, and returns the same bytes of a result to everybody.
func (s *Store) Claim(ctx context.Context, req driver.ClaimRequest) (reply driver.ClaimReply, err error) {
	if err := s.enter(ctx); err != nil {
		return reply, err
	}
	if err := req.Check(); err != nil {
		return reply, err
	}
	sh := s.shardOf(req.Key)
	for looked := false; ; looked = true {
		sh.mu.Lock()
		now := s.now()
		h := s.get(sh, req.Key, now)
		if h != nil && s.over(sh, h, &req, now, &reply, &err) {
			sh.mu.Unlock()
			return reply, err
		}
		need := recordBytes + int64(len(req.Scope)+len(req.ID))
		if looked || s.roomy(now, h == nil, need) {
			h = s.grant(sh, h, &req, now)
			reply.Granted = true
			h.view(&reply.Record, now)
			s.tidy(sh, now)
			sh.mu.Unlock()
			return reply, nil
		}
		// To make room other shards are locked, so this one is let go, and the
		// key looked at again.
		fresh := h == nil
		sh.mu.Unlock()
		if err := s.room(fresh, need); err != nil {
			return reply, err
		}
	}
}

// over answers a claim over what is known of its key, and reports whether it
// did: not when the key is absent and may be granted.
func (s *Store) over(sh *shard, h *head, req *driver.ClaimRequest, now int64, reply *driver.ClaimReply, err *error) bool {
	ours := h.nonce == req.Nonce
	switch h.kind {
	case inFlight, lapsed, abandoned:
		switch {
		case ours && h.kind != abandoned:
			s.lease(sh, h, after(now, req.Lease))
			reply.Granted = true
		case h.kind != inFlight && req.Retry && h.full.fingerprint == req.Fingerprint:
			h.wake()
			h.begin(req, s.token.Add(1), now)
			s.lease(sh, h, after(now, req.Lease))
			reply.Granted = true
		}
	case releasedByOwner:
		switch {
		case ours:
			*err = driver.ErrLost
			return true
		case h.answered && req.Waited != 0 && req.Waited <= h.token:
		default:
			return false
		}
	case releasedByResolve:
		return false
	}
	h.view(&reply.Record, now)
	return true
}

// grant makes the record of a claim over an absent key; h is what is left of a
// released one, or nil.
func (s *Store) grant(sh *shard, h *head, req *driver.ClaimRequest, now int64) *head {
	attempt := int32(0)
	if h != nil {
		attempt = h.attempt
		s.drop(sh, h)
	}
	r := &record{scope: req.Scope, id: req.ID, fingerprint: req.Fingerprint}
	r.full = r
	r.key = req.Key
	r.attempt = attempt
	r.begin(req, s.token.Add(1), now)
	r.due = after(now, req.Lease)
	s.add(sh, &r.head)
	s.bounds.lapses(r.due)
	return &r.head
}

// begin writes what is a claim's own into a head.
func (h *head) begin(req *driver.ClaimRequest, token uint64, now int64) {
	h.nonce, h.token, h.since = req.Nonce, token, now
	h.attempt++
	h.full.tombstone = req.Tombstone
}

// lease makes a claim in flight until due.
func (s *Store) lease(sh *shard, h *head, due int64) {
	s.turn(sh, h, inFlight, due)
	s.bounds.lapses(due)
}
