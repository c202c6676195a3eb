package idemhttp_test

import (
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/idemhttp"
)

// Trap 14: a handler that crashes leaves no key stuck. Before it said anything,
// that is a 500 on record; afterwards, or when it aborts on purpose, nobody can
// know.
func TestTrap14Panics(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	cases := map[string]struct {
		handler http.HandlerFunc
		status  int
		typ     string
	}{
		"at once":           {func(http.ResponseWriter, *http.Request) { panic("boom") }, 500, ""},
		"an invalid status": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(0) }, 500, ""},
		"a status beyond":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(1000) }, 500, ""},
		"after the status":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); panic("boom") }, 409, idemhttp.TypeOutcomeUnknown},
		"in the middle": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, long)
			w.(http.Flusher).Flush()
			panic("boom")
		}, 409, idemhttp.TypeOutcomeUnknown},
		"aborts":  {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 409, idemhttp.TypeOutcomeUnknown},
		"exits":   {func(http.ResponseWriter, *http.Request) { runtime.Goexit() }, 409, idemhttp.TypeOutcomeUnknown},
		"nothing": {func(http.ResponseWriter, *http.Request) {}, 200, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := serve(t, settings{http: idemhttp.Options{Host: "one"}}, c.handler)
			ctx := t.Context()
			if name == "exits" {
				// net/http leaves such a connection open and mute.
				conn, _ := s.raw(rawPost("k", ""))
				for s.runs.Load() == 0 {
					runtime.Gosched()
				}
				defer conn.Close()
			} else if r := s.send(ctx, "POST", "/", "k", nil); name != "nothing" && r.err == nil {
				t.Errorf("the first client got a whole answer: %v", r)
			}
			r := s.send(ctx, "POST", "/", "k", nil)
			if r.status != c.status || c.typ != "" && !r.problem(c.typ) || c.typ == "" && !r.replayed() {
				t.Errorf("then: %v", r)
			}
			s.ran(1)
		})
	}
}

// A recoverer around the middleware may answer a handler that said nothing.
func TestTrap14RecovererAround(t *testing.T) {
	s := serve(t, settings{wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				if recover() != nil {
					http.Error(w, "recovered", 500)
				}
			}()
			next.ServeHTTP(w, r)
		})
	}}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Secret", "1")
		panic("boom")
	})
	first, again := s.post("k", ""), s.post("k", "")
	if first.body != "recovered\n" || first.header.Get("X-Secret") != "" || again.status != 500 || !again.replayed() || again.header.Get("X-Secret") != "" {
		t.Errorf("first %v, then %v", first, again)
	}
	s.ran(1)
}

// Trap 63: a hook that panics costs its request at most.
func TestTrap63HooksThatPanic(t *testing.T) {
	var bad atomic.Bool
	boom := func() {
		if bad.Load() {
			panic("boom")
		}
	}
	principal := idemhttp.FuncPrincipal(func(*http.Request) (string, error) { boom(); return "p", nil })
	fingerprint := idemhttp.CustomFingerprint(func(_ *http.Request, b []byte) ([]byte, error) { boom(); return b, nil })
	for name, o := range map[string]idemhttp.Options{
		"principal":   {Principal: principal},
		"fingerprint": {Fingerprint: fingerprint},
	} {
		bad.Store(true)
		s := serve(t, settings{http: o}, answerWith(201, "made"))
		if r := s.post("k", ""); r.err == nil {
			t.Errorf("%s: %v", name, r)
		}
		s.ran(0)
		bad.Store(false)
		if r := s.post("k", ""); r.status != 201 || r.replayed() {
			t.Errorf("%s, then: %v", name, r)
		}
		s.ran(1)
	}
	s := serve(t, settings{http: idemhttp.Options{Problem: func(http.ResponseWriter, *http.Request, *idemhttp.Problem) { panic("boom") }}}, answerWith(201, "made"))
	s.post("k", "a")
	if r := s.post("k", "b"); r.err == nil {
		t.Errorf("a problem hook that panics: %v", r)
	}
	if r := s.post("k", "a"); !r.replayed() {
		t.Errorf("then: %v", r)
	}
	s.ran(1)
}

// O6: work that runs past max-run is cancelled, and its outcome is unknown
// until it ends after all.
func TestMaxRun(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := serve(t, settings{bubble: true}, func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		})
		began := time.Now()
		s.post("k", "")
		if d := time.Since(began); d < idem.DefaultMaxRun || d > idem.DefaultMaxRun+time.Minute {
			t.Errorf("cancelled after %v", d)
		}
		if r := s.post("k", ""); !r.problem(idemhttp.TypeOutcomeUnknown) {
			t.Errorf("then: %v", r)
		}
	})
}
