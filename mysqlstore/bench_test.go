package mysqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/mysqlstore"
)

func BenchmarkStore(b *testing.B) {
	bed := mariadb(b)
	if bed == nil {
		return
	}
	drivertest.RunBenchmarks(b, func(t testing.TB) driver.Store {
		return bed.open(t, mysqlstore.Options{MaxResult: 1 << 20})
	})
}

// pair times two ways to do the same, in turns, so that both see the same
// machine, and reports the median of each and the ratio of the two.
func pair(b *testing.B, callers int, first, second func(ctx context.Context, n uint64) error) {
	b.Helper()
	var next atomic.Uint64
	took := [2][]time.Duration{make([]time.Duration, b.N), make([]time.Duration, b.N)}
	var failed atomic.Pointer[error]
	ctx := b.Context()
	b.ResetTimer()
	var end sync.WaitGroup
	for range callers {
		end.Go(func() {
			for failed.Load() == nil {
				n := next.Add(1) - 1
				if n >= uint64(b.N) {
					return
				}
				for i, f := range []func(context.Context, uint64) error{first, second} {
					began := time.Now()
					if err := f(ctx, n); err != nil {
						failed.CompareAndSwap(nil, &err)
					}
					took[i][n] = time.Since(began)
				}
			}
		})
	}
	end.Wait()
	b.StopTimer()
	if err := failed.Load(); err != nil {
		b.Fatal(*err)
	}
	var median [2]float64
	for i := range took {
		slices.Sort(took[i])
		median[i] = float64(took[i][b.N/2])
	}
	b.ReportMetric(median[0], "alone-ns")
	b.ReportMetric(median[1], "store-ns")
	b.ReportMetric(median[1]/median[0], "ratio")
}

// A claim and its completion beside the least that they could be: an insert and an
// update by primary key, each by itself, on the same pool.
func BenchmarkBesideBareStatements(b *testing.B) {
	bed := mariadb(b)
	if bed == nil {
		return
	}
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			s := bed.open(b, mysqlstore.Options{MaxResult: 1 << 20})
			table := s.prefix + "bare"
			bed.exec(b, "CREATE TABLE "+table+" (hash BINARY(32) PRIMARY KEY, token BIGINT, due BIGINT, body BLOB) ENGINE=InnoDB")
			defer bed.exec(b, "DROP TABLE "+table)
			insert := prepare(b, bed.db, "INSERT INTO "+table+" VALUES (?, 1, 2, NULL)")
			update := prepare(b, bed.db, "UPDATE "+table+" SET body = ? WHERE hash = ? AND token = 1")
			body := make([]byte, 1024)
			pair(b, callers, func(ctx context.Context, n uint64) error {
				key := driver.KeyOf("bare", fmt.Sprint(n))
				if _, err := insert.ExecContext(ctx, key[:]); err != nil {
					return err
				}
				_, err := update.ExecContext(ctx, body, key[:])
				return err
			}, func(ctx context.Context, n uint64) error {
				req := claimOf("bench", fmt.Sprint(n))
				reply, err := s.Claim(ctx, req)
				if err != nil {
					return err
				}
				c := completionOf(req, "", string(body))
				_, err = s.Complete(ctx, driver.Ref{Key: req.Key, Token: reply.Record.Token}, c)
				return err
			})
		})
	}
}

func prepare(b *testing.B, db *sql.DB, text string) *sql.Stmt {
	b.Helper()
	stmt, err := db.PrepareContext(b.Context(), text)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = stmt.Close() })
	return stmt
}

// business is what an order may write: two rows, one of which is read first.
type business struct{ read, insert, update string }

func newBusiness(b *testing.B, bed *bed, prefix string) *business {
	b.Helper()
	bed.exec(b, "CREATE TABLE "+prefix+"accounts (id INT PRIMARY KEY, balance BIGINT) ENGINE=InnoDB")
	bed.exec(b, "INSERT INTO "+prefix+"accounts SELECT seq, 1000000 FROM seq_0_to_9999")
	b.Cleanup(func() { bed.exec(b, "DROP TABLE "+prefix+"accounts") })
	return &business{
		read:   "SELECT balance FROM " + prefix + "accounts WHERE id = ? FOR UPDATE",
		update: "UPDATE " + prefix + "accounts SET balance = balance - 1 WHERE id = ?",
		insert: "INSERT INTO " + prefix + "effects (name) VALUES (?)",
	}
}

func (w *business) run(ctx context.Context, tx *sql.Tx, n uint64) error {
	var balance int64
	if err := tx.QueryRowContext(ctx, w.read, n%10_000).Scan(&balance); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, w.update, n%10_000); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, w.insert, fmt.Sprint("order ", n))
	return err
}

// A business transaction alone, and as the work of DoTx: the ratio is what
// exactly-once costs.
func BenchmarkTx(b *testing.B) {
	bed := mariadb(b)
	if bed == nil {
		return
	}
	for _, params := range []string{"interpolateParams=false", "interpolateParams=true"} {
		db, err := mysqlstore.Connect(b.Context(), bed.server.DSN()+"?"+params)
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close()
		for _, callers := range []int{1, 16} {
			b.Run(fmt.Sprint(params, "/callers=", callers), func(b *testing.B) {
				o := small(mysqlstore.Options{Prefix: bed.tables(b)})
				s, err := mysqlstore.New(b.Context(), db, &o)
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				w := newBusiness(b, bed, o.Prefix)
				pair(b, callers, func(ctx context.Context, n uint64) error {
					tx, err := db.BeginTx(ctx, nil)
					if err != nil {
						return err
					}
					defer func() { _ = tx.Rollback() }()
					if err := w.run(ctx, tx, n); err != nil {
						return err
					}
					return tx.Commit()
				}, func(ctx context.Context, n uint64) error {
					id := fmt.Sprint("order ", n)
					req := driver.TxRequest{Key: driver.KeyOf("bench", id), Scope: "bench", ID: id, Wait: time.Second, Retention: time.Hour}
					_, err := s.DoTx(ctx, req, func(ctx context.Context, tx *sql.Tx, _ driver.Record) (driver.Completion, error) {
						return driver.Completion{
							Result: driver.Result{Meta: []byte("201"), Body: make([]byte, 512)}, Retention: time.Hour, Tombstone: time.Hour,
						}, w.run(ctx, tx, n)
					})
					return err
				})
			})
		}
	}
}

// A claim and its completion in a store that holds a thousand keys, and beside it
// in one that holds a million, with memory for both: what is held costs nothing.
// Results are small, so that the million is soon made.
func BenchmarkKeysHeld(b *testing.B) {
	bed := private(b, settings("innodb-buffer-pool-size=2G", "innodb-log-file-size=512M"))
	if bed == nil {
		return
	}
	var stores []*one
	for _, keys := range []int{1_000, 1_000_000} {
		s := bed.open(b, mysqlstore.Options{})
		req := claimOf("bench", "like")
		complete(b, s, grant(b, s, req), completionOf(req, "m", "small"))
		for left := keys; left > 0; left -= 100_000 {
			s.flood(b, req.Key, fmt.Sprint("flood ", left, " "), min(left, 100_000))
		}
		if n := s.rows(b, "1 = 1"); n != keys+1 {
			b.Fatalf("%d rows", n)
		}
		stores = append(stores, s)
	}
	work := func(s *one) func(ctx context.Context, n uint64) error {
		return func(ctx context.Context, n uint64) error {
			req := claimOf(s.prefix, fmt.Sprint(driver.NewNonce()))
			reply, err := s.Claim(ctx, req)
			if err != nil {
				return err
			}
			_, err = s.Complete(ctx, driver.Ref{Key: req.Key, Token: reply.Record.Token}, completionOf(req, "m", "small"))
			return err
		}
	}
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			pair(b, callers, work(stores[0]), work(stores[1]))
		})
	}
}
