package cli_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/idem-go/idem/testserver"
	testnats "github.com/idem-go/idem/testserver/nats"
)

// password is that of the servers that have one of the tests' own, and a wrong one
// for those that have not. Nothing that is printed holds it.
const password = "hunter2"

// patienceToClose is how long the proxy waits for a store's connections to close.
const patienceToClose = 3 * time.Second

// faulty is a server that a test can do harm to.
type faulty interface {
	Kill() error
	Start() error
	Pause() error
	Resume() error
}

// bed is a store that two proxies share.
type bed struct {
	name, dsn string
	// server is nil where there is none, or where it is not the test's own.
	server faulty
	// fresh says that nothing has been made in it yet.
	fresh bool
	// secure is the DSN with TLS, trusting a file's authority; wrong is one with a
	// wrong password. Nil, or empty, where there is none.
	secure func(ca string) string
	ca     string
	wrong  string
	// warned says that the server is known to be checked with a warning.
	warned bool
}

// own is the bed of a server that was started for the test, or, where its program
// is missing, of the one that a variable names.
func own(s *testserver.Server, err error, name, variable string) (*bed, error) {
	if err == nil {
		return &bed{name: name, dsn: s.DSN(), server: s, fresh: true}, nil
	}
	if e := testserver.External(name, variable); e != nil && errors.Is(err, testserver.ErrMissing) {
		return &bed{name: name, dsn: e.DSN()}, nil
	}
	return nil, err
}

func sqliteBed(t *testing.T) (*bed, error) {
	return &bed{name: "sqlite", dsn: "sqlite:" + filepath.Join(t.TempDir(), "records.db"), fresh: true}, nil
}

func postgresBed(t *testing.T) (*bed, error) {
	c := serverCertificates(t)
	s, err := testserver.Postgres(&testserver.Options{Settings: map[string]string{"ssl": "on", "ssl_cert_file": c.cert, "ssl_key_file": c.key}})
	b, err := own(s, err, "postgres", "IDEM_TEST_POSTGRES_DSN")
	if err == nil && b.fresh {
		asRoot(t, "pgx", s.DSN(), "CREATE ROLE ann LOGIN PASSWORD '"+password+"'", "ALTER DATABASE idem OWNER TO ann")
		b.dsn = "postgres://ann:" + password + "@" + s.Addr() + "/idem"
		b.ca, b.wrong = c.ca, "postgres://ann:x"+password+"@"+s.Addr()+"/idem"
		b.secure = func(ca string) string { return b.dsn + "?sslmode=verify-full&sslrootcert=" + ca }
	}
	return b, err
}

func mariadbBed(t *testing.T) (*bed, error) {
	c := serverCertificates(t)
	s, err := testserver.MariaDB(&testserver.Options{Settings: map[string]string{"ssl-ca": c.ca, "ssl-cert": c.cert, "ssl-key": c.key}})
	b, err := own(s, err, "mariadb", "IDEM_TEST_MARIADB_DSN")
	if err == nil && b.fresh {
		asRoot(t, "mysql", "idem:idem@tcp("+s.Addr()+")/idem", "CREATE USER ann IDENTIFIED BY '"+password+"'", "GRANT ALL ON idem.* TO ann")
		b.dsn = "mysql://ann:" + password + "@" + s.Addr() + "/idem"
		b.ca, b.wrong = c.ca, "mysql://ann:x"+password+"@"+s.Addr()+"/idem"
		b.secure = func(ca string) string { return b.dsn + "?tls-ca=" + ca }
	}
	return b, err
}

func mysqlBed(*testing.T) (*bed, error) {
	s, err := testserver.MySQL(nil)
	if err != nil {
		return nil, err
	}
	return &bed{name: "mysql8", dsn: s.DSN()}, nil
}

func redisBed(t *testing.T) (*bed, error) {
	c := serverCertificates(t)
	port, err := testserver.FreePort()
	if err != nil {
		return nil, err
	}
	s, err := testserver.Redis(&testserver.Options{Settings: map[string]string{
		"requirepass": password, "tls-port": strconv.Itoa(port), "tls-auth-clients": "no",
		"tls-cert-file": c.cert, "tls-key-file": c.key, "tls-ca-cert-file": c.ca,
	}})
	b, err := own(s, err, "redis", "IDEM_TEST_REDIS_DSN")
	if err == nil && b.fresh {
		b.dsn = "redis://:" + password + "@" + s.Addr() + "/0"
		b.ca, b.wrong = c.ca, "redis://:x"+password+"@"+s.Addr()+"/0"
		b.secure = func(ca string) string { return fmt.Sprintf("rediss://:%s@127.0.0.1:%d/0?ca=%s", password, port, ca) }
	}
	return b, err
}

func natsBed(t *testing.T) (*bed, error) {
	c := serverCertificates(t)
	s, err := testnats.StartProcess(&testnats.Options{Settings: map[string]string{
		"authorization": fmt.Sprintf("{user: idem, password: %s}", password),
		"tls":           fmt.Sprintf("{cert_file: %q, key_file: %q}", c.cert, c.key),
		"allow_non_tls": "true",
	}})
	if err != nil {
		return nil, err
	}
	return &bed{
		name: "nats", server: s, fresh: true, warned: true, // it is one server alone
		dsn:    "nats://idem:" + password + "@" + s.Addr() + "/records",
		ca:     c.ca,
		wrong:  "nats://idem:x" + password + "@" + s.Addr() + "/records",
		secure: func(ca string) string { return "tls://idem:" + password + "@" + s.Addr() + "/records?ca=" + ca },
	}, nil
}

// asRoot makes a user whose rights end at its own database. The drivers are those
// that the stores have registered.
func asRoot(t *testing.T, driver, dsn string, statements ...string) {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
}

// serverCertificates makes certificates that a server can read.
func serverCertificates(t *testing.T) certificates {
	t.Helper()
	dir, err := testserver.TempDir("certificates")
	if err != nil {
		t.Fatal(err)
	}
	return newCertificates(t, dir)
}

// Each store as an operator gets it: made, checked, shared by two proxies that
// are killed, with a server that dies, hangs and comes back.
func TestSharedStores(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, start := range map[string]func(*testing.T) (*bed, error){
		"sqlite": sqliteBed, "postgres": postgresBed, "mariadb": mariadbBed, "mysql8": mysqlBed, "redis": redisBed, "nats": natsBed,
	} {
		// They wait most of the time, so that all may run at once, however few the
		// processors are.
		wg.Go(func() { t.Run(name, func(t *testing.T) { exercise(t, name, start) }) })
	}
}

func exercise(t *testing.T, name string, start func(*testing.T) (*bed, error)) {
	b, err := start(t)
	if !testserver.Need(t, name, err) {
		return
	}
	file := filepath.Join(t.TempDir(), "store")
	if err := os.WriteFile(file, []byte(b.dsn+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.made(t, file)
	b.checked(t)
	b.encrypted(t)

	up := newGates(t)
	flags := []string{"--store-file=" + file, "--lease=3s", "--save-wait=30s", "--drain=5s", "--log-level=debug"}
	p, q := serve(t, up.URL, flags...), serve(t, up.URL, flags...)
	raced(t, up, p, q)
	operated(t, p, q)
	ownerKilled(t, up, p, q)
	if b.server != nil {
		b.died(t, up, q, file)
		b.hung(t, q)
	} else {
		q.signal(syscall.SIGTERM)
		if code := q.exit(); code != 0 {
			t.Errorf("exit %d", code)
		}
	}
	for _, log := range []string{p.logged(), q.logged()} {
		if strings.Contains(log, password) {
			t.Errorf("the password is in the log: %s", log)
		}
		if !strings.Contains(log, `"shared":true`) || !strings.Contains(log, `"durable":`) {
			t.Errorf("it is not said what the store is: %s", log)
		}
	}
	up.once(t)
}

// command runs idem to its end, and wants nothing of the password in what it says.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, os.Getenv(binaryVariable), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Errorf("%q does not end: %s", args, &errs)
	}
	if strings.Contains(out.String()+errs.String(), password) {
		t.Errorf("%q: the password is in: %s%s", args[:2], &out, &errs)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// refused wants a command to end with 2 and one sentence.
func refused(t *testing.T, stderr string, code int, says ...string) {
	t.Helper()
	if code != 2 || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "idem: ") {
		t.Errorf("exit %d, want 2 and one sentence: %s", code, stderr)
	}
	for _, s := range says {
		if !strings.Contains(stderr, s) {
			t.Errorf("nothing of %q in: %s", s, stderr)
		}
	}
}

func proxyArgs(store string) []string {
	return []string{"proxy", "--upstream=http://127.0.0.1:1", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", store}
}

// made runs migrate, twice at once and once more.
func (b *bed) made(t *testing.T, file string) {
	t.Helper()
	store := "--store-file=" + file
	if b.fresh {
		code, _, stderr := command(t, proxyArgs(store)...)
		refused(t, stderr, code, "run idem store migrate")
		code, stdout, stderr := command(t, "store", "check", store)
		if code != 1 || !regexp.MustCompile(`(?m)^error .*\n +means: +\S.*\n +remedy: +\S.*idem store migrate`).MatchString(stdout) {
			t.Errorf("check of a store that was not made: exit %d\n%s%s", code, stdout, stderr)
		}
	}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if code, stdout, stderr := command(t, "store", "migrate", store); code != 0 || b.fresh && !strings.Contains(stdout, " ready ") {
				t.Errorf("migrate: exit %d: %s%s", code, stdout, stderr)
			}
		})
	}
	wg.Wait()
	if code, stdout, stderr := command(t, "store", "migrate", store); code != 0 || !strings.Contains(stdout, "ready already") || stderr != "" {
		t.Errorf("migrate again: exit %d: %s%s", code, stdout, stderr)
	}
}

// checked runs check, as a table and as JSON.
func (b *bed) checked(t *testing.T) {
	t.Helper()
	code, table, stderr := command(t, "store", "check", "--store", b.dsn)
	t.Logf("exit %d: %s\n%s", code, stderr, table)
	want := 0
	if b.warned {
		want = 1
	}
	if b.fresh && code != want {
		t.Errorf("check: exit %d, want %d", code, want)
	}
	lines := strings.Split(strings.TrimSuffix(table, "\n"), "\n")
	subject, found := strings.Index(lines[0], "SUBJECT"), strings.Index(lines[0], "FOUND")
	for _, l := range lines {
		if len(l) < found || l[subject-1] != ' ' || l[found-1] != ' ' || strings.TrimRight(l, " ") != l {
			t.Errorf("not aligned: %q", l)
		}
	}
	if failing, _, _ := command(t, "store", "check", "--store", b.dsn, "--fail-on=error"); failing != 0 {
		t.Errorf("check --fail-on=error: exit %d", failing)
	}
	again, text, _ := command(t, "store", "check", "--store", b.dsn, "--json")
	var got struct {
		Store    string
		Findings []struct{ Severity, Subject, Found, Means, Remedy string }
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil || again != code || len(got.Findings) < 3 || got.Store == "" {
		t.Fatalf("check --json: exit %d %v: %s", again, err, text)
	}
	for _, f := range got.Findings {
		if bad := f.Severity != "ok"; f.Subject == "" || bad && (f.Means == "" || f.Remedy == "") {
			t.Errorf("not explained: %+v", f)
		}
	}
}

// encrypted uses TLS with the right authority, and with another.
func (b *bed) encrypted(t *testing.T) {
	t.Helper()
	if b.wrong != "" {
		code, _, stderr := command(t, "store", "check", "--store", b.wrong)
		refused(t, stderr, code, "cannot be checked")
		t.Logf("a wrong password: %s", stderr)
	}
	if b.secure == nil {
		return
	}
	c := serverCertificates(t)
	if code, _, stderr := command(t, "store", "check", "--store", b.secure(b.ca), "--fail-on=error"); code != 0 {
		t.Errorf("with TLS: exit %d: %s", code, stderr)
	}
	code, _, stderr := command(t, "store", "check", "--store", b.secure(c.stranger))
	refused(t, stderr, code, "verify", "authority")
	t.Logf("another's certificate: %s", stderr)
	code, _, stderr = command(t, proxyArgs("--store="+strings.Replace(b.secure(c.stranger), "127.0.0.1", "localhost", 1))...)
	refused(t, stderr, code)
}

// raced sends one key through both proxies, 100 times at once.
func raced(t *testing.T, up *gates, p, q *process) {
	t.Helper()
	const callers = 100
	answers := make(chan reply, callers)
	for i := range callers {
		go func() { answers <- []*process{p, q}[i%2].post("/held/raced", "raced", "x") }()
	}
	p.until("all requests are there", func() bool { return p.running()+q.running() == callers })
	up.open("/held/raced")
	ran := 0
	for range callers {
		r := wait(t, answers)
		if r.err != nil || r.status != 201 || r.body != "run 1 of /held/raced" {
			t.Fatalf("%+v", r)
		}
		if r.header.Get("Idempotent-Replayed") != "true" {
			ran++
		}
	}
	if n := up.count("/held/raced"); n != 1 || ran != 1 {
		t.Errorf("it ran %d times, and %d answers are not marked as replays", n, ran)
	}
}

// running is how many requests the proxy serves now.
func (p *process) running() int {
	m := regexp.MustCompile(`(?m)^idem_requests_in_flight (\d+)$`).FindStringSubmatch(p.ask("GET", "/metrics", "").body)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// operated does on one proxy's admin address what concerns the other's requests.
func operated(t *testing.T, p, q *process) {
	t.Helper()
	if r := p.post("/free/listed", "listed", "x"); r.status != 201 {
		t.Fatalf("%+v", r)
	}
	if rec := q.record("completed", "listed"); rec == "" {
		t.Error("the other's record is not listed")
	} else if r := q.ask("GET", rec, ""); r.status != 200 || !strings.Contains(r.body, base64.StdEncoding.EncodeToString([]byte("run 1 of /free/listed"))) {
		t.Errorf("the other's record: %+v", r)
	}
	if m := q.ask("GET", "/metrics", "").body; !strings.Contains(m, "\nidem_store_up 1\n") {
		t.Error("the store is not up")
	}
	if r := q.post("/free/other", "listed", "x"); r.status != 422 {
		t.Errorf("another request with its key: %+v", r)
	}
}

// record is the path of the record with a key, in a state; empty for none.
func (p *process) record(state, key string) string {
	for after := ""; ; {
		var page struct {
			Records []struct{ Key, Path string }
			Next    string
		}
		r := p.ask("GET", "/v1/records?state="+state+"&after="+after, "")
		if err := json.Unmarshal([]byte(r.body), &page); err != nil {
			p.t.Fatalf("%v: %+v", err, r)
		}
		for _, rec := range page.Records {
			if rec.Key == key {
				return rec.Path
			}
		}
		if after = page.Next; after == "" {
			return ""
		}
	}
}

// ownerKilled kills a proxy while it works. The other says that nobody knows
// what became of it once the lease is over, and not before.
func ownerKilled(t *testing.T, up *gates, p, q *process) {
	t.Helper()
	gone := make(chan reply, 1)
	go func() { gone <- p.post("/held/killed", "killed", "x") }()
	up.reached(t, "/held/killed")
	began := time.Now()
	p.kill()
	if r := wait(t, gone); r.err == nil {
		t.Errorf("a killed proxy answered: %+v", r)
	}
	r := q.post("/held/killed", "killed", "x")
	if took := time.Since(began); r.status != 409 || !strings.Contains(r.body, "outcome-unknown") || took < time.Second {
		t.Errorf("after %v: %+v", took, r)
	}
	rec := q.record("unknown", "killed")
	if rec == "" {
		t.Fatal("the record is not listed as unknown")
	}
	if r := q.ask("POST", rec+"/complete", `{"status": 201, "body": "`+base64.StdEncoding.EncodeToString([]byte("it was done"))+`"}`); r.status != 200 {
		t.Fatalf("complete: %+v", r)
	}
	if r := q.post("/held/killed", "killed", "x"); r.status != 201 || r.body != "it was done" {
		t.Errorf("the retry: %+v", r)
	}
}

// died kills the server while the proxy works, and starts it again.
func (b *bed) died(t *testing.T, up *gates, q *process, file string) {
	t.Helper()
	held := make(chan reply, 1)
	go func() { held <- q.post("/held/died", "died", "x") }()
	up.reached(t, "/held/died")
	if err := b.server.Kill(); err != nil {
		t.Fatal(err)
	}
	up.open("/held/died")
	q.until("it is not ready", func() bool { return q.ready() == http.StatusServiceUnavailable })
	if r := q.post("/free/down", "down", "x"); r.status != 503 || !strings.Contains(r.body, "store-unavailable") {
		t.Errorf("without a store: %+v", r)
	}
	began := time.Now()
	code, _, stderr := command(t, proxyArgs("--store-file="+file)...)
	refused(t, stderr, code, "cannot be used")
	t.Logf("without a server, after %v: %s", time.Since(began).Round(time.Millisecond), stderr)
	code, _, stderr = command(t, "store", "check", "--store-file="+file)
	refused(t, stderr, code, "cannot be checked")

	if err := b.server.Start(); err != nil {
		t.Fatal(err)
	}
	if r := wait(t, held); r.status != 201 {
		t.Errorf("what ran while the store was away: %+v", r)
	}
	q.until("it is ready", func() bool { return q.ready() == http.StatusOK })
	if r := q.post("/held/died", "died", "x"); r.status != 201 || r.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("its retry: %+v", r)
	}
	if r := q.post("/held/raced", "raced", "x"); r.status != 201 || r.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("a retry of what was answered before: %+v", r)
	}
	if r := q.post("/free/down", "down", "x"); r.status != 201 {
		t.Errorf("what was refused: %+v", r)
	}
}

// hung stops the server where it is, and ends the proxy meanwhile.
func (b *bed) hung(t *testing.T, q *process) {
	t.Helper()
	if err := b.server.Pause(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.server.Resume(); err != nil {
			t.Error(err)
		}
	}()
	began := time.Now()
	if r := q.post("/free/hung", "hung", "x"); r.status != 503 || !strings.Contains(r.body, "store-unavailable") || time.Since(began) > 20*time.Second {
		t.Errorf("with a store that hangs, after %v: %+v", time.Since(began), r)
	}
	if q.ready() != http.StatusServiceUnavailable {
		t.Error("it is ready")
	}
	began = time.Now()
	q.signal(syscall.SIGTERM)
	// 1 where it has not given up yet to give back what the refused request may have
	// claimed.
	if code, took := q.exit(), time.Since(began); code != 0 && code != 1 || took > 5*time.Second+patienceToClose+7*time.Second {
		t.Errorf("exit %d after %v", code, took)
	} else {
		log := strings.Split(strings.TrimSpace(q.logged()), "\n")
		t.Logf("ended %v after the signal: %s", took.Round(time.Millisecond), log[len(log)-1])
	}
}

// gates is a service that counts what reaches it by path, and holds what goes to
// /held/… until the path is opened.
type gates struct {
	*httptest.Server
	mu   sync.Mutex
	runs map[string]int
	// entered is closed when a path is reached, opened when it is let go.
	entered, opened map[string]chan struct{}
}

func newGates(t *testing.T) *gates {
	g := &gates{runs: map[string]int{}, entered: map[string]chan struct{}{}, opened: map[string]chan struct{}{}}
	end := make(chan struct{})
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.runs[r.URL.Path]++
		n := g.runs[r.URL.Path]
		if n == 1 {
			close(g.gate(g.entered, r.URL.Path))
		}
		opened := g.gate(g.opened, r.URL.Path)
		g.mu.Unlock()
		if strings.HasPrefix(r.URL.Path, "/held/") {
			select {
			case <-opened:
			case <-r.Context().Done():
				return
			case <-end:
				return
			}
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprintf(w, "run %d of %s", n, r.URL.Path)
	}))
	t.Cleanup(func() { close(end); g.Close() })
	return g
}

// gate is called under the mutex.
func (g *gates) gate(of map[string]chan struct{}, path string) chan struct{} {
	if of[path] == nil {
		of[path] = make(chan struct{})
	}
	return of[path]
}

func (g *gates) open(path string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.gate(g.opened, path))
}

func (g *gates) reached(t *testing.T, path string) {
	t.Helper()
	g.mu.Lock()
	entered := g.gate(g.entered, path)
	g.mu.Unlock()
	wait(t, entered)
}

func (g *gates) count(path string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.runs[path]
}

// once wants each path to have been reached at most once.
func (g *gates) once(t *testing.T) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for path, n := range g.runs {
		if n > 1 {
			t.Errorf("%s was reached %d times", path, n)
		}
	}
}
