package idemhttp

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
)

// unprotectedHeader marks a response whose request was passed on although the
// store did not answer.
const unprotectedHeader = "Idempotency-Unprotected"

// servePlain passes a request on that is not keyed. Its response keeps all that
// the server's ResponseWriter can do, and loses the headers that only a replay
// may carry.
func (h *handler) servePlain(w http.ResponseWriter, r *http.Request, unprotected bool) {
	p := plains.Get().(*plainWriter)
	p.ResponseWriter, p.unprotected = w, unprotected
	defer func() {
		p.finish()
		*p = plainWriter{}
		plains.Put(p)
	}()
	h.next.ServeHTTP(p.as(), r)
}

var plains = sync.Pool{New: func() any { return new(plainWriter) }}

// plainWriter is the ResponseWriter of a request that is not keyed.
type plainWriter struct {
	http.ResponseWriter
	unprotected bool
	started     bool
	hijacked    bool
	http1       plainHTTP1
	http2       plainHTTP2
	flusher     plainFlusher
}

// as returns the writer as something that can do what the server's can.
func (p *plainWriter) as() http.ResponseWriter {
	_, flusher := p.ResponseWriter.(http.Flusher)
	_, hijacker := p.ResponseWriter.(http.Hijacker)
	_, readerFrom := p.ResponseWriter.(io.ReaderFrom)
	_, pusher := p.ResponseWriter.(http.Pusher)
	switch {
	case flusher && hijacker && readerFrom:
		p.http1.plainWriter = p
		return &p.http1
	case flusher && pusher:
		p.http2.plainWriter = p
		return &p.http2
	case flusher:
		p.flusher.plainWriter = p
		return &p.flusher
	}
	return p
}

// Unwrap serves http.ResponseController.
func (p *plainWriter) Unwrap() http.ResponseWriter {
	p.start()
	return p.ResponseWriter
}

// start strips the markers from the head that is about to be sent.
func (p *plainWriter) start() {
	if p.started {
		return
	}
	p.started = true
	h := p.ResponseWriter.Header()
	stripMarkers(h)
	if p.unprotected {
		h.Set(unprotectedHeader, "true")
	}
}

// finish strips the markers from the trailers, and from a head that the handler
// left to the server.
func (p *plainWriter) finish() {
	if p.hijacked {
		return
	}
	if !p.started {
		p.start()
		return
	}
	stripMarkers(p.ResponseWriter.Header())
}

// WriteHeader implements http.ResponseWriter.
func (p *plainWriter) WriteHeader(status int) {
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		stripMarkers(p.ResponseWriter.Header())
	} else {
		p.start()
	}
	p.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (p *plainWriter) Write(b []byte) (int, error) {
	p.start()
	return p.ResponseWriter.Write(b)
}

// WriteString implements io.StringWriter.
func (p *plainWriter) WriteString(s string) (int, error) {
	p.start()
	return io.WriteString(p.ResponseWriter, s)
}

func (p *plainWriter) flush() {
	p.start()
	p.ResponseWriter.(http.Flusher).Flush()
}

// plainHTTP1 is what net/http's writer for HTTP/1 can do.
type plainHTTP1 struct{ *plainWriter }

// Flush implements http.Flusher.
func (p *plainHTTP1) Flush() { p.flush() }

// Hijack implements http.Hijacker.
func (p *plainHTTP1) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := p.ResponseWriter.(http.Hijacker).Hijack()
	p.hijacked = err == nil
	return conn, rw, err
}

// ReadFrom implements io.ReaderFrom.
func (p *plainHTTP1) ReadFrom(src io.Reader) (int64, error) {
	p.start()
	return p.ResponseWriter.(io.ReaderFrom).ReadFrom(src)
}

// plainHTTP2 is what net/http's writer for HTTP/2 can do.
type plainHTTP2 struct{ *plainWriter }

// Flush implements http.Flusher.
func (p *plainHTTP2) Flush() { p.flush() }

// Push implements http.Pusher.
func (p *plainHTTP2) Push(target string, opts *http.PushOptions) error {
	return p.ResponseWriter.(http.Pusher).Push(target, opts)
}

// plainFlusher is a writer that can flush, and no more.
type plainFlusher struct{ *plainWriter }

// Flush implements http.Flusher.
func (p *plainFlusher) Flush() { p.flush() }
