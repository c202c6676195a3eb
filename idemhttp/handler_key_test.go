package idemhttp_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/idemhttp"
)

// H2, trap 23: one key however it is spelt; a bad one is 400 before anything
// else is looked at.
func TestTrap23KeysOnTheWire(t *testing.T) {
	s := serve(t, settings{}, answerWith(201, "made"))
	if r := s.post(`"k-1"`, "a"); r.status != 201 || r.replayed() {
		t.Fatalf("got %v", r)
	}
	if r := s.post("k-1", "a"); !r.replayed() {
		t.Errorf("bare: %v", r)
	}
	for _, bad := range []string{`"k`, `k"`, "a b", "a,b", "a;b", `a\b`, `""`, `" "`, `"k";v=1`, strings.Repeat("x", 256), "é"} {
		if r := s.post(bad, "a"); r.status != 400 || !r.problem(idemhttp.TypeKeyInvalid) {
			t.Errorf("%q: %v", bad, r)
		}
	}
	for _, values := range [][]string{{""}, {" "}, {"a", "b"}, {"a", "a"}} {
		var headers []string
		for _, v := range values {
			headers = append(headers, "Idempotency-Key", v)
		}
		if r := s.post("", "a", headers...); r.status != 400 || !r.problem(idemhttp.TypeKeyInvalid) {
			t.Errorf("%q: %v", values, r)
		}
	}
	if r := s.post(strings.Repeat("x", 255), "a"); r.status != 201 {
		t.Errorf("255 characters: %v", r)
	}
	s.ran(2)
}

// A key that is needed and missing.
func TestRequireKey(t *testing.T) {
	s := serve(t, settings{http: idemhttp.Options{RequireKey: true}}, answerWith(201, "made"))
	for _, method := range []string{"POST", "PATCH"} {
		if r := s.send(t.Context(), method, "/", "", nil); r.status != 400 || !r.problem(idemhttp.TypeKeyMissing) {
			t.Errorf("%s: %v", method, r)
		}
	}
	s.ran(0)
}

// H16: method, key, principal.
func TestOrderOfRefusals(t *testing.T) {
	principal, err := idemhttp.HeaderPrincipal("X-Tenant")
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, settings{http: idemhttp.Options{Principal: principal, MaxRequestBody: 3, RequireKey: true}}, answerWith(201, "made"))
	for _, c := range []struct{ method, key, body, tenant, typ string }{
		{"post", "a b", "long", "", idemhttp.TypeMethodInvalid},
		{"POST", "a b", "long", "", idemhttp.TypeKeyInvalid},
		{"POST", "", "long", "", idemhttp.TypeKeyMissing},
		{"POST", "k", "long", "", idemhttp.TypePrincipalMissing},
		{"POST", "k", "long", "t", idemhttp.TypeRequestTooLarge},
	} {
		var headers []string
		if c.tenant != "" {
			headers = []string{"X-Tenant", c.tenant}
		}
		if r := s.send(t.Context(), c.method, "/", c.key, strings.NewReader(c.body), headers...); !r.problem(c.typ) {
			t.Errorf("%+v: %v", c, r)
		}
	}
	s.ran(0)
}

// Traps 17, 18, 19, 58: never foreign data.
func TestTrap17And18NeverForeignData(t *testing.T) {
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Host, r.Header.Get("Authorization"), r.URL)
	})
	first := s.send(t.Context(), "POST", "/a?x=1", "k", nil, "Host", "one.test", "Authorization", "Bearer 1")
	for name, c := range map[string]struct {
		method, path  string
		headers       []string
		status        int
		replay, fresh bool
	}{
		"same":            {"POST", "/a?x=1", []string{"Host", "ONE.test.:8080", "Authorization", "Bearer 1"}, 200, true, false},
		"another host":    {"POST", "/a?x=1", []string{"Host", "two.test", "Authorization", "Bearer 1"}, 200, false, true},
		"another caller":  {"POST", "/a?x=1", []string{"Host", "one.test", "Authorization", "Bearer 2"}, 200, false, true},
		"no caller":       {"POST", "/a?x=1", []string{"Host", "one.test"}, 200, false, true},
		"another path":    {"POST", "/b?x=1", []string{"Host", "one.test", "Authorization", "Bearer 1"}, 422, false, false},
		"another query":   {"POST", "/a?x=2", []string{"Host", "one.test", "Authorization", "Bearer 1"}, 422, false, false},
		"another method":  {"PATCH", "/a?x=1", []string{"Host", "one.test", "Authorization", "Bearer 1"}, 422, false, false},
		"another type":    {"POST", "/a?x=1", []string{"Host", "one.test", "Authorization", "Bearer 1", "Content-Type", "text/csv"}, 422, false, false},
		"another trace":   {"POST", "/a?x=1", []string{"Host", "one.test", "Authorization", "Bearer 1", "Traceparent", "00-1", "Date", "now"}, 200, true, false},
		"callers, a list": {"POST", "/a?x=1", []string{"Host", "one.test", "Authorization", "Bearer 1", "Authorization", "Bearer 2"}, 400, false, false},
	} {
		before := s.runs.Load()
		r := s.send(t.Context(), c.method, c.path, "k", nil, c.headers...)
		if r.status != c.status || r.replayed() != c.replay || (s.runs.Load() > before) != c.fresh || c.replay && r.body != first.body || c.fresh && r.body == first.body {
			t.Errorf("%s: %v", name, r)
		}
	}
}

// Trap 19: other keys with the same body run.
func TestTrap19OtherKeysRun(t *testing.T) {
	s := serve(t, settings{}, answerWith(201, "made"))
	for i := range 3 {
		s.post(fmt.Sprint("k", i), "same")
	}
	s.ran(3)
}

// Traps 54, 58: the principal's header, and its other spellings.
func TestTrap54And58TenantHeader(t *testing.T) {
	principal, err := idemhttp.HeaderPrincipal("X-Tenant")
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, settings{http: idemhttp.Options{Principal: principal}}, func(w http.ResponseWriter, r *http.Request) {
		//lint:ignore SA1008 that this spelling is not there is what is tested
		_, _ = fmt.Fprint(w, r.Header["X-Tenant"], r.Header["X_tenant"], r.Header["X_Tenant"])
	})
	for name, headers := range map[string][]string{
		"none": nil, "empty": {"X-Tenant", ""}, "twice": {"X-Tenant", "a", "X-Tenant", "b"}, "another spelling": {"X_Tenant", "a"},
	} {
		if r := s.post("k", "", headers...); r.status != 400 || !r.problem(idemhttp.TypePrincipalMissing) {
			t.Errorf("%s: %v", name, r)
		}
	}
	s.ran(0)
	if r := s.post("k", "", "X-Tenant", "a", "X_Tenant", "b", "X_tenant", "c"); r.body != "[a] [] []" {
		t.Errorf("got %v", r)
	}
	if r := s.send(t.Context(), "GET", "/", "", nil, "X_Tenant", "b"); r.body != "[] [] []" {
		t.Errorf("not keyed: %v", r)
	}
	if r := s.post("k", "", "X-Tenant", "b"); r.replayed() {
		t.Errorf("another tenant: %v", r)
	}
}

// Trap 18: a token that is refreshed keeps its principal where a function says
// so.
func TestTrap18RefreshedToken(t *testing.T) {
	principal := idemhttp.FuncPrincipal(func(r *http.Request) (string, error) {
		user, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ".")
		return user, nil
	})
	s := serve(t, settings{http: idemhttp.Options{Principal: principal}}, answerWith(201, "made"))
	s.post("k", "", "Authorization", "Bearer ann.1")
	if r := s.post("k", "", "Authorization", "Bearer ann.2"); !r.replayed() {
		t.Errorf("refreshed: %v", r)
	}
	if r := s.post("k", "", "Authorization", "Bearer bob.1"); r.replayed() {
		t.Errorf("another: %v", r)
	}
	if r := s.post("k", ""); r.status != 400 || !r.problem(idemhttp.TypePrincipalMissing) {
		t.Errorf("nobody: %v", r)
	}
}

// H3: routes with keys of their own, a fixed host, no principal.
func TestScopesOfRoutes(t *testing.T) {
	store := newGate()
	a := serve(t, settings{store: store, http: idemhttp.Options{Route: "a", Host: "fixed", Principal: idemhttp.NoPrincipal()}}, answerWith(201, "a"))
	b := serve(t, settings{store: store, http: idemhttp.Options{Route: "b", Host: "fixed", Principal: idemhttp.NoPrincipal()}}, answerWith(201, "b"))
	again := serve(t, settings{store: store, http: idemhttp.Options{Route: "a", Host: "fixed", Principal: idemhttp.NoPrincipal()}}, answerWith(201, "again"))
	a.post("k", "", "Authorization", "1")
	if r := b.post("k", ""); r.replayed() || r.body != "b" {
		t.Errorf("another route: %v", r)
	}
	if r := again.post("k", "", "Authorization", "2", "Host", "elsewhere"); !r.replayed() || r.body != "a" {
		t.Errorf("the same route: %v", r)
	}
	again.ran(0)
}

// H1: keys from bodies and events, whose bodies reach the handler whole.
func TestKeySources(t *testing.T) {
	field, err := idemhttp.JSONField("/meta/requestId")
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, settings{http: idemhttp.Options{Keys: []idemhttp.KeySource{idemhttp.HeaderKey("PayPal-Request-Id"), field, idemhttp.CloudEvents(), idemhttp.StandardWebhooks()}}}, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		_, _ = w.Write(b)
	})
	for i, c := range []struct {
		body    string
		headers []string
		keyed   bool
	}{
		{`{"meta":{"requestId":"r1"}}`, []string{"Content-Type", "application/json"}, true},
		{`{"meta":{"requestId":null}}`, []string{"Content-Type", "application/json"}, false},
		{`a`, []string{"PayPal-Request-Id", "p1"}, true},
		{`b`, []string{"Ce-Source", "/s", "Ce-Id", "1"}, true},
		{`{"source":"/s","id":"2"}`, []string{"Content-Type", "application/cloudevents+json"}, true},
		{`c`, []string{"Webhook-Id", "w1"}, true},
		{`d`, []string{"Idempotency-Key", "not the one configured"}, false},
	} {
		before := s.runs.Load()
		first, again := s.post("", c.body, c.headers...), s.post("", c.body, c.headers...)
		want := int64(2)
		if c.keyed {
			want = 1
		}
		if first.body != c.body || again.body != c.body || again.replayed() != c.keyed || s.runs.Load()-before != want {
			t.Errorf("%d: first %v, then %v, %d runs", i, first, again, s.runs.Load()-before)
		}
	}
	if r := s.post("", `{"meta":{"requestId":7}}`, "Content-Type", "application/json"); r.status != 400 || !r.problem(idemhttp.TypeKeyInvalid) {
		t.Errorf("a number for a key: %v", r)
	}
}

// Trap 20: chunked bodies count; numbers, repeated members and invalid UTF-8
// that parsers confuse are told apart.
func TestTrap20BodiesOnTheWire(t *testing.T) {
	s := serve(t, settings{http: idemhttp.Options{Fingerprint: idemhttp.CanonicalJSON()}}, answerWith(201, "made"))
	for i, c := range []struct {
		first, again string
		same         bool
	}{
		{`{"a":1,"b":2}`, `{ "b": 2, "a": 1 }`, true},
		{`{"a":9007199254740992}`, `{"a":9007199254740993}`, false},
		{"{\"a\":\"\xff\"}", "{\"a\":\"\xfe\"}", false},
		{`{"a":1,"a":2}`, `{"a":2,"a":2}`, false},
	} {
		for _, chunked := range []bool{false, true} {
			body := func(s string) io.Reader {
				if chunked {
					return io.MultiReader(strings.NewReader(s))
				}
				return strings.NewReader(s)
			}
			key := fmt.Sprintf("%d-%v", i, chunked)
			s.send(t.Context(), "POST", "/", key, body(c.first), "Content-Type", "application/json")
			r := s.send(t.Context(), "POST", "/", key, body(c.again), "Content-Type", "application/json")
			if r.replayed() != c.same || !c.same && !r.problem(idemhttp.TypeKeyReused) {
				t.Errorf("%q %q: %v", c.first, c.again, r)
			}
		}
	}
}

// Trap 59: an upload with another boundary is the same one; the same bytes with
// another Content-Encoding are not.
func TestTrap59UploadsOnTheWire(t *testing.T) {
	s := serve(t, settings{}, answerWith(201, "made"))
	part := func(boundary string) (string, string) {
		return form(boundary, "Content-Disposition: form-data; name=\"f\"\r\n\r\ncontent"), "multipart/form-data; boundary=" + boundary
	}
	for i, boundary := range []string{"one", "two"} {
		body, kind := part(boundary)
		if r := s.post("k", body, "Content-Type", kind); r.status != 201 || r.replayed() != (i == 1) {
			t.Errorf("%s: %v", boundary, r)
		}
	}
	s.post("j", "{}", "Content-Type", "application/json;charset=UTF-8")
	if r := s.post("j", "{}", "Content-Type", "application/json; charset=utf-8"); !r.replayed() {
		t.Errorf("charset: %v", r)
	}
	if r := s.post("j", "{}", "Content-Type", "application/json; charset=utf-8", "Content-Encoding", "gzip"); !r.problem(idemhttp.TypeKeyReused) {
		t.Errorf("coding: %v", r)
	}
}

// A record that cannot be read, or that was made by a rule which nobody knows
// any more, refuses its key.
func TestTrap60UnreadableRecords(t *testing.T) {
	g := newGate()
	s := serve(t, settings{store: g, http: idemhttp.Options{FailOpen: true}}, answerWith(201, "made"))
	g.set(func(string, func() error) error { return &driver.UnreadableError{Reason: "secret detail"} })
	if r := s.post("k", ""); r.status != 500 || !r.problem(idemhttp.TypeRecordUnreadable) || strings.Contains(r.body, "secret") {
		t.Errorf("got %v", r)
	}
	g.set(nil)
	custom := serve(t, settings{store: g, http: idemhttp.Options{Host: "h", Fingerprint: idemhttp.CustomFingerprint(func(*http.Request, []byte) ([]byte, error) { return nil, nil })}}, answerWith(201, "made"))
	whole := serve(t, settings{store: g, http: idemhttp.Options{Host: "h"}}, answerWith(201, "made"))
	custom.post("c", "")
	if r := whole.post("c", ""); r.status != 500 || !r.problem(idemhttp.TypeRecordUnreadable) {
		t.Errorf("another rule: %v", r)
	}
	s.ran(0)
	whole.ran(0)
}

// H5, K3: records of an older rule are compared by that rule.
func TestTrap60RuleIsTheRecords(t *testing.T) {
	g := newGate()
	whole := serve(t, settings{store: g, http: idemhttp.Options{Host: "h"}}, answerWith(201, "made"))
	canonical := serve(t, settings{store: g, http: idemhttp.Options{Host: "h", Fingerprint: idemhttp.CanonicalJSON()}}, answerWith(201, "made"))
	whole.post("k", `{"a":1}`, "Content-Type", "application/json")
	if r := canonical.post("k", `{"a":1}`, "Content-Type", "application/json"); !r.replayed() {
		t.Errorf("the same bytes: %v", r)
	}
	if r := canonical.post("k", `{"a": 1}`, "Content-Type", "application/json"); !r.problem(idemhttp.TypeKeyReused) {
		t.Errorf("other bytes: %v", r)
	}
}

// H16: the application's own shape, its own base, and CORS.
func TestProblemOptions(t *testing.T) {
	var kinds atomic.Value
	hook := func(w http.ResponseWriter, r *http.Request, p *idemhttp.Problem) {
		kinds.Store(p.Type)
		w.WriteHeader(p.Status)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": p.URI()})
	}
	s := serve(t, settings{http: idemhttp.Options{RequireKey: true, Problem: hook, ProblemBase: "urn:x:", AllowOrigins: []string{"https://app.test"}}}, answerWith(201, "made"))
	r := s.post("", "", "Origin", "https://app.test")
	if r.status != 400 || r.body != `{"error":"urn:x:key-missing"}`+"\n" || r.header.Get("Access-Control-Allow-Origin") != "https://app.test" || kinds.Load() != idemhttp.TypeKeyMissing {
		t.Errorf("got %v", r)
	}
	if r := s.post("", "", "Origin", "https://other.test"); r.header.Get("Access-Control-Allow-Origin") != "" || r.header.Get("Vary") != "Origin" {
		t.Errorf("another origin: %v", r)
	}
}
