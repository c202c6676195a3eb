package memstore

import (
	"context"

	"github.com/idem-go/idem/driver"
)

// Resolve is described at [driver.Resolver]. A resolution that is repeated
// returns the record again when it is just what the resolution would make it.
func (s *Store) Resolve(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Record{}, err
	}
	if err := r.Check(s.maxResult); err != nil {
		return driver.Record{}, err
	}
	data := pack(r.Result)
	sh := s.shardOf(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	h := s.get(sh, key, now)
	if r.Token != 0 && (h == nil || h.token != r.Token) {
		return driver.Record{}, driver.ErrLost
	}
	if h == nil {
		return driver.Record{}, driver.ErrState
	}
	unknown := h.kind == lapsed || h.kind == abandoned
	switch {
	case r.Action == driver.ResolveComplete && unknown:
		sh.note(h, r.Note)
		s.end(sh, h, outcome{data, uint32(len(r.Result.Meta)), r.Dropped, true, r.Retention, r.Tombstone}, now)
	case r.Action == driver.ResolveRelease && (unknown || h.kind == inFlight && r.Force):
		sh.note(h, r.Note)
		h.answered = false
		h = s.free(sh, h, releasedByResolve, after(now, r.Retention))
	case r.Action == driver.ResolveErase && h.kind == completed:
		sh.note(h, r.Note)
		h = s.forget(sh, h, now, r.Tombstone)
	case r.Action == driver.ResolveComplete && h.kind == completed && h.holds(r.Result, r.Dropped):
	case r.Action == driver.ResolveRelease && h.kind == releasedByResolve:
	case r.Action == driver.ResolveErase && h.kind == forgotten:
	default:
		return driver.Record{}, driver.ErrState
	}
	var v driver.Record
	h.view(&v, now)
	s.tidy(sh, now)
	return v, nil
}

// note keeps what was said of a record, and forgets what was said before.
func (sh *shard) note(h *head, note string) {
	if old := h.full.note(); note != old {
		sh.bytes += int64(len(note) - len(old))
		h.full.extra().note = note
	}
}
