package pgstore

import (
	"context"
	"strconv"
	"time"
)

// database is the way to a server: a pool of pgx's, or one of database/sql's.
// Whatever the store does beyond sending statements it does above this.
type database interface {
	querier
	// named tells the database what the server does by default with
	// transactions, and who it is, before the first call that depends on it.
	named(settings serverSettings)
	// size is the most connections there may be, 0 for no bound.
	size() int
}

// querier runs statements: each by itself in a transaction of its own, or all
// of them in one.
type querier interface {
	// query runs a statement and calls each for every row of its answer.
	query(ctx context.Context, s statement, each func(scan scanner) error) error
}

// statement is a text and what goes into it.
type statement struct {
	text string
	args []any
}

// scanner reads the values of a row.
type scanner func(dest ...any) error

// transaction is one in which a claim and rows of the application's commit
// together.
type transaction[Tx any] interface {
	// tx is what the application works with. It cannot be used any more once the
	// transaction has ended.
	tx() Tx
	// failed is why the transaction must not be committed, whatever work said;
	// nil for no reason.
	failed() error
	// commit runs the last statement, which fails unless it did what it should,
	// and commits.
	commit(ctx context.Context, last statement) error
	// rollback ends the transaction without a trace. After commit it only gives
	// the connection back.
	rollback()
}

// beginner begins transactions of an application's kind.
type beginner[Tx any] interface {
	// begin begins a transaction and runs its first statement, which is given up
	// when it takes long and is impatient. The transaction has been rolled back
	// when it returns an error.
	begin(ctx context.Context, first statement, impatient bool, each func(scan scanner) error) (transaction[Tx], error)
	// in is the application's transaction as something that runs statements.
	in(tx Tx) querier
	// fail makes sure that the application's transaction can not be committed.
	fail(ctx context.Context, tx Tx, err error)
}

// milliseconds is a setting's value, such as a lock_timeout's: 0 would wait for
// ever, so it is 1 at least.
func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(1, min(d.Milliseconds(), 1<<30)), 10)
}
