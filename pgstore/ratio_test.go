package pgstore_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/pgstore"
)

// The benchmarks of this file take turns with what they compare, so that what
// else the machine does is the same for both. They report the medians, and their
// ratio.
//
//	go test -run xxx -bench Ratio -benchtime 3000x

// alternate calls two ways to do a thing by turns.
func alternate(b *testing.B, bare, ours func(ctx context.Context, n int64) error) {
	b.Helper()
	ctx := context.Background()
	took := [2][]time.Duration{}
	for n := range int64(b.N) {
		for i, f := range []func(ctx context.Context, n int64) error{bare, ours} {
			begun := time.Now()
			if err := f(ctx, n); err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], time.Since(begun))
		}
	}
	m := [2]float64{}
	for i := range took {
		slices.Sort(took[i])
		m[i] = float64(took[i][len(took[i])/2]) / float64(time.Microsecond)
	}
	b.ReportMetric(m[0], "bare-us")
	b.ReportMetric(m[1], "ours-us")
	b.ReportMetric(m[1]/m[0], "ratio")
}

type pair struct {
	key   [32]byte
	nonce [16]byte
}

func newPair() (p pair) {
	_, _ = rand.Read(p.key[:])
	_, _ = rand.Read(p.nonce[:])
	return p
}

const benchID = "8e03978e-40d5-43e8-bc93-6894a57f9324"

// barePair is a claim and its completion as the simplest statements that could
// do it.
func barePair(bed *bed, schema string) func(ctx context.Context, n int64) error {
	table := schema + ".idem_records"
	insert := "INSERT INTO " + table + " (key, format, kind, token, attempt, since, due, tombstone, nonce, rule, scope, id) " +
		"VALUES ($1, 1, 1, $2, 1, 0, $3, 0, $4, 1, $5, $6) ON CONFLICT (key) DO NOTHING RETURNING token"
	update := "UPDATE " + table + " SET kind = 4, due = $3, meta = $4, body = $5 WHERE key = $1 AND token = $2"
	return func(ctx context.Context, n int64) error {
		p, token := newPair(), int64(0)
		meta, body := make([]byte, 64), make([]byte, 1024-64)
		if err := bed.pool.QueryRow(ctx, insert, p.key[:], n+1, int64(1)<<60, p.nonce[:], []byte("bench"), []byte(benchID)).Scan(&token); err != nil {
			return err
		}
		_, err := bed.pool.Exec(ctx, update, p.key[:], token, int64(1)<<61, meta, body)
		return err
	}
}

func ourPair(s driver.Store) func(ctx context.Context, n int64) error {
	return func(ctx context.Context, _ int64) error {
		p := newPair()
		f := driver.Fingerprint{Rule: 1}
		reply, err := s.Claim(ctx, driver.ClaimRequest{
			Key: p.key, Nonce: p.nonce, Scope: "bench", ID: benchID, Fingerprint: f, Lease: 30 * time.Second, Tombstone: 720 * time.Hour,
		})
		if err != nil {
			return err
		}
		_, err = s.Complete(ctx, driver.Ref{Key: p.key, Token: reply.Record.Token}, driver.Completion{
			Result: driver.Result{Meta: make([]byte, 64), Body: make([]byte, 1024-64)},
			Scope:  "bench", ID: benchID, Fingerprint: f, Retention: 24 * time.Hour, Tombstone: 720 * time.Hour,
		})
		return err
	}
}

// One caller: a claim and its completion, beside two bare statements.
func BenchmarkRatioLatency(b *testing.B) {
	bed := bedOf(b, durable)
	if bed == nil {
		return
	}
	alternate(b, barePair(bed, bed.schema(b)), ourPair(bed.open(b, pgstore.Options{})))
}

// One caller: a claim and its completion, beside the store's own statements sent
// by themselves: what the store adds to them.
func BenchmarkRatioOverhead(b *testing.B) {
	bed := bedOf(b, durable)
	if bed == nil {
		return
	}
	s := bed.open(b, pgstore.Options{})
	claim, complete := s.Statements()
	alternate(b, func(ctx context.Context, _ int64) error {
		p := newPair()
		var prompt, token, attempt, since, due int64
		var numbers []int64
		var parts [][]byte
		err := bed.pool.QueryRow(ctx, claim, p.key[:], p.nonce[:], int64(30e6), int64(720*3600e6), false, int64(0), true, int64(1), []byte(nil), []byte("bench"), []byte(benchID)).
			Scan(&prompt, &token, &attempt, &since, &due, &numbers, &parts)
		if err != nil {
			return err
		}
		var late bool
		var notified *string
		return bed.pool.QueryRow(ctx, complete, p.key[:], token, int64(24*3600e6), int64(720*3600e6), false, make([]byte, 64), make([]byte, 1024-64), int64(1), []byte(nil), []byte("bench"), []byte(benchID)).
			Scan(&late, &notified, &prompt)
	}, ourPair(s))
}

// One caller: a business transaction with its record, beside the transaction
// alone.
func BenchmarkRatioTx(b *testing.B) {
	bed := bedOf(b, durable)
	if bed == nil {
		return
	}
	alone := shop(b, bed)
	schema := shop(b, bed)
	s := bed.openIn(b, pgstore.Options{Schema: schema})
	alternate(b, func(ctx context.Context, n int64) error {
		return pgx.BeginFunc(ctx, bed.pool, func(tx pgx.Tx) error { return business(ctx, tx, alone, n) })
	}, func(ctx context.Context, n int64) error { return inTx(ctx, s, schema, n) })
}

func inTx(ctx context.Context, s *pgstore.Store, schema string, n int64) error {
	id := fmt.Sprint("order ", n)
	c := driver.Completion{
		Result: driver.Result{Meta: make([]byte, 64), Body: make([]byte, 1024-64)},
		Scope:  "bench", ID: id, Retention: 24 * time.Hour, Tombstone: 720 * time.Hour,
	}
	reply, err := s.DoTx(ctx, driver.TxRequest{
		Key: driver.KeyOf("bench", id), Scope: "bench", ID: id, Retention: 24 * time.Hour, Wait: 10 * time.Second,
	}, func(ctx context.Context, tx pgx.Tx, _ driver.Record) (driver.Completion, error) {
		return c, business(ctx, tx, schema, n)
	})
	if err == nil && !reply.Ran {
		err = fmt.Errorf("it did not run: %v", reply.Record.State)
	}
	return err
}

// 256 callers on a pool of 16: rounds of 2,000 pairs.
func BenchmarkRatio256(b *testing.B) {
	bed := bedOf(b, durable)
	if bed == nil {
		return
	}
	bare, ours := barePair(bed, bed.schema(b)), ourPair(bed.open(b, pgstore.Options{}))
	round := func(f func(ctx context.Context, n int64) error) func(ctx context.Context, n int64) error {
		return func(ctx context.Context, n int64) error { return crowd(ctx, 256, 4000, n, f) }
	}
	alternate(b, round(bare), round(ours))
}

// A million records that are kept, against a thousand: the same pairs by turns.
func BenchmarkRatioMillion(b *testing.B) {
	bed := bedOf(b, durable)
	if bed == nil {
		return
	}
	small, large := bed.open(b, pgstore.Options{}), bed.open(b, pgstore.Options{})
	fill(b, bed, small, 1_000)
	fill(b, bed, large, 1_000_000)
	for _, callers := range []int{1, 256} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			round := func(s driver.Store) func(ctx context.Context, n int64) error {
				f := ourPair(s)
				if callers == 1 {
					return f
				}
				return func(ctx context.Context, n int64) error { return crowd(ctx, callers, 4000, n, f) }
			}
			alternate(b, round(small), round(large))
		})
	}
	st, err := large.Stats(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%+v", st)
}
