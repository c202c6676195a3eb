package idemhttp

import (
	"net"
	"net/http"
)

// breakOff is deferred around a response to a client of HTTP/1.0, which takes
// the end of the connection for the end of the body: when the handler ends in a
// panic, the connection is reset rather than closed, so that what broke off does
// not read as whole.
func breakOff(w http.ResponseWriter) {
	p := recover()
	if p == nil {
		return
	}
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		reset(conn)
	}
	panic(p)
}

// reset ends a connection so that its peer gets an error, not an end: under TLS
// without the closing message.
func reset(conn net.Conn) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = t.NetConn()
	}
	if t, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = t.SetLinger(0) // a socket that takes no option is gone already
	}
	_ = conn.Close() // there is nothing left to tell anybody
}
