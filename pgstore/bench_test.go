package pgstore_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/pgstore"
	"github.com/idem-go/idem/testserver"
)

// durable is a server with its own defaults, which makes each commit durable.
var durable = sync.OnceValues(func() (*testserver.Server, error) { return testserver.Postgres(nil) })

func BenchmarkStore(b *testing.B) {
	bed := bedOf(b, durable)
	if bed == nil {
		return
	}
	drivertest.RunBenchmarks(b, func(t testing.TB) driver.Store { return bed.open(t, pgstore.Options{}) })
}

// The same two writes as bare statements, each by itself on the same pool: what
// the store is compared with.
func BenchmarkBare(b *testing.B) {
	bed := bedOf(b, durable)
	if bed == nil {
		return
	}
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprint("ClaimComplete/callers=", callers), func(b *testing.B) {
			concurrently(b, callers, barePair(bed, bed.schema(b)))
		})
	}
}

// concurrently runs f b.N times, from as many callers at once.
func concurrently(b *testing.B, callers int, f func(ctx context.Context, n int64) error) {
	b.Helper()
	b.ResetTimer()
	if err := crowd(context.Background(), callers, int64(b.N), 0, f); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
}

// crowd calls f so many times, from as many callers at once.
func crowd(ctx context.Context, callers int, calls, round int64, f func(ctx context.Context, n int64) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	for range callers {
		wg.Go(func() {
			for {
				n := next.Add(1) - 1
				if n >= calls || failed.Load() != nil {
					return
				}
				if err := f(ctx, round*calls+n); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// fill completes so many keys, and lets the server clean up after it.
func fill(b *testing.B, bed *bed, s *pgstore.Store, n int64) {
	b.Helper()
	ctx := context.Background()
	if err := crowd(ctx, 256, n, 0, ourPair(s)); err != nil {
		b.Fatal(err)
	}
	records, _ := s.Tables()
	if _, err := bed.pool.Exec(ctx, "VACUUM ANALYZE "+records); err != nil {
		b.Fatal(err)
	}
	if _, err := bed.pool.Exec(ctx, "CHECKPOINT"); err != nil {
		b.Fatal(err)
	}
}

// business is a small transaction such as a service has: it reads a row, and
// writes two.
func business(ctx context.Context, tx pgx.Tx, schema string, n int64) error {
	var name string
	if err := tx.QueryRow(ctx, "SELECT name FROM "+schema+".users WHERE id = $1", n%1000).Scan(&name); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "INSERT INTO "+schema+".orders (user_id, name, amount) VALUES ($1, $2, $3)", n%1000, name, n); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "UPDATE "+schema+".users SET balance = balance - $2 WHERE id = $1", n%1000, n)
	return err
}

func shop(b *testing.B, bed *bed) string {
	b.Helper()
	schema := bed.schema(b)
	_, err := bed.pool.Exec(context.Background(), fmt.Sprintf(`
		CREATE TABLE IF NOT EXISTS %[1]s.users (id bigint PRIMARY KEY, name text, balance bigint NOT NULL DEFAULT 0);
		CREATE TABLE IF NOT EXISTS %[1]s.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id bigint REFERENCES %[1]s.users, name text, amount bigint, at timestamptz DEFAULT now());
		INSERT INTO %[1]s.users SELECT i, 'user ' || i FROM generate_series(0, 999) i ON CONFLICT DO NOTHING`, schema))
	if err != nil {
		b.Fatal(err)
	}
	return schema
}

// A business transaction alone, and the same one with its record.
func BenchmarkTx(b *testing.B) {
	bed := bedOf(b, durable)
	if bed == nil {
		return
	}
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprint("Alone/callers=", callers), func(b *testing.B) {
			schema := shop(b, bed)
			concurrently(b, callers, func(ctx context.Context, n int64) error {
				return pgx.BeginFunc(ctx, bed.pool, func(tx pgx.Tx) error { return business(ctx, tx, schema, n) })
			})
		})
		b.Run(fmt.Sprint("DoTx/callers=", callers), func(b *testing.B) {
			schema := shop(b, bed)
			s := bed.openIn(b, pgstore.Options{Schema: schema})
			concurrently(b, callers, func(ctx context.Context, n int64) error { return inTx(ctx, s, schema, n) })
		})
	}
}
