package admin_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/idem-go/idem/cmd/idem/internal/admin"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

func host(h string) func(*http.Request) { return func(r *http.Request) { r.Host = h } }

func header(name string, values ...string) func(*http.Request) {
	return func(r *http.Request) { r.Header[name] = values }
}

// A name that an attacker has pointed at the loopback is not the loopback.
func TestTrap55HostMustBeOurs(t *testing.T) {
	d := newDesk(t, &admin.Options{Hosts: []string{"idem.internal"}})
	for _, ok := range []string{"localhost", "LOCALHOST:9090", "localhost.", "127.0.0.1", "127.0.0.1:1", "127.8.9.10", "[::1]", "[::1]:9090", "[::ffff:127.0.0.1]:80", "idem.internal", "Idem.Internal.:9090"} {
		if a := d.ask("GET", "/v1/records", "", host(ok)); a.status != 200 {
			t.Errorf("Host %q: %d", ok, a.status)
		}
	}
	for _, bad := range []string{"evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0", "[2001:db8::1]:9090", "idem.internal.evil.example", "localhost@evil.example"} {
		for _, path := range []string{"/healthz", "/readyz", "/metrics", "/v1/records", "/nothing"} {
			if a := d.ask("GET", path, "", host(bad)); a.status != 403 {
				t.Errorf("Host %q %s: %d", bad, path, a.status)
			}
		}
	}
}

// Whatever address the interface was reached at may be used as its name.
func TestTrap55AddressOfTheSocket(t *testing.T) {
	h := admin.New(memstore.New(nil), nil)
	ask := func(name, local string) int {
		r := httptest.NewRequest("GET", "http://x/healthz", nil)
		r.Host = name
		addr, err := net.ResolveTCPAddr("tcp", local)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, addr)))
		return w.Code
	}
	if got := ask("10.1.2.3:9090", "10.1.2.3:9090"); got != 200 {
		t.Errorf("by its own address: %d", got)
	}
	if got := ask("10.1.2.4:9090", "10.1.2.3:9090"); got != 403 {
		t.Errorf("by another address: %d", got)
	}
}

// A page of another origin can neither read nor change anything.
func TestTrap55PagesAreRefused(t *testing.T) {
	d := newDesk(t, nil)
	d.unknown("s", "k")
	for name, change := range map[string]func(*http.Request){
		"origin":          header("Origin", "https://evil.example"),
		"null origin":     header("Origin", "null"),
		"loopback origin": header("Origin", "http://127.0.0.1:9090"),
		"cross-site":      header("Sec-Fetch-Site", "cross-site"),
		"same-site":       header("Sec-Fetch-Site", "same-site"),
		"two sites":       header("Sec-Fetch-Site", "none", "cross-site"),
	} {
		for _, try := range [][2]string{{"GET", "/v1/records"}, {"GET", "/metrics"}, {"POST", "/v1/records/s/k/release"}, {"OPTIONS", "/v1/records/s/k/release"}} {
			a := d.ask(try[0], try[1], "", change)
			if a.status != 403 {
				t.Errorf("%s, %s %s: %d", name, try[0], try[1], a.status)
			}
			for h := range a.header {
				if strings.HasPrefix(h, "Access-Control-") {
					t.Errorf("%s, %s %s: %s", name, try[0], try[1], h)
				}
			}
		}
	}
	for _, site := range []string{"none", "same-origin"} {
		d.want(d.ask("GET", "/v1/records", "", header("Sec-Fetch-Site", site)), 200)
	}
	d.want(d.ask("OPTIONS", "/v1/records", ""), 405)
	if d.lookup("s", "k").State != driver.StateUnknown {
		t.Error("a refused request changed the record")
	}
}

// The types that a form sends without being asked are refused.
func TestTrap55FormTypesAreRefused(t *testing.T) {
	d := newDesk(t, nil)
	d.unknown("s", "k")
	for _, types := range [][]string{
		{"application/x-www-form-urlencoded"}, {"multipart/form-data; boundary=x"}, {"text/plain"}, {"text/plain; application/json"},
		{"application/json", "text/plain"}, {"application/jsonp"}, {"nonsense"},
	} {
		for _, body := range []string{"", `{"status": 201}`} {
			for _, act := range []string{"release", "complete"} {
				d.want(d.ask("POST", "/v1/records/s/k/"+act, body, header("Content-Type", types...)), 415)
			}
		}
	}
	noType := func(r *http.Request) { r.Header.Del("Content-Type") }
	d.want(d.ask("POST", "/v1/records/s/k/complete", `{"status": 201}`, noType), 415)
	chunked := func(r *http.Request) { noType(r); r.ContentLength = -1 }
	d.want(d.ask("POST", "/v1/records/s/k/release", "{}", chunked), 415)
	if d.lookup("s", "k").State != driver.StateUnknown {
		t.Error("a refused request changed the record")
	}
	d.want(d.ask("POST", "/v1/records/s/k/release", "{}", header("Content-Type", "application/json; charset=utf-8")), 200)
}

func TestTrap55Token(t *testing.T) {
	const secret = "open-sesame-4711"
	d := newDesk(t, &admin.Options{Token: secret, Metrics: http.NotFoundHandler()})
	d.unknown("s", "k")
	routes := [][2]string{{"GET", "/metrics"}, {"GET", "/v1/records"}, {"GET", "/v1/records/s/k"}, {"POST", "/v1/records/s/k/release"}, {"POST", "/v1/records/s/k/complete"}, {"GET", "/nothing"}}
	for _, sent := range [][]string{nil, {""}, {"Bearer"}, {"Bearer "}, {"Bearer " + secret[1:]}, {"Bearer " + secret + "1"}, {"Basic " + secret}, {secret}, {"Bearer " + secret, "Bearer " + secret}} {
		for _, route := range routes {
			change := func(*http.Request) {}
			if sent != nil {
				change = header("Authorization", sent...)
			}
			a := d.want(d.ask(route[0], route[1], "", change), 401)
			if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("no challenge: %v", a.header)
			}
		}
	}
	if d.lookup("s", "k").State != driver.StateUnknown {
		t.Error("a refused request changed the record")
	}
	d.want(d.ask("GET", "/healthz", ""), 200)
	d.want(d.ask("GET", "/readyz", ""), 200)
	d.want(d.ask("GET", "/v1/records", "", header("Authorization", "bearer "+secret)), 200)
	// The token opens nothing for a page in a browser.
	d.want(d.ask("GET", "/v1/records", "", header("Authorization", "Bearer "+secret), host("evil.example")), 403)
	if strings.Contains(d.log.String(), secret) {
		t.Error("the token is in the log")
	}
}

func TestReadiness(t *testing.T) {
	ready := false
	d := newDesk(t, &admin.Options{Ready: func() bool { return ready }})
	d.want(d.ask("GET", "/healthz", ""), 200)
	d.want(d.ask("GET", "/readyz", ""), 503)
	ready = true
	d.want(d.ask("GET", "/readyz", ""), 200)
	if err := d.store.Close(); err != nil {
		t.Fatal(err)
	}
	a := d.want(d.ask("GET", "/readyz", ""), 503)
	if strings.Contains(a.body, "driver:") || !strings.Contains(d.log.String(), driver.ErrClosed.Error()) {
		t.Errorf("the store's own error belongs into the log: %s %s", a.body, d.log)
	}
	d.want(d.ask("GET", "/v1/records", ""), 503)
	d.want(d.ask("GET", "/v1/records/s/k", ""), 503)
	d.want(d.ask("POST", "/v1/records/s/k/release", ""), 503)
	d.want(d.ask("GET", "/healthz", ""), 200)
	d.want(d.ask("POST", "/healthz", ""), 405)
	d.want(d.ask("GET", "/", ""), 404)
	d.want(d.ask("GET", "/metrics", ""), 404)
}

// A store that keeps only what it must cannot be listed or resolved, and says so.
func TestPlainStore(t *testing.T) {
	type plain struct{ driver.Store }
	srv := httptest.NewServer(admin.New(plain{memstore.New(nil)}, nil))
	defer srv.Close()
	for path, method := range map[string]string{"/v1/records": "GET", "/v1/records/s/k/release": "POST"} {
		req, err := http.NewRequest(method, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err := errors.Join(err, res.Body.Close()); err != nil || res.StatusCode != http.StatusNotImplemented {
			t.Errorf("%s: %v %v", path, res.Status, err)
		}
	}
}
