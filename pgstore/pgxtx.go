package pgstore

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// errNotYours is what work is told that ends the transaction it works in.
var errNotYours = errors.New("pgstore: the transaction is ended by DoTx, after work has returned")

// workTx is the transaction that work gets: nobody but DoTx ends it.
type workTx struct {
	pgx.Tx
	failed error
}

// fail keeps the transaction from being committed.
func (w *workTx) fail(err error) {
	if w.failed == nil {
		w.failed = err
	}
}

// Commit is not for work to call.
func (w *workTx) Commit(context.Context) error { return errNotYours }

// Rollback is not for work to call.
func (w *workTx) Rollback(context.Context) error { return errNotYours }

// end closes the transaction for those who have kept it: its connection is
// another's afterwards.
func (w *workTx) end() {
	b := &pgx.Batch{}
	b.BeginTx(pgx.TxOptions{})
	w.Tx = pgx.FailedBatchResults(b, pgx.ErrTxClosed).Tx()
}
