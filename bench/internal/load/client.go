package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/idem-go/idem/bench/internal/stats"
)

// body is what every request carries.
const body = `{"email":"ada@example.org","name":"Ada Lovelace","age":36,"plan":"annual","seats":12}`

// client sends requests over one connection, one after the other.
type client struct {
	opts    *Options
	number  int
	conn    net.Conn
	in      *bufio.Reader
	request []byte
	digits  []byte // of the key, within request; nil where there is none
	sent    uint64
	total   int64
	latency stats.Histogram
}

// patience is how much longer than planned a connection may take.
const patience = 20 * time.Second

func (c *client) dial(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", c.opts.Addr)
	if err != nil {
		return err
	}
	c.conn, c.in = conn, bufio.NewReaderSize(conn, 4<<10)
	return conn.SetDeadline(time.Now().Add(c.opts.Warmup + c.opts.Duration + patience))
}

func (c *client) close() { _ = c.conn.Close() }

// prepare writes the request once, and sends the keys that will be repeated.
func (c *client) prepare() error {
	r := append(c.request, "POST /users?source=bench HTTP/1.1\r\nHost: "...)
	r = append(r, c.opts.Addr...)
	r = append(r, "\r\nUser-Agent: idem-bench\r\nAccept: application/json\r\nContent-Type: application/json\r\n"...)
	keyAt := 0
	if c.opts.Keys != NoKeys {
		r = append(r, "Idempotency-Key: \""...)
		r = append(r, c.opts.Prefix...)
		r = append(r, '-')
		r = append(r, fmt.Sprintf("%04x-", c.number)...)
		keyAt = len(r)
		r = append(r, "00000000\"\r\n"...)
	}
	r = append(r, "Content-Length: "...)
	r = strconv.AppendInt(r, int64(len(body)), 10)
	r = append(r, "\r\n\r\n"...)
	r = append(r, body...)
	c.request = r
	if keyAt > 0 {
		c.digits = r[keyAt : keyAt+8]
	}
	if c.opts.Keys != RepeatedKeys {
		return nil
	}
	for range RepeatedPerConn {
		if err := c.do(false); err != nil {
			return err
		}
	}
	return nil
}

// run sends requests until the phase says to stop.
func (c *client) run(phase *atomic.Int32) error {
	replays := c.opts.Replays && c.opts.Keys == RepeatedKeys
	for {
		now := phase.Load()
		if now == phaseStop {
			return nil
		}
		began := time.Now()
		if err := c.do(replays); err != nil {
			return err
		}
		if now == phaseCount {
			c.latency.Add(time.Since(began))
		}
	}
}

// do sends one request and reads its answer.
func (c *client) do(replay bool) error {
	if c.digits != nil {
		n := c.sent
		if c.opts.Keys == RepeatedKeys {
			n %= RepeatedPerConn
		}
		for i := len(c.digits) - 1; i >= 0; i-- {
			c.digits[i] = "0123456789abcdef"[n&15]
			n >>= 4
		}
	}
	c.sent++
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	replayed, err := c.read()
	if err != nil {
		return err
	}
	if replayed != replay {
		return fmt.Errorf("an answer says replayed %v, want %v", replayed, replay)
	}
	c.total++
	return nil
}

// read reads one answer to its end.
func (c *client) read() (replayed bool, err error) {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return false, err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 201 ")) {
		rest, _ := c.in.Peek(min(c.in.Buffered(), 2000)) // for the error's text alone
		return false, fmt.Errorf("an answer is not a 201: %s%s", line, rest)
	}
	length := int64(-1)
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return false, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if v, ok := field(line, "Content-Length"); ok {
			if length, err = strconv.ParseInt(string(v), 10, 64); err != nil {
				return false, err
			}
		} else if v, ok := field(line, "Idempotent-Replayed"); ok {
			replayed = string(v) == "true"
		} else if v, ok := field(line, "Connection"); ok && string(v) == "close" {
			return false, errors.New("the server does not keep the connection")
		}
	}
	if length != c.opts.ResponseSize {
		return false, fmt.Errorf("an answer's Content-Length is %d, want %d", length, c.opts.ResponseSize)
	}
	if _, err := c.in.Discard(int(length)); err != nil {
		return false, err
	}
	return replayed, nil
}

// field returns the value of a header line with the given name.
func field(line []byte, name string) ([]byte, bool) {
	if len(line) <= len(name) || line[len(name)] != ':' || !bytes.EqualFold(line[:len(name)], []byte(name)) {
		return nil, false
	}
	return bytes.TrimSpace(line[len(name)+1:]), true
}
