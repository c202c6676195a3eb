package shared

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	_ "github.com/ncruces/go-sqlite3/driver" // the driver "sqlite3"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/mysqlstore"
	"github.com/idem-go/idem/natsstore"
	"github.com/idem-go/idem/pgstore"
	"github.com/idem-go/idem/redisstore"
	"github.com/idem-go/idem/sqlitestore"
	"github.com/idem-go/idem/testserver"
	natsserver "github.com/idem-go/idem/testserver/nats"
)

// server is what testserver.Server and its like for NATS have in common.
type server interface {
	DSN() string
	Addr() string
	Kill() error
	Start() error
	Pause() error
	Resume() error
	Stop() error
	Log() string
	External() bool
}

// kind is a kind of store.
type kind struct {
	name string
	// need is its server's name for testserver.Need; start starts one. A store
	// without is a file of the processes that use it.
	need  string
	start func(o *testserver.Options) (server, error)
	// migrate makes the store's schema; open opens it.
	migrate func(ctx context.Context, dsn string) error
	open    func(ctx context.Context, c *config) (*opened, error)
	// tx says that it has transactions; clock, that its server's clock decides, and
	// can be moved.
	tx, clock bool
	// cluster says that it is several servers, of which one at a time is killed.
	cluster bool
	// again says that it is another client of a server that is tested besides, or several
	// of the same servers: the tests that take longest leave it out.
	again bool
	// proxied is added to the DSN of a server behind a proxy.
	proxied string
	// serializable is added to the DSN for transactions that fail when they
	// cannot be put in an order.
	serializable string
}

// kinds are the stores that are tested.
func kinds() []*kind {
	return []*kind{postgres(), postgresSQL(), mariadb(), mysql(), sqlite(), redis(), redisCluster(), nats(), natsCluster()}
}

func postgres() *kind {
	return &kind{
		name: "postgres", need: "postgres", tx: true, clock: true,
		start:        func(o *testserver.Options) (server, error) { return started(startPostgres(o)) },
		serializable: "&default_transaction_isolation=serializable",
		migrate: func(ctx context.Context, dsn string) error {
			pool, err := pgstore.Connect(ctx, dsn)
			if err != nil {
				return err
			}
			defer pool.Close()
			return errors.Join(pgstore.Migrate(ctx, pool, nil), makeRows(ctx, pgxQuerier{pool}, ""))
		},
		open: func(ctx context.Context, c *config) (*opened, error) {
			dsn := c.DSN
			if c.Conns > 0 {
				dsn += fmt.Sprint("&pool_max_conns=", c.Conns)
			}
			pool, err := pgstore.Connect(ctx, dsn)
			if err != nil {
				return nil, err
			}
			s, err := pgstore.New(ctx, pool, &pgstore.Options{SweepEvery: c.sweepEvery(), Logger: c.options().Logger})
			if err != nil {
				pool.Close()
				return nil, err
			}
			g := idem.NewTx(s, c.options())
			tx := &transactions[pgx.Tx]{
				querier: pgxQuerier{pool}, store: s, guard: g,
				begin:    pool.Begin,
				commit:   func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) },
				rollback: func(ctx context.Context, tx pgx.Tx) error { return tx.Rollback(ctx) },
				in:       func(tx pgx.Tx) querier { return pgxQuerier{tx} },
			}
			return &opened{store: s, guard: g.Guard(), tx: tx, close: func() error {
				err := s.Close()
				pool.Close()
				return err
			}}, nil
		},
	}
}

// startPostgres starts a PostgreSQL that is soon there again when it was killed: what it
// does first then is to sync each file of its data, or, where it can, the file system.
// After a SIGKILL, that makes no difference to what it has.
func startPostgres(o *testserver.Options) (*testserver.Server, error) {
	if o == nil && os.Getenv("IDEM_TEST_POSTGRES_DSN") == "" {
		s, err := testserver.Postgres(&testserver.Options{Settings: map[string]string{"recovery_init_sync_method": "syncfs"}})
		if err == nil || errors.Is(err, testserver.ErrMissing) {
			return s, err
		}
	}
	return testserver.Postgres(o)
}

// postgresSQL is PostgreSQL for applications on database/sql.
func postgresSQL() *kind {
	k := postgres()
	k.name, k.again = "postgres-sql", true
	k.open = func(ctx context.Context, c *config) (*opened, error) {
		db, err := openPostgresSQL(c.DSN, cmp.Or(c.Conns, 16))
		if err != nil {
			return nil, err
		}
		s, err := pgstore.NewDB(ctx, db, &pgstore.Options{SweepEvery: c.sweepEvery(), Logger: c.options().Logger})
		if err != nil {
			return nil, errors.Join(err, db.Close())
		}
		return sqlStore(s, db, c, true, func() error { return errors.Join(s.Close(), db.Close()) }), nil
	}
	return k
}

func mariadb() *kind {
	return &kind{
		name: "mariadb", need: "mariadb", tx: true, clock: true,
		start: func(o *testserver.Options) (server, error) { return started(testserver.MariaDB(o)) },
		migrate: func(ctx context.Context, dsn string) error {
			db, err := mysqlstore.Connect(ctx, dsn)
			if err != nil {
				return err
			}
			defer db.Close()
			return errors.Join(mysqlstore.Migrate(ctx, db, nil), makeRows(ctx, sqlQuerier{sqlCalls: db}, " ENGINE=InnoDB"))
		},
		open: func(ctx context.Context, c *config) (*opened, error) {
			db, err := mysqlstore.Connect(ctx, c.DSN)
			if err != nil {
				return nil, err
			}
			s, err := mysqlstore.New(ctx, db, &mysqlstore.Options{SweepEvery: c.sweepEvery(), Logger: c.options().Logger})
			if err != nil {
				return nil, errors.Join(err, db.Close())
			}
			return sqlStore(s, db, c, false, func() error { return errors.Join(s.Close(), db.Close()) }), nil
		},
	}
}

// mysql is MySQL 8, where a variable names one.
func mysql() *kind {
	k := mariadb()
	k.name, k.need, k.clock = "mysql8", "mysql8", false
	k.start = func(o *testserver.Options) (server, error) { return started(testserver.MySQL(o)) }
	return k
}

func redis() *kind {
	return &kind{
		name: "redis", need: "redis", clock: true,
		start: func(o *testserver.Options) (server, error) { return started(testserver.Redis(o)) },
		migrate: func(ctx context.Context, dsn string) error {
			c, err := redisstore.Connect(ctx, dsn)
			if err != nil {
				return err
			}
			defer c.Close()
			return redisstore.Migrate(ctx, c, nil)
		},
		open: func(ctx context.Context, c *config) (*opened, error) {
			s, err := redisstore.Open(ctx, c.DSN, &redisstore.Options{SweepEvery: c.sweepEvery(), Logger: c.options().Logger})
			if err != nil {
				return nil, err
			}
			return leased(s, c, s.Close), nil
		},
	}
}

func redisCluster() *kind {
	k := redis()
	k.name, k.start, k.clock, k.cluster, k.again = "redis-cluster", redisGroup, false, true, true
	return k
}

func sqlite() *kind {
	return &kind{
		name: "sqlite", tx: true,
		migrate: func(ctx context.Context, dsn string) error {
			db, err := sqlitestore.Connect(ctx, dsn)
			if err != nil {
				return err
			}
			defer db.Close()
			return errors.Join(sqlitestore.Migrate(ctx, db, nil), makeRows(ctx, sqlQuerier{sqlCalls: db}, ""))
		},
		open: func(ctx context.Context, c *config) (*opened, error) {
			db, err := sqlitestore.Connect(ctx, c.DSN)
			if err != nil {
				return nil, err
			}
			s, err := sqlitestore.New(ctx, db, &sqlitestore.Options{SweepEvery: c.sweepEvery()})
			if err != nil {
				return nil, errors.Join(err, db.Close())
			}
			return sqlStore(s, db, c, false, func() error { return errors.Join(s.Close(), db.Close()) }), nil
		},
	}
}

func nats() *kind {
	return &kind{
		name: "nats", need: "nats", proxied: "?discover=false",
		start: func(*testserver.Options) (server, error) { return started(natsserver.StartProcess(nil)) },
		migrate: func(ctx context.Context, dsn string) error {
			nc, err := natsstore.Connect(ctx, dsn)
			if err != nil {
				return err
			}
			defer nc.Close()
			return natsstore.Migrate(ctx, nc, nil)
		},
		open: func(ctx context.Context, c *config) (*opened, error) {
			s, err := natsstore.Open(ctx, c.DSN, &natsstore.Options{SweepEvery: c.sweepEvery()})
			if err != nil {
				return nil, err
			}
			return leased(s, c, s.Close), nil
		},
	}
}

func natsCluster() *kind {
	k := nats()
	k.name, k.cluster, k.again = "nats-cluster", true, true
	k.start = natsGroup
	k.migrate = func(ctx context.Context, dsn string) error {
		nc, err := natsstore.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		defer nc.Close()
		return natsstore.Migrate(ctx, nc, &natsstore.Options{Replicas: 3})
	}
	return k
}

// started makes a server of a store's own kind any server. A nil pointer in an
// interface is not nil.
func started[S server](s S, err error) (server, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// makeRows makes the tables of the application's: effects has no constraint that
// would keep one from being written twice. After stands behind each table.
func makeRows(ctx context.Context, q querier, after string) error {
	return errors.Join(
		q.exec(ctx, "CREATE TABLE IF NOT EXISTS effects (s VARCHAR(100) NOT NULL, k VARCHAR(100) NOT NULL, v VARCHAR(100) NOT NULL)"+after),
		q.exec(ctx, "CREATE TABLE IF NOT EXISTS accounts (s VARCHAR(100) NOT NULL, id INT NOT NULL, balance BIGINT NOT NULL, PRIMARY KEY (s, id))"+after),
	)
}

// lab is a place to test a store in: its server, with the schema in it.
type lab struct {
	kind   *kind
	server server // nil for a store that is a file
	dsn    string
}

// sharedLabs have one server of each kind for the tests that do not run at the same
// time and leave it running.
var sharedLabs struct {
	sync.Mutex
	byName map[string]*lab
	failed map[string]error
}

// labOf returns the place to test the kind in, or nil where its server is missing.
// The server is shared; a file is the test's own.
func labOf(t *testing.T, k *kind) *lab {
	t.Helper()
	if k.start == nil {
		return newLab(t, k, nil)
	}
	sharedLabs.Lock()
	defer sharedLabs.Unlock()
	if l := sharedLabs.byName[k.name]; l != nil {
		return l
	}
	err := sharedLabs.failed[k.name]
	var l *lab
	if err == nil {
		l, err = startLab(k, nil)
	}
	if err != nil {
		if sharedLabs.failed == nil {
			sharedLabs.failed = map[string]error{}
		}
		sharedLabs.failed[k.name] = err
		testserver.Need(t, k.need, err)
		return nil
	}
	if sharedLabs.byName == nil {
		sharedLabs.byName = map[string]*lab{}
	}
	sharedLabs.byName[k.name] = l
	return l
}

// newLab is labOf with a server of the test's own.
func newLab(t *testing.T, k *kind, o *testserver.Options) *lab {
	t.Helper()
	if k.start == nil {
		l := &lab{kind: k, dsn: "sqlite:" + t.TempDir() + "/app.db"}
		must(t, k.migrate(t.Context(), l.dsn))
		return l
	}
	l, err := startLab(k, o)
	if !testserver.Need(t, k.need, err) {
		return nil
	}
	t.Cleanup(func() {
		if err := l.server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func startLab(k *kind, o *testserver.Options) (*lab, error) {
	s, err := k.start(o)
	if err != nil {
		return nil, err
	}
	l := &lab{kind: k, server: s, dsn: s.DSN()}
	if err := k.migrate(context.Background(), l.dsn); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return l, nil
}

// private reports that the lab's server is the tests' to kill and to pause.
func (l *lab) private(t *testing.T) bool {
	if l.server == nil || !l.server.External() {
		return true
	}
	testserver.Need(t, l.kind.need, testserver.ErrExternal)
	return false
}

// through is the DSN of the lab's server behind the proxy.
func (l *lab) through(addr string) string {
	return strings.Replace(l.dsn, l.server.Addr(), addr, 1) + l.kind.proxied
}

// each runs a test for each of the kinds that want takes.
func each(t *testing.T, want func(*kind) bool, test func(t *testing.T, k *kind)) {
	for _, k := range kinds() {
		if want(k) {
			t.Run(k.name, func(t *testing.T) { test(t, k) })
		}
	}
}

func every(*kind) bool    { return true }
func withTx(k *kind) bool { return k.tx }
func single(k *kind) bool { return k.start != nil && !k.cluster }
func once(k *kind) bool   { return !k.again }
