package cli_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/cmd/idem/internal/cli"
)

// run calls Main in this process. What serves although it should not have
// started ends after a while, with an exit code that no mistake has.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	code = cli.Main(ctx, args, &out, &errs)
	return code, out.String(), errs.String()
}

// mistake checks that Main refused to start as an operator wants it: exit 2,
// one sentence that names what is wrong and what to do, and nothing left
// behind.
func mistake(t *testing.T, args []string, says ...string) {
	t.Helper()
	before := entries(t)
	code, stdout, stderr := run(t, args...)
	if code != 2 {
		t.Errorf("%q: exit %d, want 2: %s", args, code, stderr)
	}
	if stdout != "" {
		t.Errorf("%q: stdout: %s", args, stdout)
	}
	if !strings.HasPrefix(stderr, "idem: ") || strings.Count(stderr, "\n") != 1 || !strings.HasSuffix(stderr, "\n") || !strings.Contains(stderr, "; ") {
		t.Errorf("%q: no sentence with a hint: %q", args, stderr)
	}
	for _, s := range says {
		if !strings.Contains(stderr, s) {
			t.Errorf("%q: nothing of %q in %q", args, s, stderr)
		}
	}
	if strings.Contains(stderr, "invalid argument") {
		t.Errorf("%q: the parser's own words: %q", args, stderr)
	}
	if strings.Contains(stderr, "hunter2") {
		t.Errorf("%q: a password in %q", args, stderr)
	}
	if after := entries(t); after != before {
		t.Errorf("%q: left behind: %s", args, after)
	}
}

func entries(t *testing.T) string {
	t.Helper()
	names, err := filepath.Glob("*")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

func TestMistakesInFlags(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("empty", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("words", []byte("two words\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("lines", []byte("memory:\nmemory:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("dsn", []byte("redis://:hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const up = "--upstream=http://127.0.0.1:1"
	for _, c := range []struct {
		args []string
		says []string
	}{
		{[]string{}, []string{"no command", "--help"}},
		{[]string{"prox"}, []string{`"prox"`, "--help"}},
		{[]string{"--nothing"}, []string{"--nothing", "--help"}},
		{[]string{"version", "now"}, []string{`"now"`}},
		{[]string{"proxy"}, []string{"--upstream is missing", "such as --upstream http"}},
		{[]string{"proxy", up, "http://127.0.0.1:2"}, []string{"flags only"}},
		{[]string{"proxy", up, "--listn", ":1"}, []string{"--listn", "proxy --help"}},
		{[]string{"proxy", up, "-x"}, []string{"-x"}},
		{[]string{"proxy", up, "--listen"}, []string{"--listen needs a value"}},
		{[]string{"proxy", "--upstream", "127.0.0.1:3000"}, []string{"--upstream", "http"}},
		{[]string{"proxy", "--upstream", "ftp://x"}, []string{"--upstream"}},
		{[]string{"proxy", "--upstream", "http://"}, []string{"--upstream"}},
		{[]string{"proxy", "--upstream", "http:127.0.0.1"}, []string{"--upstream"}},
		{[]string{"proxy", "--upstream", "http://idem:hunter2@x"}, []string{"--upstream", "password"}},
		{[]string{"proxy", "--upstream", "http://idem:hunter2@x:y"}, []string{"--upstream"}},
		{[]string{"proxy", "--upstream", "http://x/?a=b"}, []string{"query"}},
		{[]string{"proxy", up, "--store", "mongodb://idem:hunter2@db/idem"}, []string{"mongodb:", "file:DIR", "postgres://", "idem store --help"}},
		{[]string{"proxy", up, "--store", "postgres://idem:hunter2@d b/idem"}, []string{"HOST:PORT", "percent-encoded"}},
		{[]string{"proxy", up, "--store", "hunter2"}, []string{"--store", "file:DIR"}},
		{[]string{"proxy", up, "--store", "file:"}, []string{"no file or directory"}},
		{[]string{"proxy", up, "--store", "sqlite:missing.db"}, []string{"sqlite:missing.db", "run idem store migrate"}},
		{[]string{"proxy", up, "--store", "memory:", "--store-file", "dsn"}, []string{"--store and --store-file", "one of them"}},
		{[]string{"proxy", up, "--store-file", "missing"}, []string{"--store-file missing", "no such file", "the DSN"}},
		{[]string{"proxy", up, "--store-file", "empty"}, []string{"one line"}},
		{[]string{"proxy", up, "--store-file", "lines"}, []string{"one line"}},
		{[]string{"proxy", up, "--store-file", "dsn"}, []string{"--store-file dsn", "HOST:PORT"}},
		{[]string{"store"}, []string{"no command", "idem store --help"}},
		{[]string{"store", "migrat"}, []string{`"migrat"`, "idem store --help"}},
		{[]string{"store", "check"}, []string{"no store was named", "--store-file"}},
		{[]string{"store", "migrate", "memory:"}, []string{"flags only"}},
		{[]string{"store", "check", "--store", "sqlite:x.db?_key=hunter2"}, []string{"sqlite:FILE"}},
		{[]string{"store", "check", "--store", "memory:", "--fail-on", "ok"}, []string{"--fail-on", "unknown|warning|error"}},
		{[]string{"store", "check", "--store", "postgres://idem:hunter2@127.0.0.1:1/idem?sslmode=disable"}, []string{"postgres://127.0.0.1:1/idem?sslmode=disable cannot be checked", "refused"}},
		{[]string{"store", "migrate", "--store", "redis://:hunter2@127.0.0.1:1/0"}, []string{"redis://127.0.0.1:1/0 could not be made ready", "refused"}},
		{[]string{"proxy", up, "--wait", "10"}, []string{"--wait", `"10"`, "30s"}},
		{[]string{"proxy", up, "--wait", "-1s"}, []string{"--wait", "negative"}},
		{[]string{"proxy", up, "--lease", "0s"}, []string{"--lease", "at least 100ms"}},
		{[]string{"proxy", up, "--retention", "0s"}, []string{"--retention", "more than zero"}},
		{[]string{"proxy", up, "--max-request-body", "10 apples"}, []string{"--max-request-body", "10MiB"}},
		{[]string{"proxy", up, "--max-stored-response", "0"}, []string{"--max-stored-response", "too small"}},
		{[]string{"proxy", up, "--max-stored-response", "1025MiB"}, []string{"--max-stored-response 1025MiB", "1GiB at most"}},
		{[]string{"proxy", up, "--max-unknown", "none"}, []string{"--max-unknown"}},
		{[]string{"proxy", up, "--on-unknown", "guess"}, []string{"--on-unknown", "refuse|retry"}},
		{[]string{"proxy", up, "--scope", "tenant"}, []string{"--scope", "header:NAME"}},
		{[]string{"proxy", up, "--require-key=maybe"}, []string{"--require-key"}},
		{[]string{"proxy", up, "--log", "xml"}, []string{"--log", "text|json"}},
		{[]string{"proxy", up, "--log-level", "loud"}, []string{"--log-level", "debug|info|warn|error"}},
		{[]string{"proxy", up, "--listen", "8080"}, []string{"--listen", "HOST:PORT"}},
		{[]string{"proxy", up, "--listen", ":http-alt"}, []string{"--listen", "port"}},
		{[]string{"proxy", up, "--listen", ":99999"}, []string{"--listen", "port"}},
		{[]string{"proxy", up, "--admin", ""}, []string{"--admin", "HOST:PORT"}},
		{[]string{"proxy", up, "--listen", "127.0.0.1:9090"}, []string{"one address", "two ports"}},
		{[]string{"proxy", up, "--listen", ":7777", "--admin", "localhost:7777"}, []string{"one address"}},
		{[]string{"proxy", up, "--admin-token-file", "missing"}, []string{"missing", "no such file"}},
		{[]string{"proxy", up, "--admin-token-file", "empty"}, []string{"is empty", "random"}},
		{[]string{"proxy", up, "--admin-token-file", "words"}, []string{"one word"}},
		{[]string{"proxy", up, "--admin-token-file", "."}, []string{"cannot be read"}},
	} {
		mistake(t, c.args, c.says...)
	}
}

// An admin address that other machines reach demands a token.
func TestTrap55AdminElsewhereNeedsAToken(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, admin := range []string{":0", "0.0.0.0:0", "[::]:0", "10.1.2.3:9090", "idem.example:9090"} {
		mistake(t, []string{"proxy", "--upstream=http://127.0.0.1:1", "--listen=127.0.0.1:0", "--admin", admin}, "--admin "+admin, "--admin-token-file", "127.0.0.1")
	}
}

func TestPortsInUse(t *testing.T) {
	t.Chdir(t.TempDir())
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = free.Close()
	used, other := taken.Addr().String(), free.Addr().String()
	mistake(t, []string{"proxy", "--upstream=http://127.0.0.1:1", "--listen", used, "--admin", other}, "--listen", "another program listens on "+used)
	mistake(t, []string{"proxy", "--upstream=http://127.0.0.1:1", "--listen", other, "--admin", used}, "--admin", "another program listens on "+used)
	mistake(t, []string{"proxy", "--upstream=http://127.0.0.1:1", "--listen", "192.0.2.1:80", "--admin", other}, "--listen", "no address such as 192.0.2.1:80")
	again, err := net.Listen("tcp", other)
	if err != nil {
		t.Fatalf("an address that was opened before the mistake was seen is still open: %v", err)
	}
	_ = again.Close()
}

// A store that cannot be used is one clear sentence, and neither address is
// left open.
func TestTrap64StoresThatCannotBeUsed(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("a-file", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("someone's", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("someone's/letters", []byte("dear ann"), 0o600); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	_ = free.Close()
	for _, dir := range []string{"a-file", "a-file/below", "/proc/idem", "someone's"} {
		mistake(t, []string{"proxy", "--upstream=http://127.0.0.1:1", "--admin=127.0.0.1:0", "--listen", addr, "--store", "file:" + dir}, "the store file:"+dir+" cannot be used", "--store")
	}
	again, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("the listen address is still open: %v", err)
	}
	_ = again.Close()
	if b, err := os.ReadFile("someone's/letters"); err != nil || string(b) != "dear ann" {
		t.Errorf("another's file was touched: %q %v", b, err)
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}, {"proxy", "--help"}, {"help", "proxy"}, {"store", "--help"}, {"store", "migrate", "--help"}, {"store", "check", "--help"}, {"version", "--help"}} {
		code, stdout, stderr := run(t, args...)
		if code != 0 || stderr != "" || !strings.Contains(stdout, "Usage:") {
			t.Errorf("%q: exit %d %q %q", args, code, stdout, stderr)
		}
	}
	code, stdout, stderr := run(t, "version")
	if code != 0 || stderr != "" || !strings.HasPrefix(stdout, "idem ") || !strings.Contains(stdout, "go1.") {
		t.Errorf("version: exit %d %q %q", code, stdout, stderr)
	}
}

// The exit codes of check, by what is found and what is to fail.
func TestCheckExitCodes(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--store=memory:"}, 1, "1 warning in the store memory:"},
		{[]string{"--store=memory:", "--fail-on=unknown"}, 1, "1 warning"},
		{[]string{"--store=memory:", "--fail-on=error"}, 0, ""},
		{[]string{"--store=file:data"}, 0, ""},
		{[]string{"--store=sqlite:missing.db"}, 1, "1 error in the store sqlite:missing.db"},
		{[]string{"--store=sqlite:missing.db", "--fail-on=error", "--json"}, 1, "1 error"},
	} {
		code, stdout, stderr := run(t, append([]string{"store", "check"}, c.args...)...)
		if code != c.code || !strings.Contains(stderr, c.says) || c.says == "" && stderr != "" {
			t.Errorf("%q: exit %d, want %d: %s", c.args, code, c.code, stderr)
		}
		if !strings.Contains(stdout, "SEVERITY") && !strings.Contains(stdout, `"severity"`) {
			t.Errorf("%q: nothing is printed: %s", c.args, stdout)
		}
	}
	if left := entries(t); left != "" {
		t.Errorf("check left behind: %s", left)
	}
	for _, store := range []string{"memory:", "file:data"} {
		if code, stdout, stderr := run(t, "store", "migrate", "--store", store); code != 0 || !strings.Contains(stdout, store+" needs no schema") || stderr != "" {
			t.Errorf("migrate %s: exit %d: %s%s", store, code, stdout, stderr)
		}
	}
	if left := entries(t); left != "" {
		t.Errorf("migrate left behind: %s", left)
	}
}
