package pgstore_test

import (
	"context"
	"database/sql"
	"net/url"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/lib/pq"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/drivertest/linearize"
	"github.com/idem-go/idem/pgstore"
	"github.com/idem-go/idem/testserver"
)

// Trap 45: a server whose transactions are serializable unless they say otherwise.
func TestTrap45Serializable(t *testing.T) {
	t.Parallel()
	b := bedOf(t, serializable)
	if b == nil {
		return
	}
	t.Run("Model", func(t *testing.T) { drivertest.RunModel(t, b.harness(), histories(3)) })
	t.Run("Linearizable", func(t *testing.T) { linearize.Run(t, b.harness(), rounds(40)) })
	t.Run("Tx", func(t *testing.T) { drivertest.RunTx(t, b.txHarness()) })
	t.Run("DBTx", func(t *testing.T) { drivertest.RunTx(t, b.dbTxHarness(b.sql)) })
	t.Run("DBLinearizable", func(t *testing.T) { linearize.Run(t, b.dbHarness(b.sql), rounds(20)) })
}

// The driver that most applications on database/sql have had before pgx.
func TestWithLibPQ(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	db, err := sql.Open("postgres", b.server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(16)
	t.Run("Conformance", func(t *testing.T) { drivertest.Run(t, b.dbHarness(db)) })
	t.Run("Tx", func(t *testing.T) { drivertest.RunTx(t, b.dbTxHarness(db)) })
}

// A table of hash partitions is the same store.
func TestPartitions(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	schema := "partitioned"
	ctx := context.Background()
	o := pgstore.Options{Schema: schema, Partitions: 4}
	if err := pgstore.Migrate(ctx, b.pool, &o); err != nil {
		t.Fatal(err)
	}
	h := b.harness()
	h.NewBounded, h.Reopen = nil, nil
	h.New = func(t testing.TB) driver.Store {
		s := b.openIn(t, o)
		t.Cleanup(func() {
			if _, err := b.pool.Exec(ctx, "DELETE FROM partitioned.idem_records"); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	t.Run("Conformance", func(t *testing.T) { drivertest.Run(t, h) })
	t.Run("Linearizable", func(t *testing.T) { linearize.Run(t, h, rounds(20)) })
	var parts int
	if err := b.pool.QueryRow(ctx, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'partitioned.idem_records'::regclass").Scan(&parts); err != nil || parts != 4 {
		t.Errorf("%d partitions: %v", parts, err)
	}
}

var bouncer = sync.OnceValues(func() (*testserver.Server, error) {
	server, err := shared()
	if err != nil {
		return nil, err
	}
	return testserver.PgBouncer(server, nil)
})

// Behind a pooler that gives each transaction another connection there are no
// notifications, and no prepared statements: the store is the same but for that.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	server, err := bouncer()
	if b == nil || !testserver.Need(t, "pgbouncer", err) {
		return
	}
	u, err := url.Parse(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("default_query_exec_mode", "exec")
	u.RawQuery = q.Encode()
	pool, err := pgstore.Connect(context.Background(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	through := &bed{server: b.server, pool: pool, sql: b.sql}
	t.Run("Conformance", func(t *testing.T) { drivertest.Run(t, through.harness()) })
	t.Run("Tx", func(t *testing.T) { drivertest.RunTx(t, through.txHarness()) })
	t.Run("Linearizable", func(t *testing.T) { linearize.Run(t, through.harness(), rounds(20)) })
	t.Run("ItIsFound", func(t *testing.T) { foundPooler(t, pool) })
}

func foundPooler(t *testing.T, pool *pgxpool.Pool) {
	found, err := pgstore.Check(t.Context(), pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := finding(t, found, "pooler")
	if f.Severity != driver.SeverityUnknown || f.Means == "" || f.Remedy == "" {
		t.Errorf("%+v", f)
	}
}

func finding(t *testing.T, found []driver.Finding, subject string) driver.Finding {
	t.Helper()
	for _, f := range found {
		if f.Subject == subject {
			return f
		}
	}
	t.Fatalf("nothing was found about %s: %+v", subject, found)
	return driver.Finding{}
}
