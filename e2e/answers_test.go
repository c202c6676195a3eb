package e2e

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/e2e/internal/rig"
)

// The tests of this file are the lines of the table of situations in the
// contract, as far as the proxy can be brought into them from outside; those
// that need a store that fails are in faults_test.go.

func TestAnswerMethodInvalid(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	for _, method := range []string{"post", "Post", "pOST", "patch", "Patch"} {
		for _, key := range []string{"", "k"} {
			r := p.Send(rig.Request{Method: method, Key: key, Body: "{}"})
			wantProblem(t, method+" with key "+strconv.Quote(key), r, 400, "method-invalid")
		}
	}
	if up.Total() != 0 {
		t.Errorf("the service saw %v", up.Seen())
	}
}

func TestAnswerMethodNotAllowed(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	for _, r := range []rig.Request{
		{Method: "TRACE"}, {Method: "TRACE", Key: "k"}, {Method: "TRACE", Body: "x"},
		{Method: "CONNECT", Path: "example.test:443"}, {Method: "CONNECT", Path: "example.test:443", Key: "k", Body: "x"},
		{Method: "CONNECT", Path: "/things"}, {Method: "trace"}, {Method: "connect", Path: "example.test:443"},
	} {
		reply := p.Send(r)
		what := fmt.Sprintf("%s %s", r.Method, r.Path)
		if r.Method == strings.ToUpper(r.Method) && r.Path != "/things" {
			wantProblem(t, what, reply, 405, "method-not-allowed")
		} else if reply.Err == nil && reply.Status < 400 {
			t.Errorf("%s: %v", what, reply)
		}
	}
	if up.Total() != 0 {
		t.Errorf("the service saw %v", up.Seen())
	}
}

func TestAnswerKeyMissing(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--require-key")
	for _, method := range []string{"POST", "PATCH"} {
		wantProblem(t, method, p.Send(rig.Request{Method: method, Body: "{}"}), 400, "key-missing")
	}
	if up.Total() != 0 {
		t.Errorf("the service saw %v", up.Seen())
	}
	wantFirst(t, "PUT, which needs no key", p.Send(rig.Request{Method: "PUT", Body: "{}"}), 201)
	wantFirst(t, "POST with a key", p.Post("k", "{}"), 201)
}

func TestAnswerKeyInvalid(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	for name, lines := range map[string][]string{
		"empty":                   {"Idempotency-Key:"},
		"spaces":                  {"Idempotency-Key:   "},
		"empty string":            {`Idempotency-Key: ""`},
		"nothing but spaces":      {`Idempotency-Key: "  "`},
		"two lines":               {"Idempotency-Key: a", "Idempotency-Key: b"},
		"two equal lines":         {"Idempotency-Key: a", "idempotency-key: a"},
		"a list":                  {"Idempotency-Key: a,b"},
		"a list of strings":       {`Idempotency-Key: "a", "b"`},
		"a space":                 {"Idempotency-Key: a b"},
		"a semicolon":             {"Idempotency-Key: a;b"},
		"parameters":              {`Idempotency-Key: "a";v=1`},
		"an open quote":           {`Idempotency-Key: "a`},
		"a quote inside":          {`Idempotency-Key: a"b`},
		"a backslash":             {`Idempotency-Key: a\b`},
		"a bad escape":            {`Idempotency-Key: "a\n"`},
		"256 characters":          {"Idempotency-Key: " + strings.Repeat("k", 256)},
		"256 quoted":              {`Idempotency-Key: "` + strings.Repeat("k", 256) + `"`},
		"UTF-8":                   {"Idempotency-Key: schlüssel"},
		"a tab inside a string":   {"Idempotency-Key: \"a\tb\""},
		"a byte over 0x7f":        {"Idempotency-Key: \"a\xffb\""},
		"a byte string (RFC9651)": {"Idempotency-Key: :aGVsbG8=: x"},
	} {
		wantProblem(t, name, p.Send(rig.Request{Header: lines, Body: "{}"}), 400, "key-invalid")
	}
	if up.Total() != 0 {
		t.Errorf("the service saw %v", up.Seen())
	}
	for _, key := range []string{strings.Repeat("k", 255), `"` + strings.Repeat("k", 254) + `l"`, `"with space, and comma"`} {
		wantFirst(t, key, p.Post(key, "{}"), 201)
	}
}

func TestAnswerPrincipalMissing(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--scope=header:X-Tenant")
	for name, lines := range map[string][]string{
		"missing":   nil,
		"empty":     {"X-Tenant:"},
		"spaces":    {"X-Tenant:  "},
		"twice":     {"X-Tenant: a", "X-Tenant: b"},
		"the same":  {"X-Tenant: a", "x-tenant: a"},
		"otherwise": {"X_Tenant: a"},
	} {
		wantProblem(t, name, p.Send(rig.Request{Key: "k", Header: lines, Body: "{}"}), 400, "principal-missing")
	}
	if up.Total() != 0 {
		t.Errorf("the service saw %v", up.Seen())
	}
	wantFirst(t, "one tenant", p.Send(rig.Request{Key: "k", Header: []string{"X-Tenant: a"}}), 201)
}

// Where several 400s apply: method, key, principal.
func TestAnswerOrderOf400s(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--scope=header:X-Tenant", "--require-key")
	wantProblem(t, "all three", p.Send(rig.Request{Method: "post", Key: "a b"}), 400, "method-invalid")
	wantProblem(t, "key and principal", p.Send(rig.Request{Key: "a b"}), 400, "key-invalid")
	wantProblem(t, "no key, no principal", p.Send(rig.Request{}), 400, "key-missing")
	wantProblem(t, "principal", p.Send(rig.Request{Key: "a"}), 400, "principal-missing")
}

func TestAnswerInFlight(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	up := rig.NewUpstream(t, g.created)
	p := rig.Start(t, up.URL(), "--wait=0s")
	first := async(t, p, rig.Request{Key: "k", Body: "{}"})
	rig.Receive(t, "the request arrives", g.arrived)
	r := p.Post("k", "{}")
	wantProblem(t, "while the first runs", r, 409, "in-flight")
	if n, err := strconv.Atoi(r.Header.Get("Retry-After")); err != nil || n < 1 || n > 30 {
		t.Errorf("Retry-After is %q", r.Header.Get("Retry-After"))
	}
	g.open()
	one := rig.Receive(t, "the first ends", first)
	wantFirst(t, "the first", one, 201)
	wantReplay(t, "afterwards", one, p.Post("k", "{}"))
	wantRuns(t, up, "k", 1)
}

// Retry-After grows with how long the first has run.
func TestAnswerInFlightRetryAfterGrows(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	up := rig.NewUpstream(t, g.created)
	p := rig.Start(t, up.URL(), "--wait=0s")
	async(t, p, rig.Request{Key: "k"})
	rig.Receive(t, "the request arrives", g.arrived)
	seconds := func() int {
		n, err := strconv.Atoi(p.Post("k", "").Header.Get("Retry-After"))
		if err != nil {
			t.Error(err)
		}
		return n
	}
	least := seconds()
	rig.Eventually(t, "Retry-After grows", func() bool { return seconds() > least })
}

func TestAnswerWaits(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	up := rig.NewUpstream(t, g.created)
	p := rig.Start(t, up.URL())
	first := async(t, p, rig.Request{Key: "k", Body: "{}"})
	rig.Receive(t, "the request arrives", g.arrived)
	second := async(t, p, rig.Request{Key: "k", Body: "{}"})
	g.open()
	one := rig.Receive(t, "the first ends", first)
	wantFirst(t, "the first", one, 201)
	wantReplay(t, "the waiter", one, rig.Receive(t, "the waiter ends", second))
	wantRuns(t, up, "k", 1)
}

func TestAnswerOutcomeUnknown(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) { x.Close() })
	p := rig.Start(t, up.URL())
	wantProblem(t, "the first", p.Post("k", "{}"), 502, "upstream-broken")
	wantProblem(t, "the retry", p.Post("k", "{}"), 409, "outcome-unknown")
	wantProblem(t, "another request", p.Post("k", "{ }"), 422, "key-reused")
	wantRuns(t, up, "k", 1)
	if r := p.Find("k"); r.State != "unknown" {
		t.Errorf("the record is %+v", r)
	}
}

// The policy retry runs an unknown outcome again.
func TestAnswerOutcomeUnknownUnderRetry(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		if x.Serial == 1 {
			x.Close()
			return
		}
		rig.Created(x)
	})
	p := rig.Start(t, up.URL(), "--on-unknown=retry")
	wantProblem(t, "the first", p.Post("k", "{}"), 502, "upstream-broken")
	second := p.Post("k", "{}")
	wantFirst(t, "the retry", second, 201)
	wantReplay(t, "the third", second, p.Post("k", "{}"))
	wantRuns(t, up, "k", 2)
	if r := p.Find("k"); r.State != "completed" || r.Attempt != 2 {
		t.Errorf("the record is %+v", r)
	}
}

func TestAnswerKeyReused(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	wantFirst(t, "the first", p.Post("k", `{"a":1}`), 201)
	wantProblem(t, "another body", p.Post("k", `{"a":2}`), 422, "key-reused")
	wantRuns(t, up, "k", 1)
}

// Another fingerprint is said first, also while the first request runs, and
// without a wait.
func TestAnswerKeyReusedBeforeInFlight(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	up := rig.NewUpstream(t, g.created)
	p := rig.Start(t, up.URL(), "--wait=1h")
	async(t, p, rig.Request{Key: "k", Body: "one"})
	rig.Receive(t, "the request arrives", g.arrived)
	wantProblem(t, "another body", p.Post("k", "two"), 422, "key-reused")
	wantRuns(t, up, "k", 1)
}

func TestAnswerResponseNotStored(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 64<<10)
	up := rig.NewUpstream(t, func(x *rig.Exchange) { x.Respond(201, big) })
	p := rig.Start(t, up.URL(), "--max-stored-response=16KiB")
	first := p.Post("k", "{}")
	wantFirst(t, "the first", first, 201)
	if string(first.Body) != big {
		t.Errorf("the first client got %d bytes of %d", len(first.Body), len(big))
	}
	wantProblem(t, "the retry", p.Post("k", "{}"), 422, "response-not-stored")
	wantProblem(t, "another body", p.Post("k", "{ }"), 422, "key-reused")
	wantRuns(t, up, "k", 1)
}

func TestAnswerResponseForgotten(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--retention=50ms")
	first := p.Post("k", "{}")
	wantFirst(t, "the first", first, 201)
	rig.Eventually(t, "the result is forgotten", func() bool { return p.Post("k", "{}").Status != 201 })
	wantProblem(t, "the retry", p.Post("k", "{}"), 422, "response-forgotten")
	wantProblem(t, "whatever is asked", p.Post("k", "something else"), 422, "response-forgotten")
	wantRuns(t, up, "k", 1)
}

func TestAnswerRequestTooLarge(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--max-request-body=16KiB")
	over := strings.Repeat("x", 16<<10+1)
	wantProblem(t, "with a length", p.Post("k", over), 413, "request-too-large")
	wantProblem(t, "in chunks", p.Send(rig.Request{Key: "k", Body: over, Chunked: true}), 413, "request-too-large")
	wantRuns(t, up, "k", 0)
	wantFirst(t, "exactly the limit", p.Post("k", over[1:]), 201)
	wantFirst(t, "without a key", p.Send(rig.Request{Body: over}), 201)
}

func TestAnswerOverloadedByUnknowns(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		if strings.HasPrefix(x.Key, "bad") {
			x.Close()
			return
		}
		rig.Created(x)
	})
	p := rig.Start(t, up.URL(), "--max-unknown=3")
	first := p.Post("good", "{}")
	for i := range 3 {
		wantProblem(t, "an unknown", p.Post(fmt.Sprintf("bad%d", i), "{}"), 502, "upstream-broken")
	}
	r := p.Post("new", "{}")
	wantProblem(t, "past the bound", r, 503, "overloaded")
	if r.Header.Get("Retry-After") == "" {
		t.Error("there is no Retry-After")
	}
	wantRuns(t, up, "new", 0)
	wantReplay(t, "a known key", first, p.Post("good", "{}"))
	if got := p.Ask("POST", p.Find("bad0").Path+"/release", ""); got.Status/100 != 2 {
		t.Fatalf("release: %v", got)
	}
	wantFirst(t, "once one is resolved", p.Post("new", "{}"), 201)
}

func TestAnswerUpstreamUnreachable(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	addr := up.Addr()
	up.Close()
	p := rig.Start(t, "http://"+addr)
	for range 2 {
		wantProblem(t, "nobody listens", p.Post("k", "{}"), 502, "upstream-unreachable")
		wantProblem(t, "without a key", p.Send(rig.Request{Body: "{}"}), 502, "upstream-unreachable")
	}
	if all := p.Records("unknown", "completed", "in-flight"); len(all) != 0 {
		t.Errorf("there are records: %+v", all)
	}
}

func TestAnswerUpstreamBroken(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(x *rig.Exchange){
		"closes":        func(x *rig.Exchange) { x.Close() },
		"resets":        func(x *rig.Exchange) { x.Reset() },
		"half a head":   func(x *rig.Exchange) { x.Write("HTTP/1.1 201 Cre"); x.Close() },
		"no HTTP":       func(x *rig.Exchange) { x.Write("SSH-2.0-OpenSSH_9.2\r\n"); x.Close() },
		"only a 103":    func(x *rig.Exchange) { x.Write(rig.Head(103, "Link: </a>")); x.Close() },
		"a head like 1": func(x *rig.Exchange) { x.Write("HTTP/1.1 201 Created\r\nContent-Length: 5\r\n"); x.Reset() },
	} {
		t.Run(name, func(t *testing.T) {
			up := rig.NewUpstream(t, end)
			p := rig.Start(t, up.URL())
			wantProblem(t, "the first", p.Post("k", "{}"), 502, "upstream-broken")
			wantProblem(t, "the retry", p.Post("k", "{}"), 409, "outcome-unknown")
			wantRuns(t, up, "k", 1)
		})
	}
}

func TestAnswerUpstreamTimeout(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) { x.Hangup(); x.Close() })
	p := rig.Start(t, up.URL(), "--upstream-timeout=200ms")
	began := time.Now()
	wantProblem(t, "the first", p.Post("k", "{}"), 504, "upstream-timeout")
	if d := time.Since(began); d < 150*time.Millisecond || d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
	wantProblem(t, "the retry", p.Post("k", "{}"), 409, "outcome-unknown")
	wantRuns(t, up, "k", 1)
	wantProblem(t, "without a key", p.Send(rig.Request{}), 504, "upstream-timeout")
}

// A timeout is not an answer that ends the work: max-run does, and says the same.
func TestAnswerMaxRun(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) { x.Hangup(); x.Close() })
	p := rig.Start(t, up.URL(), "--max-run=200ms", "--lease=100ms")
	r := p.Post("k", "{}")
	wantProblem(t, "the first", r, http.StatusGatewayTimeout, "upstream-timeout")
	wantProblem(t, "the retry", p.Post("k", "{}"), 409, "outcome-unknown")
	wantRuns(t, up, "k", 1)
}
