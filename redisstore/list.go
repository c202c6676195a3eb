package redisstore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
)

func itoa(n int) string { return strconv.Itoa(n) }

// cursor is where a list goes on: after a record, by its place in the index.
type cursor struct {
	key   driver.Key
	score string
}

func (c *cursor) String() string { return c.score + "." + c.key.String() }

func readCursor(text string) (*cursor, error) {
	if text == "" {
		return nil, nil
	}
	score, key, _ := strings.Cut(text, ".")
	var c cursor
	n, err := strconv.ParseUint(score, 10, 53)
	b, errKey := hex.DecodeString(key)
	if err != nil || errKey != nil || len(b) != len(c.key) {
		return nil, fmt.Errorf("%w: after is not of a page of this list", driver.ErrInvalid)
	}
	copy(c.key[:], b)
	c.score = strconv.FormatUint(n, 10)
	return &c, nil
}

// listed is a record with its place.
type listed struct {
	cursor
	record driver.Record
}

// beginning is how much of each record a list reads at first; results come after
// what it needs, and names are mostly short.
const beginning = 1024

// List is described at [driver.Lister]. Records come partition by partition. A
// list by state reads only the records of that state; one by scope reads all.
// Tombstones and absent records have lost their names, unless an operator noted
// something, and are in the list of no scope.
func (s *Store) List(ctx context.Context, q driver.Query) (driver.Page, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Page{}, err
	}
	if err := q.Check(); err != nil {
		return driver.Page{}, err
	}
	after, err := readCursor(q.After)
	if err != nil {
		return driver.Page{}, err
	}
	first := 0
	if after != nil {
		first = s.layout.partition(&after.key)
	}
	ranges := indexRanges(q.States)
	var found []listed
	// One more than wanted tells whether there is a next page.
	for first < len(s.layout.indexes) && len(found) <= q.Limit {
		var read bool
		found, first, after, read, err = s.listOn(ctx, q, ranges, first, after, found)
		if err != nil {
			return driver.Page{}, err
		}
		if !read {
			break
		}
	}
	var page driver.Page
	for i := range found[:min(len(found), q.Limit)] {
		page.Records = append(page.Records, found[i].record)
	}
	if len(found) > q.Limit {
		page.Next = found[q.Limit-1].String()
	}
	return page, nil
}

// listOn reads a few partitions, from the first on, one of which may have more.
// It returns what was found so far, and where to go on.
func (s *Store) listOn(ctx context.Context, q driver.Query, ranges []string, first int, after *cursor, found []listed) ([]listed, int, *cursor, bool, error) {
	want := q.Limit + 1 - len(found)
	count := min(fewSteps, len(s.layout.indexes)-first)
	if after != nil {
		count = 1
	}
	steps := make([]step, count)
	for i := range steps {
		args := []string{itoa(want), "", "0"}
		if i == 0 && after != nil {
			args[1], args[2] = string(after.key[:]), after.score
		}
		steps[i] = step{&s.scripts.page, s.layout.indexes[first+i : first+i+1], append(args, ranges...)}
	}
	answers, err := s.runAll(ctx, steps)
	if err != nil {
		return nil, 0, nil, false, err
	}
	for i, m := range answers {
		places, err := readPlaces(m)
		if err != nil {
			return nil, 0, nil, false, err
		}
		if len(places) == 0 {
			continue
		}
		if found, err = s.readPlaces(ctx, q, places, found); err != nil {
			return nil, 0, nil, false, err
		}
		if len(places) >= want || len(found) > q.Limit {
			// There may be more in this partition.
			last := places[len(places)-1]
			return found, first + i, &last, true, nil
		}
	}
	return found, first + count, nil, true, nil
}

func readPlaces(m rueidis.RedisMessage) ([]cursor, error) {
	a, err := m.ToArray()
	if err != nil || len(a)%2 != 0 {
		return nil, errNonsense
	}
	places := make([]cursor, 0, len(a)/2)
	for i := 0; i < len(a); i += 2 {
		key, err := a[i].AsBytes()
		score, errScore := a[i+1].ToString()
		if err != nil || errScore != nil || len(key) != len(driver.Key{}) {
			return nil, errNonsense
		}
		n, err := strconv.ParseFloat(score, 64)
		if err != nil {
			return nil, errNonsense
		}
		c := cursor{score: strconv.FormatFloat(n, 'f', 0, 64)}
		copy(c.key[:], key)
		places = append(places, c)
	}
	return places, nil
}

// readPlaces reads records of one partition, and adds those that are selected.
func (s *Store) readPlaces(ctx context.Context, q driver.Query, places []cursor, found []listed) ([]listed, error) {
	for part := range slices.Chunk(places, batch) {
		keys := make([]string, len(part))
		for i := range part {
			keys[i], _ = s.layout.keys(&part[i].key)
		}
		a, err := s.peek(ctx, keys, beginning)
		if err != nil {
			return nil, err
		}
		for i := range part {
			r, now, err := s.readBeginning(ctx, a, keys, i, part[i].key)
			if errors.Is(err, errGone) {
				continue
			}
			if bad := (&driver.UnreadableError{}); errors.As(err, &bad) {
				// One record that cannot be read must not hide the others.
				s.opts.Logger.ErrorContext(ctx, "redisstore: left out of a list", "error", err)
				continue
			}
			if err != nil {
				return nil, err
			}
			r.settle(now)
			if selects(q, &r) {
				l := listed{cursor: part[i]}
				r.view(&l.record, part[i].key, now)
				l.record.Result = driver.Result{}
				found = append(found, l)
			}
		}
	}
	return found, nil
}

var errGone = errors.New("redisstore: the record is gone")

func (s *Store) peek(ctx context.Context, keys []string, size int) ([]rueidis.RedisMessage, error) {
	m, err := s.run(ctx, &step{&s.scripts.peek, keys, []string{itoa(size - 1)}}, false)
	if err != nil {
		return nil, err
	}
	a, err := m.ToArray()
	if err != nil || len(a) != len(keys)+1 {
		return nil, errNonsense
	}
	return a, nil
}

// readBeginning reads a record without its result, and more of it where what was
// read is not enough.
func (s *Store) readBeginning(ctx context.Context, a []rueidis.RedisMessage, keys []string, i int, key driver.Key) (r record, now int64, err error) {
	for size := beginning; ; size *= 16 {
		now, err = a[0].ToInt64()
		if err != nil {
			return r, 0, errNonsense
		}
		b, err := a[i+1].AsBytes()
		if err != nil {
			return r, 0, errNonsense
		}
		if len(b) == 0 {
			return r, 0, errGone
		}
		if err := r.decode(b, true); err == nil || !errors.Is(err, errShort) || len(b) < size {
			if err != nil {
				err = &driver.UnreadableError{Key: key, Reason: err.Error()}
			}
			return r, now, err
		}
		if a, err = s.peek(ctx, keys[i:i+1], 16*size); err != nil {
			return r, 0, err
		}
		i = 0
	}
}

// indexRanges are the ranges of an index that records in some states are in. A
// record may be over, of which its index knows nothing yet.
func indexRanges(states []driver.State) []string {
	wanted := map[string]bool{}
	if len(states) == 0 {
		states = []driver.State{driver.StateInFlight, driver.StateCompleted, driver.StateUnknown, driver.StateForgotten}
	}
	for _, st := range states {
		switch st {
		case driver.StateForgotten:
			wanted["1a"], wanted["2o"] = true, true
		case driver.StateCompleted:
			wanted["2a"] = true
		case driver.StateAbsent:
			wanted["3a"] = true
		case driver.StateUnknown:
			wanted["4a"], wanted["6o"] = true, true
		case driver.StateInFlight:
			wanted["6a"] = true
		}
	}
	var ranges []string
	for r := range wanted {
		if r[1] == 'a' || !wanted[r[:1]+"a"] {
			ranges = append(ranges, r)
		}
	}
	slices.Sort(ranges)
	return ranges
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
