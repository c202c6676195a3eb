package natsstore_test

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

// mutantVariable tells the tests that read the package's own text which file has
// another one.
const mutantVariable = "IDEM_NATSSTORE_MUTANT"

// mutant is a bug: a text of a file and what stands in its place, and the tests
// of which one must fail then; or, where it lives, pass all the same.
type mutant struct {
	name, file, old, new, tests string
	lives                       bool
}

func seededBugs() []mutant {
	const conformance = "TestConformance$"
	bug := func(name, file, old, changed, tests string) mutant {
		return mutant{name: name, file: file, old: old, new: changed, tests: tests}
	}
	return []mutant{
		bug("any token is the newest", "owner.go", "c.rec.kind == absent || c.rec.token != ref.Token", "c.rec.kind == absent", conformance),
		bug("writes expect nothing", "wire.go", "expectHeader: {", "\"Idem-Nothing\": {", conformance),
		bug("a conflict is taken for success", "wire.go", "		return 0, errConflict\n", "		return 1, nil\n", conformance+"|TestLinearizable$"),
		bug("the nonce is ignored", "claim.go", "ours := r.nonce == req.Nonce", "ours := false", conformance),
		bug("every nonce is the same", "claim.go", "ours := r.nonce == req.Nonce", "ours := true", conformance),
		bug("a released nonce is granted again", "claim.go", "		case ours:\n			return nil, driver.ErrLost\n", "", conformance),
		bug("an abandoned claim comes back", "claim.go", "ours && r.kind != abandoned", "ours || r.kind == abandoned", conformance),
		bug("an answered release is not told", "claim.go", "r.answered && req.Waited != 0 && req.Waited <= r.token", "false", conformance),
		bug("retry does not compare fingerprints", "claim.go", "req.Retry && r.fingerprint == req.Fingerprint", "req.Retry", conformance),
		bug("every unknown is retried", "claim.go", "r.kind != inFlight && req.Retry &&", "r.kind != inFlight &&", conformance),
		bug("live claims are retried", "claim.go", "case r.kind != inFlight && req.Retry", "case req.Retry", conformance),
		bug("attempts are not counted", "claim.go", "attempt: c.rec.attempt + 1", "attempt: 1", conformance),
		bug("unused claims are counted", "owner.go", "			r.attempt--\n", "", conformance),
		bug("the token is not the granting revision", "encoding.go", "		r.token = rev\n", "		r.token = rev - rev%2 + 1\n", conformance),
		bug("a renewed claim is seen since its beginning", "sight.go", "case ok && known.rev == e.rev:", "case ok:", "Trap3A"),
		bug("what is read was seen long ago", "change.go", "sight{rev: m.rev, seen: now.mono, rec: rec}", "sight{rev: m.rev, rec: rec}", "Trap33A"),
		bug("an overtaken answer replaces the newer", "sight.go", "	case ok && known.rev > e.rev:\n		return e\n", "", "TestAnOvertakenAnswer"),
		bug("an older read is an answer", "change.go", "err == nil && m.rev < known.rev", "err == nil && m.rev < known.rev && false", "TestAStaleRead"),
		bug("who may not write is taken", "natsstore.go", "err := s.writeNothing(bounded); err != nil &&", "err := error(nil); err != nil &&", "Trap64AUser"),
		bug("lapses are not written down", "change.go", "case c.lapse && c.rec.kind == lapsed:", "case false:", "Trap33A"),
		bug("memory refuses", "change.go", "		case !read:\n			err = errConflict\n", "", "TestForgettingIsSafe|Trap33A"),
		bug("memory of a completed record decides", "change.go", "if !e.ended || read {", "if true {", conformance),
		bug("a lost answer is an error", "change.go", "case errors.Is(err, errSilent) || errors.Is(err, errNobody):", "case errors.Is(err, errNobody):", "Trap56TheConnection"),
		bug("the tombstone counts from when it is noticed", "record.go", "lapsed, after(r.due, r.tombstone), 0", "lapsed, after(now, r.tombstone), 0", conformance),
		bug("a tombstone is noticed at its own time", "record.go", "r.forget(r.due, r.tombstone)", "r.forget(now, r.tombstone)", conformance+"|TestModel$"),
		bug("retention counts from the claim", "record.go", "completed, now, after(now, retention)", "completed, now, after(r.since, retention)", conformance),
		bug("a long time wraps around", "record.go", "t >= now {", "t != 0 {", conformance),
		bug("a forgotten record keeps its fingerprint", "record.go", "	r.fingerprint = driver.Fingerprint{}\n", "", conformance),
		bug("meta and body are one", "record.go", "bytes.Equal(r.data[:r.metaLen], res.Meta) && bytes.Equal(r.data[r.metaLen:], res.Body)", "(bytes.Equal(r.data, append(res.Meta[:len(res.Meta):len(res.Meta)], res.Body...)))", conformance+"|TestMetaAndBody"),
		bug("late is not said", "owner.go", "late = r.kind != inFlight", "late = false", conformance),
		bug("another result is a repeat", "owner.go", "			if !r.holds(c.Result, c.Dropped) {\n				return nil, driver.ErrCompleted\n			}\n", "", conformance),
		bug("a released claim is completed", "owner.go", "		case releasedByOwner:\n			return nil, driver.ErrLost\n", "", conformance),
		bug("a lapsed lease is renewed", "owner.go", "		if err := r.kind.ended(); err != nil {\n			return nil, err\n		}\n		r.lease = lease", "		r.kind, r.lease = inFlight, lease", conformance),
		bug("an abandoned claim begins its tombstone again", "owner.go", "		case abandoned:\n			return nil, nil\n", "		case abandoned:\n			r.due = after(c.now.server, r.tombstone)\n", conformance),
		bug("too large is not noticed", "owner.go", "c.Check(s.maxResult)", "c.Check(0)", conformance),
		bug("a live claim is released without force", "resolve.go", "r.kind == inFlight && res.Force", "r.kind == inFlight", conformance),
		bug("resolve looks at no token", "resolve.go", "res.Token != 0 && r.token != res.Token", "false", conformance),
		bug("another version is absent", "encoding.go", "return record{}, errVersion", "return record{}, nil", "Trap60|TestUnreadable"),
		bug("what is not idem's is absent", "change.go", "return record{}, errNoHeader", "return record{}, nil", "TestUnreadable"),
		bug("the machine's clock tells the time", "clock.go", "server: server.UnixNano()", "server: time.Now().UnixNano()", "Trap33N"),
		bug("the monotonic clock is a wall clock", "clock.go", "begin: time.Now()", "begin: time.Now().Round(0)", "Trap33N"),
		bug("tombstones are swept", "sweep.go", "case c.rec.kind == absent:", "case c.rec.kind == absent || c.rec.kind == forgotten:", conformance),
		bug("a sweep knows no limit", "sweep.go", "if swept >= limit {\n			// The rest", "if false {\n			// The rest", conformance),
		bug("every sweep looks at everything", "sweep.go", "if w.chunks[i].due > now {", "if w.chunks[i].due > now && false {", "Trap35S"),
		bug("nothing is looked at twice", "sweep.go", "part.records+1, min(part.due, due)", "part.records+1, part.due", conformance),
		bug("what is left of a chunk is forgotten", "sweep.go", "part.records+1, math.MinInt64, r.rev", "part.records+1, math.MaxInt64, r.rev", conformance+"|Trap35S"),
		bug("a lapse is not swept", "sweep.go", "	case c.lapse:\n	default:", "	default:", "TestStoresSweepInTurn"),
		bug("a page begins one too late", "list.go", "page.Next = strconv.FormatUint(last, 10)", "page.Next = strconv.FormatUint(max(last, r.rev), 10)", conformance),
		bug("a bucket made again is the same", "natsstore.go", "!info.Created.Equal(s.made)", "false", "TestABucketThatWasMadeAgain"),
		bug("claims fill a bucket to its end", "claim.go", "if s.full.Load() {", "if false {", "TestABucketThatIsFull"),
		bug("what is down is sent to", "wire.go", "down, err := s.link.up(ctx, s.opts.Timeout, s.closing)", "down, err := context.Background(), error(nil)", "Trap9Nothing"),
		bug("a store's own limit is the caller's", "natsstore.go", "		return errSilent\n	}\n	return err\n}", "		return err\n	}\n	return err\n}", "Trap9AServer"),
		bug("nobody looks by itself", "wait.go", "		timer.Reset(next)\n", "", "Trap65"),
		bug("an older look is trusted", "wait.go", "fresh := w.shown > since", "fresh := w.shown > since || true", "TestAWaiterTrusts"),
		bug("the DSN stands in the error", "dsn.go", "errors.New(\"natsstore: the DSN is malformed: it should be \" + dsnShape)", "errors.New(\"natsstore: the DSN is malformed: \" + s)", "TestNoPassword"),
		bug("a bucket that forgets is taken", "bucket.go", "add(c.MaxAge != 0,", "add(false,", "Trap64"),
		{"nobody is told", "wait.go", "func(*nats.Msg) {\n		select {\n		case w.look <- struct{}{}:\n		default:\n		}\n	}", "func(*nats.Msg) {}", "Trap65|TestConformance$/Wait", true},
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
			t.Run(m.name, func(t *testing.T) { m.try(t, strings.Replace(string(b), m.old, m.new, 1)) })
		}
	}
}

func (m mutant) try(t *testing.T, text string) {
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
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-short", "-vet=off", "-timeout=120s",
		"-overlay="+filepath.Join(dir, "overlay"), "-run="+m.tests, ".")
	cmd.Env = append(os.Environ(), mutantVariable+"="+file)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err != nil && (!errors.As(err, &exit) || strings.Contains(string(out), "[build failed]")):
		t.Errorf("it does not build: %v\n%s", err, out)
	case err == nil && !m.lives:
		t.Errorf("it lives: %s", m.tests)
	case err != nil && m.lives:
		t.Errorf("it dies, although it should not matter:\n%s", out)
	}
}
