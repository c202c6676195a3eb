package sqlitestore_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/sqlitestore"
)

// pooled is the harness with another query in the DSN, and another pool.
func pooled(query string, connections int) drivertest.Harness {
	h := harness()
	h.New = func(t testing.TB) driver.Store {
		b := &bed{file: filepath.Join(t.TempDir(), "app.db"), clock: sqlitestore.NewTestClock(), opts: small()}
		db := open(t, b.file, query)
		db.SetMaxOpenConns(connections)
		o := b.opts.WithClock(b.clock)
		migrated(t, db, o)
		must(t, execute(db, `CREATE TABLE effects (name TEXT NOT NULL)`))
		b.Store = newStore(t, db, o)
		return b
	}
	return h
}

// The examples' pool: one connection for all.
func TestConformanceOnOneConnection(t *testing.T) { drivertest.Run(t, pooled(quick, 1)) }

func TestConformanceWithoutWAL(t *testing.T) {
	h := pooled(strings.Replace(quick, "wal", "delete", 1), 0)
	drivertest.Run(t, h)
	tx := txHarness()
	tx.Harness = h
	drivertest.RunTx(t, tx)
}

// As with drivers whose transactions do not take the lock when they begin, and
// where the database does not wait by itself.
func TestTxDeferred(t *testing.T) {
	tx := txHarness()
	tx.Harness = pooled(strings.Replace(quick, "busy_timeout(500)", "busy_timeout(0)", 1)+"&_txlock=deferred", 0)
	drivertest.RunTx(t, tx)
}

// On one connection a transaction that waits for itself ends with its context.
func TestWorkThatCallsTheStore(t *testing.T) {
	h := pooled(quick, 1)
	s := h.New(t).(*bed)
	_, err := s.DoTx(t.Context(), txRequest("k"), func(ctx context.Context, tx *sql.Tx, _ driver.Record) (driver.Completion, error) {
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, err := s.Lookup(ctx, driver.KeyOf("scope", "other"))
		return driver.Completion{}, err
	})
	want(t, err, context.DeadlineExceeded, "DoTx")
	state(t, s, "k", driver.StateAbsent)
	many := newBed(t, small())
	_, err = many.DoTx(t.Context(), txRequest("k"), func(ctx context.Context, tx *sql.Tx, _ driver.Record) (driver.Completion, error) {
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, err := many.Claim(ctx, request("other"))
		return driver.Completion{}, err
	})
	want(t, err, context.DeadlineExceeded, "DoTx")
}

// Two stores of other prefixes in one database know nothing of each other.
func TestPrefixes(t *testing.T) {
	b := newBed(t, small())
	o := small()
	o.Prefix = "Other_"
	db := migrated(t, b.DB(), &o)
	other := newStore(t, db, o.WithClock(b.clock))
	req := request("k")
	complete(t, b, grant(t, b, req), "first")
	complete(t, other, grant(t, other, request("k")), "second")
	if rec := state(t, b, "k", driver.StateCompleted); string(rec.Result.Body) != "first" {
		t.Errorf("the result is %q", rec.Result.Body)
	}
	for _, bad := range []string{"1_", "a-b", "a b", `a"`, "sqlite_x", strings.Repeat("a", 42), "é"} {
		if err := sqlitestore.Migrate(t.Context(), db, &sqlitestore.Options{Prefix: bad}); err == nil {
			t.Errorf("the prefix %q is taken", bad)
		}
	}
}
