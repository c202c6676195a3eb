// Package cut is a TCP proxy that breaks connections where a test wants them
// broken: before a request arrives, or after it and before its answer.
package cut

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/idem-go/idem/testserver/internal/free"
)

// A Proxy passes on what clients and a server send to each other, until it is
// told otherwise. Its methods may be called by several goroutines, and are in
// force when they return.
//
// What the client has sent in one piece is a request here, and what the server
// sends next on that connection is its answer. A client that sends several
// requests at once on one connection gets all their answers cut; one that must
// ask the server something before the request that is meant, as a driver does
// that prepares a statement, is better cut by the request's text.
type Proxy struct {
	target string
	addr   string

	mu       sync.Mutex
	changed  sync.Cond // of all below
	listener net.Listener
	conns    map[*conn]struct{}
	requests []*rule // that wait for a request to cut
	answers  []*rule // that wait for a request whose answer they cut
	passing  int     // writes that are under way
	hang     bool
	closed   bool
	cuts     int
	accepted int

	running sync.WaitGroup
}

// rule waits for one request.
type rule struct{ text []byte } // in lower case; any request has the empty one

func (r *rule) matches(request []byte) bool {
	return len(r.text) == 0 || bytes.Contains(bytes.ToLower(request), r.text)
}

// conn is a connection of a client's, and its own to the server.
type conn struct {
	client, server *net.TCPConn
	cut            bool
	answer         *rule // what cuts the next answer; nil for none
}

// errCut ends the copying of a connection that was cut.
var errCut = errors.New("cut: the connection was cut")

// Listen starts a proxy on a free port of 127.0.0.1 before the server at the
// address target (host:port), which need not run yet.
func Listen(target string) (*Proxy, error) {
	p := &Proxy{target: target, conns: map[*conn]struct{}{}}
	p.changed.L = &p.mu
	var last error
	for range 10 {
		port, err := free.Port()
		if err != nil {
			return nil, err
		}
		p.addr = free.Address(port)
		if last = p.listen(); last == nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("cut: %w", last)
}

// listen takes connections, until the listener is closed.
func (p *Proxy) listen() error {
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	p.listener = l
	p.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.serve(c.(*net.TCPConn)) })
		}
	})
	return nil
}

// Addr returns the host:port that clients connect to. It stays the same.
func (p *Proxy) Addr() string { return p.addr }

// Cuts returns how many requests and answers have been cut, by CutRequests,
// CutAnswers and their like.
func (p *Proxy) Cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

// Accepted returns how many connections there have been.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// WaitCuts waits until n requests and answers have been cut since the start, or
// until the context ends, whose error it returns.
func (p *Proxy) WaitCuts(ctx context.Context, n int) error {
	stop := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.changed.Broadcast()
	})
	defer stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.cuts < n && ctx.Err() == nil {
		p.changed.Wait()
	}
	if p.cuts < n {
		return ctx.Err()
	}
	return nil
}

// Refuse refuses new connections and cuts those that there are, or, with
// false, takes connections again. An error means that the port could not be had
// again, or that the proxy is closed.
func (p *Proxy) Refuse(refuse bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return fmt.Errorf("cut: the proxy is closed: %w", net.ErrClosed)
	case refuse && p.listener != nil:
		err := p.listener.Close()
		p.listener = nil
		p.cutAll()
		return err
	case !refuse && p.listener == nil:
		if err := p.listen(); err != nil {
			return fmt.Errorf("cut: %w", err)
		}
	}
	return nil
}

// CutAnswers cuts one connection: the next request that any client sends
// reaches the server, and when its answer arrives, the answer is dropped and the
// connection cut. A second call cuts one more.
func (p *Proxy) CutAnswers() { p.CutAnswersTo("") }

// CutAnswersTo is CutAnswers for the next request that has the text in it,
// whether in upper or lower case.
func (p *Proxy) CutAnswersTo(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers = append(p.answers, &rule{bytes.ToLower([]byte(text))})
}

// CutRequests cuts one connection: the next request that any client sends is
// dropped and its connection cut, so that the server never has it. A second call
// cuts one more.
func (p *Proxy) CutRequests() { p.CutRequestsWith("") }

// CutRequestsWith is CutRequests for the next request that has the text in it,
// whether in upper or lower case.
func (p *Proxy) CutRequestsWith(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = append(p.requests, &rule{bytes.ToLower([]byte(text))})
}

// Forget takes back what CutAnswers, CutRequests and their like have asked for
// and no request has met yet.
func (p *Proxy) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers, p.requests = nil, nil
	for c := range p.conns {
		c.answer = nil
	}
}

// Hang lets nothing pass either way, while connections stay and new ones are
// taken, or, with false, lets pass what has gathered and what follows.
func (p *Proxy) Hang(hang bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hang = hang
	var deadline time.Time
	if hang {
		deadline = time.Unix(1, 0) // which ends a write that is under way
	}
	for c := range p.conns {
		_ = c.client.SetWriteDeadline(deadline) // a closed connection passes nothing anyhow
		_ = c.server.SetWriteDeadline(deadline)
	}
	p.changed.Broadcast()
	for p.hang && hang && p.passing > 0 {
		p.changed.Wait()
	}
}

// CutAll cuts the connections that there are; new ones are taken as before.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAll()
}

func (p *Proxy) cutAll() {
	for c := range p.conns {
		p.cutConn(c)
	}
}

// cutConn cuts a connection, under the mutex: the client's side is reset.
func (p *Proxy) cutConn(c *conn) {
	if c.cut {
		return
	}
	c.cut = true
	_ = c.client.SetLinger(0) // one that is closed already is cut
	_ = c.client.Close()      // the other side may have closed them
	_ = c.server.Close()
	delete(p.conns, c)
	p.changed.Broadcast()
}

// Close cuts all connections and ends the proxy, and waits until it has ended. A
// second call does nothing.
func (p *Proxy) Close() error {
	p.mu.Lock()
	var err error
	if p.listener != nil {
		err = p.listener.Close()
		p.listener = nil
	}
	p.closed = true
	p.cutAll()
	p.mu.Unlock()
	p.running.Wait()
	return err
}

// serve connects a client with the server until one of them ends it.
func (p *Proxy) serve(client *net.TCPConn) {
	defer func() { _ = client.Close() }() // it may be closed already
	d := net.Dialer{Timeout: 10 * time.Second}
	s, err := d.DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		_ = client.SetLinger(0) // the client may have gone
		return
	}
	server := s.(*net.TCPConn)
	defer func() { _ = server.Close() }() // the same
	c := &conn{client: client, server: server}
	p.mu.Lock()
	if p.listener == nil {
		_ = client.SetLinger(0) // the client may have gone
		p.mu.Unlock()
		return
	}
	p.conns[c] = struct{}{}
	p.accepted++
	p.mu.Unlock()
	var back sync.WaitGroup
	back.Go(func() { p.copy(c, server, client, p.answerArrives) })
	p.copy(c, client, server, p.requestArrives)
	back.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

// copy passes on what one side sends, until it ends or the connection is cut.
// Arrives is asked, under the mutex, about each piece, and says that it is cut.
func (p *Proxy) copy(c *conn, from, to *net.TCPConn, arrives func(*conn, []byte) (cut bool)) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && p.pass(c, to, buf[:n], arrives) != nil {
			p.mu.Lock()
			p.cutConn(c)
			p.mu.Unlock()
			return
		}
		if err != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			var e *net.OpError
			if errors.As(err, &e) {
				p.cutConn(c) // a reset goes on as one
			} else {
				_ = to.CloseWrite() // the other side may have gone
			}
			return
		}
	}
}

// pass writes a piece, when nothing hangs, unless it is cut.
func (p *Proxy) pass(c *conn, to *net.TCPConn, piece []byte, arrives func(*conn, []byte) bool) error {
	for first := true; len(piece) > 0; first = false {
		p.mu.Lock()
		for p.hang && !c.cut {
			p.changed.Wait()
		}
		if !c.cut && first && arrives(c, piece) {
			p.cuts++
			p.cutConn(c)
		}
		if c.cut {
			p.mu.Unlock()
			return errCut
		}
		p.passing++
		// A hang before the connection was known has set no deadline, and one that
		// was lifted may have left its own.
		_ = to.SetWriteDeadline(time.Time{}) // a closed connection fails at the write
		p.mu.Unlock()

		n, err := to.Write(piece)
		piece = piece[n:]

		p.mu.Lock()
		p.passing--
		p.changed.Broadcast()
		p.mu.Unlock()
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return nil
}

// requestArrives decides about what a client has sent, before the server has it.
func (p *Proxy) requestArrives(c *conn, request []byte) (cut bool) {
	is := func(r *rule) bool { return r.matches(request) }
	if i := slices.IndexFunc(p.requests, is); i >= 0 {
		p.requests = slices.Delete(p.requests, i, i+1)
		return true
	}
	if i := slices.IndexFunc(p.answers, is); i >= 0 && c.answer == nil {
		c.answer = p.answers[i]
		p.answers = slices.Delete(p.answers, i, i+1)
	}
	return false
}

// answerArrives decides about what the server has sent.
func (p *Proxy) answerArrives(c *conn, _ []byte) (cut bool) { return c.answer != nil }
