package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"strings"
)

// statements are the texts that the store uses all the time, prepared. The pool
// prepares each anew on every connection that it comes to.
type statements struct {
	lock, fresh, unfiled, file, filed, young *sql.Stmt
	begin, meta, restart, prolong            *sql.Stmt
	load, insert, update, remove             *sql.Stmt
	room, notice, overdue, overdueOpen       *sql.Stmt
	counts, lapsed, late, oldest             *sql.Stmt
	writes, watched, list, listOpen          *sql.Stmt
}

const (
	// Even where it changes nothing it takes the write lock, and so what is read
	// after it is the newest, and stays so until the transaction ends.
	sqlBegin = `UPDATE idem_meta SET writes = writes + 1, time = ?1, wall = ?2
		WHERE id = 1 AND format = ?3 AND clock = ?4 AND base = ?5`
	// The same lock, where nothing need be written beside.
	sqlLock  = `UPDATE idem_meta SET id = id WHERE id = 0`
	sqlFresh = `SELECT EXISTS (SELECT 1 FROM idem_meta WHERE id = 1 AND format = ?1 AND clock = ?2 AND base = ?3 AND time >= ?4)
		AND NOT EXISTS (SELECT 1 FROM idem_records WHERE key = ?5)`

	sqlMeta = `SELECT format, clock, base, time, wall FROM idem_meta WHERE id = 1`

	sqlRestart = `UPDATE idem_meta SET clock = ?1, base = ?2, time = ?3, wall = ?4 WHERE id = 1`
	sqlProlong = `UPDATE idem_records SET due = CASE WHEN lease > 9223372036854775807 - ?1 THEN 9223372036854775807 ELSE ?1 + lease END
		WHERE kind = 1 AND kind <= 3 AND due > ?2 AND version = 1`

	sqlLoad = `SELECT m.format, m.clock, m.base, r.meta, r.body, COLUMNS FROM idem_meta m
		LEFT JOIN idem_records r ON r.key = ?1
		WHERE m.id = 1`

	sqlInsert = `INSERT INTO idem_records (key, version, kind, flags, attempt, token, since, due, lease, tombstone, size,
		nonce, fingerprint, scope, id, note, meta, body, filed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	sqlUpdate = `UPDATE idem_records SET version = ?2, kind = ?3, flags = ?4, attempt = ?5, token = ?6, since = ?7, due = ?8,
		lease = ?9, tombstone = ?10, size = ?11, nonce = ?12, fingerprint = ?13, scope = ?14, id = ?15, note = ?16, meta = ?17, body = ?18
		WHERE key = ?1`
	sqlRemove = `DELETE FROM idem_records WHERE key = ?`

	// The unknowns, and of those in flight how many of the leases have ended.
	sqlRoom = `SELECT unknown, (SELECT count(*) FROM (SELECT 1 FROM idem_records
		WHERE kind = 1 AND kind <= 3 AND due <= ?1 LIMIT ?2)) FROM idem_meta WHERE id = 1`
	// The tombstone counts from the end of the lease, whenever that is noticed.
	sqlNotice = `UPDATE idem_records SET kind = 2, due = CASE WHEN tombstone > 9223372036854775807 - due THEN 9223372036854775807 ELSE due + tombstone END
		WHERE version = 1 AND n IN (SELECT n FROM idem_records WHERE kind = 1 AND kind <= 3 AND due <= ?1 ORDER BY due LIMIT ?2)`
	sqlOverdue = `SELECT COLUMNS FROM idem_records r WHERE filed = 1 AND kind > 3 AND due <= ?1 AND kind <= 7 AND version = 1 ORDER BY due LIMIT ?2`
	sqlUnfiled = `SELECT filed, (SELECT max(n) FROM (SELECT n FROM idem_records WHERE n > m.filed ORDER BY n LIMIT ?1))
		FROM idem_meta m WHERE id = 1`
	sqlFile        = `UPDATE idem_records SET filed = 1 WHERE n > ?1 AND n <= ?2 AND filed = 0`
	sqlFiled       = `UPDATE idem_meta SET filed = ?1 WHERE id = 1`
	sqlOverdueOpen = `SELECT COLUMNS FROM idem_records r WHERE kind IN (2, 3) AND kind <= 3 AND due <= ?1 AND version = 1 LIMIT ?2`

	sqlCounts = `SELECT format, clock, base, in_flight, unknown, completed, forgotten FROM idem_meta WHERE id = 1`
	// What has been over for a while is swept, and what is new is filed, so that there
	// is little to count here.
	sqlLapsed = `SELECT count(*), count(*) FILTER (WHERE tombstone <= ?1 - due), min(since) FILTER (WHERE tombstone > ?1 - due)
		FROM idem_records WHERE kind = 1 AND kind <= 3 AND due <= ?1`
	sqlLate = `SELECT kind, 0, count(*), count(*) FILTER (WHERE tombstone <= ?1 - due)
		FROM idem_records WHERE filed = 1 AND kind > 3 AND due <= ?1 GROUP BY kind`
	sqlYoung = `SELECT kind, count(*), count(*) FILTER (WHERE due <= ?1), count(*) FILTER (WHERE due <= ?1 AND tombstone <= ?1 - due)
		FROM idem_records WHERE n > (SELECT filed FROM idem_meta WHERE id = 1) AND filed = 0 AND kind > 3 GROUP BY kind`
	sqlOldest = `SELECT min(since) FILTER (WHERE due > ?1), count(*) FILTER (WHERE due <= ?1)
		FROM idem_records WHERE kind IN (2, 3) AND kind <= 3`

	sqlWrites  = `SELECT writes FROM idem_meta WHERE id = 1`
	sqlWatched = `SELECT key, token FROM idem_records WHERE kind = 1 AND key IN (KEYS)`

	sqlList     = `SELECT COLUMNS FROM idem_records r WHERE key > ?1 ORDER BY key LIMIT ?2`
	sqlListOpen = `SELECT COLUMNS FROM idem_records r WHERE kind <= 3 AND (kind, due, since, n) > (?1, ?2, ?3, ?4) ORDER BY kind, due, since, n LIMIT ?5`
)

// numbers are the columns that are null where a key has no row.
func loadColumns() string {
	cols := strings.Split(columns, ", ")
	for i, c := range cols {
		switch c {
		case "r.key", "r.nonce", "r.fingerprint", "r.scope", "r.id", "r.note":
		default:
			cols[i] = "coalesce(" + c + ", 0)"
		}
	}
	return strings.Join(cols, ", ")
}

func (st *statements) prepare(ctx context.Context, db *sql.DB, set *settings) (err error) {
	for _, p := range []struct {
		to   **sql.Stmt
		text string
	}{
		{&st.lock, sqlLock}, {&st.fresh, sqlFresh}, {&st.unfiled, sqlUnfiled}, {&st.file, sqlFile}, {&st.filed, sqlFiled}, {&st.young, sqlYoung},
		{&st.begin, sqlBegin}, {&st.meta, sqlMeta}, {&st.restart, sqlRestart}, {&st.prolong, sqlProlong},
		{&st.load, strings.Replace(sqlLoad, "COLUMNS", loadColumns(), 1)},
		{&st.insert, sqlInsert}, {&st.update, sqlUpdate}, {&st.remove, sqlRemove},
		{&st.room, sqlRoom}, {&st.notice, sqlNotice},
		{&st.overdue, strings.Replace(sqlOverdue, "COLUMNS", columns, 1)},
		{&st.overdueOpen, strings.Replace(sqlOverdueOpen, "COLUMNS", columns, 1)},
		{&st.counts, sqlCounts}, {&st.lapsed, sqlLapsed}, {&st.late, sqlLate}, {&st.oldest, sqlOldest},
		{&st.writes, sqlWrites},
		{&st.watched, strings.Replace(sqlWatched, "KEYS", strings.Repeat("?, ", batch-1)+"?", 1)},
		{&st.list, strings.Replace(sqlList, "COLUMNS", columns, 1)},
		{&st.listOpen, strings.Replace(sqlListOpen, "COLUMNS", columns, 1)},
	} {
		if *p.to, err = db.PrepareContext(ctx, set.sql(p.text)); err != nil { //nolint:sqlclosecheck // close closes it
			return errors.Join(err, st.close())
		}
	}
	return nil
}

func (st *statements) close() error {
	var errs []error
	for _, s := range []*sql.Stmt{
		st.lock, st.fresh, st.unfiled, st.file, st.filed, st.young,
		st.begin, st.meta, st.restart, st.prolong, st.load, st.insert, st.update, st.remove,
		st.room, st.notice, st.overdue, st.overdueOpen, st.counts, st.lapsed, st.late, st.oldest,
		st.writes, st.watched, st.list, st.listOpen,
	} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// The three below run a statement in a transaction, which closes what it makes of
// it when it ends.

func execIn(ctx context.Context, tx *sql.Tx, st *sql.Stmt, args ...any) (sql.Result, error) {
	return tx.StmtContext(ctx, st).ExecContext(ctx, args...) //nolint:sqlclosecheck // it is closed with the transaction
}

func rowIn(ctx context.Context, tx *sql.Tx, st *sql.Stmt, args ...any) *sql.Row {
	return tx.StmtContext(ctx, st).QueryRowContext(ctx, args...) //nolint:sqlclosecheck // it is closed with the transaction
}

func rowsIn(ctx context.Context, tx *sql.Tx, st *sql.Stmt, args ...any) (*sql.Rows, error) {
	return tx.StmtContext(ctx, st).QueryContext(ctx, args...) //nolint:sqlclosecheck // it is closed with the transaction
}
