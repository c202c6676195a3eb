package mysqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/idem-go/idem/driver"
)

// countAttempt counts an attempt, on a connection of its own, and returns how
// many there have been.
func (s *Store) countAttempt(ctx context.Context, key driver.Key, retention time.Duration) (int, error) {
	stmt, err := s.stmts.get(ctx, s.tables.count)
	if err != nil {
		return 0, err
	}
	res, err := stmt.ExecContext(ctx, key[:], micros(retention), micros(retention))
	if err != nil {
		return 0, err
	}
	n, err := res.LastInsertId()
	return int(n), err
}

// uncountAttempts forgets the count, when the transaction commits.
func (s *Store) uncountAttempts(ctx context.Context, tx *sql.Tx, key driver.Key) error {
	stmt, err := s.stmts.in(ctx, tx, s.tables.uncount)
	if err == nil {
		_, err = stmt.ExecContext(ctx, key[:])
	}
	return err
}
