package idemhttp

import (
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// Trap 58: a host is one scope however it is spelt, and no two are one.
func TestTrap58NormalHost(t *testing.T) {
	for in, want := range map[string]string{
		"api.example.com":       "api.example.com",
		"API.Example.COM":       "api.example.com",
		"api.example.com:8080":  "api.example.com",
		"api.example.com.":      "api.example.com",
		"API.example.com.:443":  "api.example.com",
		"api.example.com:":      "api.example.com",
		"api.example.com..":     "api.example.com.",
		"":                      "",
		":80":                   "",
		"127.0.0.1:80":          "127.0.0.1",
		"[::1]:80":              "::1",
		"[::1]":                 "::1",
		"::1":                   "::1",
		"[0:0:0:0:0:0:0:1]:80":  "::1",
		"[2001:DB8::A]":         "2001:db8::a",
		"[fe80::1%25eth0]:80":   "fe80::1%25eth0",
		"a:b:c":                 "a:b:c",
		"\u212aelvin.example":   "\u212aelvin.example", // the Kelvin sign is no k
		"b\u00dccher.example":   "b\u00dccher.example",
		"xn--bcher-kva.Example": "xn--bcher-kva.example",
	} {
		if got := NormalHost(in); got != want {
			t.Errorf("NormalHost(%q) = %q, want %q", in, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _ = NormalHost("api.example.com:8080") }); n != 0 {
		t.Errorf("NormalHost takes %v allocations", n)
	}
}

// Trap 24: the parts of a label never pass for one another.
func TestTrap24LabelsNeverMeet(t *testing.T) {
	seen := map[string][3]string{}
	for _, p := range [][3]string{
		{"h", "", "p"}, {"h", "", ""}, {"h", "", "*"}, {"h", "", "%2A"}, {"h", "r", "p"}, {"h", "r/p", ""}, {"h", "r", ""},
		{"h/r", "", "p"}, {"h", "", "r/p"}, {"h", "r/p", "q"}, {"h", "r", "p/q"}, {"h", "*", "p"}, {"", "h", "p"}, {"h", "p", "r"},
		{"h", "", "a b"}, {"h", "", "a+b"}, {"h", "", "a%20b"}, {"h", "", "a\x00b"}, {"h", "", "\xff"}, {"h", "", "\xfe"}, {"h", "", "%FF"},
		{"a:b", "", "c"}, {"a", "", "b:c"}, {"h", "", "P"},
	} {
		label := scopeLabel(p[0], p[1], p[2])
		if q, ok := seen[label]; ok {
			t.Errorf("%q and %q are both %q", p, q, label)
		}
		seen[label] = p
	}
	if got := scopeLabel("::1", "POST /a", "x/y"); got != "::1/POST%20%2Fa/x%2Fy" {
		t.Errorf("the label is %q", got)
	}
	for c := range 256 {
		s := string([]byte{byte(c)})
		if got := string(appendPathEscape(nil, s)); got != url.PathEscape(s) {
			t.Errorf("%q is encoded %q, not %q", s, got, url.PathEscape(s))
		}
	}
}

func requestWith(h http.Header) *http.Request {
	r := httptest.NewRequest("POST", "/", nil)
	maps.Copy(r.Header, h)
	return r
}

// Trap 18: another Authorization is another principal, and shows nothing of it.
func TestTrap18Authorization(t *testing.T) {
	p := AuthorizationPrincipal()
	of := func(values ...string) (string, bool) {
		t.Helper()
		name, known, err := p.Of(requestWith(http.Header{"Authorization": values}))
		if err != nil {
			t.Fatal(err)
		}
		return name, known
	}
	a, known := of("Bearer s3cr3t")
	if !known || len(a) != 32 || strings.Trim(a, "0123456789abcdef") != "" {
		t.Errorf("the principal is %q, %v", a, known)
	}
	if b, _ := of("Bearer s3cr3T"); a == b {
		t.Error("two tokens are one principal")
	}
	if again, _ := of("Bearer s3cr3t"); again != a {
		t.Error("one token is two principals")
	}
	if name, known := of(); name != Anonymous || known {
		t.Errorf("without the header: %q, %v", name, known)
	}
	if name, known := of(""); name != Anonymous || known {
		t.Errorf("with an empty header: %q, %v", name, known)
	}
	if _, _, err := p.Of(requestWith(http.Header{"Authorization": {"a", "a"}})); !isPrincipalError(err) {
		t.Errorf("given twice: %v", err)
	}
	r := requestWith(http.Header{"Authorization": {"Bearer " + strings.Repeat("x", 300)}})
	if n := testing.AllocsPerRun(100, func() { _, _, _ = p.Of(r) }); n > 1 {
		t.Errorf("the principal takes %v allocations", n)
	}
	// Stored labels hold this hash.
	if want := "a761c66fdf7b374725bcc461536e3803"; a != want {
		t.Errorf("the hash of a token changed: %s, want %s", a, want)
	}
}

func isPrincipalError(err error) bool {
	var e *PrincipalError
	return errors.As(err, &e) && strings.HasSuffix(e.Detail(), ".") && strings.HasPrefix(e.Error(), "idemhttp: ")
}

func headerPrincipalOf(t *testing.T, name string) Principal {
	t.Helper()
	p, err := HeaderPrincipal(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Trap 58: a principal that is missing is refused, never shared.
func TestTrap58HeaderPrincipal(t *testing.T) {
	p := headerPrincipalOf(t, "x-tenant")
	for _, values := range [][]string{nil, {}, {""}, {" \t"}, {"a", "a"}, {"a", ""}, {strings.Repeat("x", 1025)}} {
		name, _, err := p.Of(requestWith(http.Header{"X-Tenant": values}))
		if !isPrincipalError(err) || name != "" {
			t.Errorf("%.20q: %q, %v", values, name, err)
		}
	}
	for _, value := range []string{"acme", "CN=a,OU=b", Anonymous, "*", strings.Repeat("x", 1024)} {
		name, known, err := p.Of(requestWith(http.Header{"X-Tenant": {value}}))
		if name != value || !known || err != nil {
			t.Errorf("%q: %q, %v, %v", value, name, known, err)
		}
	}
	for _, bad := range []string{"", "a b", "a:b", "é", "Host", "a\n"} {
		if _, err := HeaderPrincipal(bad); err == nil {
			t.Errorf("the name %q was taken", bad)
		}
	}
}

// Trap 54: other spellings of the header reach neither scope nor upstream.
func TestTrap54OtherSpellings(t *testing.T) {
	others := []string{"X_tenant", "X_Tenant", "x_tenant", "x-tenant", "X.Tenant", "X~Tenant", "X-TENANT"}
	kept := []string{"X-Tenant", "X-Tenants", "Xtenant", "X-Tenan7", "X--Tenant", "Y-Tenant"}
	h := http.Header{}
	for _, name := range append(others, kept...) {
		h[name] = []string{"v"}
	}
	headerPrincipalOf(t, "X-Tenant").Clean(h)
	if got := slices.Sorted(maps.Keys(h)); !slices.Equal(got, slices.Sorted(slices.Values(kept))) {
		t.Errorf("what remains is %q", got)
	}
	h = http.Header{"X_tenant": {"v"}, "X-Tenant": {"w"}}
	headerPrincipalOf(t, "X_Tenant").Clean(h)
	if len(h) != 1 || h["X_tenant"] == nil {
		t.Errorf("what remains is %v", h)
	}
}

func TestFuncPrincipal(t *testing.T) {
	own := &PrincipalError{Reason: "the token has no subject; use another"}
	secret := errors.New("the secret")
	p := FuncPrincipal(func(r *http.Request) (string, error) {
		switch v := r.Header.Get("X"); v {
		case "own":
			return "x", own
		case "error":
			return "x", secret
		default:
			return v, nil
		}
	})
	of := func(v string) (string, error) {
		name, known, err := p.Of(requestWith(http.Header{"X": {v}}))
		if known != (err == nil) {
			t.Errorf("%.20q: known %v with %v", v, known, err)
		}
		return name, err
	}
	if name, err := of("sub"); name != "sub" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	if name, err := of("own"); name != "" || !errors.Is(err, own) {
		t.Errorf("%q, %v", name, err)
	}
	name, err := of("error")
	var e *PrincipalError
	if name != "" || !errors.As(err, &e) || !errors.Is(err, secret) || strings.Contains(e.Detail(), "secret") {
		t.Errorf("%q, %v", name, err)
	}
	for _, v := range []string{"", strings.Repeat("x", 1025)} {
		if name, err := of(v); name != "" || !isPrincipalError(err) {
			t.Errorf("%.20q: %q, %v", v, name, err)
		}
	}
}

func TestNoPrincipal(t *testing.T) {
	name, known, err := NoPrincipal().Of(requestWith(nil))
	if name != "" || !known || err != nil || scopeLabel("h", "", name) != "h/*" {
		t.Errorf("%q, %v, %v", name, known, err)
	}
}
