package idemhttp_test

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/idemhttp"
)

func inBubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// blocking is a handler that says when it runs, and answers when it is told to.
func blocking(status int, body string) (h http.HandlerFunc, runs chan struct{}, goOn chan struct{}) {
	runs, goOn = make(chan struct{}, 1000), make(chan struct{})
	return func(w http.ResponseWriter, r *http.Request) {
		runs <- struct{}{}
		<-goOn
		answerWith(status, body)(w, r)
	}, runs, goOn
}

// W1, H6: whoever comes while the first runs waits for it, and after `wait` is
// told to come again, the later the longer it has run.
func TestWaitForTheFirst(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h, runs, goOn := blocking(201, "made")
		s := serve(t, settings{bubble: true}, h)
		first := s.async("k", "a")
		<-runs
		began := time.Now()
		r := s.post("k", "a")
		if d := time.Since(began); d != 10*time.Second || r.status != 409 || !r.problem(idemhttp.TypeInFlight) || r.header.Get("Retry-After") != "5" {
			t.Errorf("after %v: %v", d, r)
		}
		time.Sleep(5 * time.Minute)
		if r := s.post("k", "a"); r.header.Get("Retry-After") != "30" {
			t.Errorf("after five minutes: %v", r)
		}
		waiter := s.async("k", "a")
		synctest.Wait()
		close(goOn)
		if r := <-waiter; r.status != 201 || !r.replayed() || r.body != "made" {
			t.Errorf("the waiter got %v", r)
		}
		if r := <-first; r.status != 201 || r.replayed() {
			t.Errorf("the first got %v", r)
		}
		s.ran(1)
	})
}

// H6: no wait answers 409 at once, with at least one second to wait.
func TestNoWait(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h, runs, goOn := blocking(201, "made")
		s := serve(t, settings{bubble: true, http: idemhttp.Options{Policy: idem.Policy{Wait: -1}}}, h)
		first := s.async("k", "a")
		<-runs
		began := time.Now()
		if r := s.post("k", "a"); time.Since(began) != 0 || !r.problem(idemhttp.TypeInFlight) || r.header.Get("Retry-After") != "1" {
			t.Errorf("after %v: %v", time.Since(began), r)
		}
		close(goOn)
		<-first
	})
}

// Trap 16, K2: another body is 422, also while the first is in flight.
func TestTrap16AnotherBody(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h, runs, goOn := blocking(201, "made")
		s := serve(t, settings{bubble: true}, h)
		first := s.async("k", "a")
		<-runs
		began := time.Now()
		if r := s.post("k", "b"); time.Since(began) != 0 || r.status != 422 || !r.problem(idemhttp.TypeKeyReused) {
			t.Errorf("in flight, after %v: %v", time.Since(began), r)
		}
		close(goOn)
		<-first
		if r := s.post("k", "b"); r.status != 422 || !r.problem(idemhttp.TypeKeyReused) {
			t.Errorf("completed: %v", r)
		}
		s.ran(1)
	})
}

// Trap 57, W3: ten wait for one that is answered 503; they share its answer,
// and the handler ran once.
func TestTrap57WaitersShareARelease(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		runs, goOn := make(chan struct{}, 100), make(chan struct{})
		s := serve(t, settings{bubble: true}, func(w http.ResponseWriter, r *http.Request) {
			runs <- struct{}{}
			<-goOn
			w.Header().Set("Retry-After", "7")
			w.Header().Set("Set-Cookie", "a=1")
			w.Header().Set(http.TrailerPrefix+"X-Sum", "1")
			w.WriteHeader(503)
			_, _ = io.WriteString(w, "not now")
		})
		first := s.async("k", "a")
		<-runs
		var waiters []<-chan reply
		for range 10 {
			waiters = append(waiters, s.async("k", "a"))
		}
		other := s.async("k", "another")
		synctest.Wait()
		if r := <-other; !r.problem(idemhttp.TypeKeyReused) {
			t.Errorf("another request: %v", r)
		}
		close(goOn)
		if r := <-first; r.status != 503 || r.header.Get("Set-Cookie") == "" {
			t.Errorf("the first got %v", r)
		}
		for _, w := range waiters {
			r := <-w
			if r.status != 503 || r.body != "not now" || r.header.Get("Retry-After") != "7" || r.trailer.Get("X-Sum") != "1" ||
				r.header.Get("Set-Cookie") != "" || r.header.Get(idemhttp.ReplayedHeader) != "" || r.header.Get(idemhttp.ExpiresHeader) != "" {
				t.Errorf("a waiter got %v", r)
			}
		}
		s.ran(1)
		s.post("k", "a")
		s.ran(2)
	})
}

// H12 holds for what is shared as well.
func TestTrap57SharedCodings(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		runs, goOn := make(chan struct{}, 100), make(chan struct{})
		s := serve(t, settings{bubble: true}, func(w http.ResponseWriter, r *http.Request) {
			runs <- struct{}{}
			<-goOn
			w.Header().Set("Content-Encoding", "br")
			w.WriteHeader(503)
			_, _ = io.WriteString(w, "not really brotli")
		})
		first := s.async("k", "a")
		<-runs
		plain, br := s.async("k", "a"), s.async("k", "a", "Accept-Encoding", "br")
		synctest.Wait()
		close(goOn)
		<-first
		if r := <-plain; r.status != 409 || !r.problem(idemhttp.TypeInFlight) || r.header.Get("Content-Encoding") != "" {
			t.Errorf("one that takes no br got %v", r)
		}
		if r := <-br; r.status != 503 || r.body != "not really brotli" {
			t.Errorf("one that takes br got %v", r)
		}
		s.ran(1)
	})
}

// Trap 11, O9: a client that leaves does not stop the work, whose answer is
// there for the retry.
func TestTrap11ClientLeavesDuringTheWork(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := serve(t, settings{bubble: true}, func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(600 * time.Millisecond):
			case <-r.Context().Done():
				t.Error("the work was cancelled")
			}
			answerWith(201, strings.Repeat("x", 10_000))(w, r)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if r := s.send(ctx, "POST", "/", "k", strings.NewReader("a")); r.err == nil {
			t.Fatalf("got %v", r)
		}
		if r := s.post("k", "a"); r.status != 201 || !r.replayed() || len(r.body) != 10_000 {
			t.Errorf("the retry got %v", r)
		}
		s.ran(1)
	})
}

// W2: a client that leaves while it waits leaves the claim alone.
func TestTrap6ClientLeavesWhileWaiting(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h, runs, goOn := blocking(201, "made")
		s := serve(t, settings{bubble: true}, h)
		first := s.async("k", "a")
		<-runs
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if r := s.send(ctx, "POST", "/", "k", strings.NewReader("a")); r.err == nil {
			t.Fatalf("got %v", r)
		}
		close(goOn)
		if r := <-first; r.status != 201 {
			t.Errorf("the first got %v", r)
		}
		s.ran(1)
	})
}

// A request whose time is over, by a context around the middleware, is never
// answered by an empty 200.
func TestNoEmptyAnswerForOneThatIsGone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h, runs, goOn := blocking(201, "made")
		s := serve(t, settings{bubble: true, wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithCancel(r.Context())
				if r.Header.Get("X-Late") != "" {
					ctx, cancel = context.WithTimeout(r.Context(), time.Second)
				} else if r.Header.Get("X-Gone") != "" {
					time.AfterFunc(time.Second, cancel)
				}
				defer cancel()
				next.ServeHTTP(w, r.WithContext(ctx))
			})
		}}, h)
		first := s.async("k", "a")
		<-runs
		if r := s.post("k", "a", "X-Late", "1"); r.status != 409 || !r.problem(idemhttp.TypeInFlight) {
			t.Errorf("a deadline: %v", r)
		}
		if r := s.post("k", "a", "X-Gone", "1"); r.err == nil {
			t.Errorf("cancelled: %v", r)
		}
		close(goOn)
		<-first
		s.ran(1)
	})
}

// Trap 11: nothing is claimed for a client that leaves while it uploads.
func TestTrap11ClientLeavesDuringTheUpload(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		g := newGate()
		s := serve(t, settings{store: g}, answerWith(201, "made"))
		request := "POST / HTTP/1.1\r\nHost: " + strings.TrimPrefix(s.url, "http://") + "\r\nIdempotency-Key: k\r\n"
		if chunked {
			request += "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf"
		} else {
			request += "Content-Length: 8\r\n\r\nhalf"
		}
		conn, r := s.raw(request)
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		if got := readAll(r); strings.Contains(got, " 200 ") || strings.Contains(got, " 201 ") {
			t.Errorf("chunked %v: the half was answered %q", chunked, got)
		}
		if n := g.count("claim"); n != 0 {
			t.Errorf("chunked %v: %d claims", chunked, n)
		}
		if r := s.post("k", "halfhalf"); r.status != 201 || r.replayed() {
			t.Errorf("chunked %v: then %v", chunked, r)
		}
		s.ran(1)
	}
}

// Trap 34, W4: waiters are bounded, for a key and in all; other keys go on.
func TestTrap34WaitersAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		goOn, runs := make(chan struct{}), make(chan struct{}, 10)
		s := serve(t, settings{bubble: true, guard: idem.Options{MaxWaitersPerKey: 200, MaxClaims: 3}}, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				runs <- struct{}{}
				<-goOn
			}
			answerWith(201, "made")(w, r)
		})
		slow := func(key string) <-chan reply {
			c := make(chan reply, 1)
			go func() { c <- s.send(t.Context(), "POST", "/slow", key, nil) }()
			return c
		}
		first := slow("k")
		<-runs
		var waiters []<-chan reply
		for range 201 {
			waiters = append(waiters, slow("k"))
		}
		synctest.Wait()
		if r := s.post("other", ""); r.status != 201 {
			t.Errorf("another key: %v", r)
		}
		second, third := slow("k2"), slow("k3")
		<-runs
		<-runs
		if r := s.post("k4", ""); r.status != 503 || !r.problem(idemhttp.TypeOverloaded) || r.header.Get("Retry-After") != "1" {
			t.Errorf("a claim too many: %v", r)
		}
		close(goOn)
		refused := 0
		for _, w := range append(waiters, first, second, third) {
			if r := <-w; r.status == 503 && r.problem(idemhttp.TypeOverloaded) {
				refused++
			} else if r.status != 201 {
				t.Errorf("got %v", r)
			}
		}
		if refused != 1 {
			t.Errorf("%d waiters were refused, want 1", refused)
		}
	})
}

// Trap 32: forgotten results are refused, whatever is asked, and after the
// tombstone the key runs once more.
func TestTrap32Forgotten(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := serve(t, settings{bubble: true}, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "made") })
		s.post("k", "a")
		time.Sleep(idem.DefaultRetention - time.Minute)
		if r := s.post("k", "a"); !r.replayed() {
			t.Errorf("before its time: %v", r)
		}
		time.Sleep(2 * time.Minute)
		for _, body := range []string{"a", "another"} {
			if r := s.post("k", body); r.status != 422 || !r.problem(idemhttp.TypeResponseForgotten) {
				t.Errorf("forgotten, %s: %v", body, r)
			}
		}
		s.ran(1)
		time.Sleep(idem.DefaultTombstone)
		if r := s.post("k", "another"); r.status != 200 || r.replayed() {
			t.Errorf("after the tombstone: %v", r)
		}
		s.ran(2)
	})
}

// A time-based key tells its own age.
func TestTimeBasedKeys(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := serve(t, settings{bubble: true, http: idemhttp.Options{TimeBased: true}}, answerWith(201, "made"))
		uuid := func(at time.Time) string {
			ms := strconv.FormatInt(at.UnixMilli(), 16)
			ms = strings.Repeat("0", 12-len(ms)) + ms
			return ms[:8] + "-" + ms[8:] + "-7000-8000-000000000000"
		}
		all := idem.DefaultRetention + idem.DefaultTombstone
		for name, c := range map[string]struct {
			key, typ string
			status   int
		}{
			"now":         {uuid(time.Now()), "", 201},
			"old":         {uuid(time.Now().Add(-all + time.Minute)), "", 201},
			"too old":     {uuid(time.Now().Add(-all - time.Minute)), idemhttp.TypeKeyExpired, 422},
			"ahead":       {uuid(time.Now().Add(4 * time.Minute)), "", 201},
			"far ahead":   {uuid(time.Now().Add(6 * time.Minute)), idemhttp.TypeKeyInvalid, 400},
			"tells none":  {"k", idemhttp.TypeKeyInvalid, 400},
			"another one": {"8e03978e-40d5-43e8-bc93-6894a57f9324", idemhttp.TypeKeyInvalid, 400},
		} {
			if r := s.post(c.key, ""); r.status != c.status || c.typ != "" && !r.problem(c.typ) {
				t.Errorf("%s: %v", name, r)
			}
		}
	})
}
