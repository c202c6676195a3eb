package mysqlstore

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"sync"

	"github.com/idem-go/idem/driver"
)

// clock is the server's time in microseconds, as it was when the statement
// began. Whatever the time zone is, it is the same: no part of it goes through
// local time, which repeats itself once a year.
const clock = `TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))`

// kinds in the statements: 1 in-flight, 2 lapsed, 3 abandoned, 4 completed,
// 5 forgotten, 6 released by its owner, 7 released by Resolve.

// over says that a record is over: its key is absent, whatever the row says.
func over(now string) string {
	return strings.ReplaceAll(`(due <= NOW AND (kind IN (2, 3, 5, 6, 7) OR kind IN (1, 4) AND due + tombstone <= NOW))`, "NOW", now)
}

// longestWait is the most seconds that one statement waits for another
// transaction, where its wait is bounded.
const longestWait = 1

// unbounded says that a statement waits as long as the server lets it.
const unbounded = -1

// claimText is the statement that inserts the record of a key that has none, and
// otherwise changes nothing, but has the row: nobody changes it before the end of
// the transaction. The last insert id is the token of the inserted row, and 0 for
// none. Where it may, the statement returns the row instead, whosever it is: a
// replay is one round trip then. In a transaction, where a replay takes more than
// one anyhow, it does not: to answer with a row costs a third of the statement.
//
// Wait bounds how long another's transaction is waited for, in whole seconds, on
// MariaDB.
func (t *tables) claimText(wait int) string {
	text := `INSERT INTO ` + t.records + ` (hash, format, kind, attempt, token, since, due, tombstone, nonce, fingerprint, scope, id)`
	if t.returns(wait) {
		return text + ` VALUES (?, 1, 1, 1, ` + clock + `, ` + clock + `, ` + clock + ` + ?, ?, ?, ?, ?, ?)` +
			` ON DUPLICATE KEY UPDATE kind = kind RETURNING ` + columns
	}
	text += ` VALUES (?, 1, 1, 1, LAST_INSERT_ID(` + clock + `), ` + clock + `, ` + clock + ` + ?, ?, ?, ?, ?, ?)` +
		` ON DUPLICATE KEY UPDATE kind = kind + LAST_INSERT_ID(0)`
	if t.mariadb && wait >= 0 {
		text = `SET STATEMENT innodb_lock_wait_timeout = ` + strconv.Itoa(wait) + ` FOR ` + text
	}
	return text
}

// returns says that claimText returns the row.
func (t *tables) returns(wait int) bool { return t.mariadb && wait == unbounded }

// claimArgs are the arguments of claimText.
func claimArgs(req *driver.ClaimRequest) []any {
	return []any{
		req.Key[:], micros(req.Lease), micros(req.Tombstone), req.Nonce[:], fingerprintBytes(req.Fingerprint),
		nameBytes(req.Scope), nameBytes(req.ID),
	}
}

// takeText is the statement that grants a claim over a row that was read before,
// if the row is as it was then and time has not made something else of it. The
// last insert id is the token.
func (t *tables) takeText() string {
	return `UPDATE ` + t.records + ` SET token = LAST_INSERT_ID(GREATEST(` + clock + `, token + 1)), since = ` + clock + `,` +
		` attempt = ?, nonce = ?, fingerprint = ?, scope = ?, id = ?, tombstone = ?, due = ` + clock + ` + ?, kind = 1,` +
		` late = 0, dropped = 0, answered = NULL, ended = NULL, note = NULL, result_meta = NULL, result_body = NULL` + asRead
}

// asRead are the conditions that a row is as it was read; its token tells a claim
// from every other, and what else changes changes one of these.
const asRead = ` WHERE hash = ? AND format = 1 AND token = ? AND kind = ? AND due = ?` +
	` AND (due <= ` + clock + `) = ? AND (due + tombstone <= ` + clock + `) = ?`

// asReadArgs are the arguments of asRead.
func (r *row) asReadArgs(key driver.Key) []any {
	return []any{key[:], r.token, r.kind, r.due, r.due <= r.now, r.due+r.tombstone <= r.now}
}

// tables are the names of a store's tables, and the statements about them.
type tables struct {
	records, attempts, schema string
	// mariadb says that the server has INSERT ... RETURNING, and SET STATEMENT.
	mariadb bool

	claims                            map[int]string // by wait
	lookup, take, again               string
	renew, complete, release, abandon string
	completeOwn, completeCounted      string
	count, uncount, mark              string
}

func newTables(prefix string, mariadb bool) *tables {
	t := &tables{
		records: "`" + prefix + "records`", attempts: "`" + prefix + "attempts`", schema: "`" + prefix + "schema`",
		mariadb: mariadb,
	}
	const owned = ` WHERE hash = ? AND token = ? AND format = 1`
	const live = ` AND kind = 1 AND due > ` + clock
	t.claims = map[int]string{}
	for wait := unbounded; wait <= longestWait; wait++ {
		t.claims[wait] = t.claimText(wait)
	}
	t.take = t.takeText()
	// A repeat of a claim finds it, and its lease begins anew.
	t.again = `UPDATE ` + t.records + ` SET due = ` + clock + ` + ?, kind = 1` + asRead
	t.lookup = `SELECT ` + columns + ` FROM ` + t.records + ` WHERE hash = ?`
	t.renew = `UPDATE ` + t.records + ` SET due = ` + clock + ` + ?` + owned + live

	// Each assignment is about columns that none before it has changed: MySQL
	// evaluates them from left to right, MariaDB all at once if sql_mode says so.
	t.complete = `UPDATE ` + t.records + ` SET late = LAST_INSERT_ID(IF(kind = 1 AND due > ` + clock + `, 0, 1)),` +
		` scope = IF(kind = 7, ?, scope), id = IF(kind = 7, ?, id), fingerprint = IF(kind = 7, ?, fingerprint),` +
		` result_meta = ?, result_body = ?, dropped = ?, tombstone = ?, ended = COALESCE(nonce, ended), nonce = NULL, answered = NULL,` +
		` since = ` + clock + `, due = ` + clock + ` + ?, kind = 4` +
		owned + ` AND kind IN (1, 2, 3, 7) AND NOT ` + over(clock)

	// In a transaction of the store's own nobody else has seen the claim.
	own := func(attempt string) string {
		return `UPDATE ` + t.records + ` SET ` + attempt + `result_meta = ?, result_body = ?, dropped = ?, tombstone = ?, ended = nonce, nonce = NULL,` +
			` since = ` + clock + `, due = ` + clock + ` + ?, kind = 4` + owned + ` AND kind = 1`
	}
	t.completeOwn, t.completeCounted = own(``), own(`attempt = ?, `)

	// What an operator noted is kept, and then the record's name with it.
	t.release = `UPDATE ` + t.records + ` SET attempt = attempt - ?, answered = IF(?, token, NULL), ended = nonce, nonce = NULL,` +
		` scope = IF(note IS NULL, NULL, scope), id = IF(note IS NULL, NULL, id), fingerprint = NULL, tombstone = 0,` +
		` due = ` + clock + ` + ?, kind = 6` + owned + live

	// A lease that has ended by itself became unknown at its end.
	t.abandon = `UPDATE ` + t.records + ` SET due = CASE WHEN kind = 2 THEN due WHEN due > ` + clock +
		` THEN ` + clock + ` + tombstone ELSE due + tombstone END, nonce = NULL, kind = 3` +
		owned + ` AND kind IN (1, 2) AND NOT ` + over(clock)

	t.count = `INSERT INTO ` + t.attempts + ` (hash, attempts, due) VALUES (?, LAST_INSERT_ID(1), ` + clock + ` + ?)` +
		` ON DUPLICATE KEY UPDATE attempts = LAST_INSERT_ID(IF(due <= ` + clock + `, 0, attempts) + 1), due = ` + clock + ` + ?`
	t.mark = t.markText()
	t.uncount = `DELETE FROM ` + t.attempts + ` WHERE hash = ?`
	return t
}

// statements prepares each text once, when it is first needed. On each
// connection of the pool package sql then prepares it once more.
type statements struct {
	db   *sql.DB
	mu   sync.Mutex
	made map[string]*sql.Stmt
}

// statement is one that is prepared, and stays so until the store is closed.
type statement interface {
	ExecContext(ctx context.Context, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, args ...any) *sql.Row
}

// get returns a statement for the pool.
func (s *statements) get(ctx context.Context, text string) (statement, error) {
	stmt, err := s.prepare(ctx, text)
	return stmt, err
}

// in returns a statement for a transaction, or for the pool where that is nil.
func (s *statements) in(ctx context.Context, tx *sql.Tx, text string) (statement, error) {
	stmt, err := s.prepare(ctx, text)
	if err != nil || tx == nil {
		return stmt, err
	}
	return tx.StmtContext(ctx, stmt), nil
}

func (s *statements) prepare(ctx context.Context, text string) (*sql.Stmt, error) {
	s.mu.Lock()
	stmt := s.made[text]
	s.mu.Unlock()
	if stmt != nil {
		return stmt, nil
	}
	stmt, err := s.db.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	kept := false
	defer func() {
		if !kept {
			_ = stmt.Close()
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made == nil { // closed meanwhile
		return nil, driver.ErrClosed
	}
	if other := s.made[text]; other != nil {
		return other, nil
	}
	s.made[text], kept = stmt, true
	return stmt, nil
}

func (s *statements) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, stmt := range s.made {
		_ = stmt.Close()
	}
	s.made = nil
}
