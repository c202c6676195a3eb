package mysqlstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var mutants = flag.Bool("mutants", false, "run the tests against each seeded bug; takes minutes")

// mutant is a bug: a text of a file and what stands in its place, and the tests
// of which one must fail then.
type mutant struct{ name, file, old, new, tests string }

func seededBugs() []mutant {
	return []mutant{
		{"no token in the owner's writes", "statement.go", "WHERE hash = ? AND token = ? AND format = 1`", "WHERE hash = ? AND token >= 0 * ? AND format = 1`", "TestConformance/mariadb/Token"},
		{"a renewal after the lease", "statement.go", "const live = ` AND kind = 1 AND due > ` + clock", "const live = ` AND kind = 1`", "TestConformance/mariadb/States"},
		{"a completion of what is over", "statement.go", "owned + ` AND kind IN (1, 2, 3, 7) AND NOT ` + over(clock)", "owned + ` AND kind IN (1, 2, 3, 7)`", "TestModel/mariadb|TestConformance/mariadb/Expiry"},
		{"no completion after an operator's release", "statement.go", "AND kind IN (1, 2, 3, 7)", "AND kind IN (1, 2, 3)", "TestConformance/mariadb/Resolve"},
		{"never late", "statement.go", "`, 0, 1)),`", "`, 0, 0)),`", "TestConformance/mariadb/Complete"},
		{"names are not written anew", "statement.go", "scope = IF(kind = 7, ?, scope)", "scope = IF(kind = 77, ?, scope)", "TestConformance/mariadb/Resolve"},
		{"released without an answer", "statement.go", "answered = IF(?, token, NULL)", "answered = IF(? AND 0, token, NULL)", "TestConformance/mariadb/Release"},
		{"a released nonce is forgotten", "statement.go", "answered = IF(?, token, NULL), ended = nonce,", "answered = IF(?, token, NULL), ended = REPEAT('x', 16),", "TestConformance/mariadb/Nonce"},
		{"an unused claim is an attempt", "statement.go", "attempt = attempt - ?", "attempt = attempt - 0 * ?", "TestConformance/mariadb/Release"},
		{"a release keeps the fingerprint", "statement.go", "id = IF(note IS NULL, NULL, id), fingerprint = NULL, tombstone = 0,", "id = IF(note IS NULL, NULL, id), tombstone = 0,", "TestConformance/mariadb/Release"},
		{"an unknown counts from now", "statement.go", "ELSE due + tombstone END", "ELSE ` + clock + ` + tombstone END", "TestConformance/mariadb/Abandon"},
		{"an abandoned nonce is granted again", "statement.go", "END, nonce = NULL, kind = 3`", "END, kind = 2`", "TestConformance/mariadb/Nonce"},
		{"a token that does not grow", "statement.go", "LAST_INSERT_ID(GREATEST(` + clock + `, token + 1))", "LAST_INSERT_ID(token)", "TestConformance/mariadb/Token"},
		{"a token from the clock alone", "statement.go", "LAST_INSERT_ID(GREATEST(` + clock + `, token + 1))", "LAST_INSERT_ID(` + clock + `)", "TestTrap33TheServers"},
		{"what was read is not looked at again", "statement.go", "AND format = 1 AND token = ? AND kind = ? AND due = ?`", "AND format = 1 AND token >= 0 * ? AND kind >= 0 * ? AND due >= 0 * ?`", "TestTwoTakeOver|TestConformance/.*/Race"},
		{"local time", "statement.go", "UTC_TIMESTAMP(6))`", "NOW(6))`", "TestTimeZones"},
		{"a claim over whatever is there", "statement.go", "ON DUPLICATE KEY UPDATE kind = kind RETURNING", "ON DUPLICATE KEY UPDATE nonce = VALUES(nonce), token = VALUES(token), since = VALUES(since), due = VALUES(due), kind = 1 RETURNING", "TestConformance/mariadb/Claim"},
		{"a claim over whatever is there, on MySQL", "statement.go", "kind = kind + LAST_INSERT_ID(0)`", "nonce = VALUES(nonce), token = VALUES(token), kind = 1`", "TestConformance/plain/Claim"},
		{"the wait for others is not bounded", "statement.go", "if t.mariadb && wait >= 0 {", "if false {", "TestTxConformance/mariadb/.*/AnotherOpen"},
		{"the nonce is ignored", "claim.go", "		if ours {", "		if false && ours {", "TestConformance/mariadb/Nonce"},
		{"a released nonce is granted again", "claim.go", "		if string(r.ended) == string(req.Nonce[:]) {", "		if false {", "TestConformance/mariadb/Nonce"},
		{"a retry of another request", "claim.go", " && string(r.fingerprint) == string(fingerprintBytes(req.Fingerprint))", "", "TestConformance/mariadb/(Unknown|Fingerprint)|TestModel/mariadb"},
		{"a retry that was not asked for", "claim.go", "r.kind.isUnknown() && req.Retry &&", "r.kind.isUnknown() &&", "TestConformance/mariadb/Unknown"},
		{"who waited runs all the same", "claim.go", "req.Waited <= uint64(*r.answered)", "req.Waited < uint64(*r.answered)", "TestConformance/mariadb/Release"},
		{"who did not wait is refused", "claim.go", "r.answered != nil && req.Waited != 0 &&", "r.answered != nil &&", "TestConformance/mariadb/Release"},
		{"an attempt is not counted", "claim.go", "rec.attempt + 1, req.Nonce[:]", "rec.attempt, req.Nonce[:]", "TestConformance/mariadb/Release"},
		{"a repeat without a new lease", "statement.go", "SET due = ` + clock + ` + ?, kind = 1` + asRead", "SET due = due + 0 * ?, kind = 1` + asRead", "TestConformance/mariadb/Nonce"},
		{"the client's clock", "record.go", "s.kind == inFlight && s.due <= s.now {", "s.kind == inFlight && s.due <= time.Now().UnixMicro() {", "TestTrap33Clocks"},
		{"the tombstone counts from whoever looks", "record.go", "lapsed, s.due+s.tombstone", "lapsed, s.now+s.tombstone", "TestConformance/mariadb/(Unknown|Abandon)|TestModel/mariadb"},
		{"a tombstone knows the fingerprint", "record.go", "s.fingerprint, s.dropped = nil, 0", "s.dropped = 0", "TestConformance/mariadb/(Expiry|Fingerprint)"},
		{"no tombstone", "record.go", "forgotten, s.due, s.due+s.tombstone", "forgotten, s.due, s.due", "TestConformance/mariadb/Expiry"},
		{"any format is read", "record.go", "if r.format != recordFormat {", "if false {", "TestTrap60ARow"},
		{"for ever", "record.go", "	if s.due <= s.now {\n		s = record", "	if false {\n		s = record", "TestConformance/mariadb/Expiry"},
		{"an operator's token is not compared", "resolve.go", "if r.Token != 0 && rec.token != tokenOf(r.Token) {", "if false {", "TestConformance/mariadb/Resolve"},
		{"an operator without force", "resolve.go", "r.kind == inFlight && res.Force", "r.kind == inFlight", "TestConformance/mariadb/Resolve"},
		{"an operator who reads without taking", "resolve.go", "s.tables.lookup+` FOR UPDATE`", "s.tables.lookup", "TestResolveWaits"},
		{"unknowns are not counted anew", "count.go", "return false, age > recountAfter", "return false, false", "TestConformance/mariadb/Count"},
		{"lapses are not counted", "count.go", "unknownUnnoted = ` WHERE kind = 1 AND due <= ` + clock + `", "unknownUnnoted = ` WHERE kind = 1 AND due <= 0 * ` + clock + `", "TestConformance/mariadb/Count"},
		{"own unknowns are not counted", "count.go", "	u.count++", "", "TestConformance/mariadb/Count"},
		{"full for a while longer", "count.go", "	u.less = true", "	u.less = false", "TestConformance/mariadb/Count"},
		{"full for those who retry too", "count.go", "if r.kind.state() == driver.StateAbsent && r.verdict(req) == grant {", "if r.verdict(req) == grant {", "TestConformance/mariadb/Count"},
		{"a sweep does not look again", "sweep.go", "AND due <= `+clock+` FOR UPDATE SKIP LOCKED`", "FOR UPDATE SKIP LOCKED`", "TestSweepRaces"},
		{"a sweep waits", "sweep.go", "FOR UPDATE SKIP LOCKED", "FOR UPDATE", "TestTrap35ASweepWaits"},
		{"a sweep leaves no tombstones", "sweep.go", "left = `due + tombstone > ` + clock", "left = `0`", "TestConformance/mariadb/Sweep"},
		{"a sweep keeps results", "sweep.go", "result_meta = NULL, result_body = NULL, scope", "scope", "TestTrap35AFlood"},
		{"a sweep stops at what it cannot read", "sweep.go", "` AND format = 1 ORDER BY due LIMIT ?`", "` ORDER BY due LIMIT ?`", "TestASweepBehind"},
		{"the poll tells nobody", "wait.go", "if token == f.token {", "if true {", "TestTrap65"},
		{"the poll takes any claim for the one", "wait.go", "if token == f.token {", "if f.token != 0 {", "TestConformance/mariadb/Wait"},
		{"a page repeats records", "list.go", "(due > ? OR hash > ?)", "(due >= ? OR hash > ?)", "TestConformance/mariadb/List"},
		{"an answer that was lost is not looked up", "tx.go", "if u := d.unanswered; u != nil && a.record.kind == completed", "if u := d.unanswered; false && a.record.kind == completed", "TestTrap44TheCommit"},
		{"another's commit is taken for one's own", "tx.go", "&& a.record.token == u.token && string(a.record.ended) == string(u.nonce[:])", "", "TestTrap44SomebodyElse"},
		{"told before the log is written", "claim.go", "	if err == nil && !reply.Granted {", "	if false {", "TestTrap51Nobody"},
		{"looked up before the log is written", "claim.go", "	if err := s.logged(ctx, &v); err != nil {", "	if err := error(nil); err != nil {", "TestTrap51Nobody"},
		{"a transaction is told before the log is written", "tx.go", "		if err == nil && at == claiming {", "		if false {", "TestTrap51Nobody"},
		{"a repeat is taken before the log is written", "owner.go", "				return s.logged(ctx, &v)", "				_ = v\n				return nil", "TestTrap51Nobody"},
		{"a mark that changes nothing", "logged.go", "IF(attempts = 1, 2, 1)", "attempts", "TestTrap51Nobody"},
		{"others are waited for without end", "tx.go", "if !time.Now().Before(d.deadline) {", "if false {", "TestTxConformance/mariadb/.*/AnotherOpen"},
		{"a lost claim leaves the transaction", "tx_complete.go", "rolledBack := tx.Rollback()", "var rolledBack error", "TestTxConformance/mariadb/.*/.*CompleteTx"},
		{"completed twice", "tx_complete.go", "case r.kind == completed || r.kind == forgotten:\n			return false, driver.ErrCompleted", "case r.kind == completed || r.kind == forgotten:\n			return false, nil", "TestTxConformance/mariadb/.*/.*CompleteTx"},
		{"a conflict is an attempt", "tx.go", "		if d.attempts == 0 {", "		if true {", "TestTxConformance/mariadb/.*/AttemptsAre"},
		{"work that went on alone", "tx.go", "if err == nil && !done {", "if err == nil && !done && false {", "TestWorkThatHides"},
		{"work waits as the claim did", "tx_open.go", "`SET SESSION innodb_lock_wait_timeout = @idem_wait`", "`DO 1`", "TestTheWait"},
		{"deadlocks are not tried again", "failure.go", "case errLockWaitTimeout, errDeadlock,", "case errLockWaitTimeout,", "TestTrap44Deadlock|TestTxConformance/mariadb/.*/Trap44"},
		{"a cut connection is not tried again", "failure.go", "case isLost(err) && lost < lostTries:", "case false:", "TestTrap10"},
		{"a read-only server is taken", "server.go", "	if name := srv.readOnly(); name != \"\" {", "	if name := srv.readOnly(); false {", "TestTrap64Refused"},
		{"the redo log is not looked at", "server.go", "		most = min(most, redo/10)", "		_ = most", "TestTrap61What"},
		{"the parser's error is repeated", "connect.go", "errDSN(\"the driver does not take it\")", "err", "TestNoPassword"},
		{"all places for those who count", "mysqlstore.go", "make(chan struct{}, most/2)", "make(chan struct{}, most)", "TestTrap34Counting"},
		{"keys are compared as text", "migrations/1.sql", "hash        BINARY(32)        NOT NULL,\n  format", "hash        CHAR(32) CHARACTER SET latin1 NOT NULL,\n  format", "TestConformance/mariadb/Key"},
		{"scopes are compared as text", "migrations/1.sql", "scope       VARBINARY(4096)", "scope       VARCHAR(4096) CHARACTER SET latin1", "TestConformance/mariadb/List/ByScope"},
	}
}

// harmless are changes that no test of the contract may notice: a notification
// that is lost.
func harmless() []mutant {
	return []mutant{
		{"a completion tells nobody here", "owner.go", "	s.waiters.ended(ref.Key, ref.Token+1)\n	return late, nil", "	return late, nil", "TestConformance/mariadb/Wait|TestTrap65"},
		{"a claim tells nobody here", "claim.go", "		s.waiters.ended(req.Key, reply.Record.Token)", "", "TestConformance/mariadb/Wait|TestTrap65"},
	}
}

// Each seeded bug still fits the code it is about; with -mutants, the tests find
// it.
func TestMutants(t *testing.T) {
	for i, m := range append(harmless(), seededBugs()...) {
		b, err := os.ReadFile(m.file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(b), m.old); n != 1 {
			t.Errorf("%s: its text is %d times in %s", m.name, n, m.file)
			continue
		}
		if *mutants {
			t.Run(m.name, func(t *testing.T) { m.run(t, strings.Replace(string(b), m.old, m.new, 1), i < len(harmless())) })
		}
	}
}

func (m mutant) run(t *testing.T, text string, lives bool) {
	dir := t.TempDir()
	file := filepath.Join(dir, filepath.Base(m.file))
	whole, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {whole: file}})
	if err := errors.Join(err, os.WriteFile(file, []byte(text), 0o600), os.WriteFile(filepath.Join(dir, "overlay"), overlay, 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "test", "-count=1", "-short", "-vet=off", "-timeout=60s",
		"-overlay="+filepath.Join(dir, "overlay"), "-run="+m.tests, ".").CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil && strings.Contains(string(out), "no tests to run"):
		t.Errorf("no such test: %s", m.tests)
	case err == nil && !lives:
		t.Errorf("it lives: %s", m.tests)
	case err != nil && lives:
		t.Errorf("it was noticed: %v\n%s", err, out)
	case err != nil && (!errors.As(err, &exit) || strings.Contains(string(out), "[build failed]")):
		t.Errorf("it does not build: %v\n%s", err, out)
	}
}
