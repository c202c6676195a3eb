package idemhttp_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"testing"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/idemhttp"
	"github.com/idem-go/idem/memstore"
)

// plainResponse is a ResponseWriter that costs nothing.
type plainResponse struct {
	header http.Header
	status int
	bytes  int
}

func (w *plainResponse) Header() http.Header         { return w.header }
func (w *plainResponse) WriteHeader(status int)      { w.status = status }
func (w *plainResponse) Write(b []byte) (int, error) { w.bytes += len(b); return len(b), nil }

// budget calls a handler with one request after another, of n keys.
type budget struct {
	handler http.Handler
	w       plainResponse
	r       *http.Request
	body    bytes.Reader
	keys    [][]string
	next    int
	text    []byte
}

func newBudget(handler http.Handler, method string, keys int) *budget {
	b := &budget{handler: handler, text: []byte(`{"amount":1}`), w: plainResponse{header: http.Header{}}}
	for i := range keys {
		b.keys = append(b.keys, []string{fmt.Sprintf("8e03978e-40d5-43e8-bc93-%012d", i)})
	}
	b.r = &http.Request{
		Method: method, URL: &url.URL{Path: "/charges"}, RequestURI: "/charges", Host: "idem.test", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer token"}, "Accept-Encoding": {"gzip"}},
	}
	return b
}

func (b *budget) call() {
	clear(b.w.header)
	b.body.Reset(b.text)
	b.r.Body, b.r.ContentLength = io.NopCloser(&b.body), int64(len(b.text))
	if len(b.keys) > 0 {
		b.r.Header["Idempotency-Key"] = b.keys[b.next%len(b.keys)]
		b.next++
	}
	b.handler.ServeHTTP(&b.w, b.r)
}

func noop(w http.ResponseWriter, _ *http.Request) {
	w.Header()["Content-Type"] = jsonType
	_, _ = w.Write(madeBody)
}

var (
	jsonType = []string{"application/json"}
	madeBody = []byte(`{"id":1}`)
)

func budgetMiddleware(tb testing.TB) func(http.Handler) http.Handler {
	quiet := slog.New(slog.DiscardHandler)
	g := idem.New(memstore.New(nil), &idem.Options{Logger: quiet})
	tb.Cleanup(func() { _ = g.Close(context.Background()) })
	return idemhttp.New(g, &idemhttp.Options{Logger: quiet})
}

// What the middleware adds to a handler, in allocations: at most 12 for a fresh
// key, 6 for a replay, and none without a key.
func TestAllocationBudget(t *testing.T) {
	const runs = 1000
	bare := newBudget(http.HandlerFunc(noop), "POST", 0)
	base := testing.AllocsPerRun(runs, bare.call)
	for _, c := range []struct {
		name, method string
		keys         int
		most         float64
		status       int
	}{{"a fresh key", "POST", runs + 1, 12, 200}, {"a replay", "POST", 1, 6, 200}, {"no key", "POST", 0, 0, 0}, {"another method", "PUT", 1, 0, 0}} {
		b := newBudget(budgetMiddleware(t)(http.HandlerFunc(noop)), c.method, c.keys)
		if added := testing.AllocsPerRun(runs, b.call) - base; added > c.most && !raceEnabled {
			t.Errorf("%s: %v allocations more than the bare handler's %v, want at most %v", c.name, added, base, c.most)
		} else {
			t.Logf("%s: %v more than %v", c.name, added, base)
		}
		if b.w.status != c.status || b.w.bytes == 0 {
			t.Errorf("%s: status %d, %d bytes", c.name, b.w.status, b.w.bytes)
		}
	}
}

func BenchmarkMiddleware(b *testing.B) {
	for _, c := range []struct {
		name string
		keys int
	}{{"fresh", b.N}, {"replay", 1}, {"plain", 0}} {
		b.Run(c.name, func(b *testing.B) {
			keys := c.keys
			if c.name == "fresh" {
				keys = b.N
			}
			m := newBudget(budgetMiddleware(b)(http.HandlerFunc(noop)), "POST", keys)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				m.call()
			}
		})
	}
}
