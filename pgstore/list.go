package pgstore

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/idem-go/idem/driver"
)

// segment is a part of the index on kind and due in which all records are in
// one state.
type segment struct {
	kind kind
	// over says that the time of the records has come, and that they have not
	// been swept: they are in their next state.
	over  bool
	state driver.State
}

func segments() []segment {
	return []segment{
		{inFlight, false, driver.StateInFlight},
		{inFlight, true, driver.StateUnknown},
		{lapsed, false, driver.StateUnknown},
		{abandoned, false, driver.StateUnknown},
		{completed, false, driver.StateCompleted},
		{completed, true, driver.StateForgotten},
		{forgotten, false, driver.StateForgotten},
		{releasedByOwner, false, driver.StateAbsent},
		{releasedByResolve, false, driver.StateAbsent},
	}
}

func listText(seg segment, scoped bool) string {
	text := "SELECT key, format, kind, token, attempt, since, due, tombstone, rule, answered, dropped, late, watched, nonce, sum, scope, id, NULL::bytea, NULL::bytea, note, {started}\n" +
		"FROM {records} WHERE kind = " + number(seg.kind) + " AND (due, key) > ($1::bigint, $2::bytea)"
	if seg.over {
		text += " AND due <= {started} AND due + tombstone > {started}"
	} else {
		text += " AND due > {started}"
	}
	if scoped {
		text += " AND scope = $4::bytea"
	}
	return text + " ORDER BY due, key LIMIT $3"
}

// place is where a page of a list ends.
type place struct {
	segment int
	due     int64
	key     []byte
}

func (p place) String() string {
	b := binary.BigEndian.AppendUint64([]byte{byte(p.segment)}, uint64(p.due))
	return hex.EncodeToString(append(b, p.key...))
}

func placeOf(after string) (p place, err error) {
	if after == "" {
		return place{due: -1 << 62, key: []byte{}}, nil
	}
	b, err := hex.DecodeString(after)
	if err != nil || len(b) < 9 || int(b[0]) >= len(segments()) {
		return p, fmt.Errorf("%w: after is not of a page of this list", driver.ErrInvalid)
	}
	return place{int(b[0]), int64(binary.BigEndian.Uint64(b[1:])), b[9:]}, nil
}

// List is described at [driver.Lister]. Records come by their states, and in
// each by what ends first. What is of one scope is found among all records of the
// states wanted, which takes long where they are many. Tombstones and absent
// records have lost their names, unless an operator noted something, and are in
// the list of no scope. A record that cannot be read makes the call fail with
// [driver.UnreadableError].
func (r *records) List(ctx context.Context, q driver.Query) (driver.Page, error) {
	if err := r.enter(ctx); err != nil {
		return driver.Page{}, err
	}
	if err := q.Check(); err != nil {
		return driver.Page{}, err
	}
	at, err := placeOf(q.After)
	if err != nil {
		return driver.Page{}, err
	}
	var page driver.Page
	for all := segments(); at.segment < len(all); at = (place{segment: at.segment + 1, due: -1 << 62, key: []byte{}}) {
		seg := all[at.segment]
		if len(q.States) == 0 && seg.state == driver.StateAbsent || len(q.States) > 0 && !slices.Contains(q.States, seg.state) {
			continue
		}
		// One more than wanted tells whether there is a next page.
		found, err := r.listSegment(ctx, seg, at, q.Scope, q.Limit+1-len(page.Records))
		if err != nil {
			return driver.Page{}, err
		}
		for i := range found {
			if len(page.Records) == q.Limit {
				page.Next = at.String()
				return page, nil
			}
			at.due, at.key = found[i].due, found[i].key
			rec, known, err := found[i].listed()
			if err != nil {
				return driver.Page{}, err
			}
			if known {
				page.Records = append(page.Records, rec)
			}
		}
		if len(page.Records) == q.Limit {
			page.Next = at.String()
			return page, nil
		}
	}
	return page, nil
}

func (r *row) listed() (rec driver.Record, known bool, err error) {
	var key driver.Key
	copy(key[:], r.key)
	if err := r.check(key); err != nil {
		return rec, false, err
	}
	if !r.settle() {
		return rec, false, nil
	}
	return r.record(key), true, nil
}

func (r *records) listSegment(ctx context.Context, seg segment, after place, scope string, limit int) (found []*row, err error) {
	args := []any{after.due, after.key, int64(limit)}
	if scope != "" {
		args = append(args, []byte(scope))
	}
	err = r.insist(ctx, func() error {
		found = nil
		return r.db.query(ctx, statement{r.text.list(seg, scope != ""), args}, func(scan scanner) error {
			next := &row{}
			found = append(found, next)
			return scan(next.fields()...)
		})
	})
	return found, err
}
