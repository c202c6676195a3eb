package mysqlstore

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/idem-go/idem/driver"
)

// segment is a part of the list: the records of one stored kind, before their
// time has come or after it, which makes another state of them.
type segment struct {
	kind  kind
	past  bool
	state driver.State
}

// segments are in the order of the list.
func segments() []segment {
	return []segment{
		{inFlight, true, driver.StateUnknown},
		{lapsed, false, driver.StateUnknown},
		{abandoned, false, driver.StateUnknown},
		{inFlight, false, driver.StateInFlight},
		{completed, false, driver.StateCompleted},
		{completed, true, driver.StateForgotten},
		{forgotten, false, driver.StateForgotten},
		{releasedByOwner, false, driver.StateAbsent},
		{releasedByResolve, false, driver.StateAbsent},
	}
}

// place is where a list goes on: after a record of a segment.
type place struct {
	segment int
	due     int64
	hash    driver.Key
}

func (p place) String() string {
	b := append([]byte{byte(p.segment)}, binary.BigEndian.AppendUint64(nil, uint64(p.due))...)
	return hex.EncodeToString(append(b, p.hash[:]...))
}

func parsePlace(after string) (p place, err error) {
	b, err := hex.DecodeString(after)
	if err != nil || len(b) != 1+8+len(p.hash) || int(b[0]) >= len(segments()) {
		return p, fmt.Errorf("%w: after is not of a page of this list", driver.ErrInvalid)
	}
	p.segment, p.due = int(b[0]), int64(binary.BigEndian.Uint64(b[1:]))
	copy(p.hash[:], b[9:])
	return p, nil
}

// List is described at [driver.Lister]. Records come by their state, and in each
// by when it ends, which an index has; unknowns first. To look for one scope, all
// records of the states wanted are read. Tombstones and absent records have lost
// their names, unless an operator noted something, and are in the list of no
// scope. Records that cannot be read are left out.
func (s *Store) List(ctx context.Context, q driver.Query) (driver.Page, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Page{}, err
	}
	if err := q.Check(); err != nil {
		return driver.Page{}, err
	}
	from := place{due: -1 << 63}
	if q.After != "" {
		var err error
		if from, err = parsePlace(q.After); err != nil {
			return driver.Page{}, err
		}
	}
	var page driver.Page
	err := s.again(ctx, func() error {
		page = driver.Page{}
		at := from
		for i, seg := range segments() {
			if i < from.segment || !wanted(q, seg.state) {
				continue
			}
			if i > from.segment {
				at = place{segment: i, due: -1 << 63}
			}
			full, err := s.listSegment(ctx, &page, q, seg, at)
			if err != nil || full {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return driver.Page{}, err
	}
	return page, nil
}

func wanted(q driver.Query, state driver.State) bool {
	if len(q.States) == 0 {
		return state != driver.StateAbsent
	}
	return slices.Contains(q.States, state)
}

// listSegment adds the records of one segment to a page, and says that it is
// full.
func (s *Store) listSegment(ctx context.Context, page *driver.Page, q driver.Query, seg segment, at place) (full bool, err error) {
	text := `SELECT hash, ` + bareColumns + ` FROM ` + s.tables.records + ` FORCE INDEX (due)` +
		` WHERE kind = ? AND due >= ? AND (due > ? OR hash > ?) AND format = 1`
	if seg.past {
		text += ` AND due <= ` + clock + ` AND due + tombstone > ` + clock
	} else {
		text += ` AND due > ` + clock
	}
	if q.Scope != "" {
		text += ` AND scope = ?`
		if seg.kind == completed && seg.past {
			text += ` AND note IS NOT NULL` // without a note its name is forgotten
		}
	}
	text += ` ORDER BY due, hash LIMIT ?`
	for {
		args := []any{uint8(seg.kind), at.due, at.due, at.hash[:]}
		if q.Scope != "" {
			args = append(args, []byte(q.Scope))
		}
		// One more than wanted tells whether there is a next page.
		limit := q.Limit - len(page.Records) + 1
		var read int
		read, at, err = s.listRows(ctx, page, q.Limit, text, append(args, limit), at)
		if err != nil || page.Next != "" || read < limit {
			return page.Next != "", err
		}
	}
}

// listRows adds rows to a page and returns how many it read, and the place of
// the last.
func (s *Store) listRows(ctx context.Context, page *driver.Page, most int, text string, args []any, at place) (int, place, error) {
	stmt, err := s.stmts.get(ctx, text)
	if err != nil {
		return 0, at, err
	}
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return 0, at, err
	}
	defer rows.Close()
	read := 0
	for rows.Next() {
		var hash []byte
		var r row
		if err := r.scan(rows, &hash); err != nil {
			return read, at, err
		}
		if len(page.Records) == most {
			page.Next = at.String()
			break
		}
		read++
		at.due, at.hash = r.due, driver.Key(hash)
		if rec, err := r.settle(at.hash); err == nil {
			page.Records = append(page.Records, rec.view(at.hash))
		}
	}
	return read, at, rows.Err()
}
