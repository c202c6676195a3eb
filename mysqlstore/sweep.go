package mysqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/idem-go/idem/driver"
)

// sweepBatch is how many records one transaction of a sweep changes at most.
const sweepBatch = 100

// Sweep is described at [driver.Sweeper]. It finds what is over through an
// index, without taking a row from anybody, and then changes a few rows in each
// of its transactions. Rows that another transaction has are left for the next
// time.
func (s *Store) Sweep(ctx context.Context, limit int) (int, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	// What has lapsed is noted first: then all that is over is found by its kind.
	for {
		found, _, err := s.sweepKind(ctx, inFlight, sweepBatch)
		if err != nil {
			return 0, err
		}
		if found < sweepBatch {
			break
		}
	}
	total := 0
	for _, k := range []kind{completed, forgotten, releasedByOwner, releasedByResolve, lapsed, abandoned} {
		for total < limit {
			n := min(sweepBatch, limit-total)
			found, swept, err := s.sweepKind(ctx, k, n)
			total += swept
			if err != nil {
				return total, err
			}
			if found < n || swept == 0 {
				break
			}
		}
	}
	for range max(1, limit/sweepBatch) {
		n, err := s.sweepAttempts(ctx)
		if err != nil || n < sweepBatch {
			return total, err
		}
	}
	return total, nil
}

// sweepKind lets up to limit records of one kind pass whose time has come, and
// returns how many it found and how many it dropped or made tombstones.
func (s *Store) sweepKind(ctx context.Context, k kind, limit int) (found, swept int, err error) {
	err = s.again(ctx, func() error {
		found, swept = 0, 0
		keys, err := s.candidates(ctx, k, limit)
		if err != nil || len(keys) == 0 {
			return err
		}
		found = len(keys)
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		over, passed, err := s.taken(ctx, tx, k, keys)
		if err != nil {
			return err
		}
		switch {
		case k == inFlight:
			// The tombstone counts from the end of the lease.
			err = s.change(ctx, tx, `UPDATE `+s.tables.records+` SET due = due + tombstone, kind = 2`, append(over, passed...))
		case k == completed:
			err = s.change(ctx, tx, `UPDATE `+s.tables.records+` SET since = due, due = due + tombstone, tombstone = 0, fingerprint = NULL, dropped = 0,`+
				` result_meta = NULL, result_body = NULL, scope = IF(note IS NULL, NULL, scope), id = IF(note IS NULL, NULL, id), kind = 5`, passed)
			swept = len(passed)
			fallthrough
		default:
			if err == nil {
				err = s.change(ctx, tx, `DELETE FROM `+s.tables.records, over)
				swept += len(over)
			}
		}
		if err != nil {
			return err
		}
		return tx.Commit()
	})
	if err != nil {
		return 0, 0, err
	}
	if swept > 0 && k.isUnknown() {
		s.unknowns.fewer()
	}
	return found, swept, nil
}

// candidates are keys of records of a kind whose time has come.
func (s *Store) candidates(ctx context.Context, k kind, limit int) ([]driver.Key, error) {
	return s.keysOf(ctx, `SELECT hash FROM `+s.tables.records+` FORCE INDEX (due) WHERE kind = ? AND due <= `+clock+
		` AND format = 1 ORDER BY due LIMIT ?`, uint8(k), limit)
}

func (s *Store) keysOf(ctx context.Context, text string, args ...any) ([]driver.Key, error) {
	stmt, err := s.stmts.get(ctx, text)
	if err != nil {
		return nil, err
	}
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var keys []driver.Key
	for rows.Next() {
		var hash []byte
		if err := rows.Scan(&hash); err != nil {
			return nil, err
		}
		keys = append(keys, driver.Key(hash))
	}
	return keys, rows.Err()
}

// taken are those of the keys whose rows the transaction could have at once and
// which still are of the kind and have come to their time: over are to be
// dropped, passed only to be changed.
func (s *Store) taken(ctx context.Context, tx *sql.Tx, k kind, keys []driver.Key) (over, passed []driver.Key, err error) {
	left := `0`
	if k == completed {
		left = `due + tombstone > ` + clock
	}
	rows, err := tx.QueryContext(ctx, `SELECT hash, `+left+` FROM `+s.tables.records+` WHERE hash IN (`+hexList(keys)+`) AND format = 1 AND kind = `+
		string(rune('0'+k))+` AND due <= `+clock+` FOR UPDATE SKIP LOCKED`)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var hash []byte
		var stays bool
		if err := rows.Scan(&hash, &stays); err != nil {
			return nil, nil, err
		}
		if stays {
			passed = append(passed, driver.Key(hash))
		} else {
			over = append(over, driver.Key(hash))
		}
	}
	return over, passed, rows.Err()
}

func (s *Store) change(ctx context.Context, tx *sql.Tx, statement string, keys []driver.Key) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, statement+` WHERE hash IN (`+hexList(keys)+`)`)
	return err
}

// sweepAttempts drops counts of attempts that are over, and returns how many it
// found.
func (s *Store) sweepAttempts(ctx context.Context) (found int, err error) {
	err = s.again(ctx, func() error {
		keys, err := s.keysOf(ctx, `SELECT hash FROM `+s.tables.attempts+` WHERE due <= `+clock+` ORDER BY due LIMIT ?`, sweepBatch)
		if found = len(keys); err != nil || found == 0 {
			return err
		}
		_, err = s.db.ExecContext(ctx, `DELETE FROM `+s.tables.attempts+` WHERE hash IN (`+hexList(keys)+`) AND due <= `+clock)
		return err
	})
	return found, err
}

// sweepOn sweeps and counts unknowns until the store is closed.
func (s *Store) sweepOn() {
	ticker := time.NewTicker(s.opts.SweepEvery)
	defer ticker.Stop()
	failed := false
	for {
		select {
		case <-ticker.C:
		case <-s.closing:
			return
		}
		err := s.sweepAll()
		if s.isClosed() {
			return
		}
		if err != nil && !failed {
			s.opts.Logger.Warn("mysqlstore: sweeping fails; what is over is kept until it succeeds", "error", err)
		}
		failed = err != nil
	}
}

// sweepPatience bounds one round of sweeping.
const sweepPatience = time.Minute

func (s *Store) sweepAll() error {
	ctx, cancel := context.WithTimeout(s.life, sweepPatience)
	defer cancel()
	for {
		n, err := s.Sweep(ctx, 10*sweepBatch)
		if err != nil {
			return err
		}
		if err := s.recount(ctx); err != nil {
			return explained(err)
		}
		if n < 10*sweepBatch {
			return nil
		}
	}
}
