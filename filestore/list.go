package filestore

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/idem-go/idem/driver"
)

// listScan is the most records that one page looks at: a page of a state or a
// scope that is rare may be short, or empty, and the list still go on.
const listScan = 20_000

// List is described at [driver.Lister]. Records come in the order of their
// keys. Tombstones and absent records have lost their names, unless an operator
// noted something, and are in the list of no scope. A page that looks for what is
// rare may be shorter than its limit though the list goes on. Records that cannot
// be read are left out and logged.
func (s *Store) List(ctx context.Context, q driver.Query) (driver.Page, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Page{}, err
	}
	defer s.leave()
	if err := q.Check(); err != nil {
		return driver.Page{}, err
	}
	var from driver.Key
	if q.After != "" {
		b, err := hex.DecodeString(q.After)
		if err != nil || len(b) != len(from) {
			return driver.Page{}, fmt.Errorf("%w: after is not of a page of this list", driver.ErrInvalid)
		}
		copy(from[:], b)
	}
	l := &lister{s: s, q: q}
	if err := l.open(&from); err != nil {
		return driver.Page{}, errors.Join(err, l.close())
	}
	page, err := l.page(ctx, from)
	return page, errors.Join(err, l.close())
}

// lister walks the claims and the other records side by side.
type lister struct {
	s *Store
	q driver.Query
	// its are the iterators over both spaces; the second is nil when only claims
	// are wanted.
	its [2]*pebble.Iterator
}

func (l *lister) open(from *driver.Key) error {
	spaces := []byte{spaceClaim, spaceRecord}
	if l.onlyClaims() {
		spaces = spaces[:1]
	}
	for i, space := range spaces {
		it, err := l.s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{space}, UpperBound: []byte{space + 1}})
		if err != nil {
			return l.s.readError(driver.Key{}, err)
		}
		l.its[i] = it
		if l.q.After == "" {
			it.First()
			continue
		}
		var k diskKey
		at := append(recordKey(&k, from), 0)
		at[0] = space
		it.SeekGE(at)
	}
	return nil
}

func (l *lister) close() error {
	var err error
	for _, it := range l.its {
		if it != nil {
			err = errors.Join(err, it.Close())
		}
	}
	return err
}

func (l *lister) onlyClaims() bool {
	if len(l.q.States) == 0 {
		return false
	}
	for _, state := range l.q.States {
		if state != driver.StateInFlight && state != driver.StateUnknown {
			return false
		}
	}
	return true
}

func (l *lister) page(ctx context.Context, last driver.Key) (driver.Page, error) {
	var page driver.Page
	seen := 0
	for {
		it := l.least()
		if it == nil {
			return page, l.err()
		}
		key, ok := splitKey(it.Key())
		if !ok {
			return page, errMalformed
		}
		// One more than wanted tells whether there is a next page.
		if len(page.Records) == l.q.Limit || seen == listScan {
			page.Next = last.String()
			return page, nil
		}
		if err := l.s.refused(ctx); err != nil {
			return driver.Page{}, err
		}
		rec, err := l.read(key, it)
		if err != nil {
			return driver.Page{}, err
		}
		if l.selects(&rec) {
			page.Records = append(page.Records, rec)
		}
		seen++
		last = key
		l.skip(key)
	}
}

// least returns the iterator that is at the least key; nil when both are at
// their ends.
func (l *lister) least() *pebble.Iterator {
	var least *pebble.Iterator
	for _, it := range l.its {
		if it != nil && it.Valid() && (least == nil || bytes.Compare(it.Key()[1:], least.Key()[1:]) < 0) {
			least = it
		}
	}
	return least
}

// skip goes past a key in both spaces.
func (l *lister) skip(key driver.Key) {
	for _, it := range l.its {
		if it != nil && it.Valid() && bytes.Equal(it.Key()[1:], key[:]) {
			it.Next()
		}
	}
}

func (l *lister) err() error {
	var err error
	for _, it := range l.its {
		if it != nil && it.Error() != nil {
			err = errors.Join(err, l.s.readError(driver.Key{}, it.Error()))
		}
	}
	return err
}

// read returns the record of a key that an iterator is at; an absent one when it
// cannot be read.
func (l *lister) read(key driver.Key, it *pebble.Iterator) (driver.Record, error) {
	s := l.s
	s.mu.Lock()
	now := s.clock.now()
	if e := s.entries.all[key]; e != nil && e.kind != unreadable {
		r := e.record
		s.mu.Unlock()
		r.settle(now)
		return r.view(key, now), nil
	}
	s.mu.Unlock()
	var r record
	if it.Key()[0] == spaceClaim {
		// Memory knew nothing of it: it ended after the iterator was made.
		return driver.Record{}, nil
	}
	v, err := it.ValueAndErr()
	if err != nil {
		return driver.Record{}, s.readError(key, err)
	}
	if err := decodeRecord(v, it.Key(), &r); err != nil {
		s.log.Error("filestore: a record cannot be read; its key is refused", "key", key.Short(), "reason", err)
		return driver.Record{}, nil
	}
	r.settle(now)
	return r.view(key, now), nil
}

func (l *lister) selects(rec *driver.Record) bool {
	if l.q.Scope != "" && rec.Scope != l.q.Scope {
		return false
	}
	if len(l.q.States) == 0 {
		return rec.State != driver.StateAbsent
	}
	return rec.Token != 0 && slices.Contains(l.q.States, rec.State)
}
