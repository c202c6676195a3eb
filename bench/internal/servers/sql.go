package servers

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"

	_ "github.com/ncruces/go-sqlite3/driver" // the driver "sqlite3"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/mysqlstore"
	"github.com/idem-go/idem/sqlitestore"
)

// sqlBusiness is the business transaction of an engine that is spoken to through
// database/sql.
func sqlBusiness(ctx context.Context, tx *sql.Tx, n uint64, item []byte) error {
	if _, err := tx.ExecContext(ctx, `UPDATE accounts SET balance = balance - 1 WHERE id = ?`, int64(n%10_000)); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO orders (account, item) VALUES (?, ?)`, int64(n%10_000), item)
	return err
}

type bareSQLTx struct{ db *sql.DB }

// Pair implements stores.Pairs.
func (b *bareSQLTx) Pair(ctx context.Context, n uint64, result []byte) error {
	tx, err := b.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := sqlBusiness(ctx, tx, n, result); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

type sqlTx struct{ guard *idem.TxGuard[*sql.Tx] }

// Pair implements stores.Pairs.
func (p *sqlTx) Pair(ctx context.Context, n uint64, result []byte) error {
	_, err := idem.DoTx(ctx, p.guard, txRequest(n), func(ctx context.Context, tx *sql.Tx) (string, error) {
		return "done", sqlBusiness(ctx, tx, n, result)
	})
	return err
}

func (o *Options) sqlTx(ctx context.Context, engine string, db *sql.DB, store driver.TxStore[*sql.Tx], callers ...int) (all []Comparison, err error) {
	guard := idem.NewTx(store, nil)
	defer func() { err = errors.Join(err, guard.Close(ctx)) }()
	for _, n := range callers {
		c, err := o.compare(ctx, Comparison{
			Name: engine + ", DoTx", Peer: "the business transaction alone", Callers: n, AtLeast: 1 / 1.4,
		}, &sqlTx{guard}, &bareSQLTx{db})
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func execAll(ctx context.Context, db *sql.DB, texts ...string) error {
	for _, text := range texts {
		if _, err := db.ExecContext(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

// tenThousand are the rows of accounts, in the SQL of MariaDB and SQLite.
const tenThousand = `INSERT INTO accounts (id, balance) WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) SELECT i, 0 FROM n`

func mariadb(ctx context.Context, s *Servers, o Options) (all []Comparison, err error) {
	db, err := mysqlstore.Connect(ctx, s.MariaDB.DSN())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = execAll(ctx, db,
		`CREATE TABLE accounts (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL)`,
		`CREATE TABLE orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, account BIGINT NOT NULL, item BLOB NOT NULL)`,
	)
	for range 10 { // MariaDB recurses 1000 times at the most
		if err == nil {
			_, err = db.ExecContext(ctx, `INSERT INTO accounts (id, balance) SELECT (SELECT COUNT(*) FROM accounts) + seq, 0 FROM seq_0_to_999`)
		}
	}
	if err = errors.Join(err, mysqlstore.Migrate(ctx, db, nil)); err != nil {
		return nil, err
	}
	store, err := mysqlstore.New(ctx, db, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return o.sqlTx(ctx, "MariaDB", db, store, 1, 16)
}

func sqlite(ctx context.Context, _ *Servers, o Options) (all []Comparison, err error) {
	dir, err := os.MkdirTemp("", "idem-bench-sqlite-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	db, err := sqlitestore.Connect(ctx, "sqlite:"+filepath.Join(dir, "app.db"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = errors.Join(execAll(ctx, db,
		`CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL) STRICT`,
		`CREATE TABLE orders (id INTEGER PRIMARY KEY, account INTEGER NOT NULL, item BLOB NOT NULL) STRICT`,
		tenThousand,
	), sqlitestore.Migrate(ctx, db, nil))
	if err != nil {
		return nil, err
	}
	store, err := sqlitestore.New(ctx, db, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return o.sqlTx(ctx, "SQLite", db, store, 1)
}
