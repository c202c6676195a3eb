package sqlitestore_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/sqlitestore"
)

// synced opens a database as Connect does: every commit is synced.
func synced(t testing.TB) (*sql.DB, *sqlitestore.Store) {
	t.Helper()
	db, err := sqlitestore.Connect(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "app.db"))
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	migrated(t, db, nil)
	must(t, execute(db, `CREATE TABLE effects (name TEXT NOT NULL)`))
	return db, newStore(t, db, nil)
}

func BenchmarkStore(b *testing.B) {
	drivertest.RunBenchmarks(b, func(t testing.TB) driver.Store {
		_, s := synced(t)
		return s
	})
}

const addEffect = `INSERT INTO effects (name) VALUES (?)`

func benchTx(n int) driver.TxRequest {
	id := fmt.Sprint(n)
	return driver.TxRequest{Key: driver.KeyOf("bench", id), Scope: "bench", ID: id, Retention: time.Hour, Wait: time.Minute}
}

func benchWork(_ context.Context, tx *sql.Tx, _ driver.Record) (driver.Completion, error) {
	_, err := tx.Exec(addEffect, "one row")
	return driver.Completion{
		Result: driver.Result{Meta: []byte("201"), Body: make([]byte, 200)}, Scope: "bench", ID: "one", Retention: time.Hour, Tombstone: time.Hour,
	}, err
}

// What a record adds to a business transaction of one row, each with its sync.
func BenchmarkTx(b *testing.B) {
	b.Run("business alone", func(b *testing.B) {
		db, _ := synced(b)
		for b.Loop() {
			bareTx(b, db)
		}
	})
	b.Run("DoTx", func(b *testing.B) {
		_, s := synced(b)
		for n := 0; b.Loop(); n++ {
			doTx(b, s, n)
		}
	})
	// In turn, so that both see the same disk.
	b.Run("ratio", func(b *testing.B) {
		db, s := synced(b)
		var bare, with []time.Duration
		for n := 0; b.Loop(); n++ {
			start := time.Now()
			bareTx(b, db)
			mid := time.Now()
			doTx(b, s, n)
			bare, with = append(bare, mid.Sub(start)), append(with, time.Since(mid))
		}
		slices.Sort(bare)
		slices.Sort(with)
		ratio := func(of int) float64 { return float64(with[of]) / float64(bare[of]) }
		b.ReportMetric(ratio(len(bare)/2), "ratio-of-medians")
		b.ReportMetric(ratio(len(bare)/10), "ratio-of-best-tenths")
	})
}

func bareTx(b *testing.B, db *sql.DB) {
	tx, err := db.Begin()
	must(b, err)
	_, err = tx.Exec(addEffect, "one row")
	must(b, err)
	must(b, tx.Commit())
}

func doTx(b *testing.B, s *sqlitestore.Store, n int) {
	reply, err := s.DoTx(b.Context(), benchTx(n), benchWork)
	if err != nil || !reply.Ran {
		b.Fatalf("ran %v, %v", reply.Ran, err)
	}
}

// What keys that are held cost: claims and completions of 64 callers, and the bytes
// of the file for each key, beside so many tombstones and completed records.
func BenchmarkKeysHeld(b *testing.B) {
	for _, keys := range []int{1_000, 1_000_000} {
		b.Run(fmt.Sprint("keys=", keys), func(b *testing.B) {
			db, s := synced(b)
			before := fileSize(b, db)
			fillTombstones(b, db, keys)
			held := float64(fileSize(b, db)-before) / float64(keys)
			var next atomic.Int64
			var callers sync.WaitGroup
			b.ResetTimer()
			for range 64 {
				callers.Go(func() {
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						ref := grant(b, s, request(fmt.Sprint("bench", n)))
						complete(b, s, ref, "x")
					}
				})
			}
			callers.Wait()
			b.StopTimer()
			b.ReportMetric(held, "B/tombstone")
		})
	}
}

// fillTombstones makes tombstones as sweeps do.
func fillTombstones(b *testing.B, db *sql.DB, keys int) {
	must(b, execute(db, `INSERT INTO idem_records (key, version, kind, flags, attempt, token, since, due, lease, tombstone, size,
		nonce, fingerprint, scope, id, note, meta, body, filed)
		WITH RECURSIVE many(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < ?)
		SELECT randomblob(32), 1, 5, 0, 1, n, 0, 9000000000000000000 + n, 0, 0, 0, x'', x'', x'', x'', x'', x'', x'', 1 FROM many`, keys))
}

func fileSize(b *testing.B, db *sql.DB) int64 {
	var pages int64
	must(b, db.QueryRow(`SELECT page_count * page_size FROM pragma_page_count, pragma_page_size`).Scan(&pages))
	return pages
}
