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
	head        http.Header // the response's, once it is about to be sent
	hijacked    bool
	http1       plainHTTP1
	http2       plainHTTP2
	flusher     plainFlusher
	hijacker    plainHijacker
}

// as returns the writer as something that can do what the server's can.
func (p *plainWriter) as() http.ResponseWriter {
	_, flusher := p.ResponseWriter.(http.Flusher)
	_, hijacker := p.ResponseWriter.(http.Hijacker)
	_, pusher := p.ResponseWriter.(http.Pusher)
	switch {
	case flusher && hijacker:
		p.http1.plainWriter = p
		return &p.http1
	case hijacker:
		p.hijacker.plainWriter = p
		return &p.hijacker
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
	if p.head == nil {
		p.mend(p.ResponseWriter.Header())
	}
	return p.ResponseWriter
}

// start mends the head that is about to be sent.
func (p *plainWriter) start() {
	if p.head == nil {
		p.head = p.ResponseWriter.Header()
		p.mend(p.head)
	}
}

func (p *plainWriter) mend(h http.Header) {
	stripMarkers(h)
	if p.unprotected {
		h[unprotectedHeader] = []string{"true"}
	}
}

// finish strips the markers from the trailers, and from a head that the handler
// left to the server. It does not ask for the header again: net/http would make
// a copy of it.
func (p *plainWriter) finish() {
	switch {
	case p.hijacked:
	case p.head == nil:
		p.start()
	default:
		stripMarkers(p.head)
	}
}

// WriteHeader implements http.ResponseWriter.
func (p *plainWriter) WriteHeader(status int) {
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		p.mend(p.ResponseWriter.Header())
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

// ReadFrom implements io.ReaderFrom; a writer that has it not is written to.
func (p *plainWriter) ReadFrom(src io.Reader) (int64, error) {
	p.start()
	return io.Copy(p.ResponseWriter, src)
}

func (p *plainWriter) flush() {
	p.start()
	p.ResponseWriter.(http.Flusher).Flush()
}

func (p *plainWriter) flushError() error {
	p.start()
	return http.NewResponseController(p.ResponseWriter).Flush()
}

func (p *plainWriter) hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := p.ResponseWriter.(http.Hijacker).Hijack()
	p.hijacked = err == nil
	return conn, rw, err
}

// plainHTTP1 is what net/http's writer for HTTP/1 can do.
type plainHTTP1 struct{ *plainWriter }

// Flush implements http.Flusher.
func (p *plainHTTP1) Flush() { p.flush() }

// FlushError serves http.ResponseController.
func (p *plainHTTP1) FlushError() error { return p.flushError() }

// Hijack implements http.Hijacker.
func (p *plainHTTP1) Hijack() (net.Conn, *bufio.ReadWriter, error) { return p.hijack() }

// plainHijacker is a writer that can be hijacked and not flushed.
type plainHijacker struct{ *plainWriter }

// Hijack implements http.Hijacker.
func (p *plainHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) { return p.hijack() }

// plainHTTP2 is what net/http's writer for HTTP/2 can do.
type plainHTTP2 struct{ *plainWriter }

// Flush implements http.Flusher.
func (p *plainHTTP2) Flush() { p.flush() }

// FlushError serves http.ResponseController.
func (p *plainHTTP2) FlushError() error { return p.flushError() }

// Push implements http.Pusher.
func (p *plainHTTP2) Push(target string, opts *http.PushOptions) error {
	return p.ResponseWriter.(http.Pusher).Push(target, opts)
}

// plainFlusher is a writer that can flush, and no more.
type plainFlusher struct{ *plainWriter }

// Flush implements http.Flusher.
func (p *plainFlusher) Flush() { p.flush() }

// FlushError serves http.ResponseController.
func (p *plainFlusher) FlushError() error { return p.flushError() }
