package mysqlstore

import (
	"context"
	"database/sql"
	"math"
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

// variant is a form of the claiming statement.
type variant struct {
	// retry grants over an unknown outcome, waited compares with a release's token.
	retry, waited bool
	// wait bounds how long another transaction's row is waited for, in whole
	// seconds; less than 0 for as long as the server does.
	wait int
}

// longestWait is the most seconds that one statement waits for another
// transaction, where its wait is bounded.
const longestWait = 1

// claimText is the statement that grants a claim, or changes nothing.
//
// MySQL evaluates assignments from left to right, and what was assigned is what
// the next ones see: the first four therefore ask whether to grant, by columns
// that are still as they were, and with the fourth the nonce tells the others.
// It also is the claim's own where the request is a repeat, for which the first
// three leave everything as it is. (In MariaDB's sql_mode SIMULTANEOUS_ASSIGNMENT
// this does not hold; New refuses it.)
//
// The last insert id is 0 for a claim that was refused, and otherwise says what
// was granted: see grantOf. It is all that MySQL can answer in one statement.
func (t *tables) claimText(v variant) string {
	const now = `VALUES(since)`
	grant := over(now) + ` OR kind = 7 OR (kind = 6 AND ended <> VALUES(nonce)`
	if v.waited {
		grant += ` AND (answered IS NULL OR answered < ?)`
	}
	grant += `)`
	if v.retry {
		grant += ` OR ((kind IN (2, 3) OR (kind = 1 AND due <= ` + now + `)) AND fingerprint = VALUES(fingerprint) AND NOT (nonce <=> VALUES(nonce)))`
	}
	grant = `format = 1 AND (` + grant + `)`
	ours := `format = 1 AND nonce = VALUES(nonce)`

	var assignments []string
	set := func(condition string, pairs ...string) {
		for i := 0; i < len(pairs); i += 2 {
			assignments = append(assignments, pairs[i]+` = IF(`+condition+`, `+pairs[i+1]+`, `+pairs[i]+`)`)
		}
	}
	set(grant,
		`attempt`, `IF(`+over(now)+`, 0, attempt) + 1`,
		`since`, now,
		`token`, `GREATEST(`+now+`, token + 1)`,
		`nonce`, `VALUES(nonce)`)
	set(ours,
		`ended`, `NULL`, `answered`, `NULL`, `late`, `0`, `dropped`, `0`,
		`note`, `NULL`, `meta`, `NULL`, `body`, `NULL`,
		`fingerprint`, `VALUES(fingerprint)`, `scope`, `VALUES(scope)`, `id`, `VALUES(id)`,
		`tombstone`, `VALUES(tombstone)`, `due`, `VALUES(due)`)
	granted := `IF(` + ours + `, token * 512 + LEAST(attempt, 255) * 2 + (since <> ` + now + `), 0)`
	assignments = append(assignments, `kind = IF(LAST_INSERT_ID(`+granted+`) > 0, 1, kind)`)

	text := `INSERT INTO ` + t.records +
		` (hash, format, kind, attempt, token, since, due, tombstone, nonce, fingerprint, scope, id)` +
		` VALUES (?, 1, IF(LAST_INSERT_ID(` + clock + ` * 512 + 2) > 0, 1, 1), 1, ` + clock + `, ` + clock + `, ` + clock + ` + ?, ?, ?, ?, ?, ?)` +
		` ON DUPLICATE KEY UPDATE ` + strings.Join(assignments, `, `)
	if t.returning {
		text += ` RETURNING ` + columns
		if v.wait >= 0 {
			text = `SET STATEMENT innodb_lock_wait_timeout = ` + strconv.Itoa(v.wait) + ` FOR ` + text
		}
	}
	return text
}

// claimArgs are the arguments of claimText.
func claimArgs(v variant, req *driver.ClaimRequest) []any {
	args := []any{
		req.Key[:], micros(req.Lease), micros(req.Tombstone), req.Nonce[:], fingerprintBytes(req.Fingerprint),
		[]byte(req.Scope), []byte(req.ID),
	}
	if v.waited {
		for range 4 { // in each of the assignments that ask
			args = append(args, waitedOf(req))
		}
	}
	return args
}

// waitedOf is the token that was waited for, or the largest there is.
func waitedOf(req *driver.ClaimRequest) int64 { return int64(min(req.Waited, math.MaxInt64)) }

// grantOf is what the last insert id of claimText says. Exact is false where a
// number is too large for it, or the claim is a repeat and began earlier.
func grantOf(id int64) (token int64, attempt int, exact bool) {
	attempt = int(id >> 1 & 255)
	return id >> 9, attempt, attempt < 255 && id&1 == 0
}

// tables are the names of a store's tables, and the statements about them.
type tables struct {
	records, attempts, schema string
	// returning says that the server has INSERT ... RETURNING, and SET STATEMENT:
	// MariaDB.
	returning bool

	claims                                                     map[variant]string
	lookup, renew, complete, completeCounted, release, abandon string
	count, uncount                                             string
}

func newTables(prefix string, returning bool) *tables {
	t := &tables{
		records: "`" + prefix + "records`", attempts: "`" + prefix + "attempts`", schema: "`" + prefix + "schema`",
		returning: returning,
	}
	const owned = ` WHERE hash = ? AND token = ? AND format = 1`
	const live = ` AND kind = 1 AND due > ` + clock
	t.claims = map[variant]string{}
	for wait := -1; wait <= longestWait; wait++ {
		for _, retry := range []bool{false, true} {
			for _, waited := range []bool{false, true} {
				v := variant{retry: retry, waited: waited, wait: wait}
				t.claims[v] = t.claimText(v)
			}
		}
	}
	t.lookup = `SELECT ` + columns + ` FROM ` + t.records + ` WHERE hash = ?`
	t.renew = `UPDATE ` + t.records + ` SET due = ` + clock + ` + ?` + owned + live

	// Each assignment is about columns that none before it has changed.
	complete := func(attempt string) string {
		return `UPDATE ` + t.records + ` SET` + attempt +
			` late = LAST_INSERT_ID(IF(kind = 1 AND due > ` + clock + `, 0, 1)),` +
			` scope = IF(kind = 7, ?, scope), id = IF(kind = 7, ?, id), fingerprint = IF(kind = 7, ?, fingerprint),` +
			` meta = ?, body = ?, dropped = ?, tombstone = ?, ended = COALESCE(nonce, ended), nonce = NULL, answered = NULL,` +
			` since = ` + clock + `, due = ` + clock + ` + ?, kind = 4` +
			owned + ` AND kind IN (1, 2, 3, 7) AND NOT ` + over(clock)
	}
	t.complete, t.completeCounted = complete(``), complete(` attempt = ?,`)

	// What an operator noted is kept, and then the record's name with it.
	t.release = `UPDATE ` + t.records + ` SET attempt = attempt - ?, answered = IF(?, token, NULL), ended = nonce, nonce = NULL,` +
		` scope = IF(note IS NULL, '', scope), id = IF(note IS NULL, '', id), fingerprint = '', tombstone = 0,` +
		` due = ` + clock + ` + ?, kind = 6` + owned + live

	// A lease that has ended by itself became unknown at its end.
	t.abandon = `UPDATE ` + t.records + ` SET due = CASE WHEN kind = 2 THEN due WHEN due > ` + clock +
		` THEN ` + clock + ` + tombstone ELSE due + tombstone END, nonce = NULL, kind = 3` +
		owned + ` AND kind IN (1, 2) AND NOT ` + over(clock)

	t.count = `INSERT INTO ` + t.attempts + ` (hash, attempts, due) VALUES (?, LAST_INSERT_ID(1), ` + clock + ` + ?)` +
		` ON DUPLICATE KEY UPDATE attempts = LAST_INSERT_ID(IF(due <= ` + clock + `, 0, attempts) + 1), due = VALUES(due)`
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

func (s *statements) get(ctx context.Context, text string) (*sql.Stmt, error) {
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
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made == nil { // closed meanwhile
		_ = stmt.Close()
		return nil, driver.ErrClosed
	}
	if other := s.made[text]; other != nil {
		_ = stmt.Close()
		return other, nil
	}
	s.made[text] = stmt
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
