package natsstore

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// sweeper knows when which part of the bucket must be looked at. A record is
// never changed in its place: whatever is written goes to the end. So a part that
// has been looked at loses records and gains none, and needs no second look
// before the first of its records is due.
type sweeper struct {
	mu     sync.Mutex // held by whoever sweeps
	chunks []chunk
	// next is the first revision that has not been looked at.
	next uint64
}

// chunk is a part of the bucket: its revisions, how many records were there, and
// when the first of them is due by the server's clock.
type chunk struct {
	first, last uint64
	records     int
	due         int64
}

// chunkRecords is how many records a chunk has, about: each takes one look when
// it is new and one when its chunk is due.
const chunkRecords = 1000

// Sweep is described at [driver.Sweeper]. It also writes down the leases that
// have ended, which it does not count. There is no need to call it where the
// stores sweep by themselves.
func (s *Store) Sweep(ctx context.Context, limit int) (int, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	info, err := s.measure(ctx)
	if err != nil {
		return 0, s.outcome(ctx, err)
	}
	if err := s.recognise(info); err != nil {
		return 0, err
	}
	s.noticeRoom(info)
	s.sweeper.mu.Lock()
	defer s.sweeper.mu.Unlock()
	n, err := s.sweep(ctx, limit)
	return n, s.outcome(ctx, err)
}

func (s *Store) sweep(ctx context.Context, limit int) (swept int, err error) {
	w := &s.sweeper
	now := s.clock.now().server
	for i := 0; i < len(w.chunks) && swept < limit; i++ {
		if w.chunks[i].due > now {
			continue
		}
		n, seen, err := s.sweepFrom(ctx, w.chunks[i].first, w.chunks[i].last, limit-swept)
		swept += n
		if err != nil {
			return swept, err
		}
		seen = slices.DeleteFunc(seen, func(c chunk) bool { return c.records == 0 })
		w.chunks = slices.Replace(w.chunks, i, i+1, seen...)
		i += len(seen) - 1
	}
	if swept >= limit {
		return swept, nil
	}
	n, seen, err := s.sweepFrom(ctx, w.next, math.MaxUint64, limit-swept)
	for _, c := range seen {
		w.add(c)
	}
	return swept + n, err
}

// add appends what was seen at the end, to the last chunk while that is small.
func (w *sweeper) add(c chunk) {
	w.next = max(w.next, c.last+1)
	if c.records == 0 {
		return
	}
	if n := len(w.chunks); n > 0 && w.chunks[n-1].records+c.records <= chunkRecords {
		l := &w.chunks[n-1]
		l.last, l.records, l.due = c.last, l.records+c.records, min(l.due, c.due)
		return
	}
	w.chunks = append(w.chunks, c)
}

// sweepFrom looks at the records of these revisions, and sweeps up to limit of
// them. It returns the parts that it saw, the last of which may hold nothing.
func (s *Store) sweepFrom(ctx context.Context, first, last uint64, limit int) (swept int, seen []chunk, err error) {
	part := chunk{first: first, due: math.MaxInt64}
	unreadable := 0
	err = s.scan(ctx, first, func(r scanned) (bool, error) {
		if err := s.enter(ctx); err != nil {
			return false, err
		}
		if r.rev > last {
			return false, nil
		}
		if part.records >= chunkRecords {
			seen = append(seen, part)
			part = chunk{first: r.rev, due: math.MaxInt64}
		}
		if swept >= limit {
			// The rest of these revisions is due at once.
			part.records, part.due, part.last = part.records+1, math.MinInt64, r.rev
			if last != math.MaxUint64 {
				part.last = last
			}
			return false, nil
		}
		due := int64(math.MaxInt64)
		if !r.readable() {
			unreadable++
		} else {
			var gone bool
			var err error
			if due, gone, err = s.sweepOne(ctx, r); err != nil {
				return false, err
			}
			if gone {
				swept++
			}
		}
		part.last = r.rev
		if due != math.MaxInt64 {
			part.records, part.due = part.records+1, min(part.due, due)
		}
		return true, nil
	})
	if unreadable > 0 {
		s.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "natsstore: records that cannot be read", slog.Int("records", unreadable))
	}
	if part.last > 0 {
		seen = append(seen, part)
	}
	return swept, seen, err
}

// sweepOne looks at one record, and returns when to look again: never, if it was
// dropped, or written anew and so is at the end now.
func (s *Store) sweepOne(ctx context.Context, r scanned) (due int64, swept bool, err error) {
	const never = math.MaxInt64
	c := s.current(r)
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	switch {
	case c.rec.kind == absent:
		if err := s.drop(bounded, r.rev); err != nil {
			return 0, false, err
		}
		return never, true, nil
	case c.rec.kind == forgotten && r.rec.kind == completed:
		swept = true
	case c.lapse:
	default:
		return c.rec.due, false, nil
	}
	switch _, err := s.write(bounded, r.key, c.rec, r.rev, c.now); {
	case err == nil:
		return never, swept, nil
	case errors.Is(err, errConflict):
		return never, false, nil
	default:
		return 0, false, err
	}
}

// sweepForever sweeps whenever it is this store's turn, until Close.
func (s *Store) sweepForever() {
	turn := turn{name: s.name, patience: 3 * s.opts.SweepEvery}
	timer := time.NewTimer(rand.N(s.opts.SweepEvery))
	defer timer.Stop()
	for {
		select {
		case <-s.closing:
			return
		case <-timer.C:
		}
		if err := s.sweepInTurn(s.life, &turn); err != nil && s.life.Err() == nil {
			s.opts.Logger.LogAttrs(s.life, slog.LevelWarn, "natsstore: sweep", slog.Any("err", err))
		}
		timer.Reset(s.opts.SweepEvery/2 + rand.N(s.opts.SweepEvery))
	}
}

// sweepInTurn sweeps all that is over if it is this store's turn, and otherwise
// only asks the server for its time.
func (s *Store) sweepInTurn(ctx context.Context, t *turn) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	info, err := s.measure(bounded)
	if err != nil {
		return err
	}
	if err := s.recognise(info); err != nil {
		return err
	}
	s.noticeRoom(info)
	ours, err := s.takeTurn(bounded, t)
	if err != nil || !ours {
		return err
	}
	for {
		n, err := s.Sweep(ctx, 1000)
		if err != nil || n < 1000 {
			return err
		}
	}
}

// turn is whose turn it is to sweep, as seen from here. It is a claim of sorts,
// kept under a subject of its own and observed in the same way, but nothing hangs
// on it: two that sweep at once do no harm.
type turn struct {
	name     string
	patience time.Duration
	rev      uint64
	seen     int64
}

// takeTurn reports that it is this store's turn.
func (s *Store) takeTurn(ctx context.Context, t *turn) (bool, error) {
	subject := s.subjectPrefix + "sweeper"
	m, err := s.load(ctx, subject)
	now := s.clock.now().mono
	switch {
	case errors.Is(err, errNothing):
		m.rev = 0
	case err != nil:
		return false, err
	case string(m.data) == t.name:
	case m.rev != t.rev:
		t.rev, t.seen = m.rev, now
		return false, nil
	case now-t.seen < int64(t.patience):
		return false, nil
	}
	_, err = s.store(ctx, subject, "", []byte(t.name), m.rev)
	if errors.Is(err, errConflict) {
		return false, nil
	}
	return err == nil, err
}
