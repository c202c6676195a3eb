package filestore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/idem-go/idem/driver"
)

// sweeper drops what is over, every now and then.
type sweeper struct {
	// mu is held by one sweep at a time.
	mu     sync.Mutex
	gens   [stripes]uint32
	cancel context.CancelFunc
	done   chan struct{}
}

const (
	// sweepBatch is how many records a sweep takes at once.
	sweepBatch = 256
	// lapseBatch is how many ended leases a sweep writes down at once.
	lapseBatch = 4096
	// rangeFrom is from how many records on a sweep drops a range rather than one
	// after the other.
	rangeFrom = 32
	// spaceEvery is how often the room on the disk is looked at when little is
	// written.
	spaceEvery = time.Second
	// spaceBytes is after how many bytes it is looked at besides.
	spaceBytes = 8 << 20
)

func (w *sweeper) start(s *Store) {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.done = cancel, make(chan struct{})
	go func() {
		defer close(w.done)
		w.run(ctx, s)
	}()
}

// stop ends the sweeper and waits for it, unless the disk has failed.
func (w *sweeper) stop(failed <-chan struct{}) {
	w.cancel()
	select {
	case <-w.done:
	case <-failed:
	}
}

func (w *sweeper) run(ctx context.Context, s *Store) {
	space := time.NewTicker(spaceEvery)
	defer space.Stop()
	var due <-chan time.Time
	if s.opts.SweepEvery > 0 {
		t := time.NewTicker(s.opts.SweepEvery)
		defer t.Stop()
		due = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.failed:
			return
		case <-space.C:
			s.space.check(s)
		case <-due:
			for {
				n, err := s.Sweep(ctx, sweepBatch)
				if err != nil && ctx.Err() == nil && !errors.Is(err, ErrStopped) && !errors.Is(err, driver.ErrClosed) {
					s.log.Error("filestore: sweep", "error", err)
				}
				if n == 0 || err != nil {
					break
				}
			}
		}
	}
}

// space is what is known of the room on the disk, and of the directory there.
type space struct {
	low atomic.Bool
	// written counts since the last look. It is the committer's.
	written int
}

func (p *space) wrote(s *Store, n int) {
	if p.written += n; p.written >= spaceBytes {
		p.written = 0
		p.check(s)
	}
}

func (p *space) check(s *Store) {
	if err := s.dir.held(); err != nil {
		s.gate.shut(err)
		return
	}
	usage, err := s.opts.fs.GetDiskUsage(s.dir.path)
	if err != nil {
		return // not every file system knows
	}
	low := usage.AvailBytes < uint64(s.opts.MinFree)
	if p.low.Swap(low) != low {
		if low {
			s.log.Warn("filestore: the disk is nearly full, new claims are refused", "dir", s.dir.path, "free", usage.AvailBytes)
		} else {
			s.log.Info("filestore: there is room on the disk again", "dir", s.dir.path, "free", usage.AvailBytes)
		}
	}
}

// Sweep is described at [driver.Sweeper]. It also writes down which leases have
// ended, which counts as nothing. There is no need to call it unless
// [Options.SweepEvery] is negative. A second call at the same time waits for the
// first.
func (s *Store) Sweep(ctx context.Context, limit int) (int, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.leave()
	s.sweeper.mu.Lock()
	defer s.sweeper.mu.Unlock()
	total := 0
	for total < limit {
		n, err := s.sweep(ctx, min(sweepBatch, limit-total))
		total += n
		if err != nil || n == 0 {
			return total, err
		}
	}
	return total, nil
}

// due is a record that is over, as the space x tells.
type due struct {
	record
	key  driver.Key
	disk place
}

// sweep drops up to limit records.
func (s *Store) sweep(ctx context.Context, limit int) (int, error) {
	if err := s.refused(ctx); err != nil {
		return 0, err
	}
	n, g := s.sweepMemory(limit)
	if n < limit {
		found, err := s.walk(ctx, limit-n)
		if err != nil {
			return n, err
		}
		if s.opts.walked != nil {
			s.opts.walked()
		}
		swept, g2 := s.sweepDisk(found)
		n += swept
		if g2 != nil {
			g = g2
		}
	}
	if g == nil {
		return n, nil
	}
	// The last group is on disk after all the others.
	return n, s.await(ctx, g)
}

// sweepMemory writes down what only memory knows of: leases that have ended, and
// unknowns that are over.
func (s *Store) sweepMemory(limit int) (n int, g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.entries
	now := s.clock.now()
	t.pass(now)
	for range min(len(t.unsaved), lapseBatch) {
		e := t.unsaved[0]
		t.unsaved = t.unsaved[1:]
		if e.kind != lapsed || e.disk.kind != inFlight || e.group != nil || t.all[e.key] != e {
			continue
		}
		g = s.add(&held{record: e.record, key: e.key, e: e}, &e.record, nil)
	}
	for n < limit && len(t.over) > 0 {
		e := t.over[0]
		t.over = t.over[1:]
		if !e.overNoted() || e.group != nil || t.all[e.key] != e {
			continue
		}
		g = s.add(&held{key: e.key, e: e}, &record{}, nil)
		n++
	}
	return n, g
}

// walk returns records that are over, in the order in which they ended.
func (s *Store) walk(ctx context.Context, limit int) ([]due, error) {
	s.mu.Lock()
	now := s.clock.now()
	s.sweeper.gens = s.entries.gens
	s.queue.minDue = maxTime
	for _, g := range []*group{s.queue.next, s.queue.syncing} {
		if g != nil {
			s.queue.minDue = min(s.queue.minDue, g.minDue)
		}
	}
	s.mu.Unlock()
	found := make([]due, 0, limit)
	err := s.eachDue(ctx, now, func(d *due) bool {
		found = append(found, *d)
		return len(found) < limit
	})
	return found, err
}

// eachDue calls f with each record that is over, as the space x tells, until f
// says no.
func (s *Store) eachDue(ctx context.Context, now int64, f func(d *due) bool) error {
	var end diskKey
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceDue}, UpperBound: dueKey(&end, after(now, 1), &driver.Key{})})
	if err != nil {
		return s.readError(driver.Key{}, err)
	}
	for it.First(); it.Valid(); it.Next() {
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), it.Close())
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return errors.Join(s.readError(driver.Key{}, err), it.Close())
		}
		var d due
		at, key, ok := splitDue(it.Key())
		if ok {
			ok = decodeRecord(v, it.Key(), &d.record) == nil && !d.kind.isClaim() && d.record.due == at
		}
		if !ok {
			s.log.Error("filestore: an entry of a due time cannot be read; its record stays", "key", key.Short())
			continue
		}
		d.key, d.disk = key, placeOf(&d.record)
		if !f(&d) {
			break
		}
	}
	return errors.Join(it.Error(), it.Close())
}

// sweepDisk lets what walk has found pass, as far as nobody has changed it
// since.
func (s *Store) sweepDisk(found []due) (n int, g *group) {
	if len(found) == 0 {
		return 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.now()
	fresh := func(d *due) bool {
		i := stripe(&d.key)
		return s.entries.all[d.key] == nil && s.entries.gens[i] == s.sweeper.gens[i]
	}
	// A range can be dropped if nothing was added to it that walk has not seen,
	// and all that it has seen goes.
	from, to := found[0].record.due, found[len(found)-1].record.due
	whole := len(found) >= rangeFrom && from < to && s.queue.minDue >= to
	for i := range found {
		whole = whole && fresh(&found[i])
	}
	if whole {
		if g = s.gather(); g.from == g.to {
			g.from, g.to = from, to
		}
	}
	for i := range found {
		d := &found[i]
		if !fresh(d) {
			continue
		}
		next := d.record
		next.settle(now)
		g = s.add(&held{record: d.record, key: d.key, disk: d.disk}, &next, nil)
		n++
	}
	return n, g
}

// Stats is described at [driver.Counter]. Bytes is what the files take on disk.
// The oldest unknown is the one that was granted first.
func (s *Store) Stats(ctx context.Context) (driver.Stats, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Stats{}, err
	}
	defer s.leave()
	s.mu.Lock()
	now := s.clock.now()
	s.entries.pass(now)
	c := s.counts
	st := driver.Stats{
		InFlight: int64(len(s.entries.leases.entries)),
		Unknown:  int64(len(s.entries.unknowns.entries)),
	}
	if st.Unknown > 0 {
		st.OldestUnknown = time.Duration(now - s.entries.oldestUnknown())
	}
	s.mu.Unlock()
	// What nobody has swept yet is counted as what it is.
	err := s.eachDue(ctx, now, func(d *due) bool {
		c.count(d.kind, -1)
		d.settle(now)
		c.count(d.kind, 1)
		return true
	})
	st.Completed, st.Forgotten = max(0, c.completed), max(0, c.forgotten)
	st.Bytes = s.dir.size()
	return st, err
}
