package memstore

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/idem-go/idem/driver"
)

// List is described at [driver.Lister]. Records come in the order of their
// keys. Tombstones and absent records have lost their names, unless an operator
// noted something, and are in the list of no scope.
func (s *Store) List(ctx context.Context, q driver.Query) (driver.Page, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Page{}, err
	}
	if err := q.Check(); err != nil {
		return driver.Page{}, err
	}
	var after driver.Key
	if q.After != "" {
		b, err := hex.DecodeString(q.After)
		if err != nil || len(b) != len(after) {
			return driver.Page{}, fmt.Errorf("%w: after is not of a page of this list", driver.ErrInvalid)
		}
		copy(after[:], b)
	}
	first := 0
	if q.After != "" {
		first = int(after[0] >> (8 - shardBits))
	}
	var page driver.Page
	for i := first; i < shardCount && len(page.Records) <= q.Limit; i++ {
		if err := s.enter(ctx); err != nil {
			return driver.Page{}, err
		}
		// One more than wanted tells whether there is a next page.
		page.Records = append(page.Records, s.listShard(&s.shards[i], q, after, q.Limit+1-len(page.Records))...)
	}
	if len(page.Records) > q.Limit {
		page.Records = page.Records[:q.Limit]
		page.Next = page.Records[q.Limit-1].Key.String()
	}
	return page, nil
}

// listShard returns the first records of a shard that a query selects.
func (s *Store) listShard(sh *shard, q driver.Query, after driver.Key, limit int) []driver.Record {
	var found []driver.Record
	less := func(a, b driver.Key) bool { return bytes.Compare(a[:], b[:]) < 0 }
	// Once there are more than wanted, only what comes before the last is.
	cut := func() {
		slices.SortFunc(found, func(a, b driver.Record) int { return bytes.Compare(a.Key[:], b.Key[:]) })
		found = found[:min(limit, len(found))]
	}
	var last driver.Key
	full := false
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.now()
	seen := 0
	for key := range sh.heads {
		// Others get their turn: nothing says that a shard is small.
		if seen++; seen%1024 == 0 {
			sh.mu.Unlock()
			sh.mu.Lock()
			now = s.now()
		}
		if q.After != "" && !less(after, key) || full && !less(key, last) {
			continue
		}
		h := s.get(sh, key, now)
		if h == nil || !selects(q, h) {
			continue
		}
		var v driver.Record
		h.view(&v, now)
		v.Result = driver.Result{}
		found = append(found, v)
		if len(found) >= 2*limit {
			cut()
			full, last = true, found[limit-1].Key
		}
	}
	cut()
	return found
}

func selects(q driver.Query, h *head) bool {
	if q.Scope != "" && (h.full == nil || h.full.scope != q.Scope) {
		return false
	}
	state := h.kind.state()
	if len(q.States) == 0 {
		return state != driver.StateAbsent
	}
	return slices.Contains(q.States, state)
}

// Sweep is described at [driver.Sweeper]. There is no need to call it while
// the store is written to.
func (s *Store) Sweep(ctx context.Context, limit int) (int, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	total := 0
	for i := range s.shards {
		for total < limit {
			if err := s.enter(ctx); err != nil {
				return total, err
			}
			sh := &s.shards[i]
			sh.mu.Lock()
			passed, swept := s.sweep(sh, s.now(), min(batch, limit-total))
			sh.mu.Unlock()
			total += swept
			if passed == 0 {
				break
			}
		}
	}
	return total, nil
}

// Stats is described at [driver.Counter]. Bytes is the store's own reckoning.
// The oldest unknown is the one that was granted first.
func (s *Store) Stats(ctx context.Context) (driver.Stats, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Stats{}, err
	}
	var st driver.Stats
	oldest := int64(math.MaxInt64)
	for i := range s.shards {
		sh := &s.shards[i]
		for more := true; more; {
			sh.mu.Lock()
			now := s.now()
			passed, _ := s.sweep(sh, now, batch)
			if more = passed == batch; !more {
				st.InFlight += int64(sh.queues[queueLeases].len())
				st.Unknown += int64(sh.queues[queueUnknown].len())
				st.Completed += int64(sh.completed)
				st.Forgotten += int64(sh.forgotten)
				st.Bytes += sh.bytes
				for _, e := range sh.queues[queueUnknown].entries {
					oldest = min(oldest, e.head.since)
				}
			}
			sh.mu.Unlock()
		}
	}
	if st.Unknown > 0 {
		st.OldestUnknown = time.Duration(s.now() - oldest)
	}
	return st, nil
}
