package pgstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/idem-go/idem/driver"
)

// Store keeps records in PostgreSQL, over a pool of pgx's. Its methods may be
// called from many goroutines at once. Make one with [New] or [Open].
type Store struct {
	records
	pgx *pgxDB
}

// DBStore keeps records in PostgreSQL, over a pool of database/sql's: the same
// records as a [Store], and each call is a statement of its own. It waits by
// polling, as database/sql passes no notifications on. Its methods may be called
// from many goroutines at once. Make one with [NewDB].
type DBStore struct {
	records
	sql *sqlDB
}

var (
	_ driver.TxStore[pgx.Tx]  = (*Store)(nil)
	_ driver.Waiter           = (*Store)(nil)
	_ driver.Resolver         = (*Store)(nil)
	_ driver.Lister           = (*Store)(nil)
	_ driver.Sweeper          = (*Store)(nil)
	_ driver.Counter          = (*Store)(nil)
	_ driver.Describer        = (*Store)(nil)
	_ driver.Pinger           = (*Store)(nil)
	_ driver.TxStore[*sql.Tx] = (*DBStore)(nil)
	_ driver.Waiter           = (*DBStore)(nil)
	_ driver.Resolver         = (*DBStore)(nil)
	_ driver.Lister           = (*DBStore)(nil)
	_ driver.Sweeper          = (*DBStore)(nil)
	_ driver.Counter          = (*DBStore)(nil)
	_ driver.Describer        = (*DBStore)(nil)
	_ driver.Pinger           = (*DBStore)(nil)
)

// New returns a store over a pool, which stays the caller's and must outlive the
// store; nil options are the defaults. The tables must be there: see [Migrate].
// It refuses tables of a version that it does not know, a server that takes no
// writes, and one before PostgreSQL 13; what else weakens the promise is logged
// as a warning. It starts a goroutine that sweeps, unless Options.SweepEvery is
// negative, and one that gives up statements which take long; Close ends them.
func New(ctx context.Context, pool *pgxpool.Pool, o *Options) (*Store, error) {
	s := &Store{pgx: newPgxDB(pool)}
	if err := s.records.open(ctx, s.pgx, o); err != nil {
		return nil, err
	}
	pooled, err := s.pgx.pooled(ctx)
	if err != nil {
		_ = s.Close() // never an error
		return nil, explain(err)
	}
	s.group = &grouper{store: &s.records, send: s.pgx.send}
	if !pooled {
		s.group.quick, s.quickTx = quick{s.pgx}, true
		s.background(func() { s.pgx.watch(&s.records) })
	}
	return s, nil
}

// NewDB is [New] over a pool of database/sql's, with any driver for PostgreSQL
// whose placeholders are $1, $2 and whose errors have a method SQLState, as those
// of pgx and lib/pq do.
func NewDB(ctx context.Context, db *sql.DB, o *Options) (*DBStore, error) {
	s := &DBStore{sql: &sqlDB{db: db}}
	if err := s.records.open(ctx, s.sql, o); err != nil {
		return nil, err
	}
	return s, nil
}

// Connect makes a pool for a DSN, a URL such as
// postgres://user:password@host:port/database?sslmode=verify-full or a list of
// keywords and values, as libpq takes them. What the DSN does not say is set for
// a store: 16 connections at most (pool_max_conns), the name "idem"
// (application_name), and five seconds to connect (connect_timeout). Behind a
// pooler in transaction mode it should say default_query_exec_mode=exec. No error
// holds the password.
func Connect(ctx context.Context, dsn string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		// What the parser says may quote any part of the DSN.
		return nil, errors.New("pgstore: the DSN cannot be read; write it as postgres://user:password@host:port/database, with what is special in a password percent-encoded")
	}
	if !strings.Contains(dsn, "pool_max_conns") {
		config.MaxConns = 16
	}
	cc := config.ConnConfig
	if cc.RuntimeParams["application_name"] == "" {
		cc.RuntimeParams["application_name"] = "idem"
	}
	if cc.ConnectTimeout == 0 {
		cc.ConnectTimeout = 5 * time.Second
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, withoutPassword(err, cc.Password)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, withoutPassword(err, cc.Password)
	}
	return pool, nil
}

// withoutPassword says what an error of connecting means, without its text where
// that holds the password.
func withoutPassword(err error, password string) error {
	if password != "" && strings.Contains(err.Error(), password) {
		return errors.New("pgstore: the server cannot be connected to; look at its log")
	}
	return fmt.Errorf("pgstore: the server cannot be connected to; is it running, and are host, user and password right? %w", err)
}

// Open is [Connect] and [New]; Close closes the pool as well.
func Open(ctx context.Context, dsn string, o *Options) (*Store, error) {
	pool, err := Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	s, err := New(ctx, pool, o)
	if err != nil {
		pool.Close()
		return nil, err
	}
	s.finish = pool.Close
	return s, nil
}

// open is New for both stores.
func (r *records) open(ctx context.Context, db database, o *Options) error {
	opts, err := o.withDefaults()
	if err != nil {
		return err
	}
	r.opts, r.db = opts, db
	r.closing = make(chan struct{})
	settings, err := readSettings(ctx, db, opts.Schema)
	if err != nil {
		return err
	}
	db.named(settings)
	r.name = namesIn(settings.schema, opts.Prefix)
	r.text = newTexts(r.name, opts.grace.Microseconds())
	switch {
	case settings.version < oldestServer:
		return errOldServer(settings.version)
	case settings.readOnly:
		return explain(errReadOnly)
	}
	if err := r.readable(ctx); err != nil {
		return err
	}
	r.info = driver.Info{
		Name: "postgres", Durable: settings.durable, Shared: true, Transactional: true, MaxResult: opts.MaxResult,
	}
	if n := db.size(); n > 0 {
		r.pairs = make(chan struct{}, n-1)
	}
	r.waits.store = r
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for _, f := range settings.findings() {
		if f.Severity >= driver.SeverityWarning {
			opts.Logger.Warn("pgstore: a setting of the server weakens the promise", "setting", f.Subject, "found", f.Found, "means", f.Means, "remedy", f.Remedy)
		}
	}
	if opts.SweepEvery > 0 {
		r.background(r.sweeper)
	}
	return nil
}

// DoTx is described at [driver.TxStore]. The claim goes to the server together
// with the beginning of the transaction, and the completion with its end, so
// that it takes no more round trips than the transaction alone. The transaction
// is of the isolation that is the server's default. Work can use the savepoints
// of tx (tx.Begin); tx.Commit and tx.Rollback are errors.
func (s *Store) DoTx(ctx context.Context, req driver.TxRequest, work driver.TxWork[pgx.Tx]) (driver.TxReply, error) {
	return doTx(ctx, &s.records, s.pgx, req, work)
}

// CompleteTx is described at [driver.TxStore]. When it fails, and tx is one of
// pgx's nested ones, its connection is closed: else the outer one could be
// committed.
func (s *Store) CompleteTx(ctx context.Context, tx pgx.Tx, ref driver.Ref, c driver.Completion) (late bool, err error) {
	return completeTx(ctx, &s.records, s.pgx, tx, ref, c)
}

// DoTx is described at [driver.TxStore]. It takes two more round trips than the
// transaction alone. The transaction is of the isolation that is the server's
// default.
func (s *DBStore) DoTx(ctx context.Context, req driver.TxRequest, work driver.TxWork[*sql.Tx]) (driver.TxReply, error) {
	return doTx(ctx, &s.records, s.sql, req, work)
}

// CompleteTx is described at [driver.TxStore].
func (s *DBStore) CompleteTx(ctx context.Context, tx *sql.Tx, ref driver.Ref, c driver.Completion) (late bool, err error) {
	return completeTx(ctx, &s.records, s.sql, tx, ref, c)
}
