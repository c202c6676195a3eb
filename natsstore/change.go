package natsstore

import (
	"context"
	"errors"

	"github.com/idem-go/idem/driver"
)

// current is a record as it stands at an instant, with the revision that says
// so; 0 for a key under which nothing is stored.
type current struct {
	rev uint64
	rec record
	now instant
	// lapse says that the record is stored as in flight, and its lease has ended.
	lapse bool
}

// at is what a sight has become by an instant.
func (e sight) at(now instant) current {
	c := current{rev: e.rev, rec: e.rec, now: now}
	if c.rec.kind == inFlight {
		c.rec.due = now.onServer(after(e.seen, e.rec.lease))
		c.lapse = after(e.seen, e.rec.lease) <= now.mono
	}
	c.rec.settle(now.server)
	return c
}

// fetch reads a key's record from the leader. An answer that is older than what
// was known before it was asked for comes from a leader that does not know yet
// that it is none any more: the next one is asked.
func (s *Store) fetch(ctx context.Context, key driver.Key) (current, error) {
	known := s.sights.get(key)
	m, err := s.load(ctx, s.subject(key))
	for try := 0; err == nil && m.rev < known.rev; try++ {
		if s.pause(ctx, try) != nil {
			return current{}, errSilent
		}
		m, err = s.load(ctx, s.subject(key))
	}
	now := s.clock.now()
	if errors.Is(err, errNothing) {
		s.sights.gone(key)
		return current{now: now}, nil
	}
	if err != nil {
		return current{}, err
	}
	text, ok := headerValue(m.header, recordHeader)
	rec, err := decode(text, ok, m.rev)
	if err == nil {
		err = rec.attach(m.data)
	}
	if err != nil {
		return current{}, &driver.UnreadableError{Key: key, Reason: "natsstore: " + err.Error()}
	}
	return s.sights.saw(key, sight{rev: m.rev, seen: now.mono, rec: rec}).at(now), nil
}

// decode reads the header of a record's message.
func decode(text string, ok bool, rev uint64) (record, error) {
	if !ok {
		return record{}, errNoHeader
	}
	return decodeMeta(text, rev)
}

// write stores a record in the place of a revision, and returns what stands
// then. Now is from before it is sent.
func (s *Store) write(ctx context.Context, key driver.Key, r record, rev uint64, now instant) (current, error) {
	next, err := s.store(ctx, s.subject(key), encodeMeta(&r), r.data, rev)
	if err != nil {
		return current{}, err
	}
	if r.token == 0 {
		r.token = next
	}
	e := s.sights.saw(key, sight{rev: next, seen: now.mono, rec: r})
	return e.at(s.clock.now()), nil
}

// change lets decide look at a key's record and write another in its place,
// until that came about or there is nothing to write. Decide is called again
// whenever the record has become another; it returns the record to write, or nil
// and the error of the call.
//
// It is called first with what is remembered of the key, so that who goes on with
// a claim, and who claims a fresh key, need one round trip: the write is taken
// only if the memory was right. Nobody is refused by memory: then the record is
// read first.
func (s *Store) change(ctx context.Context, key driver.Key, decide func(c *current) (*record, error)) (current, error) {
	bounded, cancel := s.bounded(ctx)
	defer cancel()
	e := s.sights.get(key)
	c, read := e.at(s.clock.now()), false
	for try := 0; ; try++ {
		var next *record
		var err, silent error
		if !e.ended || read {
			next, err = decide(&c)
		}
		switch {
		case next != nil:
			var written current
			written, err = s.write(bounded, key, *next, c.rev, c.now)
			if err == nil {
				return written, nil
			}
		case !read:
			err = errConflict
		case c.lapse && c.rec.kind == lapsed:
			// Whoever is told that a lease has ended is told what everybody will be
			// told, its owner too.
			_, werr := s.write(bounded, key, c.rec, c.rev, c.now)
			if werr == nil {
				return c, err
			}
			err = werr
		default:
			return c, err
		}
		switch {
		case errors.Is(err, errConflict):
		case errors.Is(err, errSilent) || errors.Is(err, errNobody):
			// The write took effect or did not, or still will: the record tells.
			silent = err
		default:
			return current{}, s.outcome(ctx, err)
		}
		if try > 0 || silent != nil {
			if perr := s.pause(bounded, try); perr != nil {
				return current{}, s.outcome(ctx, errors.Join(perr, silent))
			}
		}
		if c, err = s.fetch(bounded, key); err != nil {
			return current{}, s.outcome(ctx, err)
		}
		read = true
	}
}
