package mysqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/idem-go/idem/driver"
)

// Store keeps records in tables of a MySQL or MariaDB database. Its methods may
// be called from many goroutines at once. Make one with [New] or [Open].
type Store struct {
	db     *sql.DB
	opts   Options
	tables *tables
	stmts  statements
	// maxResult is what the options and the server allow.
	maxResult int

	unknowns unknowns
	waiters  waiters
	// logWrites are waited for before others' results are told.
	logWrites logWrites
	// counting has a place for each transaction that may hold two connections.
	counting chan struct{}

	// life is for what runs by itself, and ends with Close; closing is its end.
	life      context.Context
	end       context.CancelFunc
	closing   <-chan struct{}
	closeOnce sync.Once
	// starting orders the start of a goroutine and Close.
	starting sync.Mutex
	running  sync.WaitGroup
	// ownsDB says that the store closes db.
	ownsDB   bool
	closeErr error
}

var (
	_ driver.Store            = (*Store)(nil)
	_ driver.Waiter           = (*Store)(nil)
	_ driver.Resolver         = (*Store)(nil)
	_ driver.Lister           = (*Store)(nil)
	_ driver.Sweeper          = (*Store)(nil)
	_ driver.Counter          = (*Store)(nil)
	_ driver.Describer        = (*Store)(nil)
	_ driver.Pinger           = (*Store)(nil)
	_ driver.TxStore[*sql.Tx] = (*Store)(nil)
)

// New returns a store whose tables are in the database of db, which stays the
// caller's: Close leaves it open. Nil options are the defaults. It refuses, with
// a sentence that says what to do, tables that are missing or of another
// version, a server that is read-only or too old, and connections without
// autocommit or that read what is not committed; what merely weakens the promise is logged, once. A goroutine sweeps, unless the options say otherwise, until
// Close.
//
// The store takes connections of db for single statements, and one for each
// DoTx, two while it counts attempts. See [Connect] for a pool that suits it.
func New(ctx context.Context, db *sql.DB, o *Options) (*Store, error) {
	opts, err := o.filled()
	if err != nil {
		return nil, err
	}
	srv, err := readServer(ctx, db, opts.Prefix)
	if err != nil {
		return nil, err
	}
	if err := srv.refusal(); err != nil {
		return nil, err
	}
	asked := 0
	if o != nil {
		asked = o.MaxResult
	}
	for _, f := range srv.findings(asked) {
		if f.Severity == driver.SeverityWarning {
			opts.Logger.WarnContext(ctx, "mysqlstore: "+f.Means, "setting", f.Subject, "value", f.Found, "remedy", f.Remedy)
		}
	}
	s := &Store{
		db:        db,
		opts:      opts,
		tables:    newTables(opts.Prefix, srv.mariadb && !opts.plain),
		stmts:     statements{db: db, made: map[string]*sql.Stmt{}},
		maxResult: min(opts.MaxResult, srv.largestResult()),
	}
	s.life, s.end = context.WithCancel(context.Background())
	s.closing = s.life.Done()
	s.waiters.store = s
	if most := db.Stats().MaxOpenConnections; most > 0 {
		s.counting = make(chan struct{}, most/2)
	}
	if err := s.recount(ctx); err != nil {
		s.end()
		return nil, unanswered(ctx, err)
	}
	if opts.SweepEvery > 0 {
		s.start(s.sweepOn)
	}
	return s, nil
}

// Open is [Connect] and [New] in one; Close closes the connections as well.
func Open(ctx context.Context, dsn string, o *Options) (*Store, error) {
	db, err := Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	s, err := New(ctx, db, o)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s.ownsDB = true
	return s, nil
}

// closePatience is how long Close waits for a transaction that a server which
// hangs has not ended.
const closePatience = 5 * time.Second

// Close ends the store: its goroutines have ended when it returns, whoever
// waits gets [driver.ErrClosed], and so does every later call. What is in the
// tables stays. Closing again does nothing and returns the same. An error says
// that the server still has not answered at the end of a transaction.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.starting.Lock()
		s.end()
		s.starting.Unlock()
		ended := make(chan struct{})
		go func() {
			s.running.Wait()
			close(ended)
		}()
		timer := time.NewTimer(closePatience)
		defer timer.Stop()
		select {
		case <-ended:
		case <-timer.C:
			s.closeErr = errSilent
		}
		s.stmts.close()
		if s.ownsDB {
			if err := s.db.Close(); err != nil {
				s.closeErr = fmt.Errorf("mysqlstore: %w", err)
			}
		}
	})
	return s.closeErr
}

// start runs f in a goroutine that Close waits for, unless that has begun.
func (s *Store) start(f func()) {
	s.starting.Lock()
	defer s.starting.Unlock()
	if s.isClosed() {
		go f()
		return
	}
	s.running.Go(f)
}

func (s *Store) isClosed() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// Describe says that the store is durable, shared and transactional, and its
// largest result, which is what the options say or the server takes, whichever
// is less.
func (s *Store) Describe() driver.Info {
	return driver.Info{Name: "mysql", Durable: true, Shared: true, Transactional: true, MaxResult: s.maxResult}
}

// Ping returns nil when the server answers and would take a claim, and
// [driver.ErrFull] when there are too many unknowns.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	return s.again(ctx, func() error {
		readOnly, err := isReadOnly(ctx, s.db)
		switch {
		case err != nil:
			return err
		case readOnly != "":
			return errReadOnly(readOnly)
		}
		if err := s.recount(ctx); err != nil {
			return err
		}
		if full, _ := s.unknowns.full(int64(s.opts.MaxUnknown)); full && s.opts.MaxUnknown >= 0 {
			return driver.ErrFull
		}
		return nil
	})
}

// enter is the beginning of every call.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.isClosed() {
		return driver.ErrClosed
	}
	return nil
}
