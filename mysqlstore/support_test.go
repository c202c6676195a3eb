package mysqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/mysqlstore"
	"github.com/idem-go/idem/testserver"
	"github.com/idem-go/idem/testserver/cut"
)

func TestMain(m *testing.M) {
	drivertest.ServeChild(func(arg string) (driver.Store, func(), error) {
		mode, rest, _ := strings.Cut(arg, "|")
		prefix, dsn, _ := strings.Cut(rest, "|")
		o := small(mysqlstore.Options{Prefix: prefix})
		if mode == "plain" {
			o = o.Plain()
		}
		s, err := mysqlstore.Open(context.Background(), dsn, &o)
		if err != nil {
			return nil, nil, err
		}
		return s, func() { _ = s.Close() }, nil
	})
	code := m.Run()
	for _, b := range beds {
		_ = b.db.Close()
	}
	if err := testserver.StopAll(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// small is what tests set, besides what each is about.
func small(o mysqlstore.Options) mysqlstore.Options {
	if o.MaxResult == 0 {
		o.MaxResult = 10_000
	}
	if o.SweepEvery == 0 {
		o.SweepEvery = -1
	}
	if o.PollEvery == 0 {
		o.PollEvery = 5 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

var (
	shared = sync.OnceValues(func() (*testserver.Server, error) { return testserver.MariaDB(nil) })
	mysql8 = sync.OnceValues(func() (*testserver.Server, error) { return testserver.MySQL(nil) })

	bedsMu   sync.Mutex
	beds     = map[*testserver.Server]*bed{}
	prefixes atomic.Int64
)

// bed is a server that tests share, with tables of its own for each of them.
type bed struct {
	server *testserver.Server
	db     *sql.DB
	// spare are the prefixes of tables that a test has left empty.
	spare []string
}

// bedOf returns the bed of a server, nil where it is missing.
func bedOf(t testing.TB, name string, start func() (*testserver.Server, error)) *bed {
	t.Helper()
	server, err := start()
	if !testserver.Need(t, name, err) {
		return nil
	}
	bedsMu.Lock()
	defer bedsMu.Unlock()
	if b := beds[server]; b != nil {
		return b
	}
	db, err := mysqlstore.Connect(context.Background(), server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{server: server, db: db}
	beds[server] = b
	return b
}

// mariadb is the bed that most tests use.
func mariadb(t testing.TB) *bed {
	t.Helper()
	return bedOf(t, "mariadb", shared)
}

// tables returns the prefix of empty tables, which go back when the test has
// ended.
func (b *bed) tables(t testing.TB) string {
	t.Helper()
	bedsMu.Lock()
	defer bedsMu.Unlock()
	ctx := context.Background()
	var prefix string
	if n := len(b.spare); n > 0 {
		prefix, b.spare = b.spare[n-1], b.spare[:n-1]
	} else {
		prefix = fmt.Sprint("t", os.Getpid(), "_", prefixes.Add(1), "_")
		if err := mysqlstore.Migrate(ctx, b.db, &mysqlstore.Options{Prefix: prefix}); err != nil {
			t.Fatal(err)
		}
		b.exec(t, "CREATE TABLE "+prefix+"effects (n BIGINT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(255), KEY name (name)) ENGINE=InnoDB")
	}
	t.Cleanup(func() {
		for _, table := range []string{"records", "attempts", "effects"} {
			b.exec(t, "DELETE FROM "+prefix+table)
		}
		bedsMu.Lock()
		defer bedsMu.Unlock()
		b.spare = append(b.spare, prefix)
	})
	return prefix
}

func (b *bed) exec(t testing.TB, text string, args ...any) {
	t.Helper()
	if _, err := b.db.ExecContext(context.Background(), text, args...); err != nil {
		t.Errorf("%s: %v", text, err)
	}
}

// private starts a server for one test, nil where that cannot be.
func private(t testing.TB, o *testserver.Options) *bed {
	t.Helper()
	if o == nil {
		o = &testserver.Options{}
	}
	if o.Settings == nil {
		o.Settings = map[string]string{}
	}
	o.Settings["innodb-flush-log-at-trx-commit"] = or(o.Settings["innodb-flush-log-at-trx-commit"], "1")
	server, err := testserver.MariaDB(o)
	name := "mariadb"
	if o.ClockOffset != 0 || o.MovableClock {
		name = "faketime"
	}
	if !testserver.Need(t, name, err) {
		return nil
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Errorf("stopping the server: %v", err)
		}
	})
	return &bed{server: server, db: connect(t, server.DSN())}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// connect returns a pool of its own for a test.
func connect(t testing.TB, dsn string) *sql.DB {
	t.Helper()
	db, err := mysqlstore.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// over returns the same server through other connections.
func (b *bed) over(db *sql.DB) *bed { return &bed{server: b.server, db: db} }

// with returns the same server with parameters in the DSN, which the driver sets
// as variables of each connection.
func (b *bed) with(t testing.TB, params string) *bed {
	t.Helper()
	return b.over(connect(t, b.server.DSN()+"?"+params))
}

// through returns the same server behind a proxy, and the proxy.
func (b *bed) through(t testing.TB, params string) (*bed, *cut.Proxy) {
	t.Helper()
	p, err := cut.Listen(b.server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	dsn := strings.Replace(b.server.DSN(), b.server.Addr(), p.Addr(), 1)
	return b.over(connect(t, dsn+"?"+params)), p
}

// one is a store of a test, and the prefix of its tables.
type one struct {
	*mysqlstore.Store
	bed    *bed
	prefix string
	opts   mysqlstore.Options
}

// open returns a store with tables of its own.
func (b *bed) open(t testing.TB, o mysqlstore.Options) *one {
	t.Helper()
	o.Prefix = b.tables(t)
	return b.reopen(t, o)
}

func (b *bed) reopen(t testing.TB, o mysqlstore.Options) *one {
	t.Helper()
	o = small(o)
	s, err := mysqlstore.New(context.Background(), b.db, &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return &one{Store: s, bed: b, prefix: o.Prefix, opts: o}
}

func storeOf(s driver.Store) *one { return s.(*one) }

// effects counts committed rows of a name.
func (s *one) effects(t testing.TB, name string) int {
	t.Helper()
	var n int
	if err := s.bed.db.QueryRowContext(context.Background(), "SELECT COUNT(*) FROM "+s.prefix+"effects WHERE name = ?", name).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// blocked waits until a statement about the store's records waits for another
// transaction.
func (s *one) blocked(t testing.TB) {
	t.Helper()
	eventually(t, "a statement waits", func() bool {
		var n int
		err := s.bed.db.QueryRowContext(context.Background(), "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE ? AND time_ms > 20 AND id <> CONNECTION_ID()",
			"%`"+s.prefix+"records%").Scan(&n)
		return err == nil && n > 0
	})
}

// harness is how the suites handle a store; each options value is a way of
// opening one.
func (b *bed) harness(with mysqlstore.Options) drivertest.Harness {
	return drivertest.Harness{
		New: func(t testing.TB) driver.Store { return b.open(t, with) },
		Advance: func(t testing.TB, s driver.Store, d time.Duration) {
			if err := storeOf(s).Pass(context.Background(), d); err != nil {
				t.Fatalf("letting time pass: %v", err)
			}
		},
		Slack: 20 * time.Second,
		Reopen: func(t testing.TB, s driver.Store) driver.Store {
			before := storeOf(s)
			if err := before.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			return b.reopen(t, before.opts)
		},
		NewBounded: func(t testing.TB, maxUnknown int) driver.Store {
			o := with
			o.MaxUnknown = maxUnknown
			return b.open(t, o)
		},
	}
}

func (b *bed) txHarness(with mysqlstore.Options) drivertest.TxHarness[*sql.Tx] {
	h := drivertest.TxHarness[*sql.Tx]{Harness: b.harness(with)}
	// One rule at a time has a store: the effects are in its table.
	var prefix string
	fresh := h.New
	h.New = func(t testing.TB) driver.Store {
		s := storeOf(fresh(t))
		prefix = s.prefix
		return s
	}
	h.Effect = func(ctx context.Context, tx *sql.Tx, name string) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO "+prefix+"effects (name) VALUES (?)", name)
		return err
	}
	h.Effects = func(t testing.TB, s driver.Store, name string) int { return storeOf(s).effects(t, name) }
	h.Begin = func(t testing.TB, s driver.Store) (*sql.Tx, func() error, func()) {
		tx, err := b.db.BeginTx(context.Background(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return tx, tx.Commit, func() { _ = tx.Rollback() }
	}
	h.Conflict = func() error {
		return &mysql.MySQLError{Number: 1213, Message: "Deadlock found when trying to get lock"}
	}
	return h
}

// claimOf is a claim with a nonce of its own.
func claimOf(scope, id string) driver.ClaimRequest {
	return driver.ClaimRequest{
		Key: driver.KeyOf(scope, id), Scope: scope, ID: id, Nonce: driver.NewNonce(),
		Fingerprint: driver.Fingerprint{Rule: 1, Sum: driver.KeyOf("asked", "for")},
		Lease:       time.Minute, Tombstone: 24 * time.Hour,
	}
}

func completionOf(req driver.ClaimRequest, meta, body string) driver.Completion {
	return driver.Completion{
		Result: driver.Result{Meta: []byte(meta), Body: []byte(body)}, Scope: req.Scope, ID: req.ID, Fingerprint: req.Fingerprint,
		Retention: time.Hour, Tombstone: 24 * time.Hour,
	}
}

func grant(t testing.TB, s driver.Store, req driver.ClaimRequest) driver.Ref {
	t.Helper()
	reply, err := s.Claim(context.Background(), req)
	if err != nil || !reply.Granted {
		t.Fatalf("Claim: granted %v, %s, %v", reply.Granted, reply.Record.State, err)
	}
	return driver.Ref{Key: req.Key, Token: reply.Record.Token}
}

func complete(t testing.TB, s driver.Store, ref driver.Ref, c driver.Completion) {
	t.Helper()
	if _, err := s.Complete(context.Background(), ref, c); err != nil {
		t.Fatalf("Complete: %v", err)
	}
}

func lookup(t testing.TB, s driver.Store, key driver.Key, want driver.State) driver.Record {
	t.Helper()
	rec, err := s.Lookup(context.Background(), key)
	if err != nil {
		t.Fatalf("Lookup: %v", err)
	}
	if rec.State != want {
		t.Fatalf("the record is %v; it should be %v", rec.State, want)
	}
	return rec
}

// eventually polls until what it waits for has happened.
func eventually(t testing.TB, what string, happened func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: it has not happened", what)
		}
	}
}

func txRequestOf(scope, id string) driver.TxRequest {
	return driver.TxRequest{Key: driver.KeyOf(scope, id), Scope: scope, ID: id, Wait: 20 * time.Second, Retention: time.Hour}
}

// effect is work that adds one row.
func (s *one) effect(id string) driver.TxWork[*sql.Tx] {
	return func(ctx context.Context, tx *sql.Tx, _ driver.Record) (driver.Completion, error) {
		_, err := tx.ExecContext(ctx, "INSERT INTO "+s.prefix+"effects (name) VALUES (?)", id)
		return completionOf(driver.ClaimRequest{Scope: "tx", ID: id}, "201", "done "+id), err
	}
}
