package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/cmd/idem/internal/stores"
	"github.com/idem-go/idem/driver"
)

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, "65536": 65536, "512B": 512, "64KiB": 64 << 10, "10MiB": 10 << 20, "1GiB": 1 << 30, "10 MiB": 10 << 20,
		"10mib": 10 << 20, "1KB": 1000, "2MB": 2e6, "3GB": 3e9, "2047GiB": 2047 << 30,
	} {
		var f size
		if err := f.Set(text); err != nil || int64(f) != want {
			t.Errorf("%q: %d %v, want %d", text, f, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1", "0MiB", "MiB", "1.5MiB", "10MiBs", "ten", "10Mi", "0x10", "1e6", "9000000GiB", "99999999999999999999", "9223372036854775807GiB"} {
		var f size
		if err := f.Set(text); err == nil {
			t.Errorf("%q is taken for %d", text, f)
		}
	}
	for n, want := range map[size]string{1: "1B", 1000: "1KB", 1024: "1KiB", 10 << 20: "10MiB", 1 << 30: "1GiB", 1<<20 + 1: "1048577B"} {
		if got := n.String(); got != want {
			t.Errorf("%d is shown as %s, want %s", n, got, want)
		}
		var back size
		if err := back.Set(want); err != nil || back != n {
			t.Errorf("%s is read as %d %v", want, back, err)
		}
	}
}

func TestDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Minute: "1m", 24 * time.Hour: "24h", 90 * time.Minute: "1h30m", 90 * time.Second: "1m30s",
		time.Hour + time.Second: "1h0m1s", 500 * time.Millisecond: "500ms", 10 * time.Second: "10s", 10 * time.Minute: "10m",
	} {
		f := duration{d: d}
		if f.String() != want {
			t.Errorf("%v is shown as %s, want %s", d, f.String(), want)
		}
		var back duration
		if err := back.Set(want); err != nil || back.d != d {
			t.Errorf("%s is read as %v %v", want, back.d, err)
		}
	}
	f := duration{min: 1}
	for _, text := range []string{"", "10", "0", "0s", "-1s", "1d", "soon"} {
		if err := f.Set(text); err == nil {
			t.Errorf("%q is taken for %v", text, f.d)
		}
	}
}

// The defaults are the documented ones.
func TestProxyDefaults(t *testing.T) {
	want := map[string]string{
		"upstream": "", "listen": "127.0.0.1:8080", "store": "file:./idem-data", "store-file": "", "admin": "127.0.0.1:9090", "wait": "10s",
		"lease": "30s", "retention": "24h", "tombstone": "720h", "require-key": "false", "on-unknown": "refuse",
		"max-request-body": "10MiB", "max-stored-response": "1MiB", "upstream-timeout": "1m", "upstream-idle-timeout": "4s",
		"max-run": "15m", "save-wait": "10s", "drain": "30s", "scope": "authorization", "max-unknown": "100000",
		"admin-token-file": "", "admin-host": "[]", "log": "text", "log-level": "info",
	}
	flags := newProxy().Flags()
	for name, value := range want {
		f := flags.Lookup(name)
		if f == nil {
			t.Errorf("there is no --%s", name)
		} else if f.DefValue != value {
			t.Errorf("--%s is %s by default, want %s", name, f.DefValue, value)
		}
	}
}

func TestScopes(t *testing.T) {
	var f scope
	for _, text := range []string{"authorization", "none", "header:X-Tenant"} {
		if err := f.Set(text); err != nil || f.principal == nil || f.String() != text {
			t.Errorf("%s: %v %v", text, f, err)
		}
	}
	for _, text := range []string{"", "header:", "header", "header:X Tenant", "header:Host", "Authorization", "cookie"} {
		if err := f.Set(text); err == nil {
			t.Errorf("%q is taken", text)
		} else if !strings.Contains(err.Error(), "header:") {
			t.Errorf("%q: what to write is not said: %v", text, err)
		}
	}
}

func TestAddressesThatMeet(t *testing.T) {
	for _, pair := range [][2]string{
		{"127.0.0.1:8080", "127.0.0.1:8080"}, {":8080", "127.0.0.1:8080"}, {"0.0.0.0:8080", "10.0.0.1:8080"},
		{"127.0.0.1:8080", "[::]:8080"}, {"localhost:8080", "127.0.0.1:8080"}, {"LOCALHOST:1", "localhost:1"},
	} {
		if !meet(t, pair[0], pair[1]) || !meet(t, pair[1], pair[0]) {
			t.Errorf("%v could both be had", pair)
		}
	}
	for _, pair := range [][2]string{{"127.0.0.1:0", "127.0.0.1:0"}, {":8080", ":9090"}, {"127.0.0.1:8080", "10.0.0.1:8080"}, {"127.0.0.1:8080", "127.0.0.2:8080"}} {
		if meet(t, pair[0], pair[1]) {
			t.Errorf("%v could not both be had", pair)
		}
	}
}

func meet(t *testing.T, a, b string) bool {
	t.Helper()
	x, err := parseAddress("--listen", a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := parseAddress("--admin", b)
	if err != nil {
		t.Fatal(err)
	}
	return x.meets(y)
}

// What a client says over several lines is one sentence.
func TestOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "",
		"a  b":                        "a b",
		"cannot:\n\tx: no\n\tx: no\n": "cannot: x: no",
		"one\n\ntwo\r\nthree":         "one; two; three",
	} {
		if got := oneLine(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// What a server says of itself commands no terminal, and stays in its line.
func TestFindingsArePrintable(t *testing.T) {
	var b strings.Builder
	err := printTable(&b, stores.DSN{}, []driver.Finding{{
		Severity: driver.SeverityWarning, Subject: "a\x1b[31m", Found: "x\ty\nz\r\u202e", Means: "m\x00.", Remedy: "ä.",
	}})
	want := "SEVERITY  SUBJECT  FOUND\nwarning   a?[31m   x y; z ?\n          means:   m?.\n          remedy:  ä.\n"
	if err != nil || b.String() != want {
		t.Errorf("%v\n%q, want\n%q", err, b.String(), want)
	}
}
