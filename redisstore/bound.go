package redisstore

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// bound keeps new claims within Options.MaxUnknown. To count at each of them
// would cost more than a claim does, so the store counts now and then, and lets
// half of what was free then be claimed before it counts again. What it knows is
// about as old as a count may be: see lasting.
type bound struct {
	// left is how many claims may be granted before the next count.
	left atomic.Int64
	// isFull is what the last count said.
	isFull atomic.Bool
	// until is when the last count is too old, in nanoseconds of time.Since(start).
	until atomic.Int64
	start time.Time

	// mu is held to count.
	mu sync.Mutex
	// refreshing says that a count goes on that no claim waits for.
	refreshing atomic.Bool
}

// more says that there may be one more unknown.
func (b *bound) more() { b.left.Add(-1) }

// fewer says that there may be one less unknown.
func (b *bound) fewer() {
	if b.isFull.Load() {
		b.forget()
	}
}

// forget makes the next claim count.
func (b *bound) forget() {
	b.left.Store(0)
	b.isFull.Store(false)
}

// full reports that no new key may be claimed.
func (s *Store) full(ctx context.Context) (bool, error) {
	if s.opts.MaxUnknown < 0 {
		return false, nil
	}
	b := &s.bound
	fresh := int64(time.Since(b.start)) < b.until.Load()
	switch {
	case b.isFull.Load() && fresh:
		return true, nil
	case b.isFull.Load() || b.left.Load() <= 0:
		return s.count(ctx)
	case !fresh && b.refreshing.CompareAndSwap(false, true):
		// Little can have changed, so nobody waits for the count.
		if !s.begin() {
			b.refreshing.Store(false)
			break
		}
		go func() {
			defer s.running.Done()
			defer b.refreshing.Store(false)
			ctx, cancel := s.untilClosed()
			defer cancel()
			if _, err := s.count(ctx); err != nil {
				b.until.Store(int64(time.Since(b.start) + time.Second))
			}
		}()
	}
	return false, nil
}

// count counts the unknowns, unless somebody else has just done it.
func (s *Store) count(ctx context.Context) (full bool, err error) {
	b := &s.bound
	asked := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if int64(asked.Sub(b.start)) < b.until.Load() && (b.isFull.Load() || b.left.Load() > 0) {
		return b.isFull.Load(), nil
	}
	unknown, err := s.unknowns(ctx)
	if err != nil {
		return false, err
	}
	free := int64(s.opts.MaxUnknown) - unknown
	b.isFull.Store(free <= 0)
	b.left.Store(max(free/2, 1))
	b.until.Store(int64(time.Since(b.start) + lasting(unknown, int64(s.opts.MaxUnknown))))
	return free <= 0, nil
}

// lasting is how long a count counts.
func lasting(unknown, most int64) time.Duration {
	switch {
	case unknown >= most:
		return 100 * time.Millisecond
	case unknown >= most/2:
		return time.Second
	}
	return 5 * time.Second
}

// unknowns counts the records whose outcome is unknown, as far as the bound
// needs to know: only near to it are leases looked at that ended long ago.
func (s *Store) unknowns(ctx context.Context) (int64, error) {
	for {
		var unknown int64
		var stale []int
		err := s.surveyAll(ctx, func(i int, c *census) {
			unknown += c.unknown + c.lapsed
			if c.lapsed > 0 {
				stale = append(stale, i)
			}
		})
		if err != nil || unknown < int64(s.opts.MaxUnknown) || len(stale) == 0 {
			return unknown, err
		}
		if _, err := s.settleAll(ctx, stale); err != nil {
			return 0, err
		}
	}
}

// census counts the records of a partition.
type census struct {
	now                                     int64
	inFlight, completed, unknown, forgotten int64
	// lapsed counts the claims of which the index does not know yet that they
	// are over; over, the other records of which it does not.
	lapsed, over int64
	// oldest is when the oldest unknown was claimed, in milliseconds; 0 for none.
	oldest int64
}

// surveyAll has each partition counted.
func (s *Store) surveyAll(ctx context.Context, each func(partition int, c *census)) error {
	all := make([]int, len(s.layout.indexes))
	for i := range all {
		all[i] = i
	}
	return s.survey(ctx, all, each)
}

func (s *Store) survey(ctx context.Context, partitions []int, each func(partition int, c *census)) error {
	steps := make([]step, len(partitions))
	for i, p := range partitions {
		steps[i] = step{&s.scripts.survey, s.layout.indexes[p : p+1], nil}
	}
	answers, err := s.runAll(ctx, steps)
	if err != nil {
		return err
	}
	for i, m := range answers {
		c, err := readCensus(m)
		if err != nil {
			return err
		}
		each(partitions[i], &c)
	}
	return nil
}

func readCensus(m rueidis.RedisMessage) (c census, err error) {
	n, err := m.AsIntSlice()
	if err != nil || len(n) != 10 {
		return c, errNonsense
	}
	return census{
		now: n[0], inFlight: n[1], lapsed: n[2], completed: n[3], unknown: n[5], forgotten: n[7],
		over: n[4] + n[6], oldest: n[9],
	}, nil
}
