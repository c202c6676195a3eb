package redisstore

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/idem-go/idem/driver"
)

// batch is how many records of a partition one script settles: it keeps the
// server from others for a fraction of a millisecond.
const batch = 64

// Sweep is described at [driver.Sweeper]. It turns results whose retention has
// ended into tombstones, and drops what is over.
func (s *Store) Sweep(ctx context.Context, limit int) (int, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	if limit <= 0 {
		return 0, nil
	}
	// Processes that sweep at once begin in different places.
	all := make([]int, len(s.layout.indexes))
	for i, p := range rand.Perm(len(all)) {
		all[i] = p
	}
	return s.settle(ctx, all, limit)
}

// settleAll settles all that is due in partitions.
func (s *Store) settleAll(ctx context.Context, partitions []int) (int, error) {
	return s.settle(ctx, partitions, int(^uint(0)>>1))
}

// settle lets pass what time has changed, until limit records were swept or
// nothing is left.
func (s *Store) settle(ctx context.Context, partitions []int, limit int) (swept int, err error) {
	for len(partitions) > 0 && swept < limit {
		each := min(batch, limit-swept)
		steps := make([]step, len(partitions))
		for i, p := range partitions {
			steps[i] = step{&s.scripts.due, s.layout.indexes[p : p+1], []string{itoa(each)}}
		}
		answers, err := s.runAll(ctx, steps)
		if err != nil {
			return swept, err
		}
		// More than limit is never settled at once: each of them may count.
		room := limit - swept
		var more []int
		var settles []step
		for i, m := range answers {
			members, err := m.AsStrSlice()
			if err != nil {
				return swept, errNonsense
			}
			if len(members) == 0 {
				continue
			}
			more = append(more, partitions[i])
			index := s.layout.indexes[partitions[i]]
			for len(members) > 0 && room > 0 {
				n := min(len(members), room, batch)
				keys := make([]string, 1, n+1)
				keys[0] = index
				for _, member := range members[:n] {
					keys = append(keys, index+member)
				}
				settles = append(settles, step{&s.scripts.settle, keys, nil})
				members, room = members[n:], room-n
			}
		}
		answers, err = s.runAll(ctx, settles)
		if err != nil {
			return swept, err
		}
		for _, m := range answers {
			n, err := m.ToInt64()
			if err != nil {
				return swept, errNonsense
			}
			swept += int(n)
		}
		partitions = more
	}
	return swept, nil
}

// checkEvery is how often the server's settings are looked at again.
const checkEvery = time.Minute

// sweepOn sweeps until the store is closed, and looks at the server's settings
// now and then.
func (s *Store) sweepOn() {
	defer s.running.Done()
	ctx, cancel := s.untilClosed()
	defer cancel()
	checked := time.Now()
	last := ""
	report := func(what string, err error) {
		if err == nil || ctx.Err() != nil {
			if err == nil {
				last = ""
			}
			return
		}
		if text := what + err.Error(); text != last {
			last = text
			s.opts.Logger.ErrorContext(ctx, "redisstore: "+what, "error", err)
		}
	}
	for {
		// Many processes do not sweep in step.
		t := time.NewTimer(s.opts.SweepEvery/2 + time.Duration(rand.Int64N(int64(s.opts.SweepEvery))))
		select {
		case <-t.C:
		case <-s.closing:
			t.Stop()
			return
		}
		_, err := s.Sweep(ctx, int(^uint(0)>>1))
		report("the sweep did not end", err)
		if time.Since(checked) >= checkEvery && err == nil {
			checked = time.Now()
			report("the server is no longer fit to keep records", s.recheck(ctx))
		}
	}
}

// Stats is described at [driver.Counter]. It costs a few microseconds of the
// server's for each partition, however many records there are, and settles first
// what no sweep has. Bytes is not known.
func (s *Store) Stats(ctx context.Context) (driver.Stats, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Stats{}, err
	}
	var st driver.Stats
	left := make([]int, len(s.layout.indexes))
	for i := range left {
		left[i] = i
	}
	for {
		var stale []int
		err := s.survey(ctx, left, func(p int, c *census) {
			if c.lapsed > 0 || c.over > 0 {
				stale = append(stale, p)
				return
			}
			st.InFlight += c.inFlight
			st.Completed += c.completed
			st.Unknown += c.unknown
			st.Forgotten += c.forgotten
			if c.oldest > 0 {
				st.OldestUnknown = max(st.OldestUnknown, span(c.now-1000*c.oldest))
			}
		})
		if err != nil {
			return driver.Stats{}, err
		}
		if len(stale) == 0 {
			return st, nil
		}
		if _, err := s.settleAll(ctx, stale); err != nil {
			return driver.Stats{}, err
		}
		left = stale
	}
}
