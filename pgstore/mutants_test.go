package pgstore_test

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

var mutants = flag.Bool("mutants", false, "run the tests against each seeded bug; takes a quarter of an hour")

// mutant is a bug: a text of a file and what stands in its place, and the tests
// of which one must fail then. Those of one that lives must all pass: it takes
// away what only makes things quicker.
type mutant struct {
	name, file, old, new, tests string
	lives                       bool
}

func seededBugs() []mutant {
	const (
		statements = "statements.go"
		all        = "TestConformance$|TestDBConformance$|TestLinearizable$"
	)
	dies := func(name, file, old, text, tests string) mutant { return mutant{name, file, old, text, tests, false} }
	return []mutant{
		dies("one caller's completion without the token", statements, "WHERE key = $1::bytea AND token = $2::bigint AND format = {format}\n\tAND kind IN", "WHERE key = $1::bytea AND $2::bigint IS NOT NULL AND format = {format}\n\tAND kind IN", "TestConformance$"),
		dies("owners' writes without the token", statements, "WHERE key = a.of_key AND token = a.of_token AND format", "WHERE key = a.of_key AND a.of_token IS NOT NULL AND format", "TestConformance$"),
		dies("the client's clock", "claim.go", "found.now = found.due - microseconds(c.req.Lease)", "found.now = time.Now().UnixMicro()", "Trap33"),
		dies("a time of before the wait for the row", statements, ", 1 / (clock_timestamp() - statement_timestamp() < interval '100 milliseconds')::int`", ", 1`", "TestLateIs"),
		dies("any row is free to one caller", statements, "WHERE {free r $ clock}\n", "WHERE $5::boolean OR $6::bigint >= 0 OR $7::boolean\n", "TestConformance$"),
		dies("any row is free to a group that waited", statements, "AND {free r a clock})\n", "OR true)\n", "Trap45TheClaim|TestLinearizable"),
		dies("the nonce is ignored", statements, "WHEN {ours} THEN {again}", "WHEN false AND {ours} THEN {again}", all),
		dies("the nonce is not kept", statements, "nonce = excluded.nonce, sum = excluded.sum", "nonce = r.nonce, sum = excluded.sum", "TestConformance$"),
		dies("a released claim's nonce is granted again", statements, "THEN {room} AND {r}.nonce <> {nonce}\n", "THEN {room}\n", all),
		dies("who waited runs in its turn", statements, "\n\t\t\tAND NOT ({r}.answered AND {waited} <> 0 AND {waited} <= {r}.token)", "\n\t\t\tAND NOT ({r}.answered AND {waited} < 0)", all),
		dies("no tombstone", statements, "THEN %[1]s.tombstone ELSE 0 END", "THEN 0 ELSE 0 END", "TestConformance$"),
		dies("a tombstone that counts from now on", "row.go", "r.kind, r.due = lapsed, r.due+r.tombstone", "r.kind, r.due = lapsed, r.now+r.tombstone", "TestConformance$"),
		dies("a retry with any fingerprint", statements, "THEN {retry} AND {r}.rule = {rule} AND {r}.sum IS NOT DISTINCT FROM {sum}", "THEN {retry} AND {rule} IS NOT NULL AND ({sum} IS NULL OR true)", "TestConformance$"),
		dies("the rule is no part of a fingerprint", statements, "{r}.rule = {rule} AND {r}.sum", "{rule} IS NOT NULL AND {r}.sum", "TestConformance$"),
		dies("never late, alone", statements, "late = kind <> {inFlight} OR due <= {clock},", "late = false,", "TestConformance$"),
		dies("never late, in a group or on database/sql", statements, "new_dropped, kind <> {inFlight} OR due <= n,", "new_dropped, false,", "TestDBConformance$"),
		dies("the token stays", statements, "token = greatest(nextval({tokens}), r.token + 1), attempt", "token = r.token, attempt", "TestConformance$"),
		dies("the token stays, in a group or on database/sql", statements, "ELSE greatest(nextval({tokens}), r.token + 1) END", "ELSE r.token END", "TestDBConformance$"),
		dies("attempts are not counted", statements, "attempt = CASE WHEN {gone r clock} THEN 1 ELSE r.attempt + 1 END,", "attempt = 1,", "TestConformance$"),
		dies("attempts are never forgotten", statements, "WHEN s.gone THEN 1 ELSE r.attempt + 1 END", "ELSE r.attempt + 1 END", "TestDBConformance$|TestDBModel"),
		dies("a release keeps the fingerprint", statements, "rule = 0, sum = NULL, meta = NULL", "meta = NULL", "TestConformance$"),
		dies("an unused claim counts", statements, "attempt = h.attempt - h.unused::int", "attempt = h.attempt", "TestConformance$"),
		dies("an abandoned claim's tombstone begins anew", statements, "ELSE h.due + h.tombstone END", "ELSE h.n + h.tombstone END", "TestConformance$"),
		dies("a claim that has lapsed is renewed", statements, `"due = h.n + h.lease", "h.kind = {inFlight} AND h.due > h.n"`, `"due = h.n + h.lease", "h.kind = {inFlight}"`, "TestConformance$"),
		dies("an operator's release is not completed", statements, "AND kind IN ({inFlight}, {lapsed}, {abandoned}, {releasedByResolve}) AND NOT {gone r clock}", "AND kind IN ({inFlight}, {lapsed}, {abandoned}) AND NOT {gone r clock}", "TestConformance$"),
		dies("a repeat is not compared", "owner.go", "if found.dropped != c.Dropped || ", "if false && found.dropped != c.Dropped || false && ", "TestConformance$"),
		dies("a resolution of what was read", "resolve.go", "AND token = $2 AND kind = $3 AND due = $4 AND format", "AND token = $2 AND $3::smallint > 0 AND $4::bigint > 0 AND format", "TestResolveRaces"),
		dies("a race is guessed", "claim.go", "		return driver.ClaimReply{}, errRaced\n	}\n	if err := c.found.check(key)", "		return driver.ClaimReply{Record: heldRecord(key)}, nil\n	}\n	if err := c.found.check(key)", "Trap45TheClaim"),
		dies("no bound on waiting", statements, `", set_config('lock_timeout', %s, true)", last)`, `", %s", last)`, "Trap45An"),
		dies("no patience", "patience.go", "if c.told == nil && time.Since", "if false && time.Since", "Trap45An"),
		dies("a commit that was lost is no effect", "tx.go", "Ran: done && slices", "Ran: done && false && slices", "Trap44TheCommitIsCut$"),
		dies("a commit that was lost is an error", "tx.go", "	if silent(err) {\n		t.sent", "	if false {\n		t.sent", "Trap44TheCommitIsCut$"),
		dies("work is not tried again", "tx.go", "		return reply, busy(err) && ctx.Err() == nil, err\n", "		return reply, false, err\n", "TestTxConformance$"),
		dies("a completion of nothing is committed", statements, "SELECT 1 / count(*)::int FROM done`", "SELECT count(*)::int FROM done`", "BreaksTheRules"),
		dies("attempts outside are not added", "tx.go", "		granted.Attempt += t.counted - 1\n", "", "TestTxConformance$"),
		dies("attempts take the last connection", "tx.go", "case t.pairs <- struct{}{}:\n		t.paired = true\n		return nil\n", "case t.pairs <- struct{}{}:\n		<-t.pairs\n		return nil\n", "Trap50Attempts"),
		dies("the claim's bound stays for work", statements, `", set_config('lock_timeout', (SELECT before FROM asked), true)"),`, `", ''"),`, "TestTheWaitIs"),
		dies("trap 38: a lost claim fails nothing", "tx.go", "	db.fail(ctx, tx, err)\n", "", "TestTxConformance$"),
		dies("trap 38: a savepoint is rolled back", "pgxdb.go", "		ended = tx.Rollback(ctx)\n", "		_ = tx.Rollback(ctx)\n", "Trap38Whatever"),
		dies("trap 38: by kind and not by token", statements, `			"{asked}", askedTx(completeParams())),`, `			"{asked}", askedTx(completeParams()), "token = a.of_token", "a.of_token IS NOT NULL"),`, "TestTxConformance$"),
		dies("a second transaction completes again", "tx.go", "				err = driver.ErrCompleted\n", "", "TestTxConformance$"),
		dies("unknowns without a bound", "stats.go", "	return unknown < limit, nil\n", "	return true, nil\n", "TestConformance$"),
		dies("a claim under way is not counted", "stats.go", "before := b.asked - b.pending", "before := b.asked", "TestConformance$"),
		dies("swept before its time", "sweep.go", "WHERE kind = {completed} AND due <= {started} AND format", "WHERE kind = {completed} AND format", "TestConformance$"),
		dies("swept though unreadable", "sweep.go", "AND due <= {started} - {grace} AND format = {format}", "AND due <= {started} - {grace}", "Trap60Rows"),
		dies("swept at once", "sweep.go", "AND due <= {started} - {grace} AND format", "AND due <= {started} AND format", "TestKeptForAWhile"),
		dies("a list that repeats", "list.go", "AND (due, key) > ($1::bigint, $2::bytea)", "AND (due, key) >= ($1::bigint, $2::bytea)", "TestConformance$"),
		dies("an unknown format is read", "row.go", "case r.format != format:", "case false:", "Trap60Rows"),
		dies("an unknown kind is absent", statements, "AND {r}.kind BETWEEN {inFlight} AND {releasedByResolve} AND CASE", "AND CASE", "Trap60Rows"),
		dies("a server that forgets is durable", "check.go", `s.durable = s.fsync != "off" && s.commit != "off"`, "s.durable = true", "Trap51"),
		dies("a server that takes no writes is taken", "pgstore.go", "	case settings.readOnly:\n", "	case false:\n", "Trap64AServer"),
		dies("tables of the future are taken", "migrate.go", "	case version > schemaVersion && compatible > schemaVersion:", "	case false:", "Trap64AtThe"),
		dies("a parser's error is passed on", "pgstore.go", `return nil, errors.New("pgstore: the DSN cannot be read;`, `return nil, errors.New("pgstore: " + err.Error() + dsn + "`, "TestNoPassword"),
		dies("nothing is notified", statements, "CASE WHEN watched THEN pg_notify", "CASE WHEN false AND watched THEN pg_notify", "TestNotified"),
		{"nothing is notified, and polling finds out", statements, "CASE WHEN watched THEN pg_notify", "CASE WHEN false AND watched THEN pg_notify", "TestConformance$|TestTxConformance$|Trap65|Trap50Many", true},
		dies("everything is notified", statements, "CASE WHEN watched THEN pg_notify", "CASE WHEN watched OR true THEN pg_notify", "TestNobodyIsNotified"),
		dies("nothing is polled", "wait.go", "	if it.next.After(it.lapses) {\n		it.next = it.lapses\n	}\n", "	it.next = time.Now().Add(time.Hour)\n", "Trap65|TestWaitFor"),
		{"claims do not share what one has read", "group.go", "			} else if !f.follows(m) {", "			} else if true {", "TestConformance$|TestLinearizable$", true},
	}
}

// Each seeded bug still fits the code it is about; with -mutants, the tests find
// it.
func TestMutants(t *testing.T) {
	for _, m := range seededBugs() {
		b, err := os.ReadFile(m.file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(b), m.old); n != 1 {
			t.Errorf("%s: its text is %d times in %s", m.name, n, m.file)
			continue
		}
		if *mutants {
			t.Run(m.name, func(t *testing.T) { m.dies(t, strings.Replace(string(b), m.old, m.new, 1)) })
		}
	}
}

func (m mutant) dies(t *testing.T, text string) {
	dir := t.TempDir()
	file := filepath.Join(dir, m.file)
	whole, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {whole: file}})
	if err := errors.Join(err, os.WriteFile(file, []byte(text), 0o600), os.WriteFile(filepath.Join(dir, "overlay"), overlay, 0o600)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "test", "-count=1", "-short", "-vet=off", "-timeout=60s",
		"-overlay="+filepath.Join(dir, "overlay"), "-run="+m.tests, ".").CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil && !m.lives:
		t.Errorf("it lives: %s", m.tests)
	case err != nil && m.lives:
		t.Errorf("it dies: %v\n%s", err, out)
	case err != nil && (!errors.As(err, &exit) || strings.Contains(string(out), "[build failed]") || strings.Contains(string(out), "SQLSTATE 42")):
		t.Errorf("it is no bug but a mistake: %v\n%s", err, out)
	}
}
