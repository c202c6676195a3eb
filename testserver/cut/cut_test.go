package cut

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// echo is a server that answers each line with the line, and keeps what it got.
type echo struct {
	l net.Listener

	mu   sync.Mutex
	got  []string
	ends int
}

func newEcho(t *testing.T) *echo {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{l: l}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { e.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return e
}

func (e *echo) serve(c net.Conn) {
	defer c.Close()
	for lines := bufio.NewReader(c); ; {
		line, err := lines.ReadString('\n')
		e.mu.Lock()
		if err != nil {
			e.ends++
			e.mu.Unlock()
			return
		}
		e.got = append(e.got, strings.TrimSpace(line))
		e.mu.Unlock()
		io.WriteString(c, line)
	}
}

func (e *echo) has(line string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Contains(e.got, line)
}

func (e *echo) ended() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ends
}

func listen(t *testing.T) (*Proxy, *echo) {
	t.Helper()
	e := newEcho(t)
	p, err := Listen(e.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Error(err)
		}
	})
	return p, e
}

// client is a connection through the proxy.
type client struct {
	t *testing.T
	*net.TCPConn
	r *bufio.Reader
}

func dial(t *testing.T, p *Proxy) *client {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{t, c.(*net.TCPConn), bufio.NewReader(c)}
}

func (c *client) send(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) receive() (string, error) {
	line, err := c.r.ReadString('\n')
	return strings.TrimSpace(line), err
}

func (c *client) answers(line string) {
	c.t.Helper()
	c.send(line)
	if got, err := c.receive(); err != nil || got != line {
		c.t.Errorf("%q: %q %v", line, got, err)
	}
}

func (c *client) isReset() {
	c.t.Helper()
	if got, err := c.receive(); got != "" || !errors.Is(err, syscall.ECONNRESET) {
		c.t.Errorf("%q %v, want a reset", got, err)
	}
}

// eventually asks until it is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 20 s: %s", what)
		}
	}
}

func TestPassesOn(t *testing.T) {
	p, e := listen(t)
	c := dial(t, p)
	c.answers("one")
	c.answers(strings.Repeat("x", 1<<20))
	c.send("last")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := c.receive(); err != nil || got != "last" {
		t.Errorf("after the client's end: %q %v", got, err)
	}
	if _, err := c.receive(); !errors.Is(err, io.EOF) {
		t.Errorf("the server's end: %v", err)
	}
	if p.Cuts() != 0 || p.Accepted() != 1 || e.ended() != 1 {
		t.Errorf("%d cuts, %d accepted, %d ended", p.Cuts(), p.Accepted(), e.ended())
	}
}

func TestCutAnswers(t *testing.T) {
	p, e := listen(t)
	c, other := dial(t, p), dial(t, p)
	c.answers("before")
	other.answers("before, too")
	p.CutAnswers()
	c.send("cut")
	c.isReset()
	if !e.has("cut") {
		t.Error("the request did not reach the server")
	}
	if p.Cuts() != 1 {
		t.Errorf("%d cuts", p.Cuts())
	}
	other.answers("one call cuts once")
	dial(t, p).answers("a new connection")
	eventually(t, "the server sees the end", func() bool { return e.ended() >= 1 })
}

// An answer to what was sent before the call is not the one that is cut.
func TestCutAnswersOnlyOfLaterRequests(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := Listen(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c := dial(t, p)
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	lines := bufio.NewReader(s)
	c.send("early")
	if line, err := lines.ReadString('\n'); err != nil || line != "early\n" {
		t.Fatal(line, err)
	}
	p.CutAnswers()
	io.WriteString(s, "answer\n")
	if got, err := c.receive(); err != nil || got != "answer" {
		t.Fatalf("%q %v", got, err)
	}
	c.send("late")
	if line, err := lines.ReadString('\n'); err != nil || line != "late\n" {
		t.Fatal(line, err)
	}
	if p.Cuts() != 0 {
		t.Error("the cut came before the answer")
	}
	io.WriteString(s, "lost\n")
	c.isReset()
	if p.Cuts() != 1 {
		t.Errorf("%d cuts", p.Cuts())
	}
}

func TestCutAnswersByText(t *testing.T) {
	p, e := listen(t)
	c := dial(t, p)
	p.CutAnswersTo("commit")
	c.answers("BEGIN")
	c.send("COMMIT")
	c.isReset()
	if !e.has("COMMIT") || p.Cuts() != 1 {
		t.Errorf("%v, %d cuts", e.got, p.Cuts())
	}
}

func TestCutRequests(t *testing.T) {
	p, e := listen(t)
	c, other := dial(t, p), dial(t, p)
	c.answers("before")
	p.CutRequests()
	c.send("cut")
	c.isReset()
	other.answers("one call cuts once")
	p.CutRequestsWith("two")
	p.CutRequestsWith("two")
	other.answers("one")
	other.send("number two")
	other.isReset()
	third := dial(t, p)
	third.send("TWO again")
	third.isReset()
	if e.has("cut") || e.has("number two") || e.has("TWO again") {
		t.Errorf("a request that was cut reached the server: %q", e.got)
	}
	if p.Cuts() != 3 {
		t.Errorf("%d cuts", p.Cuts())
	}
	if err := p.WaitCuts(t.Context(), 3); err != nil {
		t.Error(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := p.WaitCuts(short, 4); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a cut that does not come: %v", err)
	}
}

func TestForget(t *testing.T) {
	p, _ := listen(t)
	c := dial(t, p)
	p.CutRequests()
	p.CutAnswersTo("x")
	p.Forget()
	c.answers("x")
	if p.Cuts() != 0 {
		t.Errorf("%d cuts", p.Cuts())
	}
}

func TestHang(t *testing.T) {
	p, e := listen(t)
	c := dial(t, p)
	c.answers("before")
	p.Hang(true)
	c.send("held")
	late := dial(t, p) // taken, and nothing more
	late.send("held, too")
	c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if got, err := c.receive(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an answer while all hangs: %q %v", got, err)
	}
	if e.has("held") || e.has("held, too") {
		t.Error("a request passed while all hangs")
	}
	p.Hang(false)
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	for c, want := range map[*client]string{c: "held", late: "held, too"} {
		if got, err := c.receive(); err != nil || got != want {
			t.Errorf("%q %v, want %q", got, err, want)
		}
	}
	p.Hang(true)
	c.send("never")
	p.CutAll()
	c.isReset()
	p.Hang(false)
	dial(t, p).answers("after")
	if e.has("never") {
		t.Error("what hung when it was cut has arrived")
	}
}

// A write that is under way when all hangs goes on where it was.
func TestHangInAWrite(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := Listen(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c := dial(t, p)
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const size = 16 << 20
	want := bytes.Repeat([]byte("0123456789abcde"), size/15+1)[:size]
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		c.CloseWrite()
		sent <- err
	}()
	first := make([]byte, 1<<20)
	if _, err := io.ReadFull(s, first); err != nil {
		t.Fatal(err)
	}
	p.Hang(true)
	if err := s.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	second, err := io.ReadAll(s)
	if !errors.Is(err, os.ErrDeadlineExceeded) || len(second) >= size-len(first) {
		t.Errorf("%d bytes while all hangs: %v", len(second), err)
	}
	p.Hang(false)
	if err := s.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	third, err := io.ReadAll(s)
	if err != nil {
		t.Fatal(err)
	}
	if all := slices.Concat(first, second, third); !bytes.Equal(all, want) {
		t.Errorf("%d bytes of %d arrived, or others", len(all), size)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestRefuse(t *testing.T) {
	p, _ := listen(t)
	c := dial(t, p)
	c.answers("before")
	if err := errors.Join(p.Refuse(true), p.Refuse(true)); err != nil {
		t.Fatal(err)
	}
	c.isReset()
	if c, err := net.Dial("tcp", p.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v %v", c, err)
	}
	if err := errors.Join(p.Refuse(false), p.Refuse(false)); err != nil {
		t.Fatal(err)
	}
	dial(t, p).answers("again")
	p.Close()
	if err := p.Refuse(false); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestServerIsDown(t *testing.T) {
	e := newEcho(t)
	p, err := Listen(e.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	e.l.Close()
	c, err := net.Dial("tcp", p.Addr())
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}

// Whatever is asked for at once, a client has each answer or a reset, and each
// cut is counted once.
func TestCutsUnderLoad(t *testing.T) {
	p, _ := listen(t)
	const clients, each = 8, 200
	var resets atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			c := dial(t, p)
			for range each {
				line := "hello"
				if _, err := io.WriteString(c, line+"\n"); err == nil {
					if got, err := c.receive(); err == nil {
						if got != line {
							t.Errorf("%q", got)
						}
						continue
					}
				}
				resets.Add(1)
				c = dial(t, p)
			}
		})
	}
	for i := range 100 {
		switch i % 3 {
		case 0:
			p.CutAnswers()
		case 1:
			p.CutRequests()
		case 2:
			p.Hang(true)
			p.Hang(false)
		}
	}
	wg.Wait()
	p.Forget()
	if got := resets.Load(); got != int64(p.Cuts()) || got == 0 {
		t.Errorf("%d resets, %d cuts", got, p.Cuts())
	}
}
