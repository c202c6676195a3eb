package filestore

import (
	"context"
	"runtime"
	"sync"

	"github.com/idem-go/idem/driver"
)

// change is a record's next state.
type change struct {
	e    *entry
	next record
	// data is the result, nil where there is none; it belongs to the change.
	data *[]byte
}

// group is the changes that share a sync.
type group struct {
	changes []change
	bytes   int
	// from and to are the range of due times that the group drops, as a whole.
	from, to int64
	// minDue is the first due time that the group adds.
	minDue int64
	// done is closed when all of it is on disk. It stays open when the disk fails.
	done chan struct{}
}

// queue is what waits for the committer. It is guarded by Store.mu.
type queue struct {
	work sync.Cond
	// next is the group that gathers, and syncing the one that the committer has;
	// either may be nil.
	next, syncing *group
	// minDue is the first due time added since the sweeper set it.
	minDue   int64
	stopping bool
	// spare is the slice of the last group, to be used again.
	spare []change
}

const (
	// queueBytes is the most that gathers: past it callers wait for the next sync
	// before they add theirs.
	queueBytes = 32 << 20
	// queueChanges is the most changes that gather.
	queueChanges = 16384
	// changeBytes is what a change takes beside its result and names, roughly.
	changeBytes = 512
)

func (q *queue) init(mu *sync.Mutex) {
	q.work.L = mu
	q.minDue = maxTime
}

// held is a key as it is now, by a caller that holds Store.mu.
type held struct {
	// record is settled.
	record
	key driver.Key
	now int64
	e   *entry
	// disk is where the record is, as long as nothing is written.
	disk place
	// under is room for a key on disk.
	under diskKey
}

// newHeld returns room for a key; it goes back with free.
func (s *Store) newHeld() *held {
	if h, ok := s.helds.Get().(*held); ok {
		return h
	}
	return new(held)
}

func (s *Store) free(h *held) {
	*h = held{}
	s.helds.Put(h)
}

// hold waits until nothing is being written of a key, and returns with Store.mu
// held. After an error it is not held.
func (s *Store) hold(ctx context.Context, key *driver.Key, h *held) error {
	for {
		s.mu.Lock()
		e := s.entries.all[*key]
		if e != nil {
			if g := e.group; g != nil {
				s.mu.Unlock()
				if err := s.await(ctx, g); err != nil {
					return err
				}
				continue
			}
			now := s.clock.now()
			s.entries.settle(e, now)
			if e.kind == unreadable {
				s.mu.Unlock()
				return &driver.UnreadableError{Key: *key, Reason: e.note}
			}
			h.record, h.key, h.now, h.e, h.disk = e.record, *key, now, e, e.disk
			return nil
		}
		gen := s.entries.gens[stripe(key)]
		s.mu.Unlock()
		if err := s.load(key, &h.record, &h.under); err != nil {
			return err
		}
		if s.opts.loaded != nil {
			s.opts.loaded(*key)
		}
		s.mu.Lock()
		// What was read is what is there, unless somebody was here meanwhile.
		if s.entries.all[*key] == nil && s.entries.gens[stripe(key)] == gen {
			h.key, h.e = *key, nil
			h.disk = placeOf(&h.record)
			h.now = s.clock.now()
			h.settle(h.now)
			return nil
		}
		s.mu.Unlock()
	}
}

// await returns nil when a group is on disk.
func (s *Store) await(ctx context.Context, g *group) error {
	select {
	case <-g.done:
		return nil
	default:
	}
	select {
	case <-g.done:
		return nil
	case <-s.failed:
		return s.stopped()
	case <-ctx.Done():
		return ended(ctx)
	}
}

// put gives a change to the committer, lets go of Store.mu, and returns when the
// change is on disk. The change's data is the committer's from then on.
func (s *Store) put(ctx context.Context, h *held, next *record, data *[]byte) error {
	g := s.add(h, next, data)
	s.mu.Unlock()
	return s.await(ctx, g)
}

// add gives a change to the committer.
func (s *Store) add(h *held, next *record, data *[]byte) *group {
	e := h.e
	if e == nil {
		e = &entry{record: h.record, key: h.key, disk: h.disk, pos: -1}
		s.entries.all[e.key] = e
	}
	g := s.gather()
	g.changes = append(g.changes, change{e, *next, data})
	g.bytes += changeBytes + len(next.scope) + len(next.id) + next.resultLen()
	e.group = g
	if next.kind != absent && !next.kind.isClaim() {
		g.minDue = min(g.minDue, next.due)
		s.queue.minDue = min(s.queue.minDue, next.due)
	}
	return g
}

// gather returns the group that gathers.
func (s *Store) gather() *group {
	q := &s.queue
	if q.next == nil {
		q.next = &group{changes: q.spare[:0], minDue: maxTime, done: make(chan struct{})}
		q.spare = nil
		q.work.Signal()
	}
	return q.next
}

// full returns the group to wait for before anything is added; nil for none.
func (q *queue) full() *group {
	if g := q.next; g != nil && (g.bytes > queueBytes || len(g.changes) >= queueChanges) {
		return g
	}
	return nil
}

// holdToWrite is hold for who may write: it waits while too much waits for the
// disk.
func (s *Store) holdToWrite(ctx context.Context, key *driver.Key, h *held) error {
	for {
		if err := s.hold(ctx, key, h); err != nil {
			return err
		}
		g := s.queue.full()
		if g == nil {
			return nil
		}
		s.mu.Unlock()
		if err := s.await(ctx, g); err != nil {
			return err
		}
	}
}

// commitLoop is the committer. It ends when it is told to and nothing is left,
// or when the disk fails: then it does not return from that write.
func (s *Store) commitLoop() {
	for {
		g := s.take()
		if g == nil {
			close(s.committed)
			return
		}
		if err := s.commit(g); err != nil {
			// Not the disk, which does not return: the engine. What it has of the
			// group is not known.
			s.gate.shut(err)
			return
		}
		s.finish(g)
	}
}

// take waits for a group; nil says that there will be none.
func (s *Store) take() *group {
	q := &s.queue
	s.mu.Lock()
	defer s.mu.Unlock()
	for q.next == nil {
		if q.stopping {
			return nil
		}
		q.work.Wait()
	}
	// Those who were answered by the last sync are about to come again: they get
	// a turn before the next one, as long as some do.
	for n := 0; n != len(q.next.changes) && n < queueChanges; {
		n = len(q.next.changes)
		s.mu.Unlock()
		runtime.Gosched()
		s.mu.Lock()
	}
	q.syncing, q.next = q.next, nil
	return q.syncing
}

func (s *Store) commit(g *group) error {
	now := s.clock.pair()
	if g.from < g.to {
		if err := s.writer.dropRange(g.from, g.to); err != nil {
			return err
		}
	}
	for i := range g.changes {
		c := &g.changes[i]
		var data []byte
		if c.data != nil {
			data = *c.data
		}
		if err := s.writer.move(&c.e.key, c.e.disk, &c.next, data); err != nil {
			return err
		}
		if s.writer.size() > batchBytes {
			if err := s.writer.flush(now); err != nil {
				return err
			}
		}
	}
	if err := s.writer.sync(now); err != nil {
		return err
	}
	counts := s.writer.took()
	s.mu.Lock()
	s.counts.add(counts)
	marked := s.marked()
	s.mu.Unlock()
	if err := s.mark.set(marked); err != nil {
		return err
	}
	s.space.wrote(s, g.bytes)
	return nil
}

// finish makes what is on disk what memory knows, and answers.
func (s *Store) finish(g *group) {
	s.mu.Lock()
	for i := range g.changes {
		c := &g.changes[i]
		e := c.e
		if e.kind == inFlight && (c.next.kind != inFlight || c.next.token != e.token) {
			e.wake()
		}
		e.record, e.disk, e.group = c.next, placeOf(&c.next), nil
		s.entries.place(e)
		if !e.kind.isClaim() {
			s.entries.drop(e)
		}
		s.unpack(c.data)
	}
	clear(g.changes)
	if cap(g.changes) <= 4096 {
		s.queue.spare = g.changes
	}
	g.changes = nil
	s.queue.syncing = nil
	s.mu.Unlock()
	close(g.done)
}

// stopCommitter tells the committer to end when nothing is left.
func (s *Store) stopCommitter() {
	s.mu.Lock()
	s.queue.stopping = true
	s.queue.work.Signal()
	s.mu.Unlock()
}

// keptBuffer is the size of the largest buffer that is used again.
const keptBuffer = 256 << 10

// pack makes one copy of both parts of a result, in a buffer that is used again
// later; nil for an empty result.
func (s *Store) pack(r driver.Result) *[]byte {
	if r.Size() == 0 {
		return nil
	}
	b, ok := s.buffers.Get().(*[]byte)
	if !ok {
		b = new([]byte)
	}
	*b = append(append((*b)[:0], r.Meta...), r.Body...)
	return b
}

func (s *Store) unpack(b *[]byte) {
	if b != nil && cap(*b) <= keptBuffer {
		s.buffers.Put(b)
	}
}
