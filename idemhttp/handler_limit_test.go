package idemhttp_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/idem-go/idem/idemhttp"
)

// Trap 21: a body of exactly the limit is taken; one byte more is 413 and does
// not run, whether its length was told or not.
func TestTrap21MaxRequestBody(t *testing.T) {
	const limit = 100_000
	for _, h2 := range []bool{false, true} {
		s := serve(t, settings{h2: h2, http: idemhttp.Options{MaxRequestBody: limit}}, func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprint(w, n, err)
		})
		for _, more := range []int{0, 1} {
			for _, chunked := range []bool{false, true} {
				body := io.Reader(strings.NewReader(strings.Repeat("x", limit+more)))
				if chunked {
					body = io.MultiReader(body)
				}
				r := s.send(t.Context(), "POST", "/", fmt.Sprintf("k%d%v", more, chunked), body)
				if more == 0 && r.body != fmt.Sprint(limit, nil) || more == 1 && (r.status != 413 || !r.problem(idemhttp.TypeRequestTooLarge)) {
					t.Errorf("h2 %v, %d more, chunked %v: %v", h2, more, chunked, r)
				}
			}
		}
		s.ran(2)
	}
}

// W4: bodies are bounded in all; what is past the bound is refused, and what
// has ended counts no more.
func TestMaxRequestBodies(t *testing.T) {
	const limit = 256 << 10
	runs, goOn := make(chan struct{}, 10), make(chan struct{})
	s := serve(t, settings{http: idemhttp.Options{MaxRequestBodies: limit}}, func(w http.ResponseWriter, r *http.Request) {
		runs <- struct{}{}
		<-goOn
	})
	body := strings.Repeat("x", limit/2+1) // two are past the bound, whatever room their buffers leave
	first := s.async("k1", body)
	select {
	case <-runs:
	case r := <-first:
		t.Fatalf("within the bound: %v", r)
	}
	if r := s.post("k2", body); r.status != 503 || !r.problem(idemhttp.TypeOverloaded) || r.header.Get("Retry-After") == "" {
		t.Errorf("past the bound: %v", r)
	}
	s.ran(1)
	close(goOn)
	<-first
	for i := range 5 {
		// The client has its answer a little before the request has ended.
		r := s.post(fmt.Sprint("k3", i), body)
		for until := time.Now().Add(5 * time.Second); r.status == 503 && time.Now().Before(until); {
			r = s.post(fmt.Sprint("k3", i), body)
		}
		if r.status != 200 {
			t.Errorf("afterwards: %v", r)
		}
	}
}

// What is used again between requests never shows in another: many at once,
// with bodies, headers and trailers of their own, each compared to the byte;
// and a body that somebody still reads after its request gives nothing.
func TestNothingLeaksBetweenRequests(t *testing.T) {
	var kept sync.Map
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		kept.Store(r.Header.Get("Idempotency-Key"), r.Body)
		w.Header().Set("X-Of-"+r.Header.Get("X-Id"), r.Header.Get("X-Id"))
		w.Header().Set("Trailer", "X-End")
		w.WriteHeader(201)
		_, _ = w.Write(b)
		w.Header().Set("X-End", r.Header.Get("X-Id"))
	})
	var all sync.WaitGroup
	for worker := range 16 {
		all.Go(func() {
			for n := range 20 {
				id := fmt.Sprintf("%d-%d", worker, n)
				body := strings.Repeat(id+" ", 1+(worker*n*37)%3000)
				method := []string{"POST", "PUT"}[n%2]
				for again := range 2 {
					r := s.send(t.Context(), method, "/"+id, id, strings.NewReader(body), "X-Id", id)
					if r.status != 201 || r.body != body || r.err != nil || r.replayed() != (again == 1 && method == "POST") || r.trailer.Get("X-End") != id {
						t.Errorf("%s: %d, %d bytes, %v, %v, %v", id, r.status, len(r.body), r.header, r.trailer, r.err)
					}
					for name := range r.header {
						if strings.HasPrefix(name, "X-Of-") && name != http.CanonicalHeaderKey("X-Of-"+id) {
							t.Errorf("%s has %s", id, name)
						}
					}
				}
			}
		})
	}
	all.Wait()
	kept.Range(func(_, body any) bool {
		if b, err := io.ReadAll(body.(io.Reader)); len(b) > 0 && err != nil {
			t.Errorf("a body that was kept gives %q", b)
		}
		return true
	})
}

// A handler may go on to read its body after it has answered, as a transport
// does; once it has returned, the body is over.
func TestBodyAfterTheResponse(t *testing.T) {
	body := strings.Repeat("0123456789", 10_000)
	var left io.Reader
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		half := make([]byte, len(body)/2)
		_, _ = io.ReadFull(r.Body, half)
		w.WriteHeader(201)
		w.(http.Flusher).Flush()
		rest, err := io.ReadAll(r.Body)
		if got := string(half) + string(rest); got != body || err != nil {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if r.GetBody != nil {
			t.Error("the body can be sent again")
		}
		left = r.Body
		w.(http.Flusher).Flush()
	})
	s.post("k", body)
	// The client may have its answer before the middleware has returned.
	s.client.CloseIdleConnections()
	s.post("another", body)
	if b, err := io.ReadAll(left); err == nil && bytes.Contains(b, []byte("0")) {
		t.Errorf("%d bytes of a body that is over", len(b))
	}
}

// A request's trailers are the handler's to read.
func TestRequestTrailers(t *testing.T) {
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %d", b, r.Trailer.Get("X-Sum"), r.ContentLength)
	})
	conn, r := s.raw("POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n")
	defer conn.Close()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body := readAll(resp.Body); body != "body 1 -1" {
		t.Errorf("got %q", body)
	}
}
