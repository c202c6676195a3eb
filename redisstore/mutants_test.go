package redisstore_test

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
// of which one must fail then. A harmless one changes what is not promised: its
// tests must pass.
type mutant struct {
	name, file, old, new, tests string
	harmless                    bool
}

const suite = "TestConformance$|TestModel$"

func seededBugs() []mutant {
	return []mutant{
		{name: "the token is not compared at a completion", file: "scripts/complete.lua", old: "if string.sub(h, 24, 31) ~= ARGV[1] then return 1 end\n", tests: suite},
		{name: "the token is not compared at a renewal", file: "scripts/renew.lua", old: "if string.sub(h, 24, 31) ~= ARGV[1] then return 1 end\n", tests: suite},
		{name: "the token is not compared at a release", file: "scripts/release.lua", old: "if string.sub(h, 24, 31) ~= ARGV[1] then return 1 end\n", tests: suite},
		{name: "the token is not compared at an abandonment", file: "scripts/abandon.lua", old: "if string.sub(h, 24, 31) ~= ARGV[1] then return 1 end\n", tests: suite},
		{name: "the token is not compared by a resolution", file: "scripts/resolve.lua", old: "if ARGV[2] ~= '' and string.sub(v, 24, 31) ~= ARGV[2] then return 1 end\n", tests: suite},
		{name: "the token is not compared by a waiter", file: "scripts/watch.lua", old: " or string.sub(h, 24, 31) ~= ARGV[1] then", new: " then", tests: suite},
		{name: "a part of the token is compared", file: "scripts/abandon.lua", old: "string.sub(h, 24, 31) ~= ARGV[1]", new: "string.sub(h, 28, 31) ~= string.sub(ARGV[1], 5)", tests: suite},
		{name: "the client's clock", file: "claim.go", old: "lease := micros(req.Lease)", new: "lease := micros(req.Lease) + time.Now().UnixMicro()%60_000_000", tests: suite},
		{name: "the client's clock decides what is over", file: "claim.go", old: "now, err = a[0].ToInt64()", new: "_, err = a[0].ToInt64()\n\tnow = time.Now().UnixMicro()", tests: "TestTrap33"},
		{name: "a claim is set over what is there", file: "scripts/claim.lua", old: " .. ARGV[2], 'NX') then", new: " .. ARGV[2]) then", tests: suite},
		{name: "the index is not asked", file: "scripts/claim.lua", old: "if redis.call('ZADD', KEYS[2], 'NX', score, member) == 1 then return now end", new: "redis.call('ZADD', KEYS[2], 'NX', score, member)\n  if true then return now end", tests: "TestTrap36"},
		{name: "the nonce is ignored", file: "scripts/claim.lua", old: "local ours = string.sub(v, 41, 56) == string.sub(ARGV[2], 10, 25)", new: "local ours = false", tests: suite},
		{name: "a part of the nonce is compared", file: "scripts/claim.lua", old: "local ours = string.sub(v, 41, 56) == string.sub(ARGV[2], 10, 25)", new: "local ours = string.sub(v, 41, 41) == string.sub(ARGV[2], 10, 10)", tests: "TestConformance$|TestModel$|TestLinearizable$"},
		{name: "the nonce of a released claim is granted", file: "scripts/claim.lua", old: "    if ours then return -2 end\n", tests: suite},
		{name: "the fingerprint is not compared under retry", file: "scripts/claim.lua", old: " or string.sub(v, 57, 89) ~= string.sub(ARGV[2], 26, 58) then", new: " then", tests: suite},
		{name: "the rule of the fingerprint is not compared", file: "scripts/claim.lua", old: "string.sub(v, 57, 89) ~= string.sub(ARGV[2], 26, 58)", new: "string.sub(v, 58, 89) ~= string.sub(ARGV[2], 27, 58)", tests: suite},
		{name: "an unknown is granted without retry", file: "scripts/claim.lua", old: "if not options or string.byte(options) ~= 49 or ", new: "if ", tests: suite},
		{name: "what was waited for is granted", file: "scripts/claim.lua", old: "if waited > 0 and waited <= token then return {now, v} end", new: "", tests: suite},
		{name: "whoever waited for an earlier claim is granted", file: "scripts/claim.lua", old: "waited <= token then", new: "waited == token then", tests: suite},
		{name: "the token does not grow", file: "scripts/claim.lua", old: "if token < now then token = now else token = token + 1 end", new: "if token < now then token = now end", tests: "TestTrap33"},
		{name: "the attempt is not counted", file: "scripts/claim.lua", old: "struct.pack('>I4I8I8I8', attempt + 1, now, due, token)", new: "struct.pack('>I4I8I8I8', attempt, now, due, token)", tests: suite},
		{name: "an unused attempt is counted", file: "scripts/release.lua", old: "attempt = attempt - 1 end", new: "attempt = attempt end", tests: suite},
		{name: "a tombstone may be claimed", file: "scripts/claim.lua", old: "elseif kind == 4 and old + tombstone > now or kind < 3 or kind > 7 then", new: "elseif kind < 3 or kind > 7 then", tests: suite},
		{name: "a lease that is over is renewed", file: "scripts/renew.lua", old: "if kind ~= 1 or old <= now then", new: "if kind ~= 1 then", tests: suite},
		{name: "a renewal does not move the index", file: "scripts/renew.lua", old: "redis.call('ZADD', KEYS[2], 60000000000001 + (due - due % 1000) / 1000, string.sub(KEYS[1], -32))\n", tests: suite},
		{name: "a completion does not move the index", file: "scripts/complete.lua", old: "redis.call('ZADD', KEYS[2], 20000000000001 + (due - due % 1000) / 1000, member)\n", tests: suite},
		{name: "late is not said", file: "scripts/complete.lua", old: "return late and 5 or 0", new: "return 0", tests: suite},
		{name: "late is forgotten", file: "scripts/complete.lua", old: "string.char(string.byte(record, 3) + 4)", new: "string.char(string.byte(record, 3))", tests: suite},
		{name: "a late completion is refused", file: "scripts/complete.lua", old: "if old <= now or kind == 6 then return 1 end", new: "if old <= now or kind == 6 or kind == 7 then return 1 end", tests: suite},
		{name: "any result is a repeat", file: "scripts/complete.lua", old: " or result(h) ~= result(record) then return 3 end", new: " then return 3 end", tests: suite},
		{name: "dropped is not compared", file: "scripts/complete.lua", old: "if flags % 4 >= 2 ~= (string.byte(record, 3) >= 2) or ", new: "if ", tests: suite},
		{name: "the retention counts from the claim", file: "scripts/complete.lua", old: "local due = now + ARGV[3]", new: "local due = since + ARGV[3]", tests: suite},
		{name: "the completion's names win", file: "scripts/complete.lua", old: "if kind ~= 7 and string.sub(h, 57) ~= string.sub(record, 41, #h - 16) then", new: "if false then", tests: "TestTheClaimsNamesStay|TestLinearizable$"},
		{name: "a released key keeps no nonce", file: "scripts/release.lua", old: " .. '\\2' .. string.sub(h, 41, 56))", new: " .. '\\0')", tests: suite},
		{name: "answered is forgotten", file: "scripts/release.lua", old: "and '\\1' or '\\0'", new: "and '\\0' or '\\0'", tests: suite},
		{name: "the tombstone counts from the abandonment of a lapsed claim", file: "scripts/abandon.lua", old: "if kind == 1 and old <= now then from = old end\n", tests: suite},
		{name: "an abandoned claim stays in flight", file: "scripts/abandon.lua", old: "redis.call('SETRANGE', KEYS[1], 1, '\\3')", new: "redis.call('SETRANGE', KEYS[1], 1, '\\1')", tests: suite},
		{name: "a resolution releases what is in flight", file: "scripts/resolve.lua", old: "if unknown or live and string.byte(ARGV[3]) == 49 then", new: "if unknown or live then", tests: suite},
		{name: "the note is not kept", file: "scripts/resolve.lua", old: ".. string.char(parts) .. ARGV[7] .. fingerprint", new: ".. string.char(parts - parts % 2) .. fingerprint", tests: "TestANote|TestListReads|TestTrap60"},
		{name: "a sweep drops what has a tombstone", file: "scripts/settle.lua", old: "if kind == 1 or kind == 4 then over = due + tombstone end", new: "if kind == 1 then over = due + tombstone end", tests: suite},
		{name: "a sweep drops what was written meanwhile", file: "scripts/settle.lua", old: "    elseif due > now then", new: "    elseif due > now and false then", tests: "TestTheSweepIsOvertaken"},
		{name: "a sweep counts the ends of leases", file: "scripts/settle.lua", old: "      move(member, 40000000000000, over)\n", new: "      move(member, 40000000000000, over)\n      swept = swept + 1\n", tests: "TestEndsOfLeasesAreNotSwept"},
		{name: "a tombstone keeps its result", file: "scripts/settle.lua", old: "      redis.call('SET', key, '\\1\\5'", new: "      redis.call('SETRANGE', key, 0, '\\1\\5'", tests: "TestTheStoreSweepsByItself"},
		{name: "a sweep needs memory", file: "scripts/settle.lua", old: "      redis.call('ZREM', index, member)\n      redis.call('SET', key", new: "      redis.call('SET', key", tests: "TestTheServersMemoryIsFull"},
		{name: "a completion needs memory", file: "scripts/complete.lua", old: "  redis.call('ZREM', KEYS[2], member)\n  redis.call('SET', KEYS[1], record)", new: "  redis.call('SET', KEYS[1], record)", tests: "TestTheServersMemoryIsFull"},
		{name: "the oldest unknown is any", file: "scripts/survey.lua", old: "'WITHSCORES', 'LIMIT', 0, 1)", new: "'WITHSCORES', 'LIMIT', 1, 1)", tests: suite},
		{name: "a list begins its next page with the last record", file: "scripts/page.lua", old: "ARGV[2]) + 1", new: "ARGV[2])", tests: suite},
		{name: "a list loses what comes behind a record that has gone", file: "scripts/page.lua", old: "from = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[3])", new: "from = redis.call('ZCARD', KEYS[1])", tests: "TestListCursors"},
		{name: "lapsed leases are not counted as unknown", file: "bound.go", old: "unknown += c.unknown + c.lapsed", new: "unknown += c.unknown", tests: suite},
		{name: "the bound is not looked at", file: "claim.go", old: "	full, err := s.full(ctx)", new: "	full, err := false, ctx.Err()", tests: suite},
		{name: "durations wrap", file: "record.go", old: "return min(us, never)", new: "return us * 1000", tests: suite},
		{name: "the age in the future", file: "record.go", old: "v.Age = span(max(now-r.since, 0))", new: "v.Age = span(now - r.since)", tests: "TestTrap33"},
		{name: "an unknown version is read", file: "record.go", old: "if b[0] != recordVersion {", new: "if b[0] > 200 {", tests: "TestUnreadable"},
		{name: "an unknown kind is read", file: "record.go", old: "if r.kind < inFlight || r.kind == lapsed || r.kind > releasedByResolve {", new: "if r.kind == lapsed {", tests: "TestUnreadable"},
		{name: "a script that is not there", file: "script.go", old: "	if isNoScript(err) {\n		m, err = s.client.Do", new: "	if false {\n		m, err = s.client.Do", tests: "TestScriptsAreFlushed"},
		{name: "an answer that was lost is not asked for again", file: "script.go", old: "if !again || try == tries", new: "if true || !again || try == tries", tests: "TestTrap56"},
		{name: "a hung client keeps its callers", file: "script.go", old: "	if s.suspect.Load() {\n		// The", new: "	if false {\n		// The", tests: "TestTrap9"},
		{name: "a repeat does not wait for the replicas", file: "script.go", old: "if err == nil && n < int64(s.opts.WaitReplicas) {", new: "if err == nil && n < 0 {", tests: "TestWaitForReplicas"},
		{name: "an evicting server is taken", file: "check.go", old: "when(policy != \"noeviction\", driver.SeverityError)", new: "when(policy == \"allkeys-lru\", driver.SeverityError)", tests: "TestTrap36"},
		{name: "another format is taken", file: "layout.go", old: "n != formatVersion {", new: "n < formatVersion {", tests: "TestTrap64"},
		{name: "polling is dropped", file: "wait.go", old: "t := time.NewTimer(min(span(left)+time.Millisecond, s.opts.PollEvery))", new: "t := time.NewTimer(span(left) + time.Millisecond)", tests: "TestTrap65"},
		{name: "nobody looks after a subscription was made again", file: "wait.go", old: "s.waiters.wakeAll() })", new: "})", tests: "TestAnEndWhileNobodyListens"},
		{name: "nobody is marked as watched", file: "scripts/watch.lua", old: "if flags % 16 < 8 then", new: "if false then", tests: "TestWaitersAreNotified"},
		{name: "no notification", file: "scripts/complete.lua", old: "  redis.pcall('PUBLISH', string.match(KEYS[1], '^[^{]*') .. 'ended', member)\n", tests: "TestWaitersAreNotified"},
		{name: "no notification, but polling", file: "scripts/complete.lua", old: "  redis.pcall('PUBLISH', string.match(KEYS[1], '^[^{]*') .. 'ended', member)\n", tests: suite + "|TestTrap65", harmless: true},
		{name: "passwords in errors", file: "dsn.go", old: "if secret != \"\" && strings.Contains(err.Error(), secret) {", new: "if secret != \"\" && false {", tests: "TestOldServersRepeatThePassword"},
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
	out, err := exec.CommandContext(ctx, "go", "test", "-count=1", "-short", "-vet=off", "-timeout=90s",
		"-overlay="+filepath.Join(dir, "overlay"), "-run="+m.tests, ".").CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil && strings.Contains(string(out), "no tests to run"):
		t.Errorf("there is no such test: %s", m.tests)
	case err == nil && !m.harmless:
		t.Errorf("it lives: %s", m.tests)
	case err == nil:
	case !errors.As(err, &exit) || strings.Contains(string(out), "[build failed]"):
		t.Errorf("it does not build: %v\n%s", err, out)
	case m.harmless:
		t.Errorf("it is harmless, and dies:\n%s", out)
	}
}
