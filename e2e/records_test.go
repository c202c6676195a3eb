package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/e2e/internal/rig"
)

// The tests of this file are the lines of the contract's table of what becomes
// of the operation's own response.

// byStatus answers with the status that the path names, and a body that no two
// runs share.
func byStatus(x *rig.Exchange) {
	var status int
	if _, err := fmt.Sscanf(x.URI, "/status/%d", &status); err != nil {
		status = 200
	}
	if status == 204 || status == 304 {
		x.Write(rig.Head(status, fmt.Sprintf("X-Serial: %d", x.Serial)))
		return
	}
	x.Respond(status, fmt.Sprintf("run %d", x.Serial), fmt.Sprintf("X-Serial: %d", x.Serial), "Location: /elsewhere")
}

func TestRecordCompletes(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, byStatus)
	p := rig.Start(t, up.URL())
	statuses := []int{
		200, 201, 202, 203, 204, 205, 206, 207, 208, 226,
		300, 301, 302, 303, 304, 307, 308,
		400, 402, 404, 405, 406, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 424, 426, 428, 431, 451, 499,
		500, 501, 505, 506, 507, 508, 510, 511, 520, 599,
	}
	for _, method := range []string{"POST", "PATCH"} {
		for _, status := range statuses {
			r := rig.Request{Method: method, Path: fmt.Sprintf("/status/%d", status), Key: fmt.Sprintf("%s-%d", method, status), Body: "{}"}
			first := p.Send(r)
			wantFirst(t, r.Key, first, status)
			again := p.Send(r)
			wantReplay(t, r.Key, first, again)
			if first.Header.Get("X-Serial") == "" || again.Header.Get("X-Serial") != first.Header.Get("X-Serial") {
				t.Errorf("%s: X-Serial %q, then %q", r.Key, first.Header.Get("X-Serial"), again.Header.Get("X-Serial"))
			}
			wantRuns(t, up, r.Key, 1)
		}
	}
}

func TestRecordReleases(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, byStatus)
	p := rig.Start(t, up.URL())
	for _, status := range []int{401, 403, 407, 408, 409, 423, 425, 429, 503} {
		r := rig.Request{Path: fmt.Sprintf("/status/%d", status), Key: fmt.Sprint(status), Body: "{}"}
		for run := 1; run <= 3; run++ {
			wantFirst(t, r.Key, p.Send(r), status)
			wantRuns(t, up, r.Key, run)
		}
		// A release forgets the fingerprint: another request may come under it.
		r.Body = "{ }"
		wantFirst(t, r.Key+" with another body", p.Send(r), status)
		if rec := p.Find(r.Key); rec.State != "" {
			t.Errorf("%d: there is a record: %+v", status, rec)
		}
	}
}

// A release is followed by a run that completes, and that is then replayed.
func TestRecordReleasedThenCompleted(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		if x.Serial < 3 {
			x.Respond(503, "not now", "Retry-After: 1")
			return
		}
		rig.Created(x)
	})
	p := rig.Start(t, up.URL())
	for range 2 {
		r := p.Post("k", "{}")
		wantFirst(t, "not now", r, 503)
		if r.Header.Get("Retry-After") != "1" {
			t.Errorf("the service's Retry-After is lost: %v", r.Header)
		}
	}
	first := p.Post("k", "{}")
	wantFirst(t, "the third", first, 201)
	wantReplay(t, "the fourth", first, p.Post("k", "{}"))
	if rec := p.Find("k"); rec.Attempt != 3 {
		t.Errorf("the attempts are not counted over releases: %+v", rec)
	}
}

func TestRecordUnknownByGateway(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, byStatus)
	p := rig.Start(t, up.URL())
	for _, status := range []int{502, 504} {
		r := rig.Request{Path: fmt.Sprintf("/status/%d", status), Key: fmt.Sprint(status), Body: "{}"}
		first := p.Send(r)
		wantFirst(t, "passed on", first, status)
		if !strings.HasPrefix(string(first.Body), "run ") {
			t.Errorf("%d: the service's body is lost: %v", status, first)
		}
		wantProblem(t, "the retry", p.Send(r), 409, "outcome-unknown")
		wantRuns(t, up, r.Key, 1)
	}
}

// No connection could be made: released, and the next retry runs.
func TestRecordReleasedWithoutConnection(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	addr := up.Addr()
	p := rig.Start(t, up.URL())
	up.Close()
	wantProblem(t, "nobody listens", p.Post("k", "{}"), 502, "upstream-unreachable")
	again := rig.NewUpstreamAt(t, addr, nil)
	first := p.Post("k", "{}")
	wantFirst(t, "the service is back", first, 201)
	wantReplay(t, "the retry", first, p.Post("k", "{}"))
	wantRuns(t, again, "k", 1)
}

// A response that breaks off reaches the client broken, and its outcome is
// unknown.
func TestRecordUnknownWhenBrokenInside(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 100_000)
	for name, write := range map[string]func(x *rig.Exchange){
		"length short by one, small": func(x *rig.Exchange) { x.Write(rig.Head(201, "Content-Length: 6") + "12345"); x.Close() },
		"length short, large":        func(x *rig.Exchange) { x.Write(rig.Head(201, "Content-Length: 100001") + big); x.Close() },
		"length, no body":            func(x *rig.Exchange) { x.Write(rig.Head(201, "Content-Length: 6")); x.Close() },
		"length, reset":              func(x *rig.Exchange) { x.Write(rig.Head(201, "Content-Length: 6") + "12345"); x.Reset() },
		"chunked, no last chunk": func(x *rig.Exchange) {
			x.Write(rig.Head(201, "Transfer-Encoding: chunked") + "5\r\n12345\r\n")
			x.Close()
		},
		"chunked, large": func(x *rig.Exchange) {
			x.Write(rig.Head(201, "Transfer-Encoding: chunked") + rig.Chunks(big, 8192))
			x.Close()
		},
		"chunked, inside a chunk": func(x *rig.Exchange) { x.Write(rig.Head(201, "Transfer-Encoding: chunked") + "5\r\n123"); x.Close() },
		"chunked, last chunk cut": func(x *rig.Exchange) {
			x.Write(rig.Head(201, "Transfer-Encoding: chunked") + "5\r\n12345\r\n0\r\n")
			x.Close()
		},
		"chunked, nonsense": func(x *rig.Exchange) {
			x.Write(rig.Head(201, "Transfer-Encoding: chunked") + "5\r\n12345\r\nzz\r\n")
			x.Close()
		},
		"reset in the last chunk": func(x *rig.Exchange) {
			x.Write(rig.Head(201, "Transfer-Encoding: chunked") + "5\r\n12345\r\n0\r\nX")
			x.Reset()
		},
	} {
		t.Run(name, func(t *testing.T) {
			up := rig.NewUpstream(t, write)
			p := rig.Start(t, up.URL())
			first := p.Post("k", "{}")
			// Where nothing was sent yet, it may be said in a problem.
			if first.Err == nil && first.Status < 500 {
				t.Errorf("the response looks whole: %v", first)
			}
			wantProblem(t, "the retry", p.Post("k", "{}"), 409, "outcome-unknown")
			wantRuns(t, up, "k", 1)
			plain := p.Send(rig.Request{})
			if plain.Err == nil && plain.Status < 500 {
				t.Errorf("without a key the response looks whole: %v", plain)
			}
		})
	}
}

// A body that stalls is a timeout, and the response ends broken.
func TestRecordUnknownWhenBodyStalls(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		x.Write(rig.Head(201, "Content-Length: 10000") + strings.Repeat("x", 9999))
		x.Hangup()
		x.Close()
	})
	p := rig.Start(t, up.URL(), "--upstream-timeout=200ms")
	first := p.Post("k", "{}")
	if first.Err == nil || first.Status != 201 {
		t.Errorf("want a response that breaks off, got %v", first)
	}
	wantProblem(t, "the retry", p.Post("k", "{}"), 409, "outcome-unknown")
	wantRuns(t, up, "k", 1)
}

// The timeout is for each read of the body, not for all of it.
func TestRecordSlowBodyIsNoTimeout(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		x.Write(rig.Head(201, "Content-Length: 8"))
		for range 8 {
			x.Delay(100 * time.Millisecond)
			x.Write("x")
		}
	})
	p := rig.Start(t, up.URL(), "--upstream-timeout=500ms")
	first := p.Post("k", "{}")
	wantFirst(t, "the first", first, 201)
	wantReplay(t, "the retry", first, p.Post("k", "{}"))
}

// 1xx responses are passed on and not stored.
func TestRecordPassesEarlyResponsesOn(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		x.Write(rig.Head(102) + rig.Head(103, "Link: </style.css>; rel=preload"))
		rig.Created(x)
	})
	p := rig.Start(t, up.URL())
	first := p.Post("k", "{}")
	wantFirst(t, "the first", first, 201)
	if len(first.Early) != 2 || first.Early[0].Status != 102 || first.Early[1].Status != 103 || first.Early[1].Header.Get("Link") == "" {
		t.Errorf("the early responses are %v", first.Early)
	}
	again := p.Post("k", "{}")
	wantReplay(t, "the retry", first, again)
	if len(again.Early) != 0 || again.Header.Get("Link") != "" {
		t.Errorf("the replay has %v and %v", again.Early, again.Header)
	}
}

// The response is passed on while it is made: an event of a stream never waits
// for the next, nor for the record.
func TestRecordStreamPassesAtOnce(t *testing.T) {
	t.Parallel()
	steps := make(chan struct{})
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		x.Write(rig.Head(200, "Content-Type: text/event-stream", "Transfer-Encoding: chunked"))
		for i := range 3 {
			x.Write(rig.Chunks(fmt.Sprintf("data: %d of run %d\n\n", i, x.Serial), 1000))
			if !x.Wait(steps) {
				return
			}
		}
		x.Write("0\r\n\r\n")
	})
	p := rig.Start(t, up.URL())
	c := rig.Dial(t, p.Listen)
	c.Write(rig.Request{Key: "k", Body: "{}"}.Text())
	res, _, err := c.Head() //nolint:bodyclose // its connection is closed
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for i := range 3 {
		event := make([]byte, len("data: 0 of run 1\n\n"))
		if _, err := readFull(res, event); err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
		got.Write(event)
		rig.Receive(t, "the service goes on", sendTo(steps))
	}
	rest := make([]byte, 1)
	if n, err := res.Body.Read(rest); n != 0 || err == nil {
		t.Errorf("after the events: %d bytes, %v", n, err)
	}
	again := p.Post("k", "{}")
	wantReplay(t, "the retry", rig.Reply{Status: http.StatusOK, Body: []byte(got.String())}, again)
	if again.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("the replay has %v", again.Header)
	}
	wantRuns(t, up, "k", 1)
}
