package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/idem-go/idem"
)

// What became of a request that got no response.
var (
	// errUnreachable: not a byte of the request was handed to a socket.
	errUnreachable = errors.New("proxy: no connection to the upstream")
	// errTimeout: the upstream may have got the request, and did not answer in
	// time.
	errTimeout = errors.New("proxy: the upstream did not answer in time")
	// errBroken: the upstream may have got the request, and broke off.
	errBroken = errors.New("proxy: the upstream broke off")
)

// transport sends requests to the upstream, each at most once.
//
// Go's transport sends some requests a second time by itself when a connection
// that was kept alive breaks: those that it holds for idempotent, among them any
// that has a header named Idempotency-Key or X-Idempotency-Key and a body it
// can rewind. It looks for the canonical spelling in the header map, so the
// header goes out under another one (names are case-insensitive, RFC 9110,
// section 5.1); what it still repeats then is a request of which it has written
// nothing. HTTP/2, which has rules of its own, is not spoken to the upstream.
type transport struct {
	plain    *http.Transport
	upgrades *http.Transport
}

func newTransport(timeout, idle time.Duration) *transport {
	build := func(between time.Duration) *http.Transport {
		d := &dialer{Dialer: net.Dialer{Timeout: min(orForever(timeout), 10*time.Second), KeepAlive: 30 * time.Second}, timeout: between}
		return &http.Transport{
			DialContext:         d.dial,
			TLSHandshakeTimeout: 10 * time.Second,
			IdleConnTimeout:     idle,
			MaxIdleConns:        0,
			MaxIdleConnsPerHost: 1024,
			// The connection's own time is renewed by every byte that comes.
			ResponseHeaderTimeout: timeout,
			// A body passes as it is; nothing is asked for that was not.
			DisableCompression: true,
			TLSNextProto:       map[string]func(string, *tls.Conn) http.RoundTripper{},
		}
	}
	// An upgraded connection may be silent for as long as it likes.
	return &transport{plain: build(timeout), upgrades: build(0)}
}

func orForever(d time.Duration) time.Duration {
	if d <= 0 {
		return time.Duration(1<<63 - 1)
	}
	return d
}

// RoundTrip implements http.RoundTripper for requests made by ReverseProxy: their
// headers, body and trace are this proxy's own to change.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	disguise(req.Header, "Idempotency-Key", "Idempotency-key")
	disguise(req.Header, "X-Idempotency-Key", "X-Idempotency-key")
	if _, keyed := idem.FromContext(req.Context()); !keyed {
		to := t.plain
		if len(req.Header["Upgrade"]) > 0 {
			to = t.upgrades
		}
		res, err := to.RoundTrip(req)
		if err != nil {
			return nil, classify(req.Context(), err, true)
		}
		return res, nil
	}
	if err := inMemory(req); err != nil {
		return nil, classify(req.Context(), err, false)
	}
	s := new(sent)
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && trace.GotConn == nil {
		// The trace that ReverseProxy makes for each request: a hook in it costs
		// less than a second trace, and its context.
		trace.GotConn = s.gotConn
	} else {
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: s.gotConn}))
	}
	res, err := t.plain.RoundTrip(req)
	if err != nil {
		return nil, classify(req.Context(), err, s.anything())
	}
	return res, nil
}

// wholeBody is the largest body that is sent in one write with its head.
const wholeBody = 64 << 10

// inMemory gives a request with a small body one that net/http knows to be in
// memory: it then sends head and body in one write instead of two. The bytes
// are the request's own, since the transport may read them after it returned.
func inMemory(req *http.Request) error {
	if req.Body == nil || req.ContentLength <= 0 || req.ContentLength > wholeBody {
		return nil
	}
	b := make([]byte, req.ContentLength)
	if _, err := io.ReadFull(req.Body, b); err != nil {
		return err
	}
	if err := req.Body.Close(); err != nil {
		return err
	}
	req.Body = io.NopCloser(bytes.NewReader(b))
	// For a connection that turns out to be closed before a byte was written.
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
	return nil
}

func (t *transport) closeIdle() {
	t.plain.CloseIdleConnections()
	t.upgrades.CloseIdleConnections()
}

func disguise(h http.Header, name, as string) {
	if v, ok := h[name]; ok {
		delete(h, name)
		h[as] = v
	}
}

// sent tells whether anything of a request was handed to a socket.
type sent struct {
	conn   atomic.Pointer[upstreamConn]
	before atomic.Int64
	blind  atomic.Bool
	wrote  atomic.Bool
}

// gotConn is called for each connection that the transport tries.
func (s *sent) gotConn(info httptrace.GotConnInfo) {
	if s.anything() {
		s.wrote.Store(true)
	}
	c := socket(info.Conn)
	if c == nil {
		s.blind.Store(true)
		return
	}
	s.before.Store(c.written.Load())
	s.conn.Store(c)
}

func (s *sent) anything() bool {
	c := s.conn.Load()
	return s.blind.Load() || s.wrote.Load() || c != nil && c.written.Load() > s.before.Load()
}

// classify says what became of a request that ended in err.
func classify(ctx context.Context, err error, anything bool) error {
	var op *net.OpError
	var late net.Error
	if errors.As(err, &op) && op.Op == "dial" {
		anything = false
	}
	kind := errBroken
	switch {
	case !anything:
		kind = errUnreachable
	case errors.As(err, &late) && late.Timeout(), errors.Is(context.Cause(ctx), idem.ErrMaxRun):
		kind = errTimeout
	}
	return fmt.Errorf("%w: %w", kind, err)
}
