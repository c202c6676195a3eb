package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/e2e/internal/rig"
)

// A CONNECT or TRACE with a body that looks like a request never reaches the
// service, and leaves no connection out of step: nobody gets another's answer.
func TestTrap53ConnectWithABody(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		x.Respond(200, "for "+x.URI+" of "+x.Header.Get("Authorization"))
	})
	p := rig.Start(t, up.URL())
	smuggled := "POST /stolen HTTP/1.1\r\nHost: example.test\r\nAuthorization: attacker\r\nContent-Length: 0\r\n\r\n"
	for i, head := range []string{
		"CONNECT example.test:443 HTTP/1.1\r\nHost: example.test:443\r\nContent-Length: %d\r\n\r\n",
		"CONNECT example.test:443 HTTP/1.1\r\nHost: example.test:443\r\nIdempotency-Key: c\r\nContent-Length: %d\r\n\r\n",
		"TRACE /things HTTP/1.1\r\nHost: example.test\r\nContent-Length: %d\r\n\r\n",
		"TRACE /things HTTP/1.1\r\nHost: example.test\r\nIdempotency-Key: c\r\nContent-Length: %d\r\n\r\n",
		"CONNECT example.test:443 HTTP/1.1\r\nHost: example.test:443\r\n\r\n",
	} {
		c := rig.Dial(t, p.Listen)
		if strings.Contains(head, "%d") {
			head = fmt.Sprintf(head, len(smuggled)) + smuggled
		}
		c.Write(head)
		wantProblem(t, head[:7], c.Reply(), 405, "method-not-allowed")
		c.Close()
		for _, who := range []string{"alice", "bob"} {
			r := p.Send(rig.Request{Key: fmt.Sprint(who, i), Path: "/" + who, Header: []string{"Authorization: " + who}})
			if want := "for /" + who + " of " + who; string(r.Body) != want {
				t.Errorf("%s got %q", who, r.Body)
			}
		}
	}
	for _, s := range up.Seen() {
		if s.URI == "/stolen" || s.Method == "CONNECT" || s.Method == "TRACE" {
			t.Errorf("the service saw %+v", s)
		}
	}
}

// What the service sends beyond its response never reaches the next client.
func TestTrap53BytesAfterAResponse(t *testing.T) {
	t.Parallel()
	stray := "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
	for name, write := range map[string]func(x *rig.Exchange){
		"after a length": func(x *rig.Exchange) { x.Respond(201, "mine of "+x.URI); x.Write(stray) },
		"in one piece":   func(x *rig.Exchange) { x.Write(rig.Head(201, "Content-Length: 4") + "mine" + stray) },
		"after the chunks": func(x *rig.Exchange) {
			x.Write(rig.Head(201, "Transfer-Encoding: chunked") + "4\r\nmine\r\n0\r\n\r\n" + stray)
		},
		"after a 204":         func(x *rig.Exchange) { x.Write(rig.Head(204) + stray) },
		"after an empty 201":  func(x *rig.Exchange) { x.Write(rig.Head(201, "Content-Length: 0") + stray) },
		"a body after a 304":  func(x *rig.Exchange) { x.Write(rig.Head(304, "Content-Length: 6") + stray) },
		"bytes past a length": func(x *rig.Exchange) { x.Write(rig.Head(201, "Content-Length: 4") + "mineMORE") },
	} {
		t.Run(name, func(t *testing.T) {
			up := rig.NewUpstream(t, write)
			p := rig.Start(t, up.URL())
			for i := range 20 {
				key := fmt.Sprint(i)
				path := "/" + key
				first := p.Send(rig.Request{Key: key, Path: path})
				if strings.Contains(string(first.Body), "stolen") || strings.Contains(string(first.Body), "MORE") {
					t.Fatalf("request %d got what was nobody's: %v", i, first)
				}
				// It may be that the stray bytes met the next request: then its
				// outcome is unknown, and never another's answer.
				if first.Status >= 500 {
					wantProblem(t, "met by stray bytes", first, 502, "upstream-broken")
					continue
				}
				again := p.Send(rig.Request{Key: key, Path: path})
				wantReplay(t, "the retry", first, again)
				wantRuns(t, up, key, 1)
			}
		})
	}
}

// A keyed answer is recorded only when its framing was whole and clear.
func TestTrap53UnclearFraming(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"two lengths":           rig.Head(201, "Content-Length: 2", "Content-Length: 3") + "abc",
		"a length that is none": rig.Head(201, "Content-Length: x") + "abc",
		"a negative length":     rig.Head(201, "Content-Length: -1") + "abc",
		"an unknown coding":     rig.Head(201, "Transfer-Encoding: gzip") + "abc",
		"chunked twice":         rig.Head(201, "Transfer-Encoding: chunked, chunked") + "3\r\nabc\r\n0\r\n\r\n",
		"a chunk size too long": rig.Head(201, "Transfer-Encoding: chunked") + "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
		"no chunk at all":       rig.Head(201, "Transfer-Encoding: chunked") + "abc",
		"a header with no name": "HTTP/1.1 201 Created\r\n: x\r\nContent-Length: 0\r\n\r\n",
		"a status of two":       "HTTP/1.1 20 Created\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			up := rig.NewUpstream(t, func(x *rig.Exchange) { x.Write(answer); x.Close() })
			p := rig.Start(t, up.URL())
			first := p.Post("k", "{}")
			if first.Err == nil && first.Status < 500 {
				t.Errorf("it looks whole: %v", first)
			}
			wantProblem(t, "the retry", p.Post("k", "{}"), 409, "outcome-unknown")
			wantRuns(t, up, "k", 1)
		})
	}
}

// A request of unclear framing is refused, and reaches neither record nor
// service.
func TestTrap53UnclearRequests(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	for name, text := range map[string]string{
		"two lengths":        "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
		"length and chunks":  "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nContent-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"an unknown coding":  "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"no host":            "POST / HTTP/1.1\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n",
		"two hosts":          "POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\nIdempotency-Key: k\r\nContent-Length: 0\r\n\r\n",
		"a chunk cut short":  "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"a space in a name":  "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key : k\r\nContent-Length: 0\r\n\r\n",
		"a bare line feed":   "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\x00\r\nContent-Length: 0\r\n\r\n",
		"nothing like HTTP":  "hello\r\n\r\n",
		"an absolute target": "POST  / HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		c := rig.Dial(t, p.Listen)
		c.Write(text)
		if r := c.Reply(); r.Err == nil && r.Status < 400 {
			t.Errorf("%s: %v", name, r)
		}
		c.Close()
	}
	if up.Total() != 0 {
		t.Errorf("the service saw %+v", up.Seen())
	}
	if all := p.Records("in-flight", "completed", "unknown"); len(all) != 0 {
		t.Errorf("there are records: %+v", all)
	}
}

// X_Tenant and X-Tenant are one header to many services: where it says who
// somebody is, other spellings reach neither scope nor service.
func TestTrap54OtherSpellings(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--scope=header:X-Tenant")
	evil := []string{"X-Tenant: mallory", "X_Tenant: victim", "x_tenant: victim", "X_TENANT: victim", "X.Tenant: victim"}
	first := p.Send(rig.Request{Key: "k", Header: evil})
	wantFirst(t, "mallory", first, 201)
	wantFirst(t, "without a key", p.Send(rig.Request{Header: evil}), 201)
	wantFirst(t, "a GET", p.Send(rig.Request{Method: "GET", Header: evil[1:], NoLength: true}), 201)
	for _, s := range up.Seen() {
		for name, values := range s.Header {
			if name != "X-Tenant" && strings.EqualFold(strings.NewReplacer("_", "-", ".", "-").Replace(name), "X-Tenant") {
				t.Errorf("%s reached the service: %q", name, values)
			}
		}
	}
	wantFirst(t, "the victim", p.Send(rig.Request{Key: "k", Header: []string{"X-Tenant: victim"}}), 201)
	wantReplay(t, "mallory again", first, p.Send(rig.Request{Key: "k", Header: []string{"X-Tenant: mallory"}}))
}

// The admin interface is not on the listen address, and no page reaches it.
func TestTrap55AdminOutOfReach(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) { x.Respond(200, "the service's "+x.URI) })
	p := rig.Start(t, up.URL())
	p.Post("k", "{}")
	record := p.Find("k").Path
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/v1/records", record} {
		if r := p.Send(rig.Request{Method: "GET", Path: path, NoLength: true}); string(r.Body) != "the service's "+path {
			t.Errorf("%s on the listen address: %v", path, r)
		}
	}
	ask := func(r rig.Request) rig.Reply { return rig.Send(t, p.Admin, r) }
	for name, r := range map[string]rig.Request{
		"another host":        {Method: "GET", Path: "/v1/records", Host: "evil.test", NoLength: true},
		"another host, port":  {Method: "GET", Path: "/metrics", Host: "evil.test:9090", NoLength: true},
		"an origin":           {Method: "GET", Path: "/v1/records", Host: p.Admin, Header: []string{"Origin: http://evil.test"}, NoLength: true},
		"a null origin":       {Path: record + "/release?force=true", Host: p.Admin, Header: []string{"Origin: null"}},
		"another site":        {Path: record + "/release?force=true", Host: p.Admin, Header: []string{"Sec-Fetch-Site: cross-site"}},
		"a form of a page":    {Path: record + "/release?force=true", Host: p.Admin, Header: []string{"Content-Type: text/plain"}, Body: "{}"},
		"a host and its port": {Path: record + "/release", Host: "evil.test"},
	} {
		if got := ask(r); got.Err != nil || got.Status != http.StatusForbidden && got.Status != http.StatusUnsupportedMediaType {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := p.Find("k").State; got != "completed" {
		t.Errorf("the record is %q", got)
	}
	out := refusedStart(t, "proxy", "--upstream", up.URL(), "--listen=127.0.0.1:0", "--admin=0.0.0.0:0", "--store=memory:")
	if !strings.Contains(out, "--admin-token-file") {
		t.Errorf("an admin address for all without a token: %s", out)
	}
}

// With a token the admin address demands it.
func TestTrap55AdminToken(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("a-long-random-word\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--admin-token-file="+file)
	ask := func(path string, lines ...string) int {
		return rig.Send(t, p.Admin, rig.Request{Method: "GET", Path: path, Host: p.Admin, Header: lines, NoLength: true}).Status
	}
	for _, path := range []string{"/v1/records", "/metrics"} {
		if got := ask(path); got != 401 {
			t.Errorf("%s without a token: %d", path, got)
		}
		if got := ask(path, "Authorization: Bearer a-long-random-wore"); got != 401 {
			t.Errorf("%s with another token: %d", path, got)
		}
		if got := ask(path, "Authorization: Bearer a-long-random-word"); got != 200 {
			t.Errorf("%s with the token: %d", path, got)
		}
	}
	if got := ask("/healthz"); got != 200 {
		t.Errorf("/healthz: %d", got)
	}
}

// A tenant that is not said is 400, not one shared scope; another host is
// another scope.
func TestTrap58TenantAndHost(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--scope=header:X-Tenant")
	for range 2 {
		wantProblem(t, "no tenant", p.Post("k", "{}"), 400, "principal-missing")
	}
	wantRuns(t, up, "k", 0)
	first := p.Send(rig.Request{Key: "k", Header: []string{"X-Tenant: a"}})
	wantFirst(t, "a tenant", first, 201)
	other := p.Send(rig.Request{Key: "k", Host: "other.test", Header: []string{"X-Tenant: a"}})
	wantFirst(t, "the tenant at another host", other, 201)
	if string(first.Body) == string(other.Body) {
		t.Error("the other host got foreign data")
	}
}

// What the service is told of the client.
func TestServiceGetsHostKeyAndForwarded(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL()+"/base")
	for _, key := range []string{"", "k"} {
		r := p.Send(rig.Request{Key: key, Path: "/a%2Fb?x=1;y=%20&x=2", Host: "Shop.Example.test:8443", Body: "{}", Header: []string{
			"X-Forwarded-For: 6.6.6.6", "X-Forwarded-Host: evil.test", "X-Forwarded-Proto: https", "Forwarded: for=6.6.6.6",
			"X-Custom: one", "X-Custom: two", "Connection: X-Hop", "X-Hop: 1", "Cookie: a=b", "User-Agent: test",
		}})
		wantFirst(t, "key "+key, r, 201)
		seen := up.Seen()
		s := seen[len(seen)-1]
		if s.Host != "Shop.Example.test:8443" || s.URI != "/base/a%2Fb?x=1;y=%20&x=2" || s.Key != key || s.Body != "{}" {
			t.Errorf("key %q: the service saw %+v", key, s)
		}
		for name, want := range map[string][]string{
			"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"Shop.Example.test:8443"}, "X-Forwarded-Proto": {"http"},
			"X-Custom": {"one", "two"}, "X-Hop": nil, "Cookie": {"a=b"}, "User-Agent": {"test"},
		} {
			if got := s.Header[name]; !slices.Equal(got, want) {
				t.Errorf("key %q: %s is %q, want %q", key, name, got, want)
			}
		}
	}
}

// A keyed request stays keyed whatever it asks to upgrade to.
func TestUpgradeIsTakenOffKeyedRequests(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	r := rig.Request{Key: "k", Body: "{}", Header: []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"}}
	first := p.Send(r)
	wantFirst(t, "the first", first, 201)
	wantReplay(t, "the retry", first, p.Send(r))
	wantRuns(t, up, "k", 1)
	if got := up.Seen()[0].Header; len(got["Upgrade"]) != 0 {
		t.Errorf("the service was asked to upgrade: %v", got)
	}
}

// A service that switches protocols on a keyed request says nothing that could
// be recorded.
func TestUpgradeThatNobodyAskedFor(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		x.Write(rig.Head(101, "Connection: Upgrade", "Upgrade: other"))
		x.Hangup()
	})
	p := rig.Start(t, up.URL(), "--upstream-timeout=500ms")
	first := p.Post("k", "{}")
	if first.Err == nil && first.Status/100 == 2 || first.Status == 101 {
		t.Errorf("the first: %v", first)
	}
	wantProblem(t, "the retry", p.Post("k", "{}"), 409, "outcome-unknown")
	wantRuns(t, up, "k", 1)
}

// An upgrade without a key passes, in both directions.
func TestUpgradePassesWithoutAKey(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		x.Write(rig.Head(101, "Connection: Upgrade", "Upgrade: echo"))
		for {
			line, err := x.Buffered.ReadString('\n')
			if err != nil {
				x.Close()
				return
			}
			x.Write("echo " + line)
		}
	})
	p := rig.Start(t, up.URL(), "--upstream-timeout=200ms")
	c := rig.Dial(t, p.Listen)
	c.Write("GET /ws HTTP/1.1\r\nHost: example.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if head := c.ReadHead(); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Fatalf("%q", head)
	}
	for range 2 {
		c.Write("hello\n")
		if got := c.Read(len("echo hello\n")); got != "echo hello\n" {
			t.Errorf("%q", got)
		}
		// It may be silent for longer than a response may take.
		if what, silent := c.Silent(500 * time.Millisecond); !silent {
			t.Errorf("the connection ended, or said %q", what)
		}
	}
}

// Requests that are not keyed pass untouched: streams at once, errors as they
// are, any size.
func TestUnkeyedPassesUntouched(t *testing.T) {
	t.Parallel()
	big := fill(3 << 20)
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		x.Respond(502, x.Body, "Set-Cookie: a=b", "X-Len: "+fmt.Sprint(len(x.Body)))
	})
	p := rig.Start(t, up.URL(), "--max-request-body=1KiB", "--max-stored-response=1KiB")
	for _, method := range []string{"POST", "PUT", "PATCH"} {
		r := p.Send(rig.Request{Method: method, Body: big})
		if r.Err != nil || r.Status != 502 || string(r.Body) != big || r.Header.Get("Set-Cookie") != "a=b" {
			t.Errorf("%s: %d %v, %d bytes", method, r.Status, r.Err, len(r.Body))
		}
	}
	if all := p.Records("in-flight", "completed", "unknown"); len(all) != 0 {
		t.Errorf("there are records: %+v", all)
	}
}

// The log holds neither keys nor bodies.
func TestLogHoldsNoKeysAndNoBodies(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		if strings.HasSuffix(x.Key, "broken") {
			x.Close()
			return
		}
		x.Respond(201, "secret-answer")
	})
	p := rig.Start(t, up.URL(), "--log-level=debug")
	for _, key := range []string{"secret-key", "secret-key", "secret-broken", "secret-broken"} {
		p.Send(rig.Request{Key: key, Path: "/secret-path", Body: "secret-body", Header: []string{"Authorization: secret-token"}})
	}
	p.Ask("POST", p.Find("secret-broken").Path+"/release", "")
	p.Terminate()
	for _, secret := range []string{"secret-key", "secret-broken", "secret-body", "secret-answer", "secret-token"} {
		if strings.Contains(p.Log(), secret) {
			t.Errorf("the log holds %s", secret)
		}
	}
	if !strings.Contains(p.Log(), "level=DEBUG") {
		t.Error("nothing was logged at the level debug")
	}
}
