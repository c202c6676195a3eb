package filestore_test

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
		{"no sync", "writer.go", "return w.apply(now, pebble.Sync)", "return w.apply(now, pebble.NoSync)", "TestPowerCut$"},
		{"an answer before the sync", "commit.go", "	if err := s.writer.sync(now); err != nil {\n		return err\n	}\n	counts", "	close(g.done)\n	g.done = make(chan struct{})\n	if err := s.writer.sync(now); err != nil {\n		return err\n	}\n	counts", "TestPowerCut$"},
		{"a mark that is ahead", "commit.go", "	marked := s.marked()\n", "	marked := s.marked()\n	marked.batches++\n", "TestPowerCut$"},
		{"no mark is read", "open.go", "if m.batches > r.counts.batches {", "if false {", "Trap66"},
		{"no mark is written", "mark.go", "	return m.write(m.turn, w)", "	return nil", "Trap66"},
		{"the last count instead of the sum", "counts.go", "(*counts)(s).add(c)", "*s = sum(c)", "Trap66ALog|TestConformance|Trap35"},
		{"in flight for ever", "open.go", "		if e.kind == inFlight {\n			e.kind, e.due = lapsed", "		if e.kind == abandoned {\n			e.kind, e.due = lapsed", "TestConformance$"},
		{"one epoch", "open.go", "s.epoch = max(found.epoch, lost.epoch) + 1", "s.epoch = max(found.epoch, lost.epoch)", "TestConformance$"},
		{"what is being written is answered", "commit.go", "if g := e.group; g != nil {\n				s.mu.Unlock()\n				if", "if g := e.group; g != nil && false {\n				s.mu.Unlock()\n				if", "TestConformance$|TestSweepRaces"},
		{"what was read is not looked at again", "commit.go", "s.entries.gens[stripe(key)] == gen {", "gen == gen {", "Trap2"},
		{"the disk's errors go to the engine", "gate.go", "	g.shut(&diskError{what, err})\n	park()\n	return nil\n", "	g.fail(&diskError{what, err})\n	return err\n", "Trap52"},
		{"answers after a failure", "filestore.go", "	case <-s.failed:\n		return s.stopped()\n	default:", "	default:", "Trap52"},
		{"no checksum of records", "record.go", "if checksum(under, body) != binary.LittleEndian.Uint32(b[len(b)-4:]) {", "if false {", "CannotBeRead"},
		{"no checksum of results", "claim.go", "case checksum(under, v[:n]) != binary.LittleEndian.Uint32(v[n:]):", "case false && binary.LittleEndian.Uint32(v[n:]) == 0:", "TestUnreadable"},
		{"unreadable claims are left out", "open.go", "			s.entries.load(e)\n			continue\n", "			continue\n", "TestUnreadable"},
		{"a range drops its end too", "sweep.go", "g.from, g.to = from, to", "g.from, g.to = from, to+1", "Trap35"},
		{"results are not dropped", "writer.go", "for _, space := range []byte{spaceDue, spaceResult} {", "for _, space := range []byte{spaceDue} {", "Trap35"},
		{"swept whatever happened since", "sweep.go", "return s.entries.all[d.key] == nil && s.entries.gens[i] == s.sweeper.gens[i]", "return s.entries.all[d.key] == nil || s.entries.gens[i] != s.sweeper.gens[i]", "TestSweepLooksAgain"},
		{"the wall clock decides", "clock.go", "c.base = then.time + max(0, c.wall()-then.wall)", "c.base = c.wall()", "TestTheWallClock"},
		{"the newer lapse is not written", "sweep.go", "if e.kind != lapsed || e.disk.kind != inFlight || e.group != nil || t.all[e.key] != e {", "if true {", "TestALapseIsWritten"},
		{"a claim that came back is not written", "claim.go", "if h.disk.kind != inFlight {\n				return regrant, nil\n			}", "if false {\n				return regrant, nil\n			}", "TestAClaimThatCameBack"},
		{"no lock", "dir.go", "if d.lock, err = fsys.Lock(d.join(lockName)); err != nil {", "if d.lock, err = nopCloser(struct{}{}), nil; err != nil {", "TestASecondOpener"},
		{"a half-made store is damage", "dir.go", "case has(headerNew):", "case false:", "TestPowerFailsWhile"},
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
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "test", "-count=1", "-short", "-vet=off", "-timeout=60s",
		"-overlay="+filepath.Join(dir, "overlay"), "-run="+m.tests, ".").CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		t.Errorf("it lives: %s", m.tests)
	case !errors.As(err, &exit) || strings.Contains(string(out), "[build failed]"):
		t.Errorf("it does not build: %v\n%s", err, out)
	}
}
