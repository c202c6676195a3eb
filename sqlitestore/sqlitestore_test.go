package sqlitestore_test

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	_ "github.com/ncruces/go-sqlite3/driver" // the driver "sqlite3"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/drivertest/linearize"
	"github.com/idem-go/idem/sqlitestore"
)

// bed is a store in a file of its own, with a clock that a test moves.
type bed struct {
	*sqlitestore.Store
	file  string
	clock *sqlitestore.TestClock
	opts  sqlitestore.Options
}

// quick is how tests open a database: as an application would, but for the syncs,
// which nothing but a power cut needs.
const quick = "_pragma=busy_timeout(500)&_pragma=journal_mode(wal)&_pragma=synchronous(off)"

func open(t testing.TB, file, query string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+url.PathEscape(file)+"?"+query)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("closing the database: %v", err)
		}
	})
	return db
}

func migrated(t testing.TB, db *sql.DB, o *sqlitestore.Options) *sql.DB {
	t.Helper()
	if err := sqlitestore.Migrate(t.Context(), db, o); err != nil {
		t.Fatalf("Migrate: %v", err)
	}
	return db
}

func newStore(t testing.TB, db *sql.DB, o *sqlitestore.Options) *sqlitestore.Store {
	t.Helper()
	s, err := sqlitestore.New(t.Context(), db, o)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func small() sqlitestore.Options {
	return sqlitestore.Options{MaxResult: 10_000, SweepEvery: -1, PollEvery: 10 * time.Millisecond}
}

func newBed(t testing.TB, opts sqlitestore.Options) *bed {
	t.Helper()
	b := &bed{file: filepath.Join(t.TempDir(), "app.db"), clock: sqlitestore.NewTestClock(), opts: opts}
	b.open(t)
	return b
}

func (b *bed) open(t testing.TB) {
	t.Helper()
	o := b.opts.WithClock(b.clock)
	db := migrated(t, open(t, b.file, quick), o)
	must(t, execute(db, `CREATE TABLE IF NOT EXISTS effects (name TEXT NOT NULL)`))
	b.Store = newStore(t, db, o)
}

// again opens the same file in a second store, as another process would.
func (b *bed) again(t testing.TB) *bed {
	t.Helper()
	other := &bed{file: b.file, clock: b.clock, opts: b.opts}
	other.open(t)
	return other
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func execute(db *sql.DB, text string, args ...any) error {
	_, err := db.ExecContext(context.Background(), text, args...)
	return err
}

func harness() drivertest.Harness {
	return drivertest.Harness{
		New:     func(t testing.TB) driver.Store { return newBed(t, small()) },
		Advance: func(_ testing.TB, s driver.Store, d time.Duration) { s.(*bed).clock.Advance(d) },
		Reopen: func(t testing.TB, s driver.Store) driver.Store {
			b := s.(*bed)
			must(t, b.Close())
			return b.again(t)
		},
		NewBounded: func(t testing.TB, maxUnknown int) driver.Store {
			o := small()
			o.MaxUnknown = maxUnknown
			return newBed(t, o)
		},
	}
}

func txHarness() drivertest.TxHarness[*sql.Tx] {
	return drivertest.TxHarness[*sql.Tx]{
		Harness: harness(),
		Effect: func(ctx context.Context, tx *sql.Tx, name string) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO effects (name) VALUES (?)`, name)
			return err
		},
		Effects: func(t testing.TB, s driver.Store, name string) int { return effects(t, s.(*bed).DB(), name) },
		Begin: func(t testing.TB, s driver.Store) (*sql.Tx, func() error, func()) {
			tx, err := s.(*bed).DB().BeginTx(t.Context(), nil)
			must(t, err)
			return tx, tx.Commit, func() { _ = tx.Rollback() }
		},
		Conflict:  func() error { return sqlite3.BUSY },
		OneWriter: true,
	}
}

func effects(t testing.TB, db *sql.DB, name string) int {
	t.Helper()
	n := 0
	must(t, db.QueryRowContext(context.Background(), `SELECT count(*) FROM effects WHERE name = ?`, name).Scan(&n))
	return n
}

func TestConformance(t *testing.T) { drivertest.Run(t, harness()) }

func TestTx(t *testing.T) { drivertest.RunTx(t, txHarness()) }

func TestModel(t *testing.T) {
	o := &drivertest.ModelOptions{Histories: 40, Steps: 300}
	if testing.Short() {
		o.Histories = 10
	}
	drivertest.RunModel(t, harness(), o)
}

func TestLinearizable(t *testing.T) { linearize.Run(t, harness(), nil) }

func TestLinearizableAcrossProcesses(t *testing.T) {
	h := harness()
	h.New = func(t testing.TB) driver.Store {
		b := newBed(t, small())
		return drivertest.Processes(t, 3, b.file)
	}
	linearize.Run(t, h, nil)
}

func TestMain(m *testing.M) {
	drivertest.ServeChild(openChild)
	if job, ok := os.LookupEnv(jobVariable); ok {
		os.Exit(runJob(job))
	}
	os.Exit(m.Run())
}

// openChild opens the store of a child process.
func openChild(file string) (driver.Store, func(), error) {
	db, err := sql.Open("sqlite3", "file:"+url.PathEscape(file)+"?"+quick)
	if err != nil {
		return nil, nil, err
	}
	o := small()
	s, err := sqlitestore.New(context.Background(), db, &o)
	if err != nil {
		return nil, nil, err
	}
	return s, func() {
		if err := s.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		_ = db.Close()
	}, nil
}
