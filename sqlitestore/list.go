package sqlitestore

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/idem-go/idem/driver"
)

// most rows are looked at for one page, so that a page of what is rare takes no
// longer than others.
const most = 4096

// List is described at [driver.Lister]. Records come in the order of their keys,
// or, where only in-flight and unknown ones are wanted, in that of when they are due,
// without a look at the others. A page may be short, or empty, before the list is at
// its end. Tombstones and absent records have lost their names, unless an operator
// noted something, and are in the list of no scope.
func (s *Store) List(ctx context.Context, q driver.Query) (driver.Page, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Page{}, err
	}
	if err := q.Check(); err != nil {
		return driver.Page{}, err
	}
	at, err := parseCursor(q)
	if err != nil {
		return driver.Page{}, err
	}
	var page driver.Page
	for seen := 0; ; {
		want := min(max(q.Limit-len(page.Records)+1, batch), most)
		rows, err := s.rows(ctx, at, want)
		if err != nil {
			return driver.Page{}, err
		}
		now := s.now()
		for _, row := range rows {
			if len(page.Records) == q.Limit {
				page.Next = at.String()
				return page, nil
			}
			at.pass(&row.raw)
			r := row.record
			if r == nil {
				continue // it cannot be read
			}
			if r.settle(now); selects(q, r) {
				page.Records = append(page.Records, r.view(now))
			}
		}
		if len(rows) < want {
			return page, nil
		}
		if seen += len(rows); seen >= most {
			page.Next = at.String()
			return page, nil
		}
	}
}

func (s *Store) rows(ctx context.Context, at *cursor, limit int) (rows []row, err error) {
	err = s.patiently(ctx, func() (err error) {
		if at.open {
			rows, err = rowsOf(s.stmts.listOpen.QueryContext(ctx, at.kind, at.due, at.since, at.n, limit))
		} else {
			rows, err = rowsOf(s.stmts.list.QueryContext(ctx, at.key, limit))
		}
		return failed(err)
	})
	return rows, err
}

func selects(q driver.Query, r *record) bool {
	if q.Scope != "" && r.scope != q.Scope {
		return false
	}
	state := r.kind.state()
	if len(q.States) == 0 {
		return state != driver.StateAbsent
	}
	return slices.Contains(q.States, state)
}

// cursor is how far a list has been read.
type cursor struct {
	key []byte
	// open says that only records in flight and unknown ones are read, in the
	// order of kind, due, since and n.
	open                bool
	kind, due, since, n int64
}

func isOpen(q driver.Query) bool {
	for _, st := range q.States {
		if st != driver.StateInFlight && st != driver.StateUnknown {
			return false
		}
	}
	return len(q.States) > 0
}

func (c *cursor) pass(w *raw) {
	c.key, c.kind, c.due, c.since, c.n = w.key, w.kind, w.due, w.since, w.n
}

// String is what parseCursor reads.
func (c *cursor) String() string {
	if c.open {
		return fmt.Sprintf("open.%d.%d.%d.%d", c.kind, c.due, c.since, c.n)
	}
	return hex.EncodeToString(c.key)
}

func parseCursor(q driver.Query) (*cursor, error) {
	c := &cursor{open: isOpen(q), key: []byte{}}
	if q.After == "" {
		return c, nil
	}
	if c.open && strings.HasPrefix(q.After, "open.") {
		if n, err := fmt.Sscanf(q.After, "open.%d.%d.%d.%d", &c.kind, &c.due, &c.since, &c.n); n == 4 && err == nil {
			return c, nil
		}
	}
	var err error
	if c.key, err = hex.DecodeString(q.After); err != nil || c.open || len(c.key) != len(driver.Key{}) {
		return nil, fmt.Errorf("%w: after is not of a page of this list", driver.ErrInvalid)
	}
	return c, nil
}
