package pgstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/pgstore"
	"github.com/idem-go/idem/testserver"
)

func TestMain(m *testing.M) {
	drivertest.ServeChild(func(arg string) (driver.Store, func(), error) {
		schema, dsn, _ := strings.Cut(arg, " ")
		s, err := pgstore.Open(context.Background(), dsn, defaults(pgstore.Options{Schema: schema}))
		if err != nil {
			return nil, nil, err
		}
		return s, func() { s.Close() }, nil
	})
	code := m.Run()
	testserver.StopAll()
	os.Exit(code)
}

// quick are the settings of servers of which no test cuts the power.
func quick() *testserver.Options {
	return &testserver.Options{Settings: map[string]string{"fsync": "off", "full_page_writes": "off"}}
}

var (
	shared       = sync.OnceValues(func() (*testserver.Server, error) { return testserver.Postgres(quick()) })
	serializable = sync.OnceValues(func() (*testserver.Server, error) {
		o := quick()
		o.Settings["default_transaction_isolation"] = "serializable"
		return testserver.Postgres(o)
	})
	schemas atomic.Int64
)

// bed is a database of a server that tests share, with a schema for each of
// them.
type bed struct {
	server *testserver.Server
	pool   *pgxpool.Pool
	sql    *sql.DB
}

var (
	bedsMu sync.Mutex
	beds   = map[*testserver.Server]*bed{}
	// spare are the schemas that a test has left empty.
	spare = map[*testserver.Server][]string{}
)

func bedOf(t testing.TB, start func() (*testserver.Server, error)) *bed {
	t.Helper()
	server, err := start()
	if !testserver.Need(t, "postgres", err) {
		return nil
	}
	bedsMu.Lock()
	defer bedsMu.Unlock()
	if b := beds[server]; b != nil {
		return b
	}
	b := &bed{server: server}
	// These live as long as the tests.
	if b.pool, err = pgstore.Connect(context.Background(), server.DSN()); err != nil {
		t.Fatal(err)
	}
	if b.sql, err = sql.Open("pgx", server.DSN()); err != nil {
		t.Fatal(err)
	}
	b.sql.SetMaxOpenConns(16)
	b.sql.SetMaxIdleConns(16)
	beds[server] = b
	return b
}

// schema returns the name of a schema with empty tables, which goes back when
// the test has ended.
func (b *bed) schema(t testing.TB) string {
	t.Helper()
	bedsMu.Lock()
	defer bedsMu.Unlock()
	var name string
	if n := len(spare[b.server]); n > 0 {
		name = spare[b.server][n-1]
		spare[b.server] = spare[b.server][:n-1]
	} else {
		name = fmt.Sprint("test_", os.Getpid(), "_", schemas.Add(1))
		ctx := context.Background()
		if err := pgstore.Migrate(ctx, b.pool, &pgstore.Options{Schema: name}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.pool.Exec(ctx, "CREATE TABLE "+name+".effects (name text, n bigint GENERATED ALWAYS AS IDENTITY)"); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		text := fmt.Sprintf("DELETE FROM %[1]s.idem_records; DELETE FROM %[1]s.idem_attempts; DELETE FROM %[1]s.effects", name)
		if _, err := b.pool.Exec(context.Background(), text); err != nil {
			t.Errorf("emptying the tables: %v", err)
			return
		}
		bedsMu.Lock()
		defer bedsMu.Unlock()
		spare[b.server] = append(spare[b.server], name)
	})
	return name
}

// open returns a store in a schema of its own.
func (b *bed) open(t testing.TB, o pgstore.Options) *pgstore.Store {
	t.Helper()
	o.Schema = b.schema(t)
	return b.openIn(t, o)
}

func (b *bed) openIn(t testing.TB, o pgstore.Options) *pgstore.Store {
	t.Helper()
	s, err := pgstore.New(context.Background(), b.pool, defaults(o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func (b *bed) openDB(t testing.TB, db *sql.DB, o pgstore.Options) *pgstore.DBStore {
	t.Helper()
	o.Schema = b.schema(t)
	s, err := pgstore.NewDB(context.Background(), db, defaults(o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// defaults are for tests: nothing happens in the background, and results have a
// limit that can be tried out.
func defaults(o pgstore.Options) *pgstore.Options {
	if o.SweepEvery == 0 {
		o.SweepEvery = -1
	}
	if o.MaxResult == 0 {
		o.MaxResult = 64 << 10
	}
	if o.PollEvery == 0 {
		o.PollEvery = 50 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o.WithGrace(0)
}

// store is what both kinds of store have.
type store interface {
	driver.Store
	driver.Waiter
	driver.Sweeper
	driver.Counter
	driver.Resolver
	Exec(ctx context.Context, text string, args ...any) error
	Tables() (records, attempts string)
	Close() error
}

// pass lets time pass for a store, by moving the times in its rows into the
// past.
func pass(t testing.TB, s driver.Store, d time.Duration) {
	t.Helper()
	records, attempts := s.(store).Tables()
	us := int64((d + time.Microsecond - 1) / time.Microsecond)
	ctx := context.Background()
	err := errors.Join(
		s.(store).Exec(ctx, "UPDATE "+records+" SET since = since - $1, due = due - $1", us),
		s.(store).Exec(ctx, "UPDATE "+attempts+" SET due = due - $1", us),
	)
	if err != nil {
		t.Fatalf("letting time pass: %v", err)
	}
}

func (b *bed) harness() drivertest.Harness {
	return drivertest.Harness{
		New:     func(t testing.TB) driver.Store { return b.open(t, pgstore.Options{}) },
		Advance: pass,
		Slack:   20 * time.Second,
		Reopen: func(t testing.TB, s driver.Store) driver.Store {
			old := s.(*pgstore.Store)
			records, _ := old.Tables()
			old.Close()
			return b.openIn(t, pgstore.Options{Schema: schemaOf(records)})
		},
		NewBounded: func(t testing.TB, maxUnknown int) driver.Store {
			return b.open(t, pgstore.Options{MaxUnknown: maxUnknown}.Exact())
		},
	}
}

// schemaOf is the schema of a table's name.
func schemaOf(table string) string {
	var schema string
	if _, err := fmt.Sscanf(table, "%q.", &schema); err != nil {
		panic(err)
	}
	return schema
}

func (b *bed) dbHarness(db *sql.DB) drivertest.Harness {
	h := b.harness()
	h.New = func(t testing.TB) driver.Store { return b.openDB(t, db, pgstore.Options{}) }
	h.Reopen = nil
	h.NewBounded = func(t testing.TB, maxUnknown int) driver.Store {
		return b.openDB(t, db, pgstore.Options{MaxUnknown: maxUnknown}.Exact())
	}
	return h
}

func effectsTable(s driver.Store) string {
	records, _ := s.(store).Tables()
	return schemaOf(records) + ".effects"
}

// effects counts the rows of a name that are committed.
func (b *bed) effects(t testing.TB, s driver.Store, name string) int {
	t.Helper()
	var n int
	err := b.pool.QueryRow(context.Background(), "SELECT count(*) FROM "+effectsTable(s)+" WHERE name = $1", name).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func deadlock() error {
	return &pgconn.PgError{Severity: "ERROR", Code: "40P01", Message: "deadlock detected"}
}

func (b *bed) txHarness() drivertest.TxHarness[pgx.Tx] {
	var current atomic.Pointer[string]
	h := b.harness()
	open := h.New
	h.New = func(t testing.TB) driver.Store {
		s := open(t)
		table := effectsTable(s)
		current.Store(&table)
		return s
	}
	return drivertest.TxHarness[pgx.Tx]{
		Harness: h,
		Effect: func(ctx context.Context, tx pgx.Tx, name string) error {
			_, err := tx.Exec(ctx, "INSERT INTO "+*current.Load()+" (name) VALUES ($1)", name)
			return err
		},
		Effects: b.effects,
		Begin: func(t testing.TB, _ driver.Store) (pgx.Tx, func() error, func()) {
			tx, err := b.pool.Begin(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			return tx, func() error { return tx.Commit(context.Background()) }, func() { _ = tx.Rollback(context.Background()) }
		},
		Conflict: deadlock,
	}
}

func (b *bed) dbTxHarness(db *sql.DB) drivertest.TxHarness[*sql.Tx] {
	var current atomic.Pointer[string]
	h := b.dbHarness(db)
	open := h.New
	h.New = func(t testing.TB) driver.Store {
		s := open(t)
		table := effectsTable(s)
		current.Store(&table)
		return s
	}
	return drivertest.TxHarness[*sql.Tx]{
		Harness: h,
		Effect: func(ctx context.Context, tx *sql.Tx, name string) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO "+*current.Load()+" (name) VALUES ($1)", name)
			return err
		},
		Effects: b.effects,
		Begin: func(t testing.TB, _ driver.Store) (*sql.Tx, func() error, func()) {
			tx, err := db.BeginTx(context.Background(), nil)
			if err != nil {
				t.Fatal(err)
			}
			return tx, tx.Commit, func() { _ = tx.Rollback() }
		},
		Conflict: deadlock,
	}
}

// through is a DSN whose server is behind a proxy, or elsewhere.
func through(dsn, addr string, more ...string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		panic(err)
	}
	u.Host = addr
	q := u.Query()
	for i := 0; i+1 < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	u.RawQuery = q.Encode()
	return u.String()
}
