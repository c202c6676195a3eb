package e2e

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/idem-go/idem/e2e/internal/rig"
)

// A hundred requests at once: the work runs once, and all get its answer.
func TestTrap01HundredAtOnce(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		x.Delay(50 * time.Millisecond)
		rig.Created(x)
	})
	p := rig.Start(t, up.URL())
	replies := make([]rig.Reply, 100)
	var wg sync.WaitGroup
	for i := range replies {
		wg.Go(func() { replies[i] = p.Post("k", "{}") })
	}
	wg.Wait()
	wantRuns(t, up, "k", 1)
	first, replays := rig.Reply{}, 0
	for _, r := range replies {
		if r.Replayed() {
			replays++
		} else {
			first = r
		}
	}
	if replays != 99 {
		t.Fatalf("%d of 100 are replays", replays)
	}
	wantFirst(t, "the first", first, 201)
	for _, r := range replies {
		if r.Replayed() {
			wantReplay(t, "another", first, r)
		}
	}
}

// The work takes much longer than the lease: the claim is renewed.
func TestTrap03LongerThanTheLease(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	up := rig.NewUpstream(t, g.created)
	p := rig.Start(t, up.URL(), "--lease=200ms", "--wait=0s")
	began := time.Now()
	first := async(t, p, rig.Request{Key: "k", Body: "{}"})
	rig.Receive(t, "the request arrives", g.arrived)
	rig.Eventually(t, "five leases pass", func() bool {
		wantProblem(t, "while it runs", p.Post("k", "{}"), 409, "in-flight")
		return time.Since(began) > time.Second
	})
	g.open()
	one := rig.Receive(t, "the first ends", first)
	wantFirst(t, "the first", one, 201)
	wantReplay(t, "the retry", one, p.Post("k", "{}"))
	wantRuns(t, up, "k", 1)
}

// A waiter that gives up leaves the owner's claim alone.
func TestTrap06WaiterGivesUp(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	up := rig.NewUpstream(t, g.created)
	p := rig.Start(t, up.URL(), "--wait=100ms")
	first := async(t, p, rig.Request{Key: "k", Body: "{}"})
	rig.Receive(t, "the request arrives", g.arrived)
	for range 3 {
		wantProblem(t, "a waiter", p.Post("k", "{}"), 409, "in-flight")
	}
	// One that hangs up instead of waiting does no harm either.
	c := rig.Dial(t, p.Listen)
	c.Write(rig.Request{Key: "k", Body: "{}"}.Text())
	c.Reset()
	g.open()
	one := rig.Receive(t, "the first ends", first)
	wantFirst(t, "the first", one, 201)
	wantReplay(t, "the retry", one, p.Post("k", "{}"))
	wantRuns(t, up, "k", 1)
}

// Killed after the work and before the record: never a silent second run.
func TestTrap07KilledBeforeTheSave(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	up := rig.NewUpstream(t, g.created)
	p := rig.Start(t, up.URL())
	first := async(t, p, rig.Request{Key: "k", Body: "{}"})
	rig.Receive(t, "the work is done", g.arrived)
	p.Kill()
	if r := rig.Receive(t, "the first client is told nothing", first); r.Err == nil {
		t.Errorf("a killed proxy answered %v", r)
	}
	g.open()
	p.Restart()
	for range 3 {
		wantProblem(t, "a retry", p.Post("k", "{}"), 409, "outcome-unknown")
	}
	wantRuns(t, up, "k", 1)
}

// The client leaves while the work runs: it goes on, and the retry gets its
// answer.
func TestTrap11ClientLeavesWhileItRuns(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	gone := make(chan bool, 10)
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		if !g.pass(x) {
			return
		}
		rig.Created(x)
		gone <- false
	})
	p := rig.Start(t, up.URL())
	leave := map[string]func(c *rig.Conn){"fin": (*rig.Conn).Close, "reset": (*rig.Conn).Reset}
	for key, end := range leave {
		c := rig.Dial(t, p.Listen)
		c.Write(rig.Request{Key: key, Body: "{}"}.Text())
		rig.Receive(t, "the request arrives", g.arrived)
		end(c)
	}
	// The proxy has noticed by then that the clients are gone: it serves others.
	wantProblem(t, "another request", p.Post("fin", "other"), 422, "key-reused")
	g.open()
	for key := range leave {
		rig.Eventually(t, "the record is there", func() bool { return p.Find(key).State == "completed" })
		r := p.Post(key, "{}")
		if r.Status != 201 || !r.Replayed() {
			t.Errorf("%s: want a replay, got %v", key, r)
		}
		wantRuns(t, up, key, 1)
	}
}

// The client leaves in the middle of a streamed response.
func TestTrap11ClientLeavesInsideTheResponse(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	const part, rest = 20_000, 200_000
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		x.Write(rig.Head(201, fmt.Sprintf("Content-Length: %d", part+rest)) + fill(part))
		if g.pass(x) {
			x.Write(fill(rest))
		}
	})
	p := rig.Start(t, up.URL())
	c := rig.Dial(t, p.Listen)
	c.Write(rig.Request{Key: "k", Body: "{}"}.Text())
	rig.Receive(t, "the response has begun", g.arrived)
	c.ReadHead()
	c.Read(1000)
	c.Reset()
	g.open()
	rig.Eventually(t, "the record is there", func() bool { return p.Find("k").State == "completed" })
	r := p.Post("k", "{}")
	if r.Status != 201 || !r.Replayed() || string(r.Body) != fill(part)+fill(rest) {
		t.Errorf("want a replay of all of it, got %v with %d bytes", r.Status, len(r.Body))
	}
	wantRuns(t, up, "k", 1)
}

// fill returns n bytes that are not all alike.
func fill(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + i%25)
	}
	return string(b)
}

// The client leaves while it uploads: nothing was claimed for good.
func TestTrap11ClientLeavesWhileItUploads(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--wait=0s")
	for name, begin := range map[string]string{
		"length": "POST /things HTTP/1.1\r\nHost: example.test\r\nIdempotency-Key: length\r\nContent-Length: 10\r\n\r\n12345",
		"chunks": "POST /things HTTP/1.1\r\nHost: example.test\r\nIdempotency-Key: chunks\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
	} {
		for _, end := range []func(c *rig.Conn){(*rig.Conn).Close, (*rig.Conn).Reset} {
			c := rig.Dial(t, p.Listen)
			c.Write(begin)
			end(c)
		}
		wantRuns(t, up, name, 0)
		first := p.Send(rig.Request{Key: name, Body: "1234567890"})
		wantFirst(t, name, first, 201)
		wantReplay(t, name, first, p.Send(rig.Request{Key: name, Body: "1234567890"}))
		wantRuns(t, up, name, 1)
	}
}

func TestTrap12ClosedPort(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	addr := up.Addr()
	up.Close()
	p := rig.Start(t, "http://"+addr)
	wantProblem(t, "the port is closed", p.Post("k", "{}"), 502, "upstream-unreachable")
	if r := p.Find("k"); r.State != "" {
		t.Errorf("it is stored: %+v", r)
	}
	again := rig.NewUpstreamAt(t, addr, nil)
	wantFirst(t, "the port is open", p.Post("k", "{}"), 201)
	wantRuns(t, again, "k", 1)
}

func TestTrap12ResetAfterRead(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) { x.Reset() })
	p := rig.Start(t, up.URL())
	wantProblem(t, "the first", p.Post("k", "{}"), 502, "upstream-broken")
	for range 3 {
		wantProblem(t, "a retry", p.Post("k", "{}"), 409, "outcome-unknown")
	}
	wantRuns(t, up, "k", 1)
}

// Trap 15: however the response is made, the work runs once.
func TestTrap15ResponseHoweverItIsMade(t *testing.T) {
	t.Parallel()
	const limit = 32 << 10
	for name, c := range map[string]struct {
		write func(x *rig.Exchange)
		body  int
		kept  bool
	}{
		"chunked":            {func(x *rig.Exchange) { chunked(x, fill(1000), 100) }, 1000, true},
		"chunked, over":      {func(x *rig.Exchange) { chunked(x, fill(limit+1), 1000) }, limit + 1, false},
		"length, over by 1":  {func(x *rig.Exchange) { x.Respond(201, fill(limit+1)) }, limit + 1, false},
		"much over":          {func(x *rig.Exchange) { x.Respond(201, fill(20*limit)) }, 20 * limit, false},
		"until it closes":    {func(x *rig.Exchange) { x.Write(rig.Head(201, "Connection: close") + fill(9000)); x.Close() }, 9000, true},
		"HTTP/1.0":           {func(x *rig.Exchange) { x.Write("HTTP/1.0 201 Created\r\n\r\n" + fill(90)); x.Close() }, 90, true},
		"bytewise":           {bytewise, 500, true},
		"empty":              {func(x *rig.Exchange) { x.Respond(201, "") }, 0, true},
		"empty, chunked":     {func(x *rig.Exchange) { chunked(x, "", 1) }, 0, true},
		"just below holding": {func(x *rig.Exchange) { x.Respond(201, fill(4096)) }, 4096, true},
		"just over holding":  {func(x *rig.Exchange) { x.Respond(201, fill(4097)) }, 4097, true},
	} {
		t.Run(name, func(t *testing.T) {
			up := rig.NewUpstream(t, c.write)
			p := rig.Start(t, up.URL(), "--max-stored-response=32KiB")
			first := p.Post("k", "{}")
			wantFirst(t, "the first", first, 201)
			if string(first.Body) != fill(c.body) {
				t.Errorf("the first client got %d bytes, want %d", len(first.Body), c.body)
			}
			again := p.Post("k", "{}")
			if c.kept {
				wantReplay(t, "the retry", first, again)
			} else {
				wantProblem(t, "the retry", again, 422, "response-not-stored")
			}
			wantRuns(t, up, "k", 1)
		})
	}
}

func chunked(x *rig.Exchange, body string, size int) {
	x.Write(rig.Head(201, "Transfer-Encoding: chunked") + rig.Chunks(body, size) + "0\r\n\r\n")
}

func bytewise(x *rig.Exchange) {
	text := rig.Head(201, "Content-Length: 500") + fill(500)
	for i := range len(text) {
		x.Write(text[i : i+1])
	}
}

// A thousand wait for one key; more are refused, and other keys are not slowed.
func TestTrap34ThousandWaiters(t *testing.T) {
	t.Parallel()
	g := newGate(t)
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		if x.Key != "k" {
			rig.Created(x)
			return
		}
		g.created(x)
	})
	p := rig.Start(t, up.URL(), "--wait=1h")
	const clients = 1100
	first := async(t, p, rig.Request{Key: "k"})
	rig.Receive(t, "the request arrives", g.arrived)
	replies := make(chan rig.Reply, clients)
	for range clients {
		go func() { replies <- rig.Send(t, p.Listen, rig.Request{Key: "k"}) }()
	}
	// Those past the bound are told at once; the others wait.
	for range clients - 1000 {
		wantProblem(t, "past the bound", rig.Receive(t, "one is refused", replies), 503, "overloaded")
	}
	for i := range 20 {
		began := time.Now()
		wantFirst(t, "another key", p.Post(fmt.Sprintf("other%d", i), "{}"), 201)
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("another key took %v", d)
		}
	}
	g.open()
	one := rig.Receive(t, "the first ends", first)
	wantFirst(t, "the first", one, 201)
	for range 1000 {
		wantReplay(t, "a waiter", one, rig.Receive(t, "a waiter ends", replies))
	}
	wantRuns(t, up, "k", 1)
}

// Ten wait, the first is answered 503: the service sees one run, not ten.
func TestTrap57WaitersShareARelease(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer func(x *rig.Exchange)
		status int
	}{
		"503": {func(x *rig.Exchange) { x.Respond(503, "not now", "Retry-After: 7", "X-Run: 1", "Set-Cookie: a=b") }, 503},
		"429": {func(x *rig.Exchange) { x.Respond(429, "too many", "Retry-After: 7", "X-Run: 1", "Set-Cookie: a=b") }, 429},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGate(t)
			up := rig.NewUpstream(t, func(x *rig.Exchange) {
				if g.pass(x) {
					c.answer(x)
				}
			})
			p := rig.Start(t, up.URL())
			first := async(t, p, rig.Request{Key: "k", Body: "{}"})
			rig.Receive(t, "the request arrives", g.arrived)
			var waiters []<-chan rig.Reply
			for range 10 {
				waiters = append(waiters, async(t, p, rig.Request{Key: "k", Body: "{}"}))
			}
			rig.Eventually(t, "ten wait", func() bool { return waiting(p) >= 11 })
			g.open()
			one := rig.Receive(t, "the first ends", first)
			wantFirst(t, "the first", one, c.status)
			for _, w := range waiters {
				r := rig.Receive(t, "a waiter ends", w)
				wantFirst(t, "a waiter", r, c.status)
				if string(r.Body) != string(one.Body) || r.Header.Get("Retry-After") != "7" || r.Header.Get("X-Run") != "1" {
					t.Errorf("a waiter got another answer: %v", r)
				}
				if r.Header.Get("Set-Cookie") != "" {
					t.Error("a waiter got a cookie that a replay would not keep")
				}
			}
			wantRuns(t, up, "k", 1)
		})
	}
}

// waiting is how many requests the proxy works on.
func waiting(p *rig.Proxy) int {
	var n int
	r := p.Ask("GET", "/metrics", "")
	for _, line := range splitLines(r.Body) {
		if _, err := fmt.Sscanf(line, "idem_requests_in_flight %d", &n); err == nil {
			return n
		}
	}
	return -1
}
