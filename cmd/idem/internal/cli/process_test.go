package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/cmd/idem/internal/server"
	"github.com/idem-go/idem/testserver"
	testnats "github.com/idem-go/idem/testserver/nats"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// TestMain builds the command once.
func TestMain(m *testing.M) {
	testnats.ServeChild()
	os.Exit(testMain(m))
}

func testMain(m *testing.M) (code int) {
	defer func() {
		if err := testserver.StopAll(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	dir, err := os.MkdirTemp("", "idem-cli")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "idem")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/idem-go/idem/cmd/idem").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	if err := os.Setenv(binaryVariable, binary); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

const binaryVariable = "IDEM_CLI_TEST_BINARY"

// process is the command, running.
type process struct {
	t             *testing.T
	cmd           *exec.Cmd
	listen, admin string
	waited        chan struct{}
	code          int

	mu  sync.Mutex
	log bytes.Buffer
}

// serve starts the command and waits until it is ready.
func serve(t *testing.T, upstream string, args ...string) *process {
	t.Helper()
	p := &process{t: t, waited: make(chan struct{})}
	args = append([]string{"proxy", "--upstream", upstream, "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--log=json"}, args...)
	p.cmd = exec.Command(os.Getenv(binaryVariable), args...)
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	serving := make(chan struct{})
	go p.read(stderr, serving)
	select {
	case <-serving:
	case <-p.waited:
		t.Fatalf("it did not start: exit %d\n%s", p.code, p.logged())
	case <-time.After(patience):
		t.Fatalf("it does not serve\n%s", p.logged())
	}
	p.until("it is ready", func() bool { return p.ready() == http.StatusOK })
	return p
}

// read keeps what the command logs and takes its addresses from it; at the end
// of the log the process is waited for.
func (p *process) read(stderr io.Reader, serving chan struct{}) {
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		p.mu.Lock()
		p.log.WriteString(lines.Text() + "\n")
		p.mu.Unlock()
		var l struct{ Msg, Listen, Admin string }
		if json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg == "idem: serving" {
			p.listen, p.admin = "http://"+l.Listen, "http://"+l.Admin
			close(serving)
		}
	}
	_ = p.cmd.Wait() // its exit code is what counts
	p.code = p.cmd.ProcessState.ExitCode()
	close(p.waited)
}

func (p *process) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (p *process) ready() int {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Get(p.admin + "/readyz")
	if err != nil {
		return 0
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// until polls, for what has no event of its own.
func (p *process) until(what string, done func() bool) {
	p.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			p.t.Fatalf("waited %v in vain until %s\n%s", patience, what, p.logged())
		}
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// exit waits for the end and returns the exit code, -1 after a kill.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.waited:
	case <-time.After(patience):
		p.t.Fatalf("it does not end\n%s", p.logged())
	}
	return p.code
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.waited
}

type reply struct {
	status int
	header http.Header
	body   string
	err    error
}

// post sends a POST with a key, on a connection of its own.
func (p *process) post(path, key, body string) reply {
	req, err := http.NewRequest("POST", p.listen+path, strings.NewReader(body))
	if err != nil {
		return reply{err: err}
	}
	req.Header.Set("Idempotency-Key", key)
	return send(req)
}

func (p *process) ask(method, path, body string) reply {
	req, err := http.NewRequest(method, p.admin+path, strings.NewReader(body))
	if err != nil {
		return reply{err: err}
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return send(req)
}

func send(req *http.Request) reply {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(b), err}
}

// service counts what reaches it, and holds back what goes to /slow until it
// is let go.
type service struct {
	*httptest.Server
	runs    atomic.Int64
	entered chan struct{}
	leave   chan struct{}
	once    sync.Once
}

func newService(t *testing.T) *service {
	s := &service{entered: make(chan struct{}, 100), leave: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := s.runs.Add(1)
		if r.URL.Path == "/slow" {
			_, _ = io.Copy(io.Discard, r.Body)
			s.entered <- struct{}{}
			select {
			case <-s.leave:
			case <-r.Context().Done():
				return
			}
		}
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprintf(w, "run %d of %s", n, r.URL.Path)
	}))
	t.Cleanup(func() { s.letGo(); s.Close() })
	return s
}

func (s *service) letGo() { s.once.Do(func() { close(s.leave) }) }

func wait[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %v in vain", patience)
		panic("unreachable")
	}
}

func TestProxyServes(t *testing.T) {
	up := newService(t)
	p := serve(t, up.URL, "--store=memory:", "--log-level=debug")
	const key, body = "a-secret-key-4711", "a-secret-body-4711"
	first := p.post("/users", key, body)
	again := p.post("/users", key, body)
	if first.status != 201 || again.status != 201 || first.body != again.body || again.header.Get("Idempotent-Replayed") != "true" || up.runs.Load() != 1 {
		t.Fatalf("first %+v, again %+v, %d runs", first, again, up.runs.Load())
	}

	var page struct {
		Records []struct{ Key, State, Path string }
	}
	if err := json.Unmarshal([]byte(p.ask("GET", "/v1/records?state=completed", "").body), &page); err != nil || len(page.Records) != 1 || page.Records[0].Key != key {
		t.Errorf("records: %v %+v", err, page)
	}
	one := p.ask("GET", page.Records[0].Path, "")
	if one.status != 200 || !strings.Contains(one.body, base64.StdEncoding.EncodeToString([]byte(first.body))) {
		t.Errorf("the record: %+v", one)
	}
	m := p.ask("GET", "/metrics", "").body
	for _, line := range []string{`idem_operations_total{outcome="ran",route=""} 1`, `idem_operations_total{outcome="replayed",route=""} 1`, `idem_store_records{state="completed"} 1`} {
		if !strings.Contains(m, line+"\n") {
			t.Errorf("no %s in the metrics", line)
		}
	}

	// The listen address knows nothing of the admin address's paths: they are
	// the service's.
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/v1/records", page.Records[0].Path} {
		before := up.runs.Load()
		req, err := http.NewRequest("GET", p.listen+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r := send(req); r.status != 201 || up.runs.Load() != before+1 {
			t.Errorf("%s is answered on the listen address: %+v", path, r)
		}
	}

	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Errorf("exit %d", code)
	}
	if log := p.logged(); strings.Contains(log, "4711") || !strings.Contains(log, "idem: operation") {
		t.Errorf("a key or a body is in the log, or no operation: %s", log)
	}
}

func TestDrain(t *testing.T) {
	up := newService(t)
	p := serve(t, up.URL, "--store=file:"+t.TempDir(), "--drain=1m")
	got := make(chan reply, 1)
	go func() { got <- p.post("/slow", "k", "x") }()
	wait(t, up.entered)
	p.signal(syscall.SIGTERM)
	p.until("it is not ready", func() bool { return p.ready() == http.StatusServiceUnavailable })
	p.until("it does not listen", func() bool { return p.post("/users", "k2", "x").err != nil })
	up.letGo()
	if r := wait(t, got); r.err != nil || r.status != 201 {
		t.Errorf("the request that ran: %+v", r)
	}
	if code := p.exit(); code != 0 {
		t.Errorf("exit %d\n%s", code, p.logged())
	}
}

func TestDrainRunsOut(t *testing.T) {
	up := newService(t)
	dir := t.TempDir()
	p := serve(t, up.URL, "--store=file:"+dir, "--drain=100ms")
	got := make(chan reply, 1)
	go func() { got <- p.post("/slow", "k", "x") }()
	wait(t, up.entered)
	p.signal(os.Interrupt)
	if code := p.exit(); code != 1 {
		t.Errorf("exit %d", code)
	}
	if log := p.logged(); !strings.Contains(log, "idem: server: 1 request was cut off when the 100ms to drain were over") {
		t.Errorf("nothing is said of the request that was cut off: %s", log)
	}
	if r := wait(t, got); r.err == nil {
		t.Errorf("a request that was cut off got an answer: %+v", r)
	}
	p = serve(t, up.URL, "--store=file:"+dir)
	if r := p.post("/slow", "k", "x"); r.status != 409 || !strings.Contains(r.body, "outcome-unknown") {
		t.Errorf("after it was cut off: %+v", r)
	}
}

func TestSecondSignal(t *testing.T) {
	up := newService(t)
	p := serve(t, up.URL, "--store=memory:", "--drain=1h")
	got := make(chan reply, 1)
	go func() { got <- p.post("/slow", "k", "x") }()
	wait(t, up.entered)
	p.signal(syscall.SIGTERM)
	since := time.Now()
	p.until("another signal is a second one", func() bool {
		return time.Since(since) > server.SameSignal && p.ready() == http.StatusServiceUnavailable
	})
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 1 {
		t.Errorf("exit %d", code)
	}
	if log := p.logged(); !strings.Contains(log, "second signal") {
		t.Errorf("nothing is said: %s", log)
	}
	wait(t, got)
}

// A proxy that is killed while the service works leaves an outcome that is
// unknown, until an operator says what it was.
func TestKilledWhileTheServiceWorks(t *testing.T) {
	up := newService(t)
	store := "--store=file:" + t.TempDir()
	p := serve(t, up.URL, store)
	first := p.post("/users", "done", "x")
	go p.post("/slow", "k-1", "x")
	wait(t, up.entered)
	p.kill()
	runs := up.runs.Load()

	p = serve(t, up.URL, store)
	if r := p.post("/users", "done", "x"); r.status != 201 || r.body != first.body || r.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("what was answered before the kill: %+v, want %+v", r, first)
	}
	if r := p.post("/slow", "k-1", "x"); r.status != 409 || !strings.Contains(r.body, "outcome-unknown") {
		t.Errorf("after the kill: %+v", r)
	}
	var page struct {
		Records []struct{ Key, State, Path string }
	}
	if err := json.Unmarshal([]byte(p.ask("GET", "/v1/records?state=unknown", "").body), &page); err != nil || len(page.Records) != 1 || page.Records[0].Key != "k-1" {
		t.Fatalf("records: %v %+v", err, page)
	}
	if r := p.ask("POST", page.Records[0].Path+"/complete", `{"status": 201, "headers": {"Location": ["/users/7"]}, "body": "`+base64.StdEncoding.EncodeToString([]byte("user 7"))+`"}`); r.status != 200 {
		t.Fatalf("complete: %+v", r)
	}
	if r := p.post("/slow", "k-1", "x"); r.status != 201 || r.body != "user 7" || r.header.Get("Location") != "/users/7" || r.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the retry: %+v", r)
	}
	if up.runs.Load() != runs {
		t.Errorf("the service ran %d times more", up.runs.Load()-runs)
	}
}

// Two processes cannot have one store: the second says who has it.
func TestTrap64StoreOfAnotherProcess(t *testing.T) {
	up := newService(t)
	store := "--store=file:" + t.TempDir()
	p := serve(t, up.URL, store)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Getenv(binaryVariable), "proxy", "--upstream", up.URL, "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", store)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("%v\n%s", err, &stderr)
	}
	if text := stderr.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, fmt.Sprint(p.cmd.Process.Pid)) {
		t.Errorf("no sentence that names process %d: %s", p.cmd.Process.Pid, text)
	}
	if p.ready() != http.StatusOK {
		t.Error("the first was disturbed")
	}
}

func TestFlagsReachTheProxy(t *testing.T) {
	up := newService(t)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := serve(t, up.URL, "--store=memory:", "--require-key", "--scope=header:X-Tenant", "--wait=0s", "--max-request-body=10B", "--max-stored-response=4KiB",
		"--admin-host=idem.internal", "--admin-token-file="+token)
	as := func(tenant, path, key, body string) reply {
		req, err := http.NewRequest("POST", p.listen+path, strings.NewReader(body))
		if err != nil {
			return reply{err: err}
		}
		if key != "" {
			req.Header.Set("Idempotency-Key", key)
		}
		if tenant != "" {
			req.Header.Set("X-Tenant", tenant)
		}
		return send(req)
	}
	if r := as("t1", "/users", "", "x"); r.status != 400 || !strings.Contains(r.body, "key-missing") {
		t.Errorf("without a key: %+v", r)
	}
	if r := as("", "/users", "k", "x"); r.status != 400 || !strings.Contains(r.body, "principal-missing") {
		t.Errorf("without a tenant: %+v", r)
	}
	if r := as("t1", "/users", "k", "01234567890"); r.status != 413 {
		t.Errorf("a long body: %+v", r)
	}
	go as("t1", "/slow", "s", "x")
	wait(t, up.entered)
	began := time.Now()
	if r := as("t1", "/slow", "s", "x"); r.status != 409 || !strings.Contains(r.body, "in-flight") {
		t.Errorf("at the same time: %+v", r)
	}
	if waited := time.Since(began); waited >= idem.DefaultWait {
		t.Errorf("--wait=0s waited %v", waited)
	}
	a, b := as("t1", "/users", "k", "x"), as("t2", "/users", "k", "x")
	if a.status != 201 || b.status != 201 || a.body == b.body {
		t.Errorf("two tenants: %+v %+v", a, b)
	}
	for host, want := range map[string]int{"idem.internal": 200, "evil.example": 403} {
		req, err := http.NewRequest("GET", p.admin+"/readyz", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		if r := send(req); r.status != want {
			t.Errorf("asked as %s: %+v", host, r)
		}
	}
	if r := p.ask("GET", "/v1/records", ""); r.status != 401 {
		t.Errorf("without a token: %+v", r)
	}
	up.letGo()
}
