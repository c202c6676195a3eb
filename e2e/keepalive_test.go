package e2e

import (
	"fmt"
	"testing"

	"github.com/idem-go/idem/e2e/internal/rig"
)

// Go's transport sends a POST again by itself when a kept-alive connection
// breaks, if it has one of two headers and no body, or one that can be rewound.
// Here the service reads the second request of a connection and closes it: it
// may see that request once.
func TestTrap13KeepAliveBreaks(t *testing.T) {
	t.Parallel()
	ends := map[string]func(x *rig.Exchange){
		"closes": func(x *rig.Exchange) { x.Close() },
		"resets": func(x *rig.Exchange) { x.Reset() },
	}
	for endName, end := range ends {
		for _, store := range []string{"file", "memory"} {
			t.Run(endName+" "+store, func(t *testing.T) {
				up := rig.NewUpstream(t, func(x *rig.Exchange) {
					if x.Nth == 1 {
						x.Respond(200, "warm")
						return
					}
					end(x)
				})
				args := []string{}
				if store == "memory" {
					args = append(args, "--store=memory:")
				}
				p := rig.Start(t, up.URL(), args...)
				n := 0
				for _, header := range []string{"Idempotency-Key", "X-Idempotency-Key", "idempotency-key", "x-idempotency-key", "X-Request-Id", "Both"} {
					for _, method := range []string{"POST", "PATCH"} {
						for _, body := range []string{"", "{}", "chunked"} {
							n++
							breakOnce(t, p, up, header, method, body, fmt.Sprintf("%s-%d", store, n))
						}
					}
				}
			})
		}
	}
}

// breakOnce warms a connection up, then sends a request that breaks it.
func breakOnce(t *testing.T, p *rig.Proxy, up *rig.Upstream, header, method, body, id string) {
	t.Helper()
	what := fmt.Sprintf("%s %s with body %q", header, method, body)
	// An unkeyed request leaves a kept-alive connection behind it.
	if r := p.Send(rig.Request{Method: "GET", Path: "/warm"}); r.Status != 200 {
		t.Fatalf("%s: warm up: %v", what, r)
	}
	before := up.Total()
	r := rig.Request{Method: method, Path: "/break", Body: body, Chunked: body == "chunked", Header: []string{header + ": " + id}}
	keyed := header == "Idempotency-Key" || header == "idempotency-key"
	if header == "Both" {
		keyed, r.Header = true, []string{"Idempotency-Key: " + id, "X-Idempotency-Key: " + id}
	}
	first := p.Send(r)
	seen := up.Seen()[before:]
	if len(seen) != 1 || seen[0].Nth != 2 {
		t.Errorf("%s: the service saw it %d times: %+v", what, len(seen), seen)
		return
	}
	wantProblem(t, what, first, 502, "upstream-broken")
	if got := seen[0]; body == "" && (got.Chunked || got.Length != 0) {
		t.Errorf("%s: a request without a body arrived with length %d, chunked %v", what, got.Length, got.Chunked)
	}
	if got := seen[0].Header; header != "Both" && got.Get(header) != id {
		t.Errorf("%s: the header arrived as %q", what, got.Values(header))
	}
	if keyed {
		wantProblem(t, what+", retried", p.Send(r), 409, "outcome-unknown")
		if n := up.Total() - before; n != 1 {
			t.Errorf("%s: the retry ran", what)
		}
	}
}

// A connection that the service has closed while it was unused is noticed: the
// request goes out on another one, and is not unknown.
func TestTrap13ServiceClosedTheIdleConnection(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{}, 1)
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		rig.Created(x)
		if x.Nth == 1 && x.Serial == 1 {
			x.Close()
			closed <- struct{}{}
		}
	})
	p := rig.Start(t, up.URL())
	wantFirst(t, "the first", p.Post("a", "{}"), 201)
	rig.Receive(t, "the service closes", closed)
	// The proxy's side sees the end of the connection a moment later; whichever
	// comes first, the request runs at most once.
	r := p.Post("b", "{}")
	if up.Count("b") > 1 {
		t.Errorf("the service saw it %d times", up.Count("b"))
	}
	if up.Count("b") == 1 {
		wantFirst(t, "the second", r, 201)
	}
}

// Unused connections are given up before the service would close them.
func TestTrap13IdleConnectionsAreGivenUpEarly(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--upstream-idle-timeout=100ms")
	wantFirst(t, "the first", p.Post("a", "{}"), 201)
	rig.Eventually(t, "the proxy closes the connection", func() bool { return up.Open() == 0 })
}

// A connection is kept and used again while all goes well.
func TestTrap13ConnectionsAreKept(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	for i := range 10 {
		wantFirst(t, "one of ten", p.Post(fmt.Sprint(i), "{}"), 201)
	}
	if last := up.Seen()[9]; last.Conn > 3 {
		t.Errorf("ten requests took %d connections", last.Conn)
	}
}
