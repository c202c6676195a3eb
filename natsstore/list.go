package natsstore

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/idem-go/idem/driver"
)

// List is described at [driver.Lister]. Records come in the order in which they
// were last written, so one that changes meanwhile moves to the end. Records that
// cannot be read are left out. A list reads the headers of all records up to the
// ones it returns: for a page of few among many it takes a while, and its context
// decides how long. Tombstones and absent records have lost their names, unless an
// operator noted something, and are in the list of no scope.
func (s *Store) List(ctx context.Context, q driver.Query) (driver.Page, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Page{}, err
	}
	if err := q.Check(); err != nil {
		return driver.Page{}, err
	}
	var after uint64
	if q.After != "" {
		n, err := strconv.ParseUint(q.After, 10, 64)
		if err != nil {
			return driver.Page{}, fmt.Errorf("%w: natsstore: after is not of a page of this list", driver.ErrInvalid)
		}
		after = n
	}
	var page driver.Page
	var last uint64
	err := s.scan(ctx, after+1, func(r scanned) (bool, error) {
		if !r.readable() {
			return true, nil
		}
		c := s.current(r)
		if !selects(q, &c.rec) {
			return true, nil
		}
		// One more than wanted tells that there is a next page.
		if len(page.Records) == q.Limit {
			page.Next = strconv.FormatUint(last, 10)
			return false, nil
		}
		v := c.rec.view(r.key, c.now.server)
		v.Result = driver.Result{}
		page.Records = append(page.Records, v)
		last = r.rev
		return true, nil
	})
	if err != nil {
		return driver.Page{}, s.outcome(ctx, err)
	}
	return page, nil
}

func selects(q driver.Query, r *record) bool {
	if q.Scope != "" && r.scope != q.Scope {
		return false
	}
	if len(q.States) == 0 {
		return r.kind.state() != driver.StateAbsent
	}
	return slices.Contains(q.States, r.kind.state())
}
