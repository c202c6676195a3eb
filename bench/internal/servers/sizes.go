package servers

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/idem-go/idem/bench/internal/stores"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/mysqlstore"
	"github.com/idem-go/idem/pgstore"
	"github.com/idem-go/idem/redisstore"
	"github.com/idem-go/idem/sqlitestore"
)

// Size is what records take in a store, in bytes each, as the engine tells: with
// its indexes, and after the engine's own compaction, since space that a table has
// free is used again by the next records.
type Size struct {
	// Name is the engine's.
	Name string
	// Records is how many were measured.
	Records int
	// Completed is a record with a result of 1 KiB; Tombstone, one whose result
	// was dropped by a sweep.
	Completed, Tombstone float64
}

// sized is a store whose records are counted in bytes.
type sized interface {
	driver.Store
	driver.Sweeper
}

// opened is a store for records of one kind, and what they take.
type opened struct {
	store sized
	bytes func() (int64, error)
	close func() error
}

// Sizes measures each store with so many records, in tables of their own.
func Sizes(ctx context.Context, s *Servers, n int) (all []Size, err error) {
	dir, err := os.MkdirTemp("", "idem-bench-sizes-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, engine := range []struct {
		name string
		open func(kind string) (*opened, error)
	}{
		{"PostgreSQL", func(kind string) (*opened, error) { return s.sizedPostgres(ctx, kind) }},
		{"MariaDB", func(kind string) (*opened, error) { return s.sizedMariaDB(ctx, kind) }},
		{"SQLite", func(kind string) (*opened, error) { return sizedSQLite(ctx, filepath.Join(dir, kind)) }},
		{"Redis", func(kind string) (*opened, error) { return s.sizedRedis(ctx, kind) }},
	} {
		size := Size{Name: engine.name, Records: n}
		for kind, into := range map[string]*float64{"completed": &size.Completed, "tombstone": &size.Tombstone} {
			o, err := engine.open(kind)
			if err == nil {
				*into, err = bytesEach(ctx, o, n, kind == "tombstone")
				err = errors.Join(err, o.close())
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", engine.name, err)
			}
		}
		all = append(all, size)
	}
	return all, nil
}

func bytesEach(ctx context.Context, o *opened, n int, forgotten bool) (float64, error) {
	before, err := o.bytes()
	if err != nil {
		return 0, err
	}
	pairs := stores.Driver(o.store)
	if forgotten {
		pairs = &shortLived{o.store}
	}
	if err := fill(ctx, pairs, n); err != nil {
		return 0, err
	}
	for forgotten {
		swept, err := o.store.Sweep(ctx, 1000)
		if err != nil {
			return 0, err
		}
		forgotten = swept > 0
	}
	after, err := o.bytes()
	return float64(after-before) / float64(n), err
}

func (s *Servers) sizedPostgres(ctx context.Context, kind string) (*opened, error) {
	pool, err := pgstore.Connect(ctx, s.Postgres.DSN())
	if err != nil {
		return nil, err
	}
	o := &pgstore.Options{Prefix: "size_" + kind + "_", SweepEvery: -1}
	if err := pgstore.Migrate(ctx, pool, o); err != nil {
		pool.Close()
		return nil, err
	}
	store, err := pgstore.New(ctx, pool, o)
	if err != nil {
		pool.Close()
		return nil, err
	}
	bytes := func() (n int64, err error) {
		if _, err := pool.Exec(ctx, `VACUUM FULL `+o.Prefix+`records`); err != nil {
			return 0, err
		}
		return n, pool.QueryRow(ctx, `SELECT pg_total_relation_size($1::regclass)`, o.Prefix+"records").Scan(&n)
	}
	return &opened{store, bytes, func() error { defer pool.Close(); return store.Close() }}, nil
}

func (s *Servers) sizedMariaDB(ctx context.Context, kind string) (*opened, error) {
	db, err := mysqlstore.Connect(ctx, s.MariaDB.DSN())
	if err != nil {
		return nil, err
	}
	o := &mysqlstore.Options{Prefix: "size_" + kind + "_", SweepEvery: -1}
	if err := mysqlstore.Migrate(ctx, db, o); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	store, err := mysqlstore.New(ctx, db, o)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	// The tablespace is the file; the server's other figures are estimates.
	bytes := func() (n int64, err error) {
		if err := optimize(ctx, db, o.Prefix+"records"); err != nil {
			return 0, err
		}
		return n, db.QueryRowContext(ctx, `SELECT FILE_SIZE FROM information_schema.INNODB_SYS_TABLESPACES WHERE NAME LIKE CONCAT('%/', ?)`, o.Prefix+"records").Scan(&n)
	}
	return &opened{store, bytes, func() error { return errors.Join(store.Close(), db.Close()) }}, nil
}

// optimize compacts a table; the server answers with rows, which say what it did.
func optimize(ctx context.Context, db *sql.DB, table string) error {
	rows, err := db.QueryContext(ctx, `OPTIMIZE TABLE `+table)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		continue
	}
	return rows.Err()
}

func sizedSQLite(ctx context.Context, file string) (*opened, error) {
	db, err := sqlitestore.Connect(ctx, "sqlite:"+file)
	if err != nil {
		return nil, err
	}
	o := &sqlitestore.Options{SweepEvery: -1}
	if err := sqlitestore.Migrate(ctx, db, o); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	store, err := sqlitestore.New(ctx, db, o)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	bytes := func() (int64, error) {
		// What is still in the log alone is written to the file then.
		if err := execAll(ctx, db, `VACUUM`, `PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
			return 0, err
		}
		info, err := os.Stat(file)
		if err != nil {
			return 0, err
		}
		return info.Size(), nil
	}
	return &opened{store, bytes, func() error { return errors.Join(store.Close(), db.Close()) }}, nil
}

func (s *Servers) sizedRedis(ctx context.Context, kind string) (*opened, error) {
	store, closeStore, err := openRedis(ctx, s.Redis.DSN(), "size-"+kind+":")
	if err != nil {
		return nil, err
	}
	client, err := redisstore.Connect(ctx, s.Redis.DSN())
	if err != nil {
		return nil, errors.Join(err, closeStore())
	}
	bytes := func() (n int64, err error) {
		text, err := client.Do(ctx, client.B().Info().Section("memory").Build()).ToString()
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(text) {
			if v, ok := strings.CutPrefix(line, "used_memory:"); ok {
				return strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			}
		}
		return 0, errors.New("INFO memory has no used_memory")
	}
	return &opened{store, bytes, func() error { client.Close(); return closeStore() }}, nil
}

// shortLived completes with a retention that ends at once.
type shortLived struct{ store driver.Store }

// Pair implements stores.Pairs.
func (p *shortLived) Pair(ctx context.Context, n uint64, result []byte) error {
	id := fmt.Sprintf("8e03978e-40d5-43e8-bc93-%012x", n)
	key := driver.KeyOf("short", id)
	reply, err := p.store.Claim(ctx, driver.ClaimRequest{
		Key: key, Scope: "127.0.0.1/anonymous", ID: id, Nonce: driver.NewNonce(), Lease: 30 * time.Second, Tombstone: 720 * time.Hour,
	})
	if err != nil {
		return err
	}
	_, err = p.store.Complete(ctx, driver.Ref{Key: key, Token: reply.Record.Token}, driver.Completion{
		Result: driver.Result{Body: result}, Scope: "127.0.0.1/anonymous", ID: id, Retention: time.Microsecond, Tombstone: 720 * time.Hour,
	})
	return err
}
