// Package allocs counts what the middleware, and idem under it, allocate for
// one request: a difference to the bare handler in the same process, which
// noise hardly touches.
package allocs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/idemhttp"
	"github.com/idem-go/idem/memstore"
)

// What the middleware may allocate for a request, on a store in memory, over
// what its handler does.
const (
	FreshBudget  = 12
	ReplayBudget = 6
)

// Count is the allocations for one request.
type Count struct {
	Name string
	// Bare is what the handler allocates alone, With what it does behind the
	// middleware.
	Bare, With float64
	// Budget is the most that With may be over Bare, in whole allocations.
	Budget float64
}

// Added is what the middleware adds.
func (c *Count) Added() float64 { return c.With - c.Bare }

// Met says that the budget is kept. Fractions come from what is paid for now
// and then: a map that grows, a pool that the collector has emptied.
func (c *Count) Met() bool { return float64(int(c.Added()+0.5)) <= c.Budget }

// Measure counts a fresh key and a replay over n requests each.
func Measure(n int) ([]Count, error) {
	fresh, err := newCalls(n, n, nil)
	if err != nil {
		return nil, err
	}
	bare := fresh.perRequest(http.HandlerFunc(noop), n)
	middleware, guard := newMiddleware()
	with := fresh.perRequest(middleware(http.HandlerFunc(noop)), n)
	counts := []Count{{Name: "fresh key", Bare: bare, With: with, Budget: FreshBudget}}

	replays, err := newCalls(n, 1, fresh)
	if err != nil {
		return nil, err
	}
	bare = replays.perRequest(http.HandlerFunc(noop), n)
	with = replays.perRequest(middleware(http.HandlerFunc(noop)), n)
	counts = append(counts, Count{Name: "replay", Bare: bare, With: with, Budget: ReplayBudget})
	if replays.w.replayed != n {
		return nil, fmt.Errorf("allocs: %d of %d requests were replays", replays.w.replayed, n)
	}
	return counts, guard.Close(context.Background())
}

func noop(http.ResponseWriter, *http.Request) {}

func newMiddleware() (func(http.Handler) http.Handler, *idem.Guard) {
	quiet := slog.New(slog.DiscardHandler)
	guard := idem.New(memstore.New(nil), &idem.Options{Logger: quiet})
	return idemhttp.New(guard, &idemhttp.Options{Logger: quiet}), guard
}

// calls is a request that is used again and again, under other keys, and a
// ResponseWriter that keeps nothing: neither allocates anything.
type calls struct {
	keys [][]string
	next int
	req  *http.Request
	body *bytes.Reader
	text []byte
	w    sink
}

// newCalls returns calls with n different keys out of distinct, those of a
// former where it is given.
func newCalls(n, distinct int, former *calls) (*calls, error) {
	c := &calls{text: []byte(`{"email":"ada@example.org","name":"Ada Lovelace","age":36}`), w: sink{header: http.Header{}}}
	c.body = bytes.NewReader(c.text)
	req, err := http.NewRequest(http.MethodPost, "http://127.0.0.1/users", io.NopCloser(c.body))
	if err != nil {
		return nil, err
	}
	req.ContentLength = int64(len(c.text))
	req.Header.Set("Content-Type", "application/json")
	c.req = req
	for i := range n {
		if former != nil {
			c.keys = append(c.keys, former.keys[i%distinct])
		} else {
			c.keys = append(c.keys, []string{fmt.Sprintf(`"8e03978e-40d5-43e8-bc93-%012x"`, i)})
		}
	}
	return c, nil
}

// call sends the next request.
func (c *calls) call(h http.Handler) {
	c.body.Reset(c.text)
	c.req.Header["Idempotency-Key"] = c.keys[c.next%len(c.keys)]
	c.next++
	clear(c.w.header)
	h.ServeHTTP(&c.w, c.req)
	if len(c.w.header[idemhttp.ReplayedHeader]) > 0 {
		c.w.replayed++
	}
}

// perRequest returns the mean number of allocations over n requests.
func (c *calls) perRequest(h http.Handler, n int) float64 {
	// One processor, so that nothing else of this process runs beside it.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	c.w.replayed, c.next = 0, 0
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		c.call(h)
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(n)
}

// sink is a ResponseWriter that keeps the header alone.
type sink struct {
	header   http.Header
	replayed int
}

// Header implements http.ResponseWriter.
func (s *sink) Header() http.Header { return s.header }

// WriteHeader implements http.ResponseWriter.
func (s *sink) WriteHeader(int) {}

// Write implements http.ResponseWriter.
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }
