package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/e2e/internal/rig"
)

// zip returns s in gzip.
func zip(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTrap26BytesAreExact(t *testing.T) {
	t.Parallel()
	all := make([]byte, 0, 512)
	for i := range 256 {
		all = append(all, byte(i), byte(255-i))
	}
	for name, body := range map[string]string{
		"binary": string(all), "Latin-1": "stra\xdfe", "NUL": "\x00\x00", "CRLF": "a\r\nb\n\r", "large": fill(300_000), "like HTTP": "HTTP/1.1 200 OK\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			up := rig.NewUpstream(t, func(x *rig.Exchange) {
				x.Respond(200, body, "Content-Type: text/html; charset=iso-8859-1")
			})
			p := rig.Start(t, up.URL())
			first := p.Post("k", "{}")
			wantFirst(t, "the first", first, 200)
			if string(first.Body) != body {
				t.Errorf("the first got other bytes")
			}
			again := p.Post("k", "{}")
			wantReplay(t, "the retry", first, again)
			if again.Header.Get("Content-Type") != "text/html; charset=iso-8859-1" {
				t.Errorf("Content-Type is %q", again.Header.Get("Content-Type"))
			}
		})
	}
}

// What was compressed for the first client is not sent to one that does not
// accept it.
func TestTrap26RetryThatDoesNotAcceptGzip(t *testing.T) {
	t.Parallel()
	const plain = "a text, a text, a text, a text"
	compressed := zip(t, plain)
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		x.Respond(200, compressed, "Content-Encoding: gzip", `ETag: "1"`, "Content-Type: text/plain")
	})
	p := rig.Start(t, up.URL())
	ask := func(accept ...string) rig.Reply { return p.Send(rig.Request{Key: "k", Body: "{}", Header: accept}) }
	first := ask("Accept-Encoding: gzip, br, zstd")
	wantFirst(t, "the first", first, 200)
	if string(first.Body) != compressed {
		t.Errorf("the first got %q", first.Body)
	}
	if got := up.Seen()[0].Header.Get("Accept-Encoding"); got != "gzip" {
		t.Errorf("the service was asked for %q, which idem cannot undo", got)
	}
	again := ask("Accept-Encoding: br, gzip;q=0.5")
	wantReplay(t, "one that accepts it", first, again)
	if again.Header.Get("Content-Encoding") != "gzip" || again.Header.Get("ETag") != `"1"` {
		t.Errorf("the replay has %v", again.Header)
	}
	for _, accept := range [][]string{nil, {"Accept-Encoding: identity"}, {"Accept-Encoding: br"}, {"Accept-Encoding: gzip;q=0"}} {
		r := ask(accept...)
		wantReplay(t, fmt.Sprint(accept), rig.Reply{Status: 200, Body: []byte(plain)}, r)
		if r.Header.Get("Content-Encoding") != "" || r.Length != int64(len(plain)) {
			t.Errorf("%v: %v", accept, r)
		}
	}
	wantRuns(t, up, "k", 1)
}

// A response to a client that accepts nothing is not compressed by the way.
func TestTrap26NothingIsAskedThatWasNot(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	for _, key := range []string{"", "k"} {
		wantFirst(t, key, p.Post(key, "{}"), 201)
	}
	p.Send(rig.Request{Key: "l", Header: []string{"Accept-Encoding: br"}})
	p.Send(rig.Request{Header: []string{"Accept-Encoding: br, zstd"}})
	for i, want := range []string{"", "", "identity", "br, zstd"} {
		if got := up.Seen()[i].Header.Get("Accept-Encoding"); got != want {
			t.Errorf("request %d: Accept-Encoding %q, want %q", i, got, want)
		}
	}
}

func TestTrap27NoBody(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"204":                  rig.Head(204, "X-Run: 1"),
		"304":                  rig.Head(304, "X-Run: 1", `ETag: "1"`),
		"304 with a length":    rig.Head(304, "X-Run: 1", "Content-Length: 1234"),
		"201 empty":            rig.Head(201, "X-Run: 1", "Content-Length: 0"),
		"201 empty in chunks":  rig.Head(201, "X-Run: 1", "Transfer-Encoding: chunked") + "0\r\n\r\n",
		"303 empty":            rig.Head(303, "X-Run: 1", "Location: /things/1", "Content-Length: 0"),
		"500 empty":            rig.Head(500, "X-Run: 1", "Content-Length: 0"),
		"205 with its length":  rig.Head(205, "X-Run: 1", "Content-Length: 0"),
		"200 with type, empty": rig.Head(200, "X-Run: 1", "Content-Type: image/png", "Content-Length: 0"),
	} {
		t.Run(name, func(t *testing.T) {
			up := rig.NewUpstream(t, func(x *rig.Exchange) { x.Write(answer) })
			p := rig.Start(t, up.URL())
			first := p.Post("k", "{}")
			if first.Err != nil || len(first.Body) != 0 || first.Header.Get("X-Run") != "1" || first.Replayed() {
				t.Fatalf("the first: %v", first)
			}
			again := p.Post("k", "{}")
			wantReplay(t, "the retry", first, again)
			if again.Header.Get("X-Run") != "1" {
				t.Errorf("the replay has %v", again.Header)
			}
			wantRuns(t, up, "k", 1)
			// The connection is in step afterwards.
			wantFirst(t, "another key", p.Post("l", "{}"), first.Status)
		})
	}
}

func TestTrap28EarlyHintsThenCreated(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		x.Write(rig.Head(103, "Link: </a>; rel=preload"))
		rig.Created(x)
	})
	p := rig.Start(t, up.URL())
	first := p.Post("k", "{}")
	wantFirst(t, "the first", first, 201)
	wantReplay(t, "the retry", first, p.Post("k", "{}"))
	if r := p.Find("k"); r.State != "completed" {
		t.Errorf("the record is %+v", r)
	}
	if got := p.Ask("GET", p.Find("k").Path, ""); !strings.Contains(string(got.Body), `"status": 201`) {
		t.Errorf("the record says %s", got.Body)
	}
}

// The first answer keeps every header; the replay keeps what it may.
func TestTrap29Headers(t *testing.T) {
	t.Parallel()
	kept := []string{
		`ETag: "v1"`, "Location: /things/1", "Last-Modified: Tue, 24 Nov 2026 10:00:00 GMT", "Content-Type: application/json",
		"Cache-Control: no-store", "Vary: Accept", "X-Repeated: one", "X-Repeated: two", "X-Repeated: one", "Link: </a>; rel=next",
		"X-Empty:", "Content-Language: de", "Retry-After: 5", "Access-Control-Allow-Origin: *", "X-Request-Id: 17", "Server: test",
	}
	dropped := []string{
		"Set-Cookie: a=1", "Set-Cookie: b=2", "Age: 5", "Alt-Svc: h3=\":443\"", "Server-Timing: db;dur=5",
		"WWW-Authenticate: Basic", "Proxy-Authenticate: Basic", "Authentication-Info: nextnonce=1",
	}
	// With "close" among them Go's transport drops the whole list.
	hop := []string{"Connection: keep-alive, X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", "Proxy-Connection: close"}
	date := "Date: Mon, 01 Jan 2024 00:00:00 GMT"
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		x.Respond(201, "{}", slices.Concat(kept, dropped, hop, []string{date})...)
	})
	p := rig.Start(t, up.URL())
	first := p.Post("k", "{}")
	wantFirst(t, "the first", first, 201)
	again := p.Post("k", "{}")
	wantReplay(t, "the retry", first, again)
	values := func(lines []string) http.Header {
		h := http.Header{}
		for _, line := range lines {
			name, value, _ := strings.Cut(line, ":")
			h.Add(name, strings.TrimSpace(value))
		}
		return h
	}
	for name, want := range values(kept) {
		if !slices.Equal(first.Header[name], want) {
			t.Errorf("the first has %s %q, want %q", name, first.Header[name], want)
		}
		if !slices.Equal(again.Header[name], want) {
			t.Errorf("the replay has %s %q, want %q", name, again.Header[name], want)
		}
	}
	for name, want := range values(dropped) {
		if !slices.Equal(first.Header[name], want) && name != "Proxy-Authenticate" {
			t.Errorf("the first has %s %q, want %q", name, first.Header[name], want)
		}
		if len(again.Header[name]) != 0 {
			t.Errorf("the replay has %s %q", name, again.Header[name])
		}
	}
	for _, name := range []string{"X-Hop", "Keep-Alive", "Proxy-Connection"} {
		if len(first.Header[name])+len(again.Header[name]) != 0 {
			t.Errorf("a hop-by-hop field passed: %s", name)
		}
	}
	for what, r := range map[string]rig.Reply{"the first": first, "the replay": again} {
		if len(r.Header["Date"]) != 1 || len(r.Header["Content-Length"]) != 1 {
			t.Errorf("%s has Date %q and Content-Length %q", what, r.Header["Date"], r.Header["Content-Length"])
		}
	}
	if first.Header.Get("Date") != "Mon, 01 Jan 2024 00:00:00 GMT" {
		t.Errorf("the first has another Date: %q", first.Header.Get("Date"))
	}
	if d, err := http.ParseTime(again.Header.Get("Date")); err != nil || time.Since(d) > time.Hour {
		t.Errorf("the replay's Date is %q", again.Header.Get("Date"))
	}
}

func TestTrap30StoredErrorsHaveTheirBody(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		status := 422
		if x.Key == "500" {
			status = 500
		}
		x.Respond(status, `{"error":"no such account"}`, "Content-Type: application/problem+json", "X-Error: 1")
	})
	p := rig.Start(t, up.URL())
	for _, key := range []string{"422", "500"} {
		first := p.Post(key, "{}")
		again := p.Post(key, "{}")
		wantReplay(t, key, first, again)
		if fmt.Sprint(again.Status) != key || string(again.Body) != `{"error":"no such account"}` || again.Header.Get("X-Error") != "1" {
			t.Errorf("%s: %v", key, again)
		}
		wantRuns(t, up, key, 1)
	}
}

func TestTrap30Trailers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ declared, body string }{
		"declared":   {"Trailer: X-Sum, X-Count", "hello"},
		"large":      {"Trailer: X-Sum, X-Count", fill(100_000)},
		"undeclared": {"X-Nothing: 1", "hello"},
		"empty":      {"Trailer: X-Sum, X-Count", ""},
	} {
		t.Run(name, func(t *testing.T) {
			up := rig.NewUpstream(t, func(x *rig.Exchange) {
				x.Write(rig.Head(201, "Transfer-Encoding: chunked", c.declared) + rig.Chunks(c.body, 10_000) +
					"0\r\nX-Sum: 17\r\nX-Count: 1\r\nX-Count: 2\r\n\r\n")
			})
			p := rig.Start(t, up.URL())
			first := p.Post("k", "{}")
			wantFirst(t, "the first", first, 201)
			again := p.Post("k", "{}")
			wantReplay(t, "the retry", first, again)
			for what, r := range map[string]rig.Reply{"the first": first, "the replay": again} {
				if r.Trailer.Get("X-Sum") != "17" || !slices.Equal(r.Trailer["X-Count"], []string{"1", "2"}) {
					t.Errorf("%s has the trailers %v", what, r.Trailer)
				}
			}
		})
	}
}

// The markers are idem's alone: in heads, trailers and early responses, with a
// key and without, whatever the service sends is dropped.
func TestTrap31ForgedMarkers(t *testing.T) {
	t.Parallel()
	forged := []string{"Idempotent-Replayed: true", "idempotency-key-expires: Tue, 24 Nov 2037 10:00:00 GMT"}
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		x.Write(rig.Head(103, forged...))
		x.Write(rig.Head(201, append([]string{"Transfer-Encoding: chunked", "Trailer: Idempotent-Replayed, X-Sum"}, forged...)...) +
			"2\r\nok\r\n0\r\nIdempotent-Replayed: true\r\nX-Sum: 1\r\nIdempotency-Key-Expires: Tue, 24 Nov 2037 10:00:00 GMT\r\n\r\n")
	})
	p := rig.Start(t, up.URL())
	check := func(what string, r rig.Reply) {
		t.Helper()
		wantFirst(t, what, r, 201)
		for _, early := range r.Early {
			if early.Replayed() || early.Header.Get("Idempotency-Key-Expires") != "" {
				t.Errorf("%s: an early response has %v", what, early.Header)
			}
		}
		if len(r.Trailer["Idempotent-Replayed"])+len(r.Trailer["Idempotency-Key-Expires"]) != 0 || r.Trailer.Get("X-Sum") != "1" {
			t.Errorf("%s: the trailers are %v", what, r.Trailer)
		}
	}
	check("without a key", p.Post("", "{}"))
	check("a GET", p.Send(rig.Request{Method: "GET", NoLength: true}))
	first := p.Post("k", "{}")
	check("the first", first)
	again := p.Post("k", "{}")
	wantReplay(t, "the retry", first, again)
	if strings.Contains(again.Header.Get("Idempotency-Key-Expires"), "2037") || len(again.Trailer["Idempotent-Replayed"]) != 0 {
		t.Errorf("the replay has the forged markers: %v %v", again.Header, again.Trailer)
	}
	// A client cannot forge them either: what it sends reaches nobody's answer.
	wantFirst(t, "a forging client", p.Send(rig.Request{Key: "l", Header: forged}), 201)
}

// The time that a replay tells counts from the completion.
func TestTrap32ExpiryIsTold(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--retention=1h")
	p.Post("k", "{}")
	r := p.Post("k", "{}")
	expires, err := http.ParseTime(r.Header.Get("Idempotency-Key-Expires"))
	if err != nil || time.Until(expires) > time.Hour+2*time.Second || time.Until(expires) < time.Hour-time.Minute {
		t.Errorf("it expires %v: %v", expires, err)
	}
}

// After all its times a key gives exactly one new run, however many ask.
func TestTrap32AfterItsTimeOneNewRun(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--retention=300ms", "--tombstone=300ms")
	first := p.Post("k", "{}")
	wantFirst(t, "the first", first, 201)
	statuses := map[int]int{}
	rig.Eventually(t, "the key is free again", func() bool {
		replies := make([]<-chan rig.Reply, 8)
		for i := range replies {
			replies[i] = async(t, p, rig.Request{Key: "k", Body: "{}"})
		}
		for _, c := range replies {
			r := rig.Receive(t, "an answer", c)
			statuses[r.Status]++
			if r.Status == 409 {
				t.Fatalf("a key that is over is answered %v", r)
			}
		}
		return up.Count("k") > 1
	})
	wantRuns(t, up, "k", 2)
	if statuses[422] == 0 {
		t.Errorf("there was no time at which it was refused: %v", statuses)
	}
}

// Every record is dropped in the end.
func TestTrap35RecordsAreDropped(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--retention=200ms", "--tombstone=200ms")
	c := rig.Dial(t, p.Listen)
	for i := range 500 {
		c.Write(rig.Request{Key: fmt.Sprint(i), Body: "{}"}.Text())
		if r := c.Reply(); r.Status != 201 {
			t.Fatalf("%v", r)
		}
	}
	rig.Eventually(t, "the store counts nothing any more", func() bool {
		text := p.Ask("GET", "/metrics", "").Body
		sum, lines := 0, 0
		for _, line := range splitLines(text) {
			var n int
			if rest, ok := strings.CutPrefix(line, "idem_store_records{"); ok {
				if _, err := fmt.Sscanf(rest[strings.Index(rest, "}")+1:], "%d", &n); err == nil {
					sum, lines = sum+n, lines+1
				}
			}
		}
		return lines > 0 && sum == 0
	})
}

// A result of exactly the limit is kept, and one byte more is not.
func TestTrap61ExactlyTheLimit(t *testing.T) {
	t.Parallel()
	const limit = 8 << 10
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		var n int
		if _, err := fmt.Sscanf(x.URI, "/%d", &n); err == nil {
			x.Respond(201, fill(n))
		}
	})
	p := rig.Start(t, up.URL(), fmt.Sprintf("--max-stored-response=%d", limit))
	keeps := func(n int) bool {
		r := rig.Request{Path: fmt.Sprintf("/%d", n), Key: fmt.Sprint(n)}
		first := p.Send(r)
		wantFirst(t, r.Path, first, 201)
		if string(first.Body) != fill(n) {
			t.Fatalf("%d bytes: the first client got %d", n, len(first.Body))
		}
		again := p.Send(r)
		wantRuns(t, up, r.Key, 1)
		if again.Replayed() {
			wantReplay(t, r.Path, first, again)
			return true
		}
		wantProblem(t, r.Path, again, 422, "response-not-stored")
		return false
	}
	kept, refused := 0, limit+1
	for refused-kept > 1 {
		if n := (kept + refused) / 2; keeps(n) {
			kept = n
		} else {
			refused = n
		}
	}
	if kept < limit-200 || kept > limit {
		t.Errorf("with a limit of %d the largest body that is kept has %d bytes", limit, kept)
	}
}

// The body of a request reaches the service whole, whatever its framing.
func TestRequestReachesTheServiceWhole(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	for i, n := range []int{0, 1, 511, 512, 513, 65_536, 65_537, 1_000_000} {
		for _, inChunks := range []bool{false, true} {
			key := fmt.Sprintf("%d-%v", i, inChunks)
			r := p.Send(rig.Request{Key: key, Body: fill(n), Chunked: inChunks, Header: []string{"Expect: 100-continue"}})
			wantFirst(t, key, r, 201)
			seen := up.Seen()
			last := seen[len(seen)-1]
			if last.Key != key || last.Body != fill(n) || !last.Whole {
				t.Errorf("%s: %d bytes of %d arrived", key, len(last.Body), n)
			}
		}
	}
}
