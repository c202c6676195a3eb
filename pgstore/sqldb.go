package pgstore

import (
	"context"
	"database/sql"
	"errors"
	"sync"
)

// sqlDB is a pool of database/sql's.
type sqlDB struct {
	db    *sql.DB
	plain bool
}

func (d *sqlDB) named(s serverSettings) { d.plain = s.readCommitted }

func (d *sqlDB) size() int { return d.db.Stats().MaxOpenConnections }

func (d *sqlDB) query(ctx context.Context, s statement, each func(scan scanner) error) (err error) {
	if d.plain {
		return sqlQuery(ctx, d.db, s, each)
	}
	tx, err := d.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	if err := sqlQuery(ctx, tx, s, each); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// sqlQuerier is a pool or a transaction.
type sqlQuerier interface {
	QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error)
}

func sqlQuery(ctx context.Context, q sqlQuerier, s statement, each func(scan scanner) error) error {
	args := make([]any, len(s.args))
	for i, a := range s.args {
		// Drivers differ in what a nil slice is; a nil is NULL to all.
		if b, ok := a.([]byte); !ok || b != nil {
			args[i] = a
		}
	}
	rows, err := q.QueryContext(ctx, s.text, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (d *sqlDB) in(tx *sql.Tx) querier { return sqlTxQuerier{tx} }

type sqlTxQuerier struct{ tx *sql.Tx }

func (q sqlTxQuerier) query(ctx context.Context, s statement, each func(scan scanner) error) error {
	return sqlQuery(ctx, q.tx, s, each)
}

func (d *sqlDB) fail(_ context.Context, tx *sql.Tx, _ error) {
	_ = tx.Rollback() // a connection that is lost is rolled back by the server
}

func (d *sqlDB) begin(ctx context.Context, first statement, _ bool, each func(scan scanner) error) (transaction[*sql.Tx], error) {
	// The end of ctx rolls the transaction back, but not while it is being
	// committed: drivers end a commit with the context of its beginning.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	tx, err := d.db.BeginTx(own, nil)
	if err == nil {
		if err = sqlQuery(own, tx, first, each); err != nil {
			_ = tx.Rollback() // the error of the statement says more
		}
	}
	if err != nil {
		stop()
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	return &sqlTransaction{sqlTx: tx, keep: stop, cancel: cancel}, nil
}

// sqlTransaction is a transaction of DoTx.
type sqlTransaction struct {
	sqlTx *sql.Tx
	// keep lets the transaction go on when its caller's context ends. It is false
	// when that has happened.
	keep   func() bool
	cancel context.CancelFunc
	once   sync.Once
}

func (t *sqlTransaction) tx() *sql.Tx { return t.sqlTx }

func (t *sqlTransaction) failed() error { return nil }

func (t *sqlTransaction) commit(ctx context.Context, last statement) error {
	t.keep()
	defer context.AfterFunc(ctx, t.cancel)()
	err := sqlQuery(ctx, t.sqlTx, last, func(scan scanner) error {
		var one int
		return scan(&one)
	})
	if err == nil {
		err = t.sqlTx.Commit()
	}
	if errors.Is(err, sql.ErrTxDone) {
		return &codedError{codeFailed, "pgstore: the transaction was ended by work, or by its context"}
	}
	return err
}

func (t *sqlTransaction) rollback() {
	t.once.Do(func() {
		_ = t.sqlTx.Rollback() // it has been committed, or its connection is lost
		t.keep()
		t.cancel()
	})
}
