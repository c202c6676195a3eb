package pgstore_test

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/idem-go/idem/pgstore"
	"github.com/jackc/pgx/v5"
)

func (b *bed) cpu() (server, client time.Duration) {
	rows, _ := b.pool.Query(context.Background(), "SELECT pid FROM pg_stat_activity")
	pids, _ := pgx.CollectRows(rows, pgx.RowTo[int32])
	for _, p := range pids {
		s, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", p))
		if err == nil {
			var ns int64
			fmt.Sscan(string(s), &ns)
			server += time.Duration(ns)
		}
	}
	var ru syscall.Rusage
	syscall.Getrusage(0, &ru)
	return server, time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

func BenchmarkCPU(b *testing.B) {
	bed := bedOf(b, durable)
	// all conns open
	crowd(context.Background(), 64, 2000, 0, barePair(bed, bed.schema(b)))
	bare, ours := barePair(bed, bed.schema(b)), ourPair(bed.open(b, pgstore.Options{}))
	alone := shop(b, bed)
	schema := shop(b, bed)
	s := bed.openIn(b, pgstore.Options{Schema: schema})
	type way struct {
		name    string
		callers int
		f       func(ctx context.Context, n int64) error
	}
	for _, w := range []way{{"bare", 1, bare}, {"ours", 1, ours}, {"bare", 256, bare}, {"ours", 256, ours},
		{"txbare", 1, func(ctx context.Context, n int64) error {
			return pgx.BeginFunc(ctx, bed.pool, func(tx pgx.Tx) error { return business(ctx, tx, alone, n) })
		}}, {"txours", 1, func(ctx context.Context, n int64) error { return inTx(ctx, s, schema, n) }}} {
		b.Run(fmt.Sprint(w.name, w.callers), func(b *testing.B) {
			s0, c0 := bed.cpu()
			if err := crowd(context.Background(), w.callers, int64(b.N), time.Now().UnixNano(), w.f); err != nil {
				b.Fatal(err)
			}
			s1, c1 := bed.cpu()
			b.ReportMetric(float64(s1-s0)/float64(b.N)/1000, "server-us")
			b.ReportMetric(float64(c1-c0)/float64(b.N)/1000, "client-us")
		})
	}
}
