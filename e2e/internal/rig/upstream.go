package rig

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// Upstream is a service that speaks to its sockets itself: it can do what no
// HTTP server would, and it counts what reached it.
type Upstream struct {
	listener net.Listener
	handle   Handler
	over     chan struct{}
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	seen  []*Seen
}

// Handler answers a request on its connection. When it returns, the next
// request of the connection is read, unless it was closed.
type Handler func(x *Exchange)

// Seen is a request whose head reached the upstream.
type Seen struct {
	// Serial counts the requests of the upstream, Conn its connections, Nth the
	// requests of the connection; from 1.
	Serial, Conn, Nth int
	Method, URI, Host string
	Key               string
	Header            http.Header
	Chunked           bool
	// Length is the Content-Length, -1 for none.
	Length int64
	Body   string
	// Whole says that the body arrived to its end.
	Whole bool
}

// NewUpstream starts an upstream, which is gone when the test ends. A nil
// handler is [Created].
func NewUpstream(t testing.TB, h Handler) *Upstream {
	t.Helper()
	return NewUpstreamAt(t, "127.0.0.1:0", h)
}

// NewUpstreamAt starts an upstream at an address.
func NewUpstreamAt(t testing.TB, addr string, h Handler) *Upstream {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if h == nil {
		h = Created
	}
	u := &Upstream{listener: l, handle: h, over: make(chan struct{}), conns: map[net.Conn]bool{}}
	u.wg.Add(1)
	go u.accept()
	t.Cleanup(u.Close)
	return u
}

// Created answers 201 with the request's serial number, so that no two runs
// give one answer.
func Created(x *Exchange) {
	x.Respond(http.StatusCreated, fmt.Sprintf("{\"n\":%d}\n", x.Serial),
		"Content-Type: application/json", fmt.Sprintf("Location: /things/%d", x.Serial))
}

// URL is where the upstream is.
func (u *Upstream) URL() string { return "http://" + u.Addr() }

// Addr is where the upstream listens.
func (u *Upstream) Addr() string { return u.listener.Addr().String() }

// Close ends the upstream and its connections. A second call does nothing.
func (u *Upstream) Close() {
	u.mu.Lock()
	select {
	case <-u.over:
	default:
		close(u.over)
	}
	_ = u.listener.Close()
	for c := range u.conns {
		_ = c.Close()
	}
	u.mu.Unlock()
	u.wg.Wait()
}

// Seen returns the requests that have reached the upstream.
func (u *Upstream) Seen() []Seen {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := make([]Seen, len(u.seen))
	for i, s := range u.seen {
		all[i] = *s
	}
	return all
}

// Total is how many requests have reached the upstream.
func (u *Upstream) Total() int { return len(u.Seen()) }

// Count is how many requests with that key have reached the upstream.
func (u *Upstream) Count(key string) int {
	n := 0
	for _, s := range u.Seen() {
		if s.Key == key {
			n++
		}
	}
	return n
}

// Open is how many connections are open.
func (u *Upstream) Open() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.conns)
}

func (u *Upstream) accept() {
	defer u.wg.Done()
	for n := 1; ; n++ {
		c, err := u.listener.Accept()
		if err != nil {
			return
		}
		u.mu.Lock()
		select {
		case <-u.over:
			_ = c.Close()
		default:
			u.conns[c] = true
			u.wg.Add(1)
			go u.serve(c, n)
		}
		u.mu.Unlock()
	}
}

func (u *Upstream) serve(c net.Conn, number int) {
	defer u.wg.Done()
	defer func() {
		_ = c.Close()
		u.mu.Lock()
		delete(u.conns, c)
		u.mu.Unlock()
	}()
	r := bufio.NewReader(c)
	for nth := 1; ; nth++ {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		s := u.record(req, number, nth)
		body, err := io.ReadAll(req.Body)
		u.mu.Lock()
		s.Body, s.Whole = string(body), err == nil
		x := &Exchange{Seen: *s, Conn: c, Buffered: r, Over: u.over}
		u.mu.Unlock()
		if err != nil {
			return
		}
		u.handle(x)
		if x.closed {
			return
		}
	}
}

func (u *Upstream) record(req *http.Request, conn, nth int) *Seen {
	s := &Seen{
		Conn: conn, Nth: nth, Method: req.Method, URI: req.RequestURI, Host: req.Host,
		Key: strings.Trim(req.Header.Get("Idempotency-Key"), `"`), Header: req.Header.Clone(),
		Length: req.ContentLength, Chunked: len(req.TransferEncoding) > 0,
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen = append(u.seen, s)
	s.Serial = len(u.seen)
	return s
}

// Exchange is a request that has arrived whole, and the connection to answer
// on.
type Exchange struct {
	Seen
	Conn     net.Conn
	Buffered *bufio.Reader
	// Over is closed when the upstream ends.
	Over   <-chan struct{}
	closed bool
}

// Write sends the text as it is. A proxy that has gone is not an error.
func (x *Exchange) Write(text string) { _, _ = io.WriteString(x.Conn, text) }

// Respond answers with a body of known length and further header lines.
func (x *Exchange) Respond(status int, body string, header ...string) {
	x.Write(Head(status, append([]string{fmt.Sprintf("Content-Length: %d", len(body))}, header...)...) + body)
}

// Head returns the head of a response.
func Head(status int, header ...string) string {
	text := fmt.Sprintf("HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	for _, line := range header {
		text += line + "\r\n"
	}
	return text + "\r\n"
}

// Close closes the connection.
func (x *Exchange) Close() {
	x.closed = true
	_ = x.Conn.Close()
}

// Reset ends the connection without the usual farewell.
func (x *Exchange) Reset() {
	if tcp, ok := x.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	x.Close()
}

// Wait waits until c is closed, and reports false when the upstream ended
// before that.
func (x *Exchange) Wait(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	case <-x.Over:
		return false
	}
}

// Delay waits for d, which is how long the work takes.
func (x *Exchange) Delay(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-x.Over:
	}
}

// Hangup waits until the other side has closed the connection, and reports
// whether it did so before it sent anything more.
func (x *Exchange) Hangup() bool {
	_, err := x.Buffered.ReadByte()
	return err != nil && !errors.Is(err, net.ErrClosed)
}
