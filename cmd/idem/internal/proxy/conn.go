package proxy

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

// upstreamConn is a connection to the upstream that knows how much was ever
// handed to its socket, and gives up when nothing moves for a while.
type upstreamConn struct {
	net.Conn
	timeout time.Duration
	written atomic.Int64
}

// Read gives the upstream one timeout to send something. Between requests the
// transport's idle timeout, which is shorter, ends the connection first.
func (c *upstreamConn) Read(p []byte) (int, error) {
	if c.timeout > 0 {
		if err := c.Conn.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

// Write counts before it writes: bytes that were handed over may have arrived,
// whatever the call returns. The wait for the answer begins anew.
func (c *upstreamConn) Write(p []byte) (int, error) {
	c.written.Add(int64(len(p)))
	if c.timeout > 0 {
		if err := c.Conn.SetDeadline(time.Now().Add(c.timeout)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

type dialer struct {
	net.Dialer
	timeout time.Duration
}

func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &upstreamConn{Conn: c, timeout: d.timeout}, nil
}

// socket finds the upstreamConn under a connection of the transport's.
func socket(c net.Conn) *upstreamConn {
	for {
		switch t := c.(type) {
		case *upstreamConn:
			return t
		case interface{ NetConn() net.Conn }:
			c = t.NetConn()
		default:
			return nil
		}
	}
}
