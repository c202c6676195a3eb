package memtx_test

import (
	"context"
	"testing"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/internal/memtx"
	"github.com/idem-go/idem/memstore"
)

func harness() drivertest.TxHarness[*memtx.Tx] {
	return drivertest.TxHarness[*memtx.Tx]{
		Harness: drivertest.Bubble(func(t testing.TB) driver.Store {
			s := memtx.New(&memstore.Options{MaxResult: 10_000})
			t.Cleanup(func() { _ = s.Close() })
			return s
		}),
		Effect: func(_ context.Context, tx *memtx.Tx, name string) error { return tx.Insert(name) },
		Effects: func(_ testing.TB, s driver.Store, name string) int {
			return s.(*memtx.Store).Rows(name)
		},
		Begin: func(_ testing.TB, s driver.Store) (*memtx.Tx, func() error, func()) {
			tx := s.(*memtx.Store).Begin()
			return tx, tx.Commit, tx.Rollback
		},
		Conflict: func() error { return memtx.ErrConflict },
	}
}

func TestTransactions(t *testing.T) { drivertest.RunTx(t, harness()) }
