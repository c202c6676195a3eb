package load

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// seen is a server that answers as idem would, and counts keys.
type seen struct {
	mu       sync.Mutex
	keys     map[string]int
	requests atomic.Int64
	size     int
	marks    bool
}

func (s *seen) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	key := r.Header.Get("Idempotency-Key")
	s.mu.Lock()
	n := s.keys[key]
	s.keys[key]++
	s.mu.Unlock()
	if s.marks && key != "" && n > 0 {
		w.Header().Set("Idempotent-Replayed", "true")
	}
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(make([]byte, s.size)) // the client tells whether it came
}

func run(t *testing.T, s *seen, keys Keys) (*Result, error) {
	t.Helper()
	s.keys = map[string]int{}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return Run(context.Background(), Options{
		Addr: srv.Listener.Addr().String(), Conns: 4, Duration: 50 * time.Millisecond,
		Keys: keys, Replays: true, Prefix: "0123456789abcdef", ResponseSize: 1024,
	})
}

func TestEveryRequestIsCountedOnce(t *testing.T) {
	for name, keys := range map[string]Keys{"none": NoKeys, "fresh": FreshKeys, "repeated": RepeatedKeys} {
		t.Run(name, func(t *testing.T) {
			s := &seen{size: 1024, marks: true}
			res, err := run(t, s, keys)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.requests.Load(); got != res.Total || res.Counted == 0 || res.Counted > res.Total {
				t.Errorf("the server saw %d requests, the load %d, of which %d were counted", got, res.Total, res.Counted)
			}
			want := map[Keys]int{NoKeys: 1, FreshKeys: int(res.Total), RepeatedKeys: 4 * RepeatedPerConn}[keys]
			if len(s.keys) != want {
				t.Errorf("the server saw %d keys, want %d", len(s.keys), want)
			}
		})
	}
}

func TestWrongAnswersEndTheRun(t *testing.T) {
	for name, c := range map[string]struct {
		server *seen
		keys   Keys
		want   string
	}{
		"length":                     {&seen{size: 1000}, NoKeys, "Content-Length is 1000"},
		"a repeat that is no replay": {&seen{size: 1024}, RepeatedKeys, "replayed false, want true"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := run(t, c.server, c.keys); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one that says %q", err, c.want)
			}
		})
	}
}
