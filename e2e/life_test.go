package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/idem-go/idem/e2e/internal/rig"
)

// SIGTERM drains: a request in flight ends with its answer and its record.
func TestLifeDrain(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	up := rig.NewUpstream(t, g.created)
	p := rig.Start(t, up.URL())
	first := async(t, p, rig.Request{Key: "k", Body: "{}"})
	rig.Receive(t, "the first arrives", g.arrived)
	plain := async(t, p, rig.Request{Body: "{}"})
	rig.Receive(t, "the other arrives", g.arrived)
	waiter := async(t, p, rig.Request{Key: "k", Body: "{}"})
	rig.Eventually(t, "three are there", func() bool { return waiting(p) == 3 })
	p.Signal(syscall.SIGTERM)
	rig.Eventually(t, "it is not ready any more", func() bool { return !p.Ready() })
	if r := p.Post("new", "{}"); r.Err == nil {
		t.Errorf("a new connection is served: %v", r)
	}
	g.open()
	one := rig.Receive(t, "the first ends", first)
	wantFirst(t, "the first", one, 201)
	wantFirst(t, "without a key", rig.Receive(t, "the other ends", plain), 201)
	wantReplay(t, "the waiter", one, rig.Receive(t, "the waiter ends", waiter))
	if code := p.Exit(); code != 0 {
		t.Errorf("exit %d", code)
	}
	p.Restart()
	wantReplay(t, "after the start", one, p.Post("k", "{}"))
	wantRuns(t, up, "k", 1)
}

// What does not end within the drain is cut off: unknown, and said.
func TestLifeDrainRunsOut(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	up := rig.NewUpstream(t, g.created)
	p := rig.Start(t, up.URL(), "--drain=100ms")
	first := async(t, p, rig.Request{Key: "k", Body: "{}"})
	rig.Receive(t, "it arrives", g.arrived)
	if code := p.Terminate(); code != 1 {
		t.Errorf("exit %d", code)
	}
	if r := rig.Receive(t, "the first ends", first); r.Err == nil && r.Status/100 == 2 {
		t.Errorf("a request that was cut off is answered %v", r)
	}
	p.Restart()
	wantProblem(t, "the retry", p.Post("k", "{}"), 409, "outcome-unknown")
	wantRuns(t, up, "k", 1)
}

// A restart, by SIGTERM or SIGKILL, replays what was answered before.
func TestLifeRestartReplays(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	var first []rig.Reply
	for i := range 20 {
		first = append(first, p.Post(fmt.Sprint(i), "{}"))
	}
	check := func(what string) {
		t.Helper()
		for i, one := range first {
			wantReplay(t, what, one, p.Post(fmt.Sprint(i), "{}"))
			wantProblem(t, what, p.Post(fmt.Sprint(i), "other"), 422, "key-reused")
		}
	}
	for range 3 {
		if code := p.Terminate(); code != 0 {
			t.Errorf("exit %d", code)
		}
		p.Restart()
		check("after SIGTERM")
		p.Kill()
		p.Restart()
		check("after SIGKILL")
	}
	if up.Total() != 20 {
		t.Errorf("%d runs", up.Total())
	}
}

// A replay is durable at the moment when the client has its last byte: killed
// right then, it is there at the next start.
func TestLifeAnsweredMeansDurable(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		switch x.Key[0] {
		case 'c':
			chunked(x, fmt.Sprintf("run %d", x.Serial), 3)
		case 'n':
			x.Write(rig.Head(204))
		case 'l':
			x.Respond(201, fmt.Sprintf("run %d", x.Serial)+fill(50_000))
		default:
			rig.Created(x)
		}
	})
	p := rig.Start(t, up.URL())
	for i := range 12 {
		key := fmt.Sprintf("%c%d", "cnls"[i%4], i)
		first := p.Post(key, "{}")
		p.Kill()
		wantFirst(t, key, first, first.Status)
		p.Restart()
		wantReplay(t, key, first, p.Post(key, "{}"))
		wantRuns(t, up, key, 1)
	}
}

// Killed while the service works: the outcome is unknown at once, without
// waiting for a lease. Completed by an operator, the retry gets that answer.
func TestLifeUnknownThenCompleted(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	up := rig.NewUpstream(t, g.created)
	p := rig.Start(t, up.URL(), "--lease=1h")
	async(t, p, rig.Request{Key: `"a/b c"`, Body: "{}"})
	rig.Receive(t, "it arrives", g.arrived)
	p.Kill()
	p.Restart()
	wantProblem(t, "at once", p.Post(`"a/b c"`, "{}"), 409, "outcome-unknown")
	all := p.Records("unknown")
	if len(all) != 1 || all[0].Key != "a/b c" || all[0].Attempt != 1 || all[0].Path == "" {
		t.Fatalf("listed as unknown: %+v", all)
	}
	body := []byte(`{"id":17}` + "\n")
	response, err := json.Marshal(map[string]any{
		"status":  201,
		"headers": map[string][]string{"Content-Type": {"application/json"}, "Location": {"/things/17"}, "X-Repeated": {"a", "b"}},
		"body":    base64.StdEncoding.EncodeToString(body),
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Ask("POST", all[0].Path+"/complete", string(response)); r.Status/100 != 2 {
		t.Fatalf("complete: %v", r)
	}
	want := rig.Reply{Status: 201, Body: body}
	for _, when := range []string{"now", "after a restart"} {
		again := p.Post(`"a/b c"`, "{}")
		wantReplay(t, when, want, again)
		if again.Header.Get("Location") != "/things/17" || len(again.Header["X-Repeated"]) != 2 || again.Length != int64(len(body)) {
			t.Errorf("%s: %v", when, again.Header)
		}
		p.Kill()
		p.Restart()
	}
	wantProblem(t, "another request", p.Post(`"a/b c"`, "other"), 422, "key-reused")
	wantRuns(t, up, "a/b c", 1)
	if r := p.Ask("POST", all[0].Path+"/release", ""); r.Status != http.StatusConflict {
		t.Errorf("a completed record is released: %v", r)
	}
}

// Released by an operator, the retry runs.
func TestLifeUnknownThenReleased(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	up := rig.NewUpstream(t, g.created)
	p := rig.Start(t, up.URL())
	async(t, p, rig.Request{Key: "k", Body: "{}"})
	rig.Receive(t, "it arrives", g.arrived)
	p.Kill()
	p.Restart()
	wantProblem(t, "at once", p.Post("k", "{}"), 409, "outcome-unknown")
	if r := p.Ask("POST", p.Find("k").Path+"/release", ""); r.Status/100 != 2 {
		t.Fatalf("release: %v", r)
	}
	g.open()
	first := p.Post("k", "{}")
	wantFirst(t, "the retry", first, 201)
	wantReplay(t, "the one after it", first, p.Post("k", "{}"))
	wantRuns(t, up, "k", 2)
	if r := p.Find("k"); r.Attempt != 2 {
		t.Errorf("the attempt count did not survive: %+v", r)
	}
}

// In flight, a record is released only by force; what its owner says later is
// taken as long as nobody else was granted the key.
func TestLifeReleaseInFlight(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	up := rig.NewUpstream(t, g.created)
	p := rig.Start(t, up.URL(), "--wait=0s")
	first := async(t, p, rig.Request{Key: "k", Body: "{}"})
	rig.Receive(t, "it arrives", g.arrived)
	path := p.Find("k").Path
	if r := p.Ask("POST", path+"/release", ""); r.Status != http.StatusConflict {
		t.Errorf("released without force: %v", r)
	}
	wantProblem(t, "while it runs", p.Post("k", "{}"), 409, "in-flight")
	if r := p.Ask("POST", path+"/release?force=true", ""); r.Status/100 != 2 {
		t.Fatalf("release by force: %v", r)
	}
	g.open()
	r := rig.Receive(t, "the first ends", first)
	if r.Err == nil && r.Status == 201 {
		wantReplay(t, "the retry", r, p.Post("k", "{}"))
		wantRuns(t, up, "k", 1)
	} else if n := up.Count("k"); n > 2 {
		t.Errorf("%d runs", n)
	}
}

// A second proxy on the same directory is refused, and told whose it is.
func TestLifeSecondProxyOnOneStore(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	out := refusedStart(t, "proxy", "--upstream", up.URL(), "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--store", p.Store)
	if !strings.Contains(out, fmt.Sprint(p.PID())) {
		t.Errorf("the other's pid, %d, is not named: %s", p.PID(), out)
	}
	wantFirst(t, "the first proxy", p.Post("k", "{}"), 201)
}

// refusedStart runs the command, which must end with exit 2 and one sentence.
func refusedStart(t *testing.T, args ...string) string {
	t.Helper()
	cmd := rig.Command(args...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Fatalf("want exit 2, got %v: %s", err, out)
	}
	text := strings.TrimSpace(string(out))
	if text == "" || len(text) > 1000 || strings.Contains(text, "goroutine ") || strings.Count(text, "\n") > 2 {
		t.Errorf("not one clear sentence: %q", text)
	}
	return text
}

func TestTrap64StoreThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("this is no store"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := rig.NewUpstream(t, nil)
	start := func(store string) string {
		return refusedStart(t, "proxy", "--upstream", up.URL(), "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--store", store)
	}
	for _, store := range []string{"file:" + file, "file:" + file + "/below", "file:/proc/idem", "file:", "elsewhere:/x", "nothing"} {
		if out := start(store); !strings.Contains(out, "store") {
			t.Errorf("%s: %s", store, out)
		}
	}
}

func TestLifePortInUse(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	dir := filepath.Join(t.TempDir(), "store")
	for _, args := range [][]string{
		{"--listen", up.Addr(), "--admin=127.0.0.1:0"},
		{"--listen=127.0.0.1:0", "--admin", up.Addr()},
	} {
		out := refusedStart(t, append([]string{"proxy", "--upstream", up.URL(), "--store", "file:" + dir}, args...)...)
		if !strings.Contains(out, up.Addr()) {
			t.Errorf("the address is not named: %s", out)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a start that failed left a store behind: %v", err)
	}
}

// Damage is refused at the start or at the read; a completed key never runs
// again.
func TestTrap66DamagedFiles(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(b []byte) []byte{
		"all bytes flipped": func(b []byte) []byte {
			for i := range b {
				b[i] ^= 0x5a
			}
			return b
		},
		"torn in the middle": func(b []byte) []byte {
			for i := len(b) / 3; i < len(b)/3+min(40, len(b)/3); i++ {
				b[i] ^= 0x5a
			}
			return b
		},
		"cut in half":  func(b []byte) []byte { return b[:len(b)/2] },
		"all emptied":  func([]byte) []byte { return nil },
		"zeros inside": func(b []byte) []byte { clear(b[len(b)/4 : len(b)/2]); return b },
	} {
		t.Run(name, func(t *testing.T) {
			up := rig.NewUpstream(t, nil)
			p := rig.Start(t, up.URL())
			const keys = 50
			for i := range keys {
				wantFirst(t, "before", p.Post(fmt.Sprint(i), "{}"), 201)
			}
			p.Kill()
			dir := strings.TrimPrefix(p.Store, "file:")
			rewrite(t, dir, damage)
			p.Relaunch()
			if refused := !p.Serves(); refused {
				if code := p.Exit(); code != 2 {
					t.Errorf("exit %d", code)
				}
				return
			}
			for i := range keys {
				r := p.Post(fmt.Sprint(i), "{}")
				if r.Status == 201 && !r.Replayed() {
					t.Errorf("key %d ran again", i)
				}
			}
			if up.Total() != keys {
				t.Errorf("%d runs of %d keys", up.Total(), keys)
			}
		})
	}
}

// rewrite damages every file of a directory.
func rewrite(t *testing.T, dir string, damage func([]byte) []byte) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			return err
		}
		n++
		return os.WriteFile(path, damage(b), 0o600)
	})
	if err != nil || n == 0 {
		t.Fatalf("damage the store: %d files, %v", n, err)
	}
}

// A store whose files are gone altogether is not an empty one where a mark says
// that there was more: its directory alone, without its log.
func TestTrap66LogRemoved(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	for i := range 20 {
		wantFirst(t, "before", p.Post(fmt.Sprint(i), "{}"), 201)
	}
	p.Kill()
	removed := 0
	err := filepath.WalkDir(strings.TrimPrefix(p.Store, "file:"), func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".log") {
			removed++
			return os.Remove(path)
		}
		return err
	})
	if err != nil || removed == 0 {
		t.Fatalf("remove the log: %d files, %v", removed, err)
	}
	p.Relaunch()
	if p.Serves() {
		t.Fatalf("it starts as if nothing had been: %v", p.Post("0", "{}"))
	}
	if code := p.Exit(); code != 2 {
		t.Errorf("exit %d", code)
	}
}
