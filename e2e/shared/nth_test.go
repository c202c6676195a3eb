package shared

import (
	"net"
	"sync"
	"testing"
)

// nth is a proxy that cuts one connection at the n-th request from some moment on,
// whichever it is: so every step of an operation can be cut, also those that a driver
// makes by itself. What a client sends in one piece is a request.
type nth struct {
	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]net.Conn // of clients, and theirs to the server
	left   int                   // until the request that is cut; 0 for none
	answer bool                  // cut not it, but its answer
	doomed net.Conn              // whose next answer is cut
	cut    bool
}

func newNth(t *testing.T, target string) *nth {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &nth{target: target, listener: l, conns: map[net.Conn]net.Conn{}}
	p.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for c := range p.conns {
			p.end(c)
		}
		p.mu.Unlock()
		p.running.Wait()
	})
	return p
}

func (p *nth) addr() string { return p.listener.Addr().String() }

// arm cuts the n-th request from now on, or its answer.
func (p *nth) arm(n int, answer bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left, p.answer, p.doomed, p.cut = n, answer, nil, false
}

// disarm takes that back, and reports whether it has happened.
func (p *nth) disarm() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left, p.doomed = 0, nil
	return p.cut
}

// end cuts a connection, under the mutex.
func (p *nth) end(client net.Conn) {
	if s, ok := p.conns[client]; ok {
		_ = client.(*net.TCPConn).SetLinger(0) // so that it is a reset
		client.Close()
		s.Close()
		delete(p.conns, client)
	}
}

func (p *nth) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		client.Close()
		return
	}
	p.mu.Lock()
	p.conns[client] = server
	p.mu.Unlock()
	var back sync.WaitGroup
	back.Go(func() { p.copy(client, server, client, p.fromServer) })
	p.copy(client, client, server, p.fromClient)
	back.Wait()
}

// copy passes on what comes, until stop says that it must not.
func (p *nth) copy(client, from, to net.Conn, stop func(client net.Conn) bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !stop(client) {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.end(client)
			return
		}
	}
}

func (p *nth) fromClient(client net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left == 0 {
		return false
	}
	if p.left--; p.left > 0 {
		return false
	}
	if p.answer {
		p.doomed = client
		return false
	}
	p.cut = true
	p.end(client)
	return true
}

func (p *nth) fromServer(client net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.doomed != client {
		return false
	}
	p.doomed, p.cut = nil, true
	p.end(client)
	return true
}
