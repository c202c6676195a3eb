package sqlitestore_test

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

// mutant is a bug: a text of a file and what stands in its place, and the tests of
// which one must fail then. One that lives must pass them all.
type mutant struct {
	name, file, old, new, tests string
	lives                       bool
}

func seededBugs() []mutant {
	const conformance = "TestConformance$"
	return []mutant{
		{name: "the token is not compared", file: "record.go", old: "if token == 0 || r.token != token {", new: "if token == 0 {", tests: conformance},
		{name: "the nonce is ignored", file: "claim.go", old: "ours := r.nonce == req.Nonce", new: "ours := false", tests: conformance},
		{name: "the nonce of an abandoned claim", file: "claim.go", old: "case ours && r.kind != abandoned:", new: "case ours:", tests: conformance},
		{name: "a retry of another request", file: "claim.go", old: "req.Retry && r.fingerprint == req.Fingerprint:", new: "req.Retry:", tests: conformance},
		{name: "a retry over a claim in flight", file: "claim.go", old: "case r.kind != inFlight && req.Retry", new: "case req.Retry", tests: conformance},
		{name: "the nonce of a released claim", file: "claim.go", old: "		case ours:\n			return lost", new: "		case ours && false:\n			return lost", tests: conformance},
		{name: "one release lets ten run", file: "claim.go", old: "case r.answered && req.Waited != 0 && req.Waited <= r.token:", new: "case false:", tests: conformance},
		{name: "what was looked at before the lock", file: "claim.go", old: "	r, err := u.load(ctx, req.Key)\n", new: "	r, err := &record{key: req.Key}, error(nil)\n", tests: "Trap2"},
		{name: "replays wait for writers", file: "claim.go", old: "	switch r.judge(&req) {\n	case refused:", new: "	switch r.judge(&req) {\n	case verdict(99):", tests: "Trap9Another"},
		{name: "one unknown too many", file: "claim.go", old: "full := unknown+unnoticed >= u", new: "full := unknown+unnoticed > u", tests: conformance},
		{name: "ended leases are no unknowns", file: "statements.go", old: "due <= ?1 LIMIT ?2)) FROM idem_meta", new: "due < 0 AND due <= ?1 LIMIT ?2)) FROM idem_meta", tests: conformance},
		{name: "a lease one instant too long", file: "record.go", old: "r.kind == inFlight && r.due <= now", new: "r.kind == inFlight && r.due < now", tests: conformance},
		{name: "the tombstone counts from when it is noticed", file: "record.go", old: "lapsed, after(r.due, r.tombstone)", new: "lapsed, after(now, r.tombstone)", tests: conformance},
		{name: "the tombstone counts from the sweep", file: "statements.go", old: "ELSE due + tombstone END", new: "ELSE ?1 + tombstone END", tests: "TestModel|" + conformance},
		{name: "the wall clock decides writes", file: "unit.go", old: "tx: tx, now: s.now()}", new: "tx: tx, now: src.wall()}", tests: "Trap33"},
		{name: "the wall clock decides reads", file: "claim.go", old: "now = m.base + s.set.sources.ticks.now()", new: "now = s.set.sources.wall()", tests: "Trap33"},
		{name: "a restart ends leases", file: "statements.go", old: "due > ?2 AND version = 1`", new: "due > ?2 AND version = 0`", tests: "Trap33"},
		{name: "a restart revives leases", file: "statements.go", old: "kind <= 3 AND due > ?2 AND", new: "kind <= 3 AND due > ?2 - ?2 AND", tests: "Trap33"},
		{name: "time goes back", file: "clock.go", old: "then + max(int64(leeway), wallNow-wall)", new: "then + wallNow - wall", tests: "Trap33"},
		{name: "any clock is ours", file: "claim.go", old: "if m.clock == s.set.sources.ticks.id {", new: "if m.clock != \"\" {", tests: "Trap33"},
		{name: "the same token again", file: "unit.go", old: "return max(uint64(u.now), r.token+1)", new: "return uint64(u.now)", tests: conformance},
		{name: "the token starts anew", file: "unit.go", old: "return max(uint64(u.now), r.token+1)", new: "return r.token + 1", tests: conformance},
		{name: "tokens go back at a restart", file: "clock.go", old: "max(int64(leeway), wallNow-wall)", new: "max(0, wallNow-wall)", tests: "Trap33"},
		{name: "new rows are never filed", file: "sweep.go", old: "filed, err := u.file(ctx, 4*batch)", new: "filed, err := u.file(ctx, 0)", tests: conformance},
		{name: "new rows are not counted", file: "sweep.go", old: "{s.stmts.late, s.stmts.young}", new: "{s.stmts.late}", tests: conformance},
		{name: "numbers that are given again", file: "migrations/0001.sql", old: "min(filed, coalesce((SELECT max(n) FROM idem_records), 0))", new: "filed", tests: "TestModel|Filed|" + conformance},
		{name: "a fresh key is not looked for under the lock", file: "statements.go", old: "AND NOT EXISTS (SELECT 1 FROM idem_records WHERE key = ?5)`", new: "AND ?5 IS NOT NULL`", tests: "TestTx$"},
		{name: "late is forgotten", file: "owner.go", old: "late = r.kind != inFlight", new: "late = false", tests: conformance},
		{name: "a released claim is completed", file: "owner.go", old: "	case releasedByResolve:\n", new: "	case releasedByResolve, releasedByOwner:\n", tests: conformance},
		{name: "an unused claim counts", file: "owner.go", old: "if rel.Unused {", new: "if false {", tests: conformance},
		{name: "an ended claim is released", file: "owner.go", old: "		if err := k.ended(); err != nil {\n			return err\n		}\n		r.answered", new: "		if err := k.ended(); err != nil && k == absent {\n			return err\n		}\n		r.answered", tests: conformance},
		{name: "another result is a repeat", file: "owner.go", old: "if !r.holds(c.Result, c.Dropped) {", new: "if false {", tests: conformance},
		{name: "a fingerprint outlives its release", file: "record.go", old: "	r.fingerprint = driver.Fingerprint{}\n	r.moved", new: "	r.moved", tests: conformance},
		{name: "an erased result stays", file: "record.go", old: "	r.size, r.result = 0, driver.Result{}\n	r.dropped", new: "	r.dropped", tests: conformance},
		{name: "no tombstones", file: "sweep.go", old: "		r.settle(u.now)\n", new: "		*r = record{n: r.n, key: r.key}\n", tests: conformance},
		{name: "other versions are read", file: "record.go", old: "case w.version != recordVersion:", new: "case false:", tests: "Unreadable"},
		{name: "half a result", file: "unit.go", old: "if res.Size() != r.size {", new: "if false {", tests: "Unreadable"},
		{name: "a lost claim commits", file: "tx.go", old: "if rerr := tx.Rollback(); rerr != nil {", new: "if rerr := error(nil); rerr != nil {", tests: "TestTx$|Trap38"},
		{name: "a second effect of a completed claim", file: "owner.go", old: "	case completed, forgotten:\n		return false, driver.ErrCompleted\n", new: "	case completed, forgotten:\n		return r.late, nil\n", tests: "TestTx$"},
		{name: "work without a record", file: "tx.go", old: "if _, err := u.complete(ctx, rec, token, &c); err != nil {", new: "if err := error(nil); err != nil {", tests: "TestTx$"},
		{name: "a conflict is the caller's", file: "tx.go", old: "case isBusy(err) && try < mostTries", new: "case false && try < mostTries", tests: "TestTx$"},
		{name: "a conflict for ever", file: "tx.go", old: "case isBusy(err) && try < mostTries", new: "case isBusy(err) && try < 1000*mostTries", tests: "TestTx$/AConflictIsNot"},
		{name: "a commit is guessed", file: "tx.go", old: "			r.unsure = done.Record\n", new: "			_ = done\n", tests: "Trap10"},
		{name: "any commit took effect", file: "tx.go", old: " && rec.nonce == r.claim.Nonce {", new: " {", tests: "Trap10"},
		{name: "a commit that gave an error took effect", file: "tx.go", old: "if err == nil && rec.kind == completed && rec", new: "if err == nil || rec", tests: "Trap10"},
		{name: "waiting is an attempt", file: "tx.go", old: "if r.attempt == 0 || r.worked {", new: "if true {", tests: "AnAttempt|TestTx$"},
		{name: "an attempt is counted twice", file: "tx.go", old: "	if r.attempt > 0 {\n", new: "	if r.attempt < 0 {\n", tests: "TestTx$"},
		{name: "the count is not durable before work", file: "tx.go", old: "if r.req.CountAttempts && r.attempt == 0 {", new: "if false && r.req.CountAttempts {", tests: "TestTx$"},
		{name: "a commit's notification is dropped", file: "unit.go", old: "	s.waits.wake(u.ended)\n", new: "", tests: "TestConformance$/^Wait|Trap65", lives: true},
		{name: "notifications only by looking", file: "unit.go", old: "	s.waits.wake(u.ended)\n", new: "", tests: "ToldAtOnce"},
		{name: "nobody looks", file: "wait.go", old: "if ws.look(some, now) != nil {", new: "if false {", tests: "Trap65"},
		{name: "one look is enough", file: "wait.go", old: "if writes == last && !anyDue(some, now) {", new: "if last != -2 && !anyDue(some, now) {", tests: "Trap65"},
		{name: "transactions are not counted", file: "statements.go", old: "SET writes = writes + 1,", new: "SET writes = writes,", tests: "Trap65"},
		{name: "a failed sync is tried again", file: "commit.go", old: "	if isSync(err) {\n", new: "	if false {\n", tests: "Trap52"},
		{name: "answers after a failed sync", file: "sqlitestore.go", old: "if err := s.stopped.Load(); err != nil {", new: "if err := s.stopped.Load(); err != nil && false {", tests: "Trap52"},
		{name: "busy is the caller's", file: "commit.go", old: "if isBusy(err) && ctx.Err() == nil &&", new: "if false && ctx.Err() == nil &&", tests: "Trap44"},
		{name: "one call's fault is everybody's", file: "commit.go", old: "if err == nil || len(g.ops) == 1 {", new: "if err == nil || len(g.ops) >= 1 {", tests: "AGroup"},
		{name: "who has gone is carried out", file: "commit.go", old: "		if o.state.CompareAndSwap(opQueued, opTaken) {\n", new: "		if o.state.CompareAndSwap(opQueued, opTaken) || true {\n", tests: "CallsShare"},
		{name: "a commit for each call", file: "commit.go", old: "len(g.ops) < largestGroup {", new: "len(g.ops) < 1 {", tests: "CallsShare"},
		{name: "names are addresses", file: "connect.go", old: `strings.ReplaceAll(url.PathEscape(file), "%2F", "/")`, new: `strings.ReplaceAll(url.QueryEscape("")+file, "%2F", "/")`, tests: "NamesOfFiles"},
		{name: "migrated twice", file: "schema.go", old: "	if now == from {\n", new: "	if now >= 0 {\n", tests: "MigrateMany"},
		{name: "a missing trigger is let be", file: "check.go", old: "		if there == 0 {\n", new: "		if there < 0 {\n", tests: "Trap64"},
		{name: "NORMAL is durable", file: "check.go", old: `case sync == "1":`, new: `case sync == "x":`, tests: "Trap51"},
	}
}

// Each seeded bug still fits the code it is about; with -mutants, the tests find
// it.
func TestMutants(t *testing.T) {
	for _, m := range seededBugs() {
		b, err := os.ReadFile(m.file)
		must(t, err)
		if n := strings.Count(string(b), m.old); n != 1 {
			t.Errorf("%s: its text is %d times in %s", m.name, n, m.file)
			continue
		}
		if *mutants {
			t.Run(m.name, func(t *testing.T) { m.run(t, strings.Replace(string(b), m.old, m.new, 1)) })
		}
	}
}

func (m mutant) run(t *testing.T, text string) {
	dir := t.TempDir()
	file := filepath.Join(dir, filepath.Base(m.file))
	whole, err := filepath.Abs(m.file)
	must(t, err)
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {whole: file}})
	must(t, errors.Join(err, os.WriteFile(file, []byte(text), 0o600), os.WriteFile(filepath.Join(dir, "overlay"), overlay, 0o600)))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "test", "-count=1", "-short", "-vet=off", "-timeout=60s",
		"-overlay="+filepath.Join(dir, "overlay"), "-run="+m.tests, ".").CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil && strings.Contains(string(out), "no tests to run"):
		t.Errorf("no test is called that: %s", m.tests)
	case err == nil && !m.lives:
		t.Errorf("it lives: %s", m.tests)
	case err != nil && m.lives:
		t.Errorf("it should live: %v\n%s", err, out)
	case err != nil && (!errors.As(err, &exit) || strings.Contains(string(out), "[build failed]")):
		t.Errorf("it does not build: %v\n%s", err, out)
	}
}
