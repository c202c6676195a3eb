package mysqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/mysqlstore"
)

// rows counts a store's rows that a condition is true of.
func (s *one) rows(t testing.TB, where string) (n int) {
	t.Helper()
	if err := s.bed.db.QueryRowContext(context.Background(), "SELECT COUNT(*) FROM "+s.prefix+"records WHERE "+where).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// flood inserts many rows like one, under names of their own.
func (s *one) flood(t testing.TB, like driver.Key, names string, n int) {
	t.Helper()
	text := "INSERT INTO " + s.prefix + "records SELECT UNHEX(SHA2(CONCAT(?, seq), 256)), format, kind, late, dropped, attempt, token, since, due + seq, tombstone," +
		" answered, nonce, ended, fingerprint, scope, id, note, result_meta, result_body FROM " + s.prefix + "records, seq_1_to_" + fmt.Sprint(n) + " WHERE hash = ?"
	if _, err := s.bed.db.ExecContext(context.Background(), text, names, like[:]); err != nil {
		t.Fatal(err)
	}
}

// Trap 35: a flood of keys is swept in small pieces, while others go on, and
// leaves nothing behind.
func TestTrap35AFlood(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{})
	n := 5000
	if testing.Short() {
		n = 500
	}
	req := claimOf("s", "k")
	complete(t, s, grant(t, s, req), completionOf(req, "m", strings.Repeat("r", 1000)))
	s.flood(t, req.Key, "flood", n)
	if err := s.Pass(t.Context(), 2*time.Hour); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				req := claimOf("busy", fmt.Sprint(c, " ", i))
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				reply, err := s.Claim(ctx, req)
				if err == nil {
					_, err = s.Complete(ctx, driver.Ref{Key: req.Key, Token: reply.Record.Token}, completionOf(req, "", "r"))
				}
				cancel()
				if err != nil {
					t.Errorf("while it is swept: %v", err)
					return
				}
			}
		})
	}
	sweep := func() (total int) {
		var mu sync.Mutex
		var sweepers sync.WaitGroup
		for range 2 { // as two processes do
			sweepers.Go(func() {
				for {
					got, err := s.Sweep(context.Background(), 1000)
					if err != nil {
						t.Errorf("Sweep: %v", err)
					}
					mu.Lock()
					total += got
					mu.Unlock()
					if got == 0 || err != nil {
						return
					}
				}
			})
		}
		sweepers.Wait()
		return total
	}
	if got := sweep(); got != n+1 {
		t.Errorf("%d became tombstones, of %d", got, n+1)
	}
	if got := s.rows(t, "kind = 5 AND result_body IS NULL AND scope IS NULL AND fingerprint IS NULL"); got != n+1 {
		t.Errorf("there are %d tombstones, of %d", got, n+1)
	}
	close(stop)
	wg.Wait()
	if err := s.Pass(t.Context(), 1000*time.Hour); err != nil {
		t.Fatal(err)
	}
	sweep()
	if got := s.rows(t, "1 = 1"); got != 0 {
		t.Errorf("%d rows are left", got)
	}
}

// A sweep leaves a row that another transaction has, and waits for nobody.
func TestTrap35ASweepWaitsForNobody(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{})
	held, free := claimOf("s", "held"), claimOf("s", "free")
	ref := grant(t, s, held)
	grant(t, s, free)
	if err := s.Pass(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	tx, err := b.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := s.CompleteTx(t.Context(), tx, ref, completionOf(held, "", "late")); err != nil {
		t.Fatal(err)
	}
	// To the others the held one is an unknown whose tombstone has ended.
	if err := passRow(s, free.Key, 1000*time.Hour); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if n, err := s.Sweep(ctx, 100); n != 1 || err != nil {
		t.Errorf("Sweep: %d, %v", n, err)
	}
	lookup(t, s, free.Key, driver.StateAbsent)
	lookup(t, s, held.Key, driver.StateUnknown)
	if err := tx.Commit(); err != nil {
		t.Errorf("the commit: %v", err)
	}
	lookup(t, s, held.Key, driver.StateCompleted)
}

func passRow(s *one, key driver.Key, d time.Duration) error {
	_, err := s.bed.db.ExecContext(context.Background(), "UPDATE "+s.prefix+"records SET since = since - ?, due = due - ? WHERE hash = ?",
		d.Microseconds(), d.Microseconds(), key[:])
	return err
}

// Rows that this program cannot read do not keep it from sweeping the others.
func TestASweepBehindUnreadableRows(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{})
	req := claimOf("s", "newer")
	complete(t, s, grant(t, s, req), completionOf(req, "", "r"))
	s.flood(t, req.Key, "flood", 300)
	b.exec(t, "UPDATE "+s.prefix+"records SET format = 2")
	later := claimOf("s", "readable")
	complete(t, s, grant(t, s, later), completionOf(later, "", "r"))
	if err := s.Pass(t.Context(), 1000*time.Hour); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Sweep(t.Context(), 10); n != 1 || err != nil {
		t.Errorf("Sweep: %d, %v", n, err)
	}
	if n := s.rows(t, "format = 2"); n != 301 {
		t.Errorf("%d of the rows that cannot be read are left", n)
	}
}

// The store sweeps by itself, and counts of attempts too, until it is closed.
func TestItSweepsByItself(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{SweepEvery: 10 * time.Millisecond})
	req := claimOf("s", "k")
	if err := s.Release(t.Context(), grant(t, s, req), driver.Release{Retention: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	tx := txRequestOf("tx", "k")
	tx.CountAttempts, tx.Retention = true, time.Millisecond
	_, err := s.DoTx(t.Context(), tx, func(context.Context, *sql.Tx, driver.Record) (driver.Completion, error) {
		return driver.Completion{}, fmt.Errorf("no")
	})
	if err == nil || err.Error() != "no" {
		t.Fatalf("DoTx: %v", err)
	}
	eventually(t, "the sweep", func() bool {
		var n int
		if err := b.db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+s.prefix+"attempts").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 0 && s.rows(t, "1 = 1") == 0
	})
}

// A sweeper whose server is away says so once, and goes on when it is back.
func TestASweepThatFails(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	through, proxy := b.through(t, "max-conns=2")
	var log lockedBuilder
	s := through.open(t, mysqlstore.Options{SweepEvery: 5 * time.Millisecond, Logger: textLogger(&log)})
	if err := proxy.Refuse(true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the warning", func() bool { return strings.Contains(log.String(), "sweeping fails") })
	if err := proxy.Refuse(false); err != nil {
		t.Fatal(err)
	}
	req := claimOf("s", "k")
	if err := s.Release(t.Context(), grant(t, s, req), driver.Release{Retention: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sweep", func() bool { return s.rows(t, "1 = 1") == 0 })
	if n := strings.Count(log.String(), "sweeping fails"); n != 1 {
		t.Errorf("%d warnings", n)
	}
}

type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The statements of sweeping, listing and counting use the index, and those about
// one key its primary key: none reads all rows.
func TestNoStatementReadsAll(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{})
	req := claimOf("s", "k")
	complete(t, s, grant(t, s, req), completionOf(req, "", "r"))
	s.flood(t, req.Key, "flood", 2000)
	b.exec(t, "ANALYZE TABLE "+s.prefix+"records")
	reads := func(name string, most int, f func()) {
		t.Helper()
		ask := func() (n int) {
			var name string
			if err := b.db.QueryRowContext(t.Context(), "SELECT 'reads', SUM(variable_value) FROM information_schema.global_status"+
				" WHERE variable_name LIKE 'HANDLER_READ%'").Scan(&name, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		idle := -ask()
		idle += ask() // what asking costs
		before := ask()
		f()
		if n := ask() - before - idle; n > most {
			t.Errorf("%s read %d rows; it should read %d at the most", name, n, most)
		}
	}
	reads("a claim", 5, func() { grant(t, s, claimOf("s", "another")) })
	reads("a replay", 5, func() { lookup(t, s, req.Key, driver.StateCompleted) })
	reads("a sweep of nothing", 40, func() {
		if _, err := s.Sweep(t.Context(), 100); err != nil {
			t.Error(err)
		}
	})
	reads("a page", 60, func() {
		page, err := s.List(t.Context(), driver.Query{Limit: 10})
		if err != nil || len(page.Records) != 10 {
			t.Error(err)
		}
		if _, err := s.List(t.Context(), driver.Query{Limit: 10, After: page.Next}); err != nil {
			t.Error(err)
		}
	})
	reads("the unknowns", 20, func() {
		if _, err := s.List(t.Context(), driver.Query{Limit: 10, States: []driver.State{driver.StateUnknown}}); err != nil {
			t.Error(err)
		}
	})
}
