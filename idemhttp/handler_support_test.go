package idemhttp_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/idemhttp"
	"github.com/idem-go/idem/memstore"
)

var errStoreDown = errors.New("the store's line is cut")

// gate is a store around another; what stands in it sees each call first.
type gate struct {
	inner driver.Store
	mu    sync.Mutex
	stand func(op string, call func() error) error
	calls map[string]int
}

func newGate() *gate { return &gate{inner: memstore.New(nil), calls: map[string]int{}} }

func (g *gate) set(stand func(op string, call func() error) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stand = stand
}

// refuse cuts the line for the operations named, or all.
func (g *gate) refuse(ops ...string) {
	g.set(func(op string, call func() error) error {
		for _, o := range ops {
			if o == op {
				return errStoreDown
			}
		}
		if len(ops) == 0 {
			return errStoreDown
		}
		return call()
	})
}

func (g *gate) count(op string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls[op]
}

func (g *gate) do(op string, call func() error) error {
	g.mu.Lock()
	g.calls[op]++
	stand := g.stand
	g.mu.Unlock()
	if stand == nil {
		return call()
	}
	return stand(op, call)
}

func (g *gate) Unwrap() driver.Store { return g.inner }

func (g *gate) Claim(ctx context.Context, req driver.ClaimRequest) (r driver.ClaimReply, err error) {
	err = g.do("claim", func() (err error) { r, err = g.inner.Claim(ctx, req); return err })
	return r, err
}

func (g *gate) Renew(ctx context.Context, ref driver.Ref, lease time.Duration) error {
	return g.do("renew", func() error { return g.inner.Renew(ctx, ref, lease) })
}

func (g *gate) Complete(ctx context.Context, ref driver.Ref, c driver.Completion) (late bool, err error) {
	err = g.do("complete", func() (err error) { late, err = g.inner.Complete(ctx, ref, c); return err })
	return late, err
}

func (g *gate) Release(ctx context.Context, ref driver.Ref, r driver.Release) error {
	return g.do("release", func() error { return g.inner.Release(ctx, ref, r) })
}

func (g *gate) Abandon(ctx context.Context, ref driver.Ref) error {
	return g.do("abandon", func() error { return g.inner.Abandon(ctx, ref) })
}

func (g *gate) Lookup(ctx context.Context, key driver.Key) (r driver.Record, err error) {
	err = g.do("lookup", func() (err error) { r, err = g.inner.Lookup(ctx, key); return err })
	return r, err
}

// settings of a site; the zero value is a default middleware on memory.
type settings struct {
	http  idemhttp.Options
	guard idem.Options
	store driver.Store
	// bubble serves in memory, for synctest; h2 serves HTTP/2 over TLS.
	bubble, h2 bool
	// wrap goes around the middleware.
	wrap  func(http.Handler) http.Handler
	tweak func(*http.Server)
}

// site is a server with the middleware before a handler, and a client of it.
type site struct {
	t      testing.TB
	url    string
	runs   atomic.Int64
	guard  *idem.Guard
	client *http.Client
	dial   func() (net.Conn, error)
	// dialClient dials as the client does: with TLS where the site has it.
	dialClient func() (net.Conn, error)
}

// serve starts a site, which is gone at the end of the test.
func serve(t testing.TB, c settings, h http.HandlerFunc) *site {
	t.Helper()
	s := &site{t: t}
	quiet := slog.New(slog.DiscardHandler)
	if c.store == nil {
		c.store = memstore.New(nil)
	}
	if c.guard.Logger == nil {
		c.guard.Logger = quiet
	}
	if c.http.Logger == nil {
		c.http.Logger = quiet
	}
	s.guard = idem.New(c.store, &c.guard)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.guard.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.runs.Add(1)
		h(w, r)
	})
	handler := idemhttp.New(s.guard, &c.http)(counted)
	if c.wrap != nil {
		handler = c.wrap(handler)
	}
	var transport *http.Transport
	if c.bubble {
		l := newPipeListener()
		srv := &http.Server{Handler: handler, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
		if c.tweak != nil {
			c.tweak(srv)
		}
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(l) }()
		t.Cleanup(func() { _ = srv.Close(); <-done })
		s.url, s.dial = "http://idem.test", l.dial
		transport = &http.Transport{DisableCompression: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return l.dial() }}
	} else {
		srv := httptest.NewUnstartedServer(handler)
		srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		if c.tweak != nil {
			c.tweak(srv.Config)
		}
		if c.h2 {
			srv.EnableHTTP2 = true
			srv.StartTLS()
			transport = srv.Client().Transport.(*http.Transport)
			transport.DisableCompression = true
		} else {
			srv.Start()
			transport = &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100}
		}
		t.Cleanup(srv.Close)
		s.url = srv.URL
		s.dial = func() (net.Conn, error) { return net.Dial("tcp", srv.Listener.Addr().String()) }
		s.dialClient = s.dial
		if c.h2 {
			config := transport.TLSClientConfig.Clone()
			config.NextProtos, config.ServerName = nil, "example.com"
			s.dialClient = func() (net.Conn, error) { return tls.Dial("tcp", srv.Listener.Addr().String(), config) }
		}
	}
	s.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(transport.CloseIdleConnections)
	return s
}

// pipeListener is a listener in memory.
type pipeListener struct {
	conns chan net.Conn
	gone  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), gone: make(chan struct{})}
}

func (l *pipeListener) dial() (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.gone:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.gone:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.gone) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

// reply is a response that has been read to its end, or to where it broke.
type reply struct {
	status   int
	header   http.Header
	trailer  http.Header
	body     string
	err      error // of the body, or of the whole where status is 0
	protocol string
}

func (r reply) String() string { return fmt.Sprintf("%d %q %v %v", r.status, r.body, r.header, r.err) }

func (r reply) replayed() bool { return r.header.Get(idemhttp.ReplayedHeader) == "true" }

// problem says that the reply is a whole problem of that type.
func (r reply) problem(typ string) bool {
	return r.err == nil && r.header.Get("Content-Type") == "application/problem+json" &&
		strings.Contains(r.body, "#"+typ+`"`) && strings.Contains(r.header.Get("Link"), "#"+typ+`>; rel="describedby"`)
}

// send sends a request; headers are given as name, value, name, value.
func (s *site) send(ctx context.Context, method, path, key string, body io.Reader, headers ...string) reply {
	s.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	req.GetBody = nil
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return reply{err: err, header: http.Header{}}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{status: resp.StatusCode, header: resp.Header, trailer: resp.Trailer, body: string(b), err: err, protocol: resp.Proto}
}

func (s *site) post(key, body string, headers ...string) reply {
	s.t.Helper()
	return s.send(s.t.Context(), "POST", "/", key, strings.NewReader(body), headers...)
}

// async sends a POST in the background.
func (s *site) async(key, body string, headers ...string) <-chan reply {
	c := make(chan reply, 1)
	go func() { c <- s.post(key, body, headers...) }()
	return c
}

func (s *site) ran(want int64) {
	s.t.Helper()
	if n := s.runs.Load(); n != want {
		s.t.Errorf("the handler ran %d times, want %d", n, want)
	}
}

// raw writes a request as it stands, on a connection of its own.
func (s *site) raw(request string) (net.Conn, *bufio.Reader) {
	s.t.Helper()
	conn, err := s.dial()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, request); err != nil {
		s.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func rawPost(key, body string, headers ...string) string {
	return fmt.Sprintf("POST / HTTP/1.1\r\nHost: idem.test\r\nIdempotency-Key: %s\r\nContent-Length: %d\r\n%s\r\n%s",
		key, len(body), strings.Join(append(headers, ""), "\r\n"), body)
}

// readAll reads what a connection gives until it is closed.
func readAll(r io.Reader) string {
	b, _ := io.ReadAll(r)
	return string(b)
}

func answerWith(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}
