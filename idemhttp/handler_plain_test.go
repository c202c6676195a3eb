package idemhttp_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/idemhttp"
)

// H1, trap 25: a request of another method is never claimed, whatever it
// carries.
func TestTrap25SafeMethodsAreNotClaimed(t *testing.T) {
	g := newGate()
	s := serve(t, settings{store: g, http: idemhttp.Options{RequireKey: true}}, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Got", r.Method+" "+r.Header.Get("Idempotency-Key")+string(b))
	})
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "QUERY"} {
		for range 2 {
			body := ""
			if method == "PUT" || method == "QUERY" {
				body = "b"
			}
			r := s.send(t.Context(), method, "/", "k", strings.NewReader(body))
			if r.status != 200 || r.replayed() || r.header.Get("X-Got") != method+" k"+body {
				t.Errorf("%s: %v", method, r)
			}
		}
	}
	s.ran(12)
	if n := g.count("claim"); n != 0 {
		t.Errorf("%d claims", n)
	}
}

// H1: which methods are keyed is the route's to say.
func TestOtherMethods(t *testing.T) {
	s := serve(t, settings{http: idemhttp.Options{Methods: []string{"PUT"}}}, answerWith(200, "done"))
	for _, method := range []string{"PUT", "POST"} {
		s.send(t.Context(), method, "/", "k"+method, nil)
		if r := s.send(t.Context(), method, "/", "k"+method, nil); r.replayed() != (method == "PUT") {
			t.Errorf("%s: %v", method, r)
		}
	}
	if r := s.send(t.Context(), "put", "/", "", nil); r.status != 400 || !r.problem(idemhttp.TypeMethodInvalid) {
		t.Errorf("put: %v", r)
	}
}

// H15: CONNECT and TRACE are refused with or without a key, and so is another
// spelling of a keyed method.
func TestTrap53RefusedMethods(t *testing.T) {
	s := serve(t, settings{}, answerWith(200, "done"))
	for _, key := range []string{"", "Idempotency-Key: k\r\n"} {
		for method, want := range map[string]string{
			"CONNECT": "405", "TRACE": "405", "connect": "405", "Trace": "405", "post": "400", "Patch": "400", "pOST": "400",
		} {
			conn, r := s.raw(method + " / HTTP/1.1\r\nHost: a\r\n" + key + "Content-Length: 1\r\n\r\nb")
			resp, err := http.ReadResponse(r, &http.Request{Method: "POST"})
			if err != nil {
				t.Fatalf("%s: %v", method, err)
			}
			body := readAll(resp.Body)
			_ = resp.Body.Close()
			typ := map[string]string{"405": idemhttp.TypeMethodNotAllowed, "400": idemhttp.TypeMethodInvalid}[want]
			if !strings.HasPrefix(resp.Status, want) || !strings.Contains(body, "#"+typ) || want == "405" && resp.Header.Get("Allow") == "" {
				t.Errorf("%s: %s %s", method, resp.Status, body)
			}
			_ = conn.Close()
		}
	}
	s.ran(0)
}

// H18: a response to a request without a key can do all that the server's can.
func TestPlainKeepsWhatTheServerCan(t *testing.T) {
	type can struct{ flush, hijack, readFrom, push bool }
	of := func(w http.ResponseWriter) (c can) {
		_, c.flush = w.(http.Flusher)
		_, c.hijack = w.(http.Hijacker)
		_, c.readFrom = w.(io.ReaderFrom)
		_, c.push = w.(http.Pusher)
		return c
	}
	for _, h2 := range []bool{false, true} {
		var bare, got can
		s := serve(t, settings{h2: h2, wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				bare = of(w)
				next.ServeHTTP(w, r)
			})
		}}, func(w http.ResponseWriter, r *http.Request) {
			got = of(w)
			c := http.NewResponseController(w)
			if err := errors.Join(c.EnableFullDuplex(), c.Flush()); err != nil {
				t.Errorf("h2 %v: %v", h2, err)
			}
			if idemhttp.SetOutcome(w, idemhttp.OutcomeRelease) {
				t.Error("a request without a key has a record")
			}
			_, _ = io.Copy(w, strings.NewReader("copied "))
			_, _ = io.WriteString(w, "written")
		})
		r := s.send(t.Context(), "GET", "/", "", nil)
		if r.body != "copied written" || (r.protocol == "HTTP/2.0") != h2 {
			t.Errorf("h2 %v: %v", h2, r)
		}
		got.readFrom = got.readFrom && bare.readFrom
		if got != bare {
			t.Errorf("h2 %v: can %+v, the server's %+v", h2, got, bare)
		}
	}
}

type onlyHijacker struct {
	http.ResponseWriter
	http.Hijacker
}

type flushAndHijack struct {
	http.ResponseWriter
	http.Flusher
	http.Hijacker
}

// H18: upgrades pass, also where something around the middleware offers no
// more than hijacking.
func TestUpgradeWithoutAKey(t *testing.T) {
	wraps := map[string]func(http.ResponseWriter) http.ResponseWriter{
		"server":   func(w http.ResponseWriter) http.ResponseWriter { return w },
		"hijacker": func(w http.ResponseWriter) http.ResponseWriter { return onlyHijacker{w, w.(http.Hijacker)} },
		"flusher hijacker": func(w http.ResponseWriter) http.ResponseWriter {
			return flushAndHijack{w, w.(http.Flusher), w.(http.Hijacker)}
		},
	}
	for name, wrap := range wraps {
		s := serve(t, settings{wrap: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(wrap(w), r) })
		}}, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "echo" {
				t.Errorf("%s: Upgrade is %q", name, r.Header.Get("Upgrade"))
			}
			h, ok := w.(http.Hijacker)
			if !ok {
				t.Errorf("%s: no Hijacker", name)
				return
			}
			conn, rw, err := h.Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			go func() { _, _ = io.Copy(conn, rw); _ = conn.Close() }()
		})
		conn, r := s.raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\nIdempotency-Key: k\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatalf("%s: %v %v", name, resp, err)
		}
		_ = resp.Body.Close()
		_, _ = io.WriteString(conn, "ping\n")
		if line, err := r.ReadString('\n'); line != "ping\n" || err != nil {
			t.Errorf("%s: %q, %v", name, line, err)
		}
		_ = conn.Close()
	}
}

// H15: a keyed request stays keyed, whatever it asks to upgrade to.
func TestUpgradeWithAKey(t *testing.T) {
	s := serve(t, settings{http: idemhttp.Options{Host: "one"}}, func(w http.ResponseWriter, r *http.Request) {
		if _, ok := w.(http.Hijacker); ok {
			t.Error("a keyed response can be hijacked")
		}
		_, _ = fmt.Fprintf(w, "upgrade %q", r.Header["Upgrade"])
	})
	for i := range 2 {
		_, r := s.raw(rawPost("k", "b", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"))
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body := readAll(resp.Body)
		_ = resp.Body.Close()
		if body != "upgrade []" || resp.StatusCode != 200 || (resp.Header.Get(idemhttp.ReplayedHeader) != "") != (i == 1) {
			t.Errorf("%s %s", resp.Status, body)
		}
	}
	s.ran(1)
}

// H17: fail open passes a request on with its body whole, and marks it; fail
// closed refuses it.
func TestStoreDoesNotAnswer(t *testing.T) {
	inBubble(t, storeDoesNotAnswer)
}

func storeDoesNotAnswer(t *testing.T) {
	for _, open := range []bool{false, true} {
		g := newGate()
		s := serve(t, settings{bubble: true, store: g, http: idemhttp.Options{FailOpen: open}}, func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil || r.ContentLength != int64(len(b)) {
				t.Errorf("body: %d bytes, %v", len(b), err)
			}
			_, _ = w.Write(b)
		})
		g.refuse()
		for _, chunked := range []bool{false, true} {
			body := io.Reader(strings.NewReader("the body"))
			if chunked {
				body = io.MultiReader(body)
			}
			r := s.send(t.Context(), "POST", "/", "k", body)
			mark := r.header.Get("Idempotency-Unprotected")
			if open && (r.status != 200 || r.body != "the body" || mark != "true" || r.replayed()) {
				t.Errorf("open: %v", r)
			}
			if !open && (r.status != 503 || !r.problem(idemhttp.TypeStoreUnavailable) || r.header.Get("Retry-After") == "" || mark != "") {
				t.Errorf("closed: %v", r)
			}
		}
		g.set(nil)
	}
}

// H17: fail open never runs a request whose handler ran already.
func TestFailOpenNotAfterTheWork(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		for name, stand := range map[string]error{"down": errStoreDown, "closed": driver.ErrClosed} {
			g := newGate()
			s := serve(t, settings{bubble: true, store: g, http: idemhttp.Options{FailOpen: true}}, answerWith(200, "done"))
			g.set(func(op string, call func() error) error {
				if op == "complete" {
					return stand
				}
				return call()
			})
			if r := s.post("k", "b"); r.status != 503 || !r.problem(idemhttp.TypeOutcomeUnknown) || r.header.Get("Idempotency-Unprotected") != "" {
				t.Errorf("%s: %v", name, r)
			}
			s.ran(1)
			g.set(nil)
		}
	})
}

// H18: what is not keyed may be as large as it likes, and streams both ways.
func TestPlainStreamsBothWays(t *testing.T) {
	s := serve(t, settings{http: idemhttp.Options{MaxRequestBody: 10}}, func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		_ = c.EnableFullDuplex()
		lines := bufio.NewReader(r.Body)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(w, "echo "+line)
			if err := c.Flush(); err != nil {
				t.Error(err)
			}
		}
	})
	pr, pw := io.Pipe()
	req, _ := http.NewRequestWithContext(context.WithoutCancel(t.Context()), "POST", s.url, pr)
	go func() { _, _ = io.WriteString(pw, "first line, longer than ten\n") }()
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); line != "echo first line, longer than ten\n" || err != nil {
		t.Errorf("%q %v", line, err)
	}
	_, _ = io.WriteString(pw, "second\n")
	if line, err := lines.ReadString('\n'); line != "echo second\n" || err != nil {
		t.Errorf("%q %v", line, err)
	}
	_ = pw.Close()
	_ = resp.Body.Close()
}
