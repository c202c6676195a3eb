package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/e2e/internal/faulty"
	"github.com/idem-go/idem/e2e/internal/rig"
	"github.com/idem-go/idem/idemhttp"
)

func TestAnswerOverloadedByClaims(t *testing.T) {
	t.Parallel()
	arrived, leave := make(chan struct{}, 1), make(chan struct{})
	m := startInside(t, &idem.Options{MaxClaims: 1}, nil, func(w http.ResponseWriter, r *http.Request, _ int64) {
		if r.URL.Path == "/hold" {
			arrived <- struct{}{}
			<-leave
		}
		w.WriteHeader(http.StatusCreated)
	})
	var once sync.Once
	letGo := func() { once.Do(func() { close(leave) }) }
	t.Cleanup(letGo) // before the server's end, which waits for it
	held := make(chan rig.Reply, 1)
	go func() { held <- rig.Send(t, m.addr, rig.Request{Key: "a", Path: "/hold"}) }()
	rig.Receive(t, "one claim is held", arrived)
	r := m.post("b", "{}")
	wantProblem(t, "past the bound", r, 503, "overloaded")
	if r.Header.Get("Retry-After") == "" {
		t.Error("there is no Retry-After")
	}
	letGo()
	wantFirst(t, "the one that held", rig.Receive(t, "it ends", held), 201)
	rig.Eventually(t, "there is room", func() bool { return m.post("b", "{}").Status == 201 })
}

// Request bodies are bounded in all, too.
func TestAnswerOverloadedByBodies(t *testing.T) {
	t.Parallel()
	m := startInside(t, nil, &idemhttp.Options{MaxRequestBodies: 8 << 10}, nil)
	wantProblem(t, "past the bound", m.post("k", fill(20_000)), 503, "overloaded")
	m.wantRuns(0)
	wantFirst(t, "a small one", m.post("k", "{}"), 201)
}

func TestAnswerKeyExpired(t *testing.T) {
	t.Parallel()
	m := startInside(t, &idem.Options{Policy: idem.Policy{Retention: time.Hour, Tombstone: time.Hour}}, &idemhttp.Options{TimeBased: true}, nil)
	at := func(when time.Time) string {
		ms := when.UnixMilli()
		return fmt.Sprintf("%08x-%04x-7abc-8abc-0123456789ab", ms>>16, ms&0xffff)
	}
	wantProblem(t, "too old", m.post(at(time.Now().Add(-3*time.Hour)), "{}"), 422, "key-expired")
	wantProblem(t, "too far ahead", m.post(at(time.Now().Add(6*time.Minute)), "{}"), 400, "key-invalid")
	wantProblem(t, "no time in it", m.post("k", "{}"), 400, "key-invalid")
	m.wantRuns(0)
	for _, when := range []time.Duration{0, -90 * time.Minute, 4 * time.Minute} {
		wantFirst(t, when.String(), m.post(at(time.Now().Add(when)), "{}"), 201)
	}
}

// A route's lists of statuses win over the table.
func TestRecordByTheRoutesLists(t *testing.T) {
	t.Parallel()
	m := startInside(t, nil, &idemhttp.Options{Status: idemhttp.StatusPolicy{Complete: []int{409}, Release: []int{500}, Unknown: []int{202}}}, func(w http.ResponseWriter, r *http.Request, run int64) {
		var status int
		if _, err := fmt.Sscanf(r.URL.Path, "/%d", &status); err != nil {
			status = 400
		}
		w.WriteHeader(status)
		fmt.Fprintf(w, "run %d", run)
	})
	ask := func(status int) rig.Reply {
		return m.send(rig.Request{Key: fmt.Sprint(status), Path: fmt.Sprintf("/%d", status)})
	}
	first := ask(409)
	wantFirst(t, "409", first, 409)
	wantReplay(t, "409 completes", first, ask(409))
	wantFirst(t, "500", ask(500), 500)
	wantFirst(t, "500 releases", ask(500), 500)
	wantFirst(t, "202", ask(202), 202)
	wantProblem(t, "202 is unknown", ask(202), 409, "outcome-unknown")
	m.wantRuns(4)
}

// The end of a response is let go only once its record is durable: the last
// byte where there is a length, the terminator where there is none.
func TestRecordEndIsHeld(t *testing.T) {
	t.Parallel()
	body := fill(20_000)
	for name, length := range map[string]bool{"last byte": true, "last chunk": false} {
		t.Run(name, func(t *testing.T) {
			saving, save := make(chan struct{}), make(chan struct{})
			var once sync.Once
			letGo := func() { once.Do(func() { close(save) }) }
			m := startInside(t, &idem.Options{StoreTimeout: rig.Patience}, nil, func(w http.ResponseWriter, _ *http.Request, _ int64) {
				if length {
					w.Header().Set("Content-Length", fmt.Sprint(len(body)))
				}
				io.WriteString(w, body)
				w.(http.Flusher).Flush()
			})
			t.Cleanup(letGo) // before the server's end, which waits for it
			m.store.On(faulty.Complete, func(int) faulty.Fault {
				close(saving)
				<-save
				return faulty.None
			})
			c := rig.Dial(t, m.addr)
			c.Write(rig.Request{Key: "k"}.Text())
			c.ReadHead()
			var got strings.Builder
			if length {
				got.WriteString(c.Read(len(body) - 1))
			} else {
				for got.Len() < len(body) {
					var n int
					if _, err := fmt.Sscanf(c.ReadLine(), "%x", &n); err != nil || n == 0 {
						t.Fatalf("a chunk of %d bytes: %v", n, err)
					}
					got.WriteString(c.Read(n))
					c.Read(2)
				}
			}
			rig.Receive(t, "the record is being saved", saving)
			if what, silent := c.Silent(200 * time.Millisecond); !silent {
				t.Fatalf("the end came before the record: %q", what)
			}
			letGo()
			if length {
				got.WriteString(c.Read(1))
			} else if end := c.Read(5); end != "0\r\n\r\n" {
				t.Errorf("it ends in %q", end)
			}
			if got.String() != body {
				t.Error("the first client got other bytes")
			}
			m.store.On(faulty.Complete, nil)
			wantReplay(t, "the retry", rig.Reply{Status: 200, Body: []byte(body)}, m.post("k", ""))
			m.wantRuns(1)
		})
	}
}

// A response without a body has nothing but its head, and that is held.
func TestRecordHeadOfAnEmptyResponseIsHeld(t *testing.T) {
	t.Parallel()
	saving, save := make(chan struct{}), make(chan struct{})
	m := startInside(t, &idem.Options{StoreTimeout: rig.Patience}, nil, func(w http.ResponseWriter, _ *http.Request, _ int64) {
		w.WriteHeader(http.StatusNoContent)
		w.(http.Flusher).Flush()
	})
	m.store.On(faulty.Complete, func(int) faulty.Fault {
		close(saving)
		<-save
		return faulty.None
	})
	c := rig.Dial(t, m.addr)
	c.Write(rig.Request{Key: "k"}.Text())
	rig.Receive(t, "the record is being saved", saving)
	what, silent := c.Silent(200 * time.Millisecond)
	close(save)
	if !silent {
		t.Fatalf("the head came before the record: %q", what)
	}
	wantFirst(t, "the first", c.Reply(), 204)
}

// A handler that writes another length than it declared has not answered: the
// response ends broken, or there is none, and the outcome is unknown.
func TestRecordUnknownWhenTheLengthIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ declared, written int }{
		"short, small": {10, 5}, "short, large": {50_000, 49_999}, "nothing": {10, 0}, "too much": {5, 10}, "too much, large": {20_000, 50_000},
	} {
		t.Run(name, func(t *testing.T) {
			m := startInside(t, nil, nil, func(w http.ResponseWriter, _ *http.Request, _ int64) {
				w.Header().Set("Content-Length", fmt.Sprint(c.declared))
				io.WriteString(w, fill(c.written))
			})
			if r := m.post("k", "{}"); r.Err == nil && r.Status < 500 {
				t.Errorf("it looks whole: %v", r)
			}
			wantProblem(t, "the retry", m.post("k", "{}"), 409, "outcome-unknown")
			m.wantRuns(1)
		})
	}
}

// A panic leaves no key stuck: before anything was said it is a 500, in the
// middle of a response the outcome is unknown.
func TestTrap14Panic(t *testing.T) {
	t.Parallel()
	m := startInside(t, nil, nil, func(w http.ResponseWriter, r *http.Request, _ int64) {
		if r.URL.Path == "/middle" {
			io.WriteString(w, fill(20_000))
		}
		panic("a bug")
	})
	if r := m.post("k", "{}"); r.Err == nil && r.Status < 500 {
		t.Errorf("the first: %v", r)
	}
	if r := m.post("k", "{}"); r.Status != 500 || !r.Replayed() {
		t.Errorf("the retry: %v", r)
	}
	m.wantRuns(1)
	middle := rig.Request{Key: "m", Path: "/middle"}
	if r := m.send(middle); r.Err == nil {
		t.Errorf("it looks whole: %v", r)
	}
	wantProblem(t, "the retry", m.send(middle), 409, "outcome-unknown")
	m.wantRuns(2)
}

type panicking struct{}

func (panicking) Observe(context.Context, idem.Event) { panic("an observer's bug") }

// What the application gives may panic: it costs a request at most, nothing
// runs twice, nothing stays claimed.
func TestTrap63Panics(t *testing.T) {
	t.Parallel()
	t.Run("observer", func(t *testing.T) {
		m := startInside(t, &idem.Options{Observer: panicking{}}, nil, nil)
		first := m.post("k", "{}")
		wantFirst(t, "the first", first, 201)
		wantReplay(t, "the retry", first, m.post("k", "{}"))
		m.wantRuns(1)
	})
	t.Run("problem", func(t *testing.T) {
		m := startInside(t, nil, &idemhttp.Options{Problem: func(http.ResponseWriter, *http.Request, *idemhttp.Problem) { panic("a hook's bug") }}, nil)
		first := m.post("k", "{}")
		wantFirst(t, "the first", first, 201)
		if r := m.post("k", "other"); r.Err == nil && r.Status < 400 {
			t.Errorf("another request: %v", r)
		}
		wantReplay(t, "the retry", first, m.post("k", "{}"))
		m.wantRuns(1)
	})
	t.Run("fingerprint", func(t *testing.T) {
		var bug atomic.Bool
		bug.Store(true)
		m := startInside(t, nil, &idemhttp.Options{Fingerprint: idemhttp.CustomFingerprint(func(*http.Request, []byte) ([]byte, error) {
			if bug.Load() {
				panic("a function's bug")
			}
			return []byte("same"), nil
		})}, nil)
		if r := m.post("k", "{}"); r.Err == nil && r.Status < 400 {
			t.Errorf("the first: %v", r)
		}
		m.wantRuns(0)
		bug.Store(false)
		wantFirst(t, "mended", m.post("k", "{}"), 201)
		m.wantRuns(1)
	})
	t.Run("resolver", func(t *testing.T) {
		m := startInside(t, &idem.Options{Policy: idem.Policy{Unknown: idem.ResolveUnknown, Resolver: func(context.Context, idem.Unknown) (idem.Resolution, error) { panic("a resolver's bug") }}}, nil,
			func(w http.ResponseWriter, _ *http.Request, _ int64) { w.WriteHeader(502) })
		wantFirst(t, "the first", m.post("k", "{}"), 502)
		for range 2 {
			wantProblem(t, "a retry", m.post("k", "{}"), 409, "outcome-unknown")
		}
		m.wantRuns(1)
	})
}

// A setting adds what lets a page read the answers, and the types' base.
func TestAnswerCORSAndBase(t *testing.T) {
	t.Parallel()
	m := startInside(t, nil, &idemhttp.Options{RequireKey: true, AllowOrigins: []string{"https://shop.test"}, ProblemBase: "https://api.test/problems#"}, nil)
	r := m.send(rig.Request{Header: []string{"Origin: https://shop.test"}})
	wantProblem(t, "a page's request", r, 400, "key-missing")
	if r.Header.Get("Access-Control-Allow-Origin") != "https://shop.test" || !strings.Contains(string(r.Body), "https://api.test/problems#key-missing") {
		t.Errorf("%v %s", r.Header, r.Body)
	}
	other := m.send(rig.Request{Header: []string{"Origin: https://evil.test"}})
	if other.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("another origin may read it: %v", other.Header)
	}
}
