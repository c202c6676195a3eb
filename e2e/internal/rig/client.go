package rig

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// Request is a request as it goes out, byte for byte: nothing is added, mended
// or sent again, as an HTTP client would.
type Request struct {
	// Method is POST unless it is given, Path /things, Host example.test.
	Method, Path, Host string
	// Key, unless empty, is the value of Idempotency-Key.
	Key string
	// Header are further lines, without their line ends.
	Header []string
	Body   string
	// Chunked sends the body in chunks of at most 7 bytes.
	Chunked bool
	// NoLength leaves Content-Length out where there is no body.
	NoLength bool
}

// Text returns the bytes of the request.
func (r Request) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", or(r.Method, "POST"), or(r.Path, "/things"), or(r.Host, "example.test"))
	if r.Key != "" {
		fmt.Fprintf(&b, "Idempotency-Key: %s\r\n", r.Key)
	}
	for _, line := range r.Header {
		b.WriteString(line + "\r\n")
	}
	if r.Chunked {
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n" + Chunks(r.Body, 7) + "0\r\n\r\n")
		return b.String()
	}
	if r.Body != "" || !r.NoLength {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(r.Body))
	}
	b.WriteString("\r\n" + r.Body)
	return b.String()
}

// Chunks returns body in chunks of at most n bytes, without the last one.
func Chunks(body string, n int) string {
	var b strings.Builder
	for len(body) > 0 {
		part := body[:min(n, len(body))]
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(part), part)
		body = body[len(part):]
	}
	return b.String()
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// Reply is a response.
type Reply struct {
	Status  int
	Header  http.Header
	Body    []byte
	Trailer http.Header
	// Length is the Content-Length, -1 for none.
	Length int64
	// Early are the 1xx responses before it.
	Early []Reply
	// Err says that there was no whole response: the connection ended before
	// its head, or before the end of its body.
	Err error
}

// String shows a reply in the text of an error.
func (r Reply) String() string {
	body := r.Body
	if len(body) > 300 {
		body = body[:300]
	}
	return fmt.Sprintf("%d %v %q (error: %v)", r.Status, r.Header, body, r.Err)
}

// Replayed reports that the response is marked as a replay.
func (r Reply) Replayed() bool { return r.Header.Get("Idempotent-Replayed") == "true" }

// Problem returns the last word of the type of a problem, "" when it is none.
func (r Reply) Problem() string {
	if r.Header.Get("Content-Type") != "application/problem+json" {
		return ""
	}
	var p struct{ Type string }
	if json.Unmarshal(r.Body, &p) != nil {
		return ""
	}
	_, word, _ := strings.Cut(p.Type, "#")
	return word
}

// Send sends a request on a connection of its own and reads the response. That
// there was none is in Reply.Err.
func Send(t testing.TB, addr string, r Request) Reply {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, Patience)
	if err != nil {
		return Reply{Err: err}
	}
	conn := wrap(c, or(r.Method, "POST"))
	defer conn.Close()
	if err := conn.send(r.Text()); err != nil {
		// What the server said before it closed may still be there.
		if reply := conn.Reply(); reply.Err == nil {
			return reply
		}
		return Reply{Err: err}
	}
	return conn.Reply()
}

// Conn is a client's connection.
type Conn struct {
	net.Conn
	t      testing.TB
	r      *bufio.Reader
	method string
}

// Dial opens a connection; it is closed when the test ends.
func Dial(t testing.TB, addr string) *Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, Patience)
	if err != nil {
		t.Fatal(err)
	}
	conn := wrap(c, http.MethodPost)
	conn.t = t
	t.Cleanup(conn.Close)
	return conn
}

func wrap(c net.Conn, method string) *Conn {
	_ = c.SetDeadline(time.Now().Add(Patience))
	return &Conn{Conn: c, r: bufio.NewReader(c), method: method}
}

func (c *Conn) send(text string) error {
	_, err := io.WriteString(c.Conn, text)
	return err
}

// Write sends the text as it is.
func (c *Conn) Write(text string) {
	c.t.Helper()
	if err := c.send(text); err != nil {
		c.t.Fatalf("send to the proxy: %v", err)
	}
}

// Close closes the connection; a second call does nothing.
func (c *Conn) Close() { _ = c.Conn.Close() }

// Reset ends the connection without the usual farewell.
func (c *Conn) Reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}

// Head reads the head of the next final response, whose body is still to come
// from its Body.
func (c *Conn) Head() (res *http.Response, early []Reply, err error) {
	for {
		res, err = http.ReadResponse(c.r, &http.Request{Method: c.method})
		if err != nil {
			return nil, early, err
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			return res, early, nil
		}
		early = append(early, Reply{Status: res.StatusCode, Header: res.Header})
	}
}

// Reply reads the next response.
func (c *Conn) Reply() Reply {
	res, early, err := c.Head() //nolint:bodyclose // its connection is closed
	if err != nil {
		return Reply{Err: err, Early: early}
	}
	reply := Reply{Status: res.StatusCode, Header: res.Header, Length: res.ContentLength, Early: early}
	reply.Body, reply.Err = io.ReadAll(res.Body)
	reply.Trailer = res.Trailer
	return reply
}

// Read reads exactly n raw bytes.
func (c *Conn) Read(n int) string {
	c.t.Helper()
	b := make([]byte, n)
	if got, err := io.ReadFull(c.r, b); err != nil {
		c.t.Fatalf("read %d bytes: %v; came: %q", n, err, b[:got])
	}
	return string(b)
}

// ReadHead reads the raw bytes up to the empty line after a head.
func (c *Conn) ReadHead() string {
	c.t.Helper()
	var b bytes.Buffer
	for !bytes.HasSuffix(b.Bytes(), []byte("\r\n\r\n")) {
		line, err := c.r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			c.t.Fatalf("read a head: %v; came: %q", err, b.String())
		}
	}
	return b.String()
}

// ReadLine reads a raw line, without its end.
func (c *Conn) ReadLine() string {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("read a line: %v; came: %q", err, line)
	}
	return strings.TrimRight(line, "\r\n")
}

// Rest reads the raw bytes up to the end of the connection.
func (c *Conn) Rest() (string, error) {
	b, err := io.ReadAll(c.r)
	return string(b), err
}

// Silent reports that nothing arrives for a while, and returns what did.
func (c *Conn) Silent(d time.Duration) (string, bool) {
	_ = c.SetReadDeadline(time.Now().Add(d))
	defer c.SetReadDeadline(time.Now().Add(Patience)) //nolint:errcheck // a read would say so
	b := make([]byte, 256)
	n, err := c.r.Read(b)
	return string(b[:n]), n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}
