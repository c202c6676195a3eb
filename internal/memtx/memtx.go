// Package memtx is a store in memory whose records commit together with rows,
// for tests of what is built on driver.TxStore where no database is at hand.
// It keeps that contract, and drivertest.RunTx holds it to it.
package memtx

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

// ErrConflict is what a transaction fails with that is to be tried again.
var ErrConflict = errors.New("memtx: conflict")

// ErrDone: the transaction has been committed or rolled back.
var ErrDone = errors.New("memtx: transaction has ended")

// maxTries is how often a transaction is tried that conflicts.
const maxTries = 5

// Store is a store of records and rows.
type Store struct {
	*memstore.Store

	mu       sync.Mutex
	rows     map[string]int
	open     map[driver.Key]*open
	attempts map[driver.Key]*counted
	resolved map[driver.Key]uint64 // the tokens of claims that Resolve released
	closed   bool
	// FailCommits is how many of the next commits lose their answer: those with
	// true take effect, those with false do not.
	FailCommits []bool
}

// open is a key that a transaction has claimed.
type open struct {
	before driver.Record
	ended  chan struct{}
}

type counted struct {
	n     int
	until time.Time
}

// New returns an empty store; nil options are memstore's.
func New(o *memstore.Options) *Store {
	return &Store{
		Store: memstore.New(o), rows: map[string]int{}, open: map[driver.Key]*open{}, attempts: map[driver.Key]*counted{},
		resolved: map[driver.Key]uint64{},
	}
}

// Tx is a transaction.
type Tx struct {
	s    *Store
	rows []string
	done bool
	then []func() error
}

// Insert adds a row of a name.
func (tx *Tx) Insert(name string) error {
	if tx.done {
		return ErrDone
	}
	tx.rows = append(tx.rows, name)
	return nil
}

// Begin begins a transaction of the application's.
func (s *Store) Begin() *Tx { return &Tx{s: s} }

// Commit makes the rows visible, and ends what CompleteTx has staged.
func (tx *Tx) Commit() error {
	if tx.done {
		return ErrDone
	}
	tx.done = true
	for _, f := range tx.then {
		if err := f(); err != nil {
			return err
		}
	}
	tx.s.mu.Lock()
	defer tx.s.mu.Unlock()
	for _, name := range tx.rows {
		tx.s.rows[name]++
	}
	return nil
}

// Rollback forgets the transaction.
func (tx *Tx) Rollback() { tx.done = true }

// Rows counts the rows of a name.
func (s *Store) Rows(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rows[name]
}

// Close implements io.Closer.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	return s.Store.Close()
}

// Describe implements driver.Describer.
func (s *Store) Describe() driver.Info {
	info := s.Store.Describe()
	info.Transactional = true
	return info
}

// Lookup is memstore's; what a transaction has not committed is not seen.
func (s *Store) Lookup(ctx context.Context, key driver.Key) (driver.Record, error) {
	if err := ctx.Err(); err != nil {
		return driver.Record{}, err
	}
	s.mu.Lock()
	o := s.open[key]
	s.mu.Unlock()
	if o != nil {
		return o.before, nil
	}
	rec, err := s.Store.Lookup(ctx, key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.attempts[key]; c != nil && rec.State == driver.StateCompleted {
		rec.Attempt = c.n
	}
	return rec, err
}

// Resolve is memstore's.
func (s *Store) Resolve(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error) {
	rec, err := s.Store.Resolve(ctx, key, r)
	if err == nil && r.Action == driver.ResolveRelease {
		s.mu.Lock()
		s.resolved[key] = rec.Token
		s.mu.Unlock()
	}
	return rec, err
}

// DoTx implements driver.TxStore.
func (s *Store) DoTx(ctx context.Context, req driver.TxRequest, work driver.TxWork[*Tx]) (driver.TxReply, error) {
	if err := ctx.Err(); err != nil {
		return driver.TxReply{}, err
	}
	if err := req.Check(); err != nil {
		return driver.TxReply{}, err
	}
	var lost uint64
	counted := 0
	for try := 1; ; try++ {
		reply, token, err := s.try(ctx, &req, work, lost, &counted)
		switch {
		case errors.Is(err, errAnswer):
			lost = token
		case !errors.Is(err, ErrConflict):
			return reply, err
		}
		if try == maxTries {
			return driver.TxReply{}, err
		}
	}
}

var errAnswer = errors.New("memtx: the answer of a commit was lost")

// try runs the transaction once. Lost is the token of a commit before, whose
// answer was lost.
func (s *Store) try(ctx context.Context, req *driver.TxRequest, work driver.TxWork[*Tx], lost uint64, counted *int) (driver.TxReply, uint64, error) {
	rec, granted, err := s.enter(ctx, req)
	if err != nil {
		return driver.TxReply{}, 0, err
	}
	if !granted {
		return driver.TxReply{Ran: lost != 0 && rec.Token == lost && rec.State == driver.StateCompleted, Record: rec}, 0, nil
	}
	ref := driver.Ref{Key: req.Key, Token: rec.Token}
	tx := &Tx{s: s}
	committed := false
	defer func() {
		tx.done = true
		if !committed {
			_ = s.Release(context.WithoutCancel(ctx), ref, driver.Release{Unused: true, Retention: req.Retention}) // only ErrClosed
		}
		s.leave(req.Key)
	}()
	if *counted == 0 {
		*counted = s.count(req, rec.Attempt)
	}
	rec.Attempt = *counted
	c, err := work(ctx, tx, driver.Record{Key: req.Key, Token: rec.Token, Attempt: rec.Attempt})
	if err == nil {
		err = c.Check(s.Describe().MaxResult)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return driver.TxReply{}, 0, err
	}
	takes, answers := s.commits()
	if !takes {
		return driver.TxReply{}, rec.Token, errAnswer
	}
	if _, err := s.Complete(context.WithoutCancel(ctx), ref, c); err != nil {
		return driver.TxReply{}, 0, err
	}
	committed = true
	if err := tx.Commit(); err != nil {
		return driver.TxReply{}, 0, err
	}
	if !answers {
		return driver.TxReply{}, rec.Token, errAnswer
	}
	after, err := s.Store.Lookup(context.WithoutCancel(ctx), req.Key)
	after.Attempt = rec.Attempt
	return driver.TxReply{Ran: true, Record: after}, 0, err
}

// commits says whether the next commit takes effect, and whether it answers.
func (s *Store) commits() (takes, answers bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.FailCommits) == 0 {
		return true, true
	}
	takes = s.FailCommits[0]
	s.FailCommits = s.FailCommits[1:]
	return takes, false
}

// enter claims the key, or returns its record.
func (s *Store) enter(ctx context.Context, req *driver.TxRequest) (rec driver.Record, granted bool, err error) {
	limit := time.NewTimer(req.Wait)
	defer limit.Stop()
	for {
		s.mu.Lock()
		o := s.open[req.Key]
		if o == nil {
			defer s.mu.Unlock()
			return s.claim(ctx, req)
		}
		s.mu.Unlock()
		if req.Wait == 0 {
			return driver.Record{Key: req.Key, State: driver.StateInFlight, Left: time.Second}, false, nil
		}
		select {
		case <-o.ended:
		case <-limit.C:
			return driver.Record{Key: req.Key, State: driver.StateInFlight, Left: time.Second}, false, nil
		case <-ctx.Done():
			return driver.Record{}, false, ctx.Err()
		}
	}
}

// claim claims the key in the store beneath; s.mu is held.
func (s *Store) claim(ctx context.Context, req *driver.TxRequest) (driver.Record, bool, error) {
	if s.closed {
		return driver.Record{}, false, driver.ErrClosed
	}
	before, err := s.Store.Lookup(ctx, req.Key)
	if err != nil {
		return driver.Record{}, false, err
	}
	const forLong = 1000 * time.Hour
	reply, err := s.Store.Claim(ctx, driver.ClaimRequest{
		Key: req.Key, Scope: req.Scope, ID: req.ID, Fingerprint: req.Fingerprint, Nonce: driver.NewNonce(),
		Lease: forLong, Tombstone: forLong, Retry: req.Retry,
	})
	if err == nil && reply.Granted {
		s.open[req.Key] = &open{before: before, ended: make(chan struct{})}
	}
	return reply.Record, reply.Granted, err
}

func (s *Store) leave(key driver.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.open[key].ended)
	delete(s.open, key)
}

// count returns the attempt that begins.
func (s *Store) count(req *driver.TxRequest, attempt int) int {
	if !req.CountAttempts {
		return attempt
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	c := s.attempts[req.Key]
	if c == nil || !now.Before(c.until) {
		c = &counted{}
		s.attempts[req.Key] = c
	}
	c.n++
	c.until = now.Add(req.Retention)
	return max(attempt, c.n)
}

// CompleteTx implements driver.TxStore.
func (s *Store) CompleteTx(ctx context.Context, tx *Tx, ref driver.Ref, c driver.Completion) (late bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if tx.done {
		return false, ErrDone
	}
	rec, err := s.Store.Lookup(ctx, ref.Key)
	if err == nil {
		err = c.Check(s.Describe().MaxResult)
	}
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	released := s.resolved[ref.Key] == ref.Token // then it is completed late all the same
	s.mu.Unlock()
	switch {
	case rec.Token != ref.Token:
		err = driver.ErrLost
	case rec.State == driver.StateAbsent && !released:
		err = driver.ErrLost
	case rec.State == driver.StateCompleted, rec.State == driver.StateForgotten:
		err = driver.ErrCompleted
	}
	if err != nil {
		tx.Rollback()
		return false, err
	}
	tx.then = append(tx.then, func() error {
		_, err := s.Store.Complete(context.WithoutCancel(ctx), ref, c)
		return err
	})
	return rec.State != driver.StateInFlight, nil
}
