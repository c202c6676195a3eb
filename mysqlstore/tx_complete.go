package mysqlstore

import (
	"context"
	"database/sql"
	"errors"

	"github.com/idem-go/idem/driver"
)

// CompleteTx is described at [driver.TxStore]. The transaction may be of another
// pool than the store's, on the same database. With any error but that of an
// argument the transaction has been rolled back. Whoever waits in another process, or in
// this one, is told by polling after the commit.
//
// In a transaction that is isolated by snapshots (MariaDB's
// innodb_snapshot_isolation, on by default from 11.6) a claim that was renewed
// since the transaction's first read cannot be completed: that is an error of the
// server's, by which the transaction is to be made again. Under READ COMMITTED,
// or when the completion comes first, it does not happen.
func (s *Store) CompleteTx(ctx context.Context, tx *sql.Tx, ref driver.Ref, c driver.Completion) (late bool, err error) {
	if err := s.enter(ctx); err != nil {
		return false, err
	}
	if err := c.Check(s.maxResult); err != nil {
		return false, err
	}
	late, err = s.completeTx(ctx, tx, ref, &c)
	if err == nil {
		return late, nil
	}
	// After a deadlock the server has rolled back already, and a commit would
	// succeed, with nothing to commit.
	rolledBack := tx.Rollback()
	switch {
	case isContract(err):
		return false, err
	case ctx.Err() != nil:
		return false, ctx.Err()
	case rolledBack != nil && !errors.Is(rolledBack, sql.ErrTxDone) && !isLost(rolledBack):
		err = errors.Join(err, rolledBack)
	}
	return false, explained(err)
}

func (s *Store) completeTx(ctx context.Context, tx *sql.Tx, ref driver.Ref, c *driver.Completion) (late bool, err error) {
	for range 2 {
		res, err := tx.ExecContext(ctx, s.tables.complete, completeArgs(ref, c)...)
		if err != nil {
			return false, err
		}
		done, late, err := completion(res)
		if err != nil || done {
			return late, err
		}
		// As others have committed it, whatever the transaction has seen before.
		var found row
		err = found.scan(tx.QueryRowContext(ctx, s.tables.lookup+` FOR UPDATE`, ref.Key[:]))
		if errors.Is(err, sql.ErrNoRows) {
			return false, driver.ErrLost
		}
		if err != nil {
			return false, err
		}
		r, err := found.settle(ref.Key)
		if err != nil {
			return false, err
		}
		switch {
		case r.kind == absent, r.token != tokenOf(ref.Token), r.kind == releasedByOwner:
			return false, driver.ErrLost
		case r.kind == completed || r.kind == forgotten:
			return false, driver.ErrCompleted
		}
		// It could have been completed: it has changed between the statements, and
		// is held now.
	}
	return false, driver.ErrLost
}
