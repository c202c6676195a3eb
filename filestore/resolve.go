package filestore

import (
	"bytes"
	"context"

	"github.com/idem-go/idem/driver"
)

// Resolve is described at [driver.Resolver]. A resolution that is repeated
// returns the record again when it is just what the resolution would make it.
func (s *Store) Resolve(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Record{}, err
	}
	defer s.leave()
	if err := r.Check(s.opts.MaxResult); err != nil {
		return driver.Record{}, err
	}
	h := s.newHeld()
	defer s.free(h)
	for {
		if err := s.holdToWrite(ctx, &key, h); err != nil {
			return driver.Record{}, err
		}
		if r.Token != 0 && (h.kind == absent || h.token != r.Token) {
			s.mu.Unlock()
			return driver.Record{}, driver.ErrLost
		}
		if next, ok := h.resolved(&r); ok {
			var data *[]byte
			if next.kind == completed {
				data = s.pack(r.Result)
			}
			if err := s.put(ctx, h, &next, data); err != nil {
				return driver.Record{}, err
			}
			rec := next.view(key, h.now)
			if next.kind == completed {
				rec.Result = driver.Result{Meta: bytes.Clone(r.Result.Meta), Body: bytes.Clone(r.Result.Body)}
			}
			return rec, nil
		}
		switch {
		case r.Action == driver.ResolveComplete && h.kind == completed:
			s.mu.Unlock()
			same, again, err := s.same(h, r.Result, r.Dropped)
			if again && err == nil {
				continue
			}
			if err == nil && !same {
				err = driver.ErrState
			}
			if err != nil {
				return driver.Record{}, err
			}
			s.mu.Lock()
		case r.Action == driver.ResolveRelease && h.kind == releasedByResolve:
		case r.Action == driver.ResolveErase && h.kind == forgotten:
		default:
			s.mu.Unlock()
			return driver.Record{}, driver.ErrState
		}
		if rec, again, err := s.read(h); !again {
			return rec, err
		}
	}
}

// resolved is what a resolution makes of a record; not ok when there is nothing
// to make.
func (h *held) resolved(r *driver.Resolution) (next record, ok bool) {
	next = h.record
	next.note = r.Note
	unknown := h.kind.isUnknown()
	switch {
	case r.Action == driver.ResolveComplete && unknown:
		next.late = true
		next.complete(r.Result, r.Dropped, h.now, r.Retention, r.Tombstone)
	case r.Action == driver.ResolveRelease && (unknown || h.kind == inFlight && r.Force):
		next.answered = false
		next.release(releasedByResolve, after(h.now, r.Retention))
	case r.Action == driver.ResolveErase && h.kind == completed:
		next.forget(h.now, r.Tombstone)
	default:
		return record{}, false
	}
	return next, true
}
