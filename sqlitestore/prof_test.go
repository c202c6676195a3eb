package sqlitestore_test

import (
	"github.com/idem-go/idem/sqlitestore"
	"path/filepath"
	"testing"
)

func BenchmarkTxOff(b *testing.B) {
	bb := func(b *testing.B) *sqlitestore.Store {
		db := open(b, filepath.Join(b.TempDir(), "a.db"), quick)
		migrated(b, db, nil)
		must(b, execute(db, `CREATE TABLE effects (name TEXT NOT NULL)`))
		return newStore(b, db, nil)
	}
	b.Run("bare", func(b *testing.B) {
		s := bb(b)
		for b.Loop() {
			bareTx(b, s.DB())
		}
	})
	b.Run("do", func(b *testing.B) {
		s := bb(b)
		for n := 0; b.Loop(); n++ {
			doTx(b, s, n)
		}
	})
}
