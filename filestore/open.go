package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/idem-go/idem/driver"
)

// Open opens the store in a directory, and makes both if they are not there;
// nil options are the defaults. It waits for nothing but the disk: a directory
// that is open elsewhere is refused with [ErrInUse] and the other's process id.
// What was in flight when the last process ended is unknown from now on.
//
// A directory that is damaged, or from which less comes back than had been
// acknowledged, is refused with [ErrDamaged] and left as it is; one of another
// format with [ErrFormat].
func Open(dir string, o *Options) (*Store, error) {
	opts := o.withDefaults()
	if opts.fs == nil {
		opts.fs = vfs.Default
		path, err := realPath(dir)
		if err != nil {
			return nil, err
		}
		if dir != "" {
			dir = path
		}
	}
	d, err := openDirectory(opts.fs, dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		opts:      opts,
		dir:       d,
		log:       opts.Logger,
		closing:   make(chan struct{}),
		failed:    make(chan struct{}),
		committed: make(chan struct{}),
	}
	s.gate = &gate{FS: opts.fs, fail: s.fail}
	s.queue.init(&s.mu)
	s.entries.init()
	if err := s.open(); err != nil {
		// Nobody writes to the directory any more when it is given back.
		s.gate.shut(nil)
		return nil, errors.Join(err, d.close())
	}
	go s.commitLoop()
	s.sweeper.start(s)
	return s, nil
}

func (s *Store) open() error {
	var found *recovered
	lost := marked{}
	if s.dir.fresh {
		if err := s.dir.begin(); err != nil {
			return err
		}
	} else {
		r, m, err := s.inspect()
		if err != nil {
			return err
		}
		found, lost = r, m
	}
	engine := engineOptions(&s.opts, s.gate, s.log)
	engine.ErrorIfNotExists = !s.dir.fresh
	db, err := openEngine(s.dir.join(engineName), engine, s.failed, s.stopped)
	if err != nil {
		return s.engineError(err)
	}
	s.db = db
	s.writer = newWriter(db)
	if err := s.guarded(func() error { return s.announce(found, lost) }); err != nil {
		if errors.Is(err, ErrStopped) {
			return err
		}
		return errors.Join(err, s.closeEngine())
	}
	return nil
}

// inspect says what comes back from an existing store, and how much more had
// been acknowledged than that.
func (s *Store) inspect() (*recovered, marked, error) {
	m, err := readMark(s.dir.fs, s.dir.join(markName))
	if err != nil {
		if !s.opts.AcceptLoss {
			return nil, m, damaged(s.dir.path, "the file "+markName+", which says how much was acknowledged, cannot be read: "+err.Error(), err)
		}
		s.log.Warn("filestore: opened without knowing how much was lost, as AcceptLoss says", "dir", s.dir.path)
		m = marked{epoch: lossEpochs}
	}
	r, err := inspect(s.dir.join(engineName), engineOptions(&s.opts, s.gate, s.log), s.failed, s.stopped)
	if err != nil {
		return nil, m, s.engineError(err)
	}
	if m.batches > r.counts.batches {
		if !s.opts.AcceptLoss {
			return nil, m, damaged(s.dir.path, fmt.Sprintf("%d groups of writes were acknowledged and %d came back, so keys that were completed could run again", m.batches, r.counts.batches), nil)
		}
		s.log.Warn("filestore: opened with less than was acknowledged, as AcceptLoss says",
			"dir", s.dir.path, "acknowledged", m.batches, "recovered", r.counts.batches)
		m.epoch += lossEpochs
	}
	return &r, m, nil
}

// lossEpochs is by how much the epoch grows where some may have been lost.
const lossEpochs = 1 << 10

func (s *Store) engineError(err error) error {
	switch {
	case errors.Is(err, ErrStopped):
		return err
	case errors.Is(err, fs.ErrPermission):
		return unwritable(s.dir.path, err)
	}
	return damaged(s.dir.path, "the engine cannot open it: "+oneLine(err), err)
}

// announce writes the opening itself: a new epoch, and that what was in flight is
// unknown now.
func (s *Store) announce(found *recovered, lost marked) error {
	s.epoch = lost.epoch + 1
	if found != nil {
		s.epoch = max(found.epoch, lost.epoch) + 1
		s.counts = found.counts
		s.clock = newClock(s.opts.sources, &found.time)
	} else {
		s.clock = newClock(s.opts.sources, nil)
	}
	if err := s.writer.epoch(s.epoch); err != nil {
		return err
	}
	if err := s.loadClaims(); err != nil {
		return s.engineError(err)
	}
	if err := s.writer.sync(s.clock.pair()); err != nil {
		return err
	}
	s.counts.add(s.writer.took())
	var err error
	if s.mark, err = openMark(s.gate, s.dir.join(markName)); err != nil {
		return err
	}
	if err := s.mark.reset(s.marked()); err != nil {
		return err
	}
	if !s.dir.fresh {
		return nil
	}
	if err := syncDir(s.gate, s.dir.path); err != nil {
		return err
	}
	return s.dir.finish(s.gate)
}

func (s *Store) marked() marked { return marked{s.counts.batches, s.epoch} }

// guarded runs f, which goes through the gate, in a goroutine of its own, since
// it does not return when the disk fails.
func (s *Store) guarded(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-s.failed:
		return s.stopped()
	}
}

// loadClaims brings the claims into memory. Those that were in flight lapse
// now, and that is written, so that it stays so.
func (s *Store) loadClaims() error {
	it, err := s.db.NewIter(claims())
	if err != nil {
		return err
	}
	now := s.clock.now()
	for it.First(); it.Valid(); it.Next() {
		key, ok := splitKey(it.Key())
		if !ok {
			return errors.Join(errMalformed, it.Close())
		}
		e := &entry{key: key}
		v, err := it.ValueAndErr()
		if err != nil {
			return errors.Join(err, it.Close())
		}
		if err := decodeRecord(v, it.Key(), &e.record); err != nil {
			s.log.Error("filestore: a claim cannot be read; its key is refused", "key", key.Short(), "reason", err)
			e.record = record{kind: unreadable, note: err.Error(), due: math.MaxInt64}
			s.entries.load(e)
			continue
		}
		if e.kind == inFlight {
			e.kind, e.due = lapsed, after(now, e.tombstone)
			if err := s.writer.move(&e.key, place{kind: inFlight}, &e.record, nil); err != nil {
				return errors.Join(err, it.Close())
			}
			if s.writer.size() > batchBytes {
				if err := s.writer.flush(s.clock.pair()); err != nil {
					return errors.Join(err, it.Close())
				}
			}
		}
		e.disk = placeOf(&e.record)
		s.entries.load(e)
	}
	return errors.Join(it.Error(), it.Close())
}

// Close ends the store: calls under way come to their ends, every later one
// returns [driver.ErrClosed], and so does every [Store.Wait] that waits. What is
// in flight is unknown when the store is opened again. Closing again does
// nothing and returns nil. After a failed write it returns an error that wraps
// [ErrStopped]; what the engine holds is given back when the process ends.
func (s *Store) Close() error {
	if !s.closed.CompareAndSwap(false, true) {
		return nil
	}
	close(s.closing)
	s.sweeper.stop(s.failed)
	// Calls that wait for the committer are answered by it.
	s.life.Lock()
	defer s.life.Unlock()
	s.stopCommitter()
	var err error
	select {
	case <-s.failed:
		err = s.stopped()
	case <-s.committed:
		if err = s.guarded(s.farewell); err == nil {
			err = s.closeEngine()
		}
	}
	s.gate.shut(nil)
	return errors.Join(err, s.dir.close())
}

// farewell writes what only memory knows: which leases have ended, and the
// time.
func (s *Store) farewell() error {
	now := s.clock.now()
	for _, e := range s.entries.all {
		r := e.record
		r.settle(now)
		if e.kind == unreadable || r.kind == e.disk.kind || e.disk.kind == absent || r.kind == inFlight {
			continue
		}
		if err := s.writer.move(&e.key, e.disk, &r, nil); err != nil {
			return err
		}
		if s.writer.size() > batchBytes {
			if err := s.writer.flush(s.clock.pair()); err != nil {
				return err
			}
		}
	}
	if err := s.writer.sync(s.clock.pair()); err != nil {
		return err
	}
	s.counts.add(s.writer.took())
	return errors.Join(s.mark.reset(s.marked()), s.mark.close())
}

// closeEngine closes the engine, unless the disk fails meanwhile.
func (s *Store) closeEngine() error {
	return s.guarded(func() (err error) {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("filestore: close the engine: %v", r)
			}
		}()
		if err := s.db.Close(); err != nil {
			return fmt.Errorf("filestore: close the engine: %w", err)
		}
		return nil
	})
}

// load reads what is on disk outside of the claims. A key that is not there
// gives an absent record.
func (s *Store) load(key *driver.Key, r *record, room *diskKey) error {
	k := recordKey(room, key)
	// A plain Get takes it that the key is there, and reads a block of the last
	// level for each that is not; most keys that are asked for are new.
	it, err := s.db.NewIter(&pebble.IterOptions{KeyTypes: pebble.IterKeyTypePointsOnly, UseL6Filters: true})
	if err != nil {
		return s.readError(*key, err)
	}
	*r = record{}
	var bad error
	if it.SeekPrefixGE(k) {
		v, err := it.ValueAndErr()
		if err != nil {
			return s.readError(*key, errors.Join(err, it.Close()))
		}
		if bad = decodeRecord(v, k, r); bad == nil && r.kind.isClaim() {
			bad = errMalformed
		}
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return s.readError(*key, err)
	}
	if bad != nil {
		return &driver.UnreadableError{Key: *key, Reason: bad.Error()}
	}
	return nil
}

// readError is what a failed read means for the key that was asked for.
func (s *Store) readError(key driver.Key, err error) error {
	if pebble.IsCorruptionError(err) {
		return &driver.UnreadableError{Key: key, Reason: "its file is damaged: " + oneLine(err)}
	}
	return fmt.Errorf("filestore: read: %w", err)
}

// ended returns the context's error with what was waited for.
func ended(ctx context.Context) error {
	return fmt.Errorf("filestore: no answer from the disk yet: %w", ctx.Err())
}
