package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/e2e/internal/rig"
)

// The versions of the two servers that nobody here wrote.
const (
	pocketBase = "github.com/pocketbase/pocketbase/examples/base@v0.30.4"
	jsonServer = "json-server@0.17.4"
)

// A PocketBase (a Go module, rows in SQLite) behind the proxy.
func TestThirdPartyPocketBase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	install := exec.Command("go", "install", pocketBase)
	install.Dir = dir
	install.Env = append(os.Environ(), "GOBIN="+dir, "GOWORK=off", "GOFLAGS=-mod=mod")
	began := time.Now()
	run(t, install)
	t.Logf("%s was built in %v", pocketBase, time.Since(began).Round(time.Second))
	binary, data := filepath.Join(dir, "base"), "--dir="+filepath.Join(dir, "data")
	run(t, exec.Command(binary, "superuser", "upsert", "test@example.com", "a-long-password", data))
	service := startService(t, "/api/health", func(addr string) *exec.Cmd {
		return exec.Command(binary, "serve", "--http="+addr, data)
	})

	var auth struct{ Token string }
	call(t, "POST", service+"/api/collections/_superusers/auth-with-password", "", `{"identity":"test@example.com","password":"a-long-password"}`, &auth)
	call(t, "POST", service+"/api/collections", auth.Token,
		`{"name":"orders","type":"base","listRule":"","createRule":"","fields":[{"name":"item","type":"text"}]}`, nil)

	rows := func() int {
		var page struct{ TotalItems int }
		call(t, "GET", service+"/api/collections/orders/records?perPage=200", "", "", &page)
		return page.TotalItems
	}
	tenPosts(t, service, "/api/collections/orders/records", `{"item":"book"}`, rows)
}

// A json-server (an npm package, rows in a file) behind the proxy.
func TestThirdPartyJSONServer(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("npm"); err != nil {
		t.Fatalf("this test needs node and npm: %v", err)
	}
	dir := t.TempDir()
	began := time.Now()
	run(t, exec.Command("npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix", dir, jsonServer))
	t.Logf("%s was installed in %v", jsonServer, time.Since(began).Round(time.Second))
	rowsFile := filepath.Join(dir, "rows.json")
	if err := os.WriteFile(rowsFile, []byte(`{"orders":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	service := startService(t, "/orders", func(addr string) *exec.Cmd {
		host, port, _ := strings.Cut(addr, ":")
		return exec.Command("node", filepath.Join(dir, "node_modules", "json-server", "lib", "cli", "bin.js"), "--host", host, "--port", port, rowsFile)
	})
	rows := func() int {
		var all []any
		call(t, "GET", service+"/orders", "", "", &all)
		return len(all)
	}
	tenPosts(t, service, "/orders", `{"item":"book"}`, rows)
}

// tenPosts sends ten POSTs with one key, half of them at once and some after a
// kill, and counts the rows; then ten without a key.
func tenPosts(t *testing.T, service, path, body string, rows func() int) {
	t.Helper()
	p := rig.Start(t, service)
	r := rig.Request{Key: "order-17", Path: path, Body: body, Host: "127.0.0.1", Header: []string{"Content-Type: application/json"}}
	var racing []<-chan rig.Reply
	for range 5 {
		racing = append(racing, async(t, p, r))
	}
	var all []rig.Reply
	for _, c := range racing {
		all = append(all, rig.Receive(t, "one of five", c))
	}
	for i := range 5 {
		if i == 2 {
			p.Kill()
			p.Restart()
		}
		all = append(all, p.Send(r))
	}
	replays := 0
	for _, one := range all {
		if one.Err != nil || one.Status/100 != 2 || string(one.Body) != string(all[0].Body) {
			t.Errorf("with a key: %v, and %v", all[0], one)
		}
		if one.Replayed() {
			replays++
		}
	}
	if n := rows(); n != 1 || replays != 9 {
		t.Errorf("ten POSTs with one key made %d rows and %d replays", n, replays)
	}
	r.Key = ""
	for range 10 {
		if one := p.Send(r); one.Err != nil || one.Status/100 != 2 {
			t.Errorf("without a key: %v", one)
		}
	}
	if n := rows(); n != 11 {
		t.Errorf("ten POSTs without a key made %d rows more", n-1)
	}
}

func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

// startService starts a server on a free port and waits until it answers.
func startService(t *testing.T, path string, command func(addr string) *exec.Cmd) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close() // it is closed to be taken by the server
	var out bytes.Buffer
	cmd := command(addr)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed in the end
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-exited
	})
	rig.Eventually(t, "the server answers", func() bool {
		select {
		case <-exited:
			t.Fatalf("the server ended: %s", out.String())
		default:
		}
		return rig.Send(t, addr, rig.Request{Method: "GET", Path: path, Host: addr, NoLength: true}).Status == http.StatusOK
	})
	return "http://" + addr
}

// call asks a server itself, not through the proxy.
func call(t *testing.T, method, url, token, body string, into any) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	client := http.Client{Timeout: rig.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil {
		t.Fatal(err)
	}
	if res.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %d %s", method, url, res.StatusCode, &b)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal(b.Bytes(), into); err != nil {
		t.Fatal(fmt.Errorf("%s %s: %w", method, url, err))
	}
}
