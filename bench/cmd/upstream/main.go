// Command upstream is the service behind the proxies that are measured: it
// answers every POST with 201 and 1 KiB. It counts what it did, at its admin
// address, so that the measurement can tell whether replays reached it.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"

	"github.com/idem-go/idem/bench/internal/serve"
)

const responseSize = 1 << 10

type service struct {
	body     []byte
	requests atomic.Int64
}

// ServeHTTP implements http.Handler.
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return // the connection is gone
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(s.body)))
	h.Set("Location", "/users/1815")
	h.Set("ETag", `"1815-1"`)
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(s.body) // nobody is there to be told
}

func main() {
	s := &service{body: make([]byte, responseSize)}
	for i := range s.body {
		s.body[i] = "idempotency "[i%12]
	}
	err := serve.Run("upstream", s, func(w io.Writer) {
		_, _ = fmt.Fprintf(w, "upstream_requests_total %d\n", s.requests.Load())
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
