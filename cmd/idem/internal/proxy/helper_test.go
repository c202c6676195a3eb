package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/idemhttp"
	"github.com/idem-go/idem/memstore"
)

// rig is a proxy over a memory store, in front of an upstream.
type rig struct {
	t      *testing.T
	url    string
	client *http.Client
}

func newRig(t *testing.T, upstream string, change func(*Config)) *rig {
	t.Helper()
	target, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	guard := idem.New(memstore.New(nil), &idem.Options{Logger: quiet})
	cfg := Config{
		Upstream: target, UpstreamTimeout: 5 * time.Second, UpstreamIdleTimeout: 4 * time.Second, Logger: quiet,
		HTTP: idemhttp.Options{Principal: idemhttp.NoPrincipal()},
	}
	if change != nil {
		change(&cfg)
	}
	h, closeIdle := New(guard, cfg)
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.Start()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		s.Close()
		closeIdle()
		if err := guard.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return &rig{t: t, url: s.URL, client: client}
}

type response struct {
	*http.Response
	body string
	err  error // of reading the body
}

func (r *rig) send(method, path, key, body string, headers ...string) response {
	r.t.Helper()
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, r.url+path, rd)
	if err != nil {
		r.t.Fatal(err)
	}
	if key != "" {
		// Spelt so that the test's own transport does not send it again.
		req.Header["idempotency-key"] = []string{key}
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header[headers[i]] = append(req.Header[headers[i]], headers[i+1])
	}
	res, err := r.client.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return response{Response: res, body: string(b), err: err}
}

func (r response) problem() string {
	if r.Header.Get("Content-Type") != "application/problem+json" {
		return ""
	}
	_, rest, _ := strings.Cut(r.body, `"type":"`)
	uri, _, _ := strings.Cut(rest, `"`)
	return uri[strings.LastIndexByte(uri, '#')+1:]
}

func (r response) want(t *testing.T, status int, problem string) {
	t.Helper()
	if r.StatusCode != status || r.problem() != problem {
		t.Errorf("got %d %q, want %d %q; body %q", r.StatusCode, r.problem(), status, problem, r.body)
	}
}

// rawServer is an upstream that handles connections by hand, and counts the
// requests that reach it.
type rawServer struct {
	url string
	mu  sync.Mutex
	got []string
}

// serve calls handle with each request of each connection; it returns false to
// end the connection.
func newRawServer(t *testing.T, handle func(n int, conn net.Conn, r *http.Request) bool) *rawServer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rawServer{url: "http://" + ln.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				br := bufio.NewReader(c)
				for {
					req, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					body, err := io.ReadAll(req.Body)
					if err != nil {
						return
					}
					s.mu.Lock()
					s.got = append(s.got, req.Method+" "+req.URL.Path+" "+string(body))
					n := len(s.got)
					s.mu.Unlock()
					if !handle(n, c, req) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return s
}

func (s *rawServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.got...)
}

func reply(c net.Conn, status int, body string) bool {
	_, err := fmt.Fprintf(c, "HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
	return err == nil
}

// reset ends a connection with RST, as a crashed peer does.
func reset(c net.Conn) bool {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
	return false
}
