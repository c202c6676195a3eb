// Package e2e tests idem as a whole: the real proxy as a process, real sockets,
// and services that misbehave. What needs a store that fails runs the
// middleware in this process, over real sockets too.
package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/idem-go/idem/e2e/internal/rig"
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m)) }

// wantProblem checks an answer of idem's own: its status and type, and the form
// that all of them have.
func wantProblem(t *testing.T, what string, r rig.Reply, status int, word string) {
	t.Helper()
	if r.Err != nil || r.Status != status || r.Problem() != word {
		t.Errorf("%s: want %d %s, got %v", what, status, word, r)
		return
	}
	var p struct {
		Type, Title, Detail string
		Status              int
	}
	if err := json.Unmarshal(r.Body, &p); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if p.Status != status || p.Title == "" || p.Detail == "" {
		t.Errorf("%s: an incomplete problem: %s", what, r.Body)
	}
	if want := "<" + p.Type + `>; rel="describedby"`; r.Header.Get("Link") != want {
		t.Errorf("%s: Link is %q, want %q", what, r.Header.Get("Link"), want)
	}
	if r.Replayed() {
		t.Errorf("%s: a problem is marked as a replay", what)
	}
}

// wantFirst checks that a response is the service's own, and whole.
func wantFirst(t *testing.T, what string, r rig.Reply, status int) {
	t.Helper()
	if r.Err != nil || r.Status != status || r.Problem() != "" {
		t.Errorf("%s: want the service's %d, got %v", what, status, r)
	}
	if r.Replayed() || r.Header.Get("Idempotency-Key-Expires") != "" {
		t.Errorf("%s: the first response is marked as a replay: %v", what, r.Header)
	}
}

// wantReplay checks that a response is the first one, given again.
func wantReplay(t *testing.T, what string, first, again rig.Reply) {
	t.Helper()
	if again.Err != nil || again.Status != first.Status || string(again.Body) != string(first.Body) {
		t.Errorf("%s: want a replay of %v, got %v", what, first, again)
		return
	}
	if len(again.Header["Idempotent-Replayed"]) != 1 || !again.Replayed() {
		t.Errorf("%s: Idempotent-Replayed is %q", what, again.Header["Idempotent-Replayed"])
	}
	expires, err := http.ParseTime(again.Header.Get("Idempotency-Key-Expires"))
	if err != nil || expires.Before(time.Now().Add(-time.Minute)) {
		t.Errorf("%s: Idempotency-Key-Expires is %q: %v", what, again.Header["Idempotency-Key-Expires"], err)
	}
}

// wantRuns checks how often a key's work has run.
func wantRuns(t *testing.T, up *rig.Upstream, key string, n int) {
	t.Helper()
	if got := up.Count(key); got != n {
		t.Errorf("the service saw key %s %d times, want %d", key, got, n)
	}
}

// gate holds handlers back until it is opened, and tells when they arrive.
type gate struct {
	arrived chan rig.Seen
	opened  chan struct{}
	once    sync.Once
}

func newGate(t *testing.T) *gate {
	g := &gate{arrived: make(chan rig.Seen, 10_000), opened: make(chan struct{})}
	t.Cleanup(g.open)
	return g
}

// pass tells that a request is here and waits until the gate is open.
func (g *gate) pass(x *rig.Exchange) bool {
	g.arrived <- x.Seen
	return x.Wait(g.opened)
}

func (g *gate) open() { g.once.Do(func() { close(g.opened) }) }

// created is rig.Created behind the gate.
func (g *gate) created(x *rig.Exchange) {
	if g.pass(x) {
		rig.Created(x)
	}
}

// async sends a request and gives its reply later.
func async(t *testing.T, p *rig.Proxy, r rig.Request) <-chan rig.Reply {
	c := make(chan rig.Reply, 1)
	go func() { c <- rig.Send(t, p.Listen, r) }()
	return c
}

// readFull reads len(b) bytes of a response's body.
func readFull(res *http.Response, b []byte) (int, error) { return io.ReadFull(res.Body, b) }

// sendTo hands one turn to whoever waits on c, and tells when it was taken.
func sendTo(c chan<- struct{}) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		c <- struct{}{}
		close(done)
	}()
	return done
}

func splitLines(b []byte) []string { return strings.Split(string(b), "\n") }
