package idemhttp_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem/idemhttp"
)

// until is what has arrived on a connection once nothing more moves in the
// bubble.
func until(conn net.Conn, b *[]byte) string {
	go func() {
		buf := make([]byte, 1<<20)
		for {
			n, err := conn.Read(buf)
			*b = append(*b, buf[:n]...)
			if err != nil {
				return
			}
		}
	}()
	synctest.Wait()
	return string(*b)
}

// H10: the end of a response is let go once its record is durable. With a
// length that is the last byte, otherwise the terminator; a short answer is
// held whole.
func TestEndIsHeldUntilTheRecordIsDurable(t *testing.T) {
	long := strings.Repeat("0123456789", 1000)
	cases := map[string]struct {
		handler       http.HandlerFunc
		before, after string // how what arrived ends, while Complete hangs and after it
	}{
		"short": {func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "short") }, "", "\r\n\r\nshort"},
		"length, flushed": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "short")
			w.(http.Flusher).Flush()
		}, "\r\n\r\nshor", "\r\n\r\nshort"},
		"length, long": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(long)))
			_, _ = io.WriteString(w, long)
			w.(http.Flusher).Flush()
		}, "012345678", "0123456789"},
		"chunked": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "event")
			w.(http.Flusher).Flush()
		}, "\r\n5\r\nevent\r\n", "\r\n5\r\nevent\r\n0\r\n\r\n"},
		"trailers": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "event")
			w.(http.Flusher).Flush()
			w.Header().Set("X-Sum", "1")
		}, "\r\n5\r\nevent\r\n", "event\r\n0\r\nX-Sum: 1\r\n\r\n"},
		"204": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(204)
			w.(http.Flusher).Flush()
		}, "", "\r\n\r\n"},
		"length 0": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "0")
			w.(http.Flusher).Flush()
		}, "", "\r\n\r\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, durable := newGate(), make(chan struct{})
				s := serve(t, settings{bubble: true, store: g}, c.handler)
				g.set(func(op string, call func() error) error {
					if op == "complete" {
						<-durable
					}
					return call()
				})
				conn, _ := s.raw(rawPost("k", "b"))
				var got []byte
				before := until(conn, &got)
				if !strings.HasSuffix(before, c.before) || c.before == "" && before != "" {
					t.Errorf("while the record is not durable: %q", tail(before))
				}
				if strings.HasSuffix(before, c.after) {
					t.Errorf("the response has ended before its record was durable: %q", tail(before))
				}
				close(durable)
				synctest.Wait()
				if !strings.HasSuffix(string(got), c.after) {
					t.Errorf("at the end: %q", tail(string(got)))
				}
				_ = conn.Close()
			})
		})
	}
}

func tail(s string) string { return s[max(0, len(s)-60):] }

// H10: an event of a stream does not wait for the next.
func TestEventsPassAtOnce(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		next := make(chan struct{})
		s := serve(t, settings{h2: h2}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
				<-next
			}
		})
		req, _ := http.NewRequestWithContext(t.Context(), "POST", s.url, strings.NewReader("b"))
		req.Header.Set("Idempotency-Key", "k")
		resp, err := s.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(resp.Body)
		for i := range 3 {
			line, err := lines.ReadString('\n')
			if want := fmt.Sprintf("data: %d\n", i); line != want || err != nil {
				t.Fatalf("h2 %v: got %q, %v; want %q", h2, line, err, want)
			}
			_, _ = lines.ReadString('\n')
			next <- struct{}{}
		}
		_, _ = io.Copy(io.Discard, lines)
		_ = resp.Body.Close()
		if r := s.post("k", "b"); !r.replayed() || r.body != "data: 0\n\ndata: 1\n\ndata: 2\n\n" || r.header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("h2 %v: the replay is %v", h2, r)
		}
	}
}

// Trap 15: what io.Copy and WriteString do is recorded on the way.
func TestTrap15EveryWayToWrite(t *testing.T) {
	long := strings.Repeat("long ", 20_000)
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		if n, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("copied ")); n != 7 || err != nil {
			t.Errorf("ReadFrom: %d, %v", n, err)
		}
		_, _ = w.(io.StringWriter).WriteString("string ")
		_, _ = w.Write(nil)
		_ = http.NewResponseController(w).Flush()
		_, _ = io.Copy(w, strings.NewReader(long))
	})
	want := "copied string " + long
	if first, again := s.post("k", ""), s.post("k", ""); first.body != want || again.body != want || !again.replayed() {
		t.Errorf("%d bytes, then %d; want %d", len(first.body), len(again.body), len(want))
	}
}

// O5: whoever waits for a record that cannot be saved is told so after
// save-wait: 503 while nothing was sent, a stream that breaks afterwards.
// Saving goes on, and the retry gets the answer.
func TestTrap8StoreFailsAtTheSave(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	for _, c := range []struct {
		name, body string
		length     bool
		sent       bool
	}{{"short", "short", false, false}, {"short with a length", "short", true, false}, {"long", long, false, true}, {"long with a length", long, true, true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate()
				s := serve(t, settings{bubble: true, store: g}, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("X-Made", "1")
					if c.length {
						w.Header().Set("Content-Length", fmt.Sprint(len(c.body)))
					}
					_, _ = io.WriteString(w, c.body)
					if c.sent {
						w.(http.Flusher).Flush()
					}
				})
				g.refuse("complete")
				began := time.Now()
				r := s.post("k", "b")
				if waited := time.Since(began); waited < 9*time.Second || waited > 11*time.Second {
					t.Errorf("answered after %v, want save-wait", waited)
				}
				if c.sent {
					if r.status != 200 || r.err == nil {
						t.Errorf("a response that was begun must break: %d, %v", r.status, r.err)
					}
				} else if r.status != 503 || !r.problem(idemhttp.TypeOutcomeUnknown) || r.header.Get("X-Made") != "" {
					t.Errorf("got %v", r)
				}
				// While saving goes on, others are told the same.
				if r := s.post("k", "b"); r.status != 503 || !r.problem(idemhttp.TypeOutcomeUnknown) {
					t.Errorf("a retry while saving: %v", r)
				}
				g.set(nil)
				time.Sleep(2 * time.Second) // the bubble's: saving is tried again every second
				if r := s.post("k", "b"); r.body != c.body || !r.replayed() || r.header.Get("X-Made") != "1" {
					t.Errorf("the retry got %v", r)
				}
				s.ran(1)
			})
		})
	}
}

// H11: a response of another length than was declared ends broken, and its
// outcome is unknown.
func TestAnotherLengthThanDeclared(t *testing.T) {
	for _, body := range []string{"", "less", "far more than that"} {
		s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "8")
			_, err := io.WriteString(w, body)
			if len(body) > 8 != errors.Is(err, http.ErrContentLength) {
				t.Errorf("%q: %v", body, err)
			}
		})
		if r := s.post("k", ""); r.err == nil {
			t.Errorf("%q: came whole: %v", body, r)
		}
		if r := s.post("k", ""); r.status != 409 || !r.problem(idemhttp.TypeOutcomeUnknown) {
			t.Errorf("%q: then %v", body, r)
		}
		s.ran(1)
	}
}

// A Content-Length that is none is not passed on, as net/http does it.
func TestContentLengthThatIsNone(t *testing.T) {
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Length"] = []string{"many"}
		_, _ = io.WriteString(w, "four")
	})
	if first, again := s.post("k", ""), s.post("k", ""); first.body != "four" || again.body != "four" || again.header.Get("Content-Length") != "4" {
		t.Errorf("first %v, then %v", first, again)
	}
}

// H10: a client that takes nothing of a stream is given up, and the operation
// goes on to its end; one that is merely slow is not.
func TestClientThatStopsReading(t *testing.T) {
	body := strings.Repeat("x", 1<<20)
	for _, slow := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan time.Duration, 1)
			s := serve(t, settings{bubble: true, http: idemhttp.Options{MaxStoredResponse: 2 << 20}}, func(w http.ResponseWriter, r *http.Request) {
				began := time.Now()
				_, _ = io.WriteString(w, body)
				ended <- time.Since(began)
			})
			conn, _ := s.raw(rawPost("k", "b"))
			got := 0
			if slow {
				buf := make([]byte, 4<<10)
				for got < len(body) {
					n, err := io.ReadFull(conn, buf)
					got += n
					if err != nil {
						t.Errorf("the slow client was cut off after %d bytes: %v", got, err)
						break
					}
					time.Sleep(time.Second)
				}
				go func() { _, _ = io.Copy(io.Discard, conn) }()
			}
			if took := <-ended; !slow && (took < 29*time.Second || took > 31*time.Second) {
				t.Errorf("the handler was held up for %v", took)
			}
			if r := s.post("k", "b"); r.body != body || !r.replayed() {
				t.Errorf("the retry got %d, %d bytes, %v", r.status, len(r.body), r.err)
			}
			_ = conn.Close()
		})
	}
}

// The time limit of one response does not stay on the connection.
func TestNoDeadlineIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, settings{bubble: true}, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, strings.Repeat("x", 10_000))
			if r.Method == "GET" {
				time.Sleep(time.Hour)
			}
		})
		conn, r := s.raw(rawPost("k", "b"))
		for i := range 2 {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, resp.Body); n != 10_000 || err != nil {
				t.Fatalf("response %d: %d bytes, %v", i, n, err)
			}
			_ = resp.Body.Close()
			if i == 0 {
				_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: idem.test\r\n\r\n")
			}
		}
		_ = conn.Close()
	})
}

// The controller of a keyed response works: deadlines, full duplex, flush.
func TestResponseController(t *testing.T) {
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		for what, err := range map[string]error{
			"read deadline": c.SetReadDeadline(time.Now().Add(time.Hour)), "write deadline": c.SetWriteDeadline(time.Now().Add(time.Hour)),
			"full duplex": c.EnableFullDuplex(), "flush": c.Flush(),
		} {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, _, err := c.Hijack(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("hijack of a keyed response: %v", err)
		}
	})
	s.post("k", "")
}

// A writer around the middleware that cannot flush says so, and loses nothing.
func TestFlushThatIsNotSupported(t *testing.T) {
	s := serve(t, settings{wrap: func(next http.Handler) http.Handler { return http.TimeoutHandler(next, time.Minute, "") }}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "one ")
		if err := http.NewResponseController(w).Flush(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("flush: %v", err)
		}
		_, _ = io.WriteString(w, "two")
	})
	if first, again := s.post("k", ""), s.post("k", ""); first.body != "one two" || again.body != "one two" {
		t.Errorf("first %v, then %v", first, again)
	}
}

// HTTP/1.0 has neither chunks nor informational responses.
func TestHTTP10(t *testing.T) {
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(103)
		_, _ = io.WriteString(w, strings.Repeat("x", 10_000))
	})
	for i := range 2 {
		conn, _ := s.raw("POST / HTTP/1.0\r\nIdempotency-Key: k\r\nContent-Length: 1\r\n\r\nb")
		head, body, _ := strings.Cut(readAll(conn), "\r\n\r\n")
		if !strings.HasPrefix(head, "HTTP/1.0 200") && !strings.HasPrefix(head, "HTTP/1.1 200") || len(body) != 10_000 || strings.Contains(head, "Idempotent-Replayed: true") != (i == 1) {
			t.Errorf("answer %d: %q and %d bytes", i, head, len(body))
		}
	}
	s.ran(1)
}

// Trap 61, trap 15: a result of exactly the limit is kept; one byte more is
// said not to be, and the work is not done again.
func TestTrap61MaxStoredResponse(t *testing.T) {
	// What is kept of the head takes as many bytes in either response.
	const limit = 5000
	meta := len((&idemhttp.Stored{Status: 200, Header: http.Header{"Content-Type": {"text/plain"}}, Length: -1}).AppendMeta(nil))
	for _, more := range []int{0, 1, 100_000} {
		body := strings.Repeat("x", limit-meta+more)
		s := serve(t, settings{http: idemhttp.Options{MaxStoredResponse: limit}}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, body)
		})
		if first := s.post("k", ""); first.body != body || first.err != nil {
			t.Errorf("%d more: the first client got %d bytes, %v", more, len(first.body), first.err)
		}
		again := s.post("k", "")
		if more == 0 && (again.body != body || !again.replayed()) || more > 0 && (again.status != 422 || !again.problem(idemhttp.TypeResponseNotStored)) {
			t.Errorf("%d more: then %d, %d bytes", more, again.status, len(again.body))
		}
		s.ran(1)
	}
}
