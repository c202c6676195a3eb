package idemhttp

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/idem-go/idem"
)

// operation is what one request of a keyed method needs. Operations are used
// again: what others may still hold when a handler has returned (the request,
// its body, its context) is not part of them.
type operation struct {
	middleware *middleware
	recorder   recorder
	request    idem.Request
	key        idem.Key
	claim      *idem.Claim
	parts      Parts
	meta       []byte
	buf        []byte
	read       bool
	reserved   int64
	guarded    *guardedBody
	// accept is the client's Accept-Encoding, before it was narrowed.
	accept   []string
	returned bool
	// ran says that the handler was called: it is not called again.
	ran bool
}

var operations = sync.Pool{New: func() any { return new(operation) }}

// keepBuffer is the largest buffer that is kept for another request.
const keepBuffer = 256 << 10

// end gives the operation back. The request's body may still be read by a
// transport's goroutine; it is cut off first.
func (op *operation) end() {
	if op.guarded != nil {
		op.guarded.detach()
	}
	op.middleware.bodies.Add(-op.reserved)
	buf, meta, body := op.buf, op.meta, op.recorder.body
	header, final := op.recorder.header, op.recorder.final
	*op = operation{}
	op.buf, op.meta, op.recorder.body = reuse(buf), reuse(meta), reuse(body)
	clear(header)
	clear(final)
	op.recorder.header, op.recorder.final = header, final
	operations.Put(op)
}

func reuse(b []byte) []byte {
	if cap(b) > keepBuffer {
		return nil
	}
	return b[:0]
}

// body returns the request's body, once it has been read.
func (op *operation) body() []byte { return op.buf }

// bodyPiece is how much of its body a client must send within its time before
// it is given more: one that stops, or sends a byte now and then, must not keep
// its place among the bodies that are held at once.
const bodyPiece = 32 << 10

// timesReads says that the server sets no bound of its own to the reading of a
// request.
func timesReads(r *http.Request) bool {
	srv, ok := r.Context().Value(http.ServerContextKey).(*http.Server)
	return ok && srv.ReadTimeout == 0
}

// readBody reads the request's body into memory, within the bounds. A second
// call does nothing.
func (op *operation) readBody(w http.ResponseWriter, r *http.Request) *Problem {
	if op.read {
		return nil
	}
	op.read = true
	limit := op.middleware.opts.MaxRequestBody
	if r.ContentLength > limit {
		return problemRequestTooLarge.with("")
	}
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	src := r.Body
	if r.ContentLength < 0 {
		src = http.MaxBytesReader(w, src, limit)
	}
	// What a client announces is not reserved before it arrives: many slow
	// clients could otherwise fill the bound with nothing.
	// Nor does a short body take a long buffer, which would count as a whole.
	if n := int(min(max(r.ContentLength+1, 512), 64<<10)); cap(op.buf) < n || cap(op.buf) > max(2*n, 8<<10) {
		op.buf = make([]byte, 0, n)
	}
	ctl := http.NewResponseController(w)
	timed := timesReads(r)
	for due := 0; ; {
		if timed && len(op.buf) >= due {
			_ = ctl.SetReadDeadline(time.Now().Add(op.middleware.opts.ClientTimeout)) // without deadlines a client has all the time
			due = len(op.buf) + bodyPiece
		}
		if len(op.buf) == cap(op.buf) {
			op.buf = append(op.buf, 0)[:len(op.buf)]
		}
		if grown := int64(cap(op.buf)) - op.reserved; grown > 0 {
			op.reserved += grown
			if op.middleware.bodies.Add(grown) > op.middleware.opts.MaxRequestBodies {
				p := problemOverloaded.with("")
				p.RetryAfter = RetryAfter(0)
				return p
			}
		}
		n, err := src.Read(op.buf[len(op.buf):cap(op.buf)])
		op.buf = op.buf[:len(op.buf)+n]
		if err == io.EOF {
			if timed {
				_ = ctl.SetReadDeadline(time.Time{}) // what has no deadlines has none to take back
			}
			return nil
		}
		if err != nil {
			// The deadline stays: the server reads on for a while.
			return readError(err)
		}
	}
}

func readError(err error) *Problem {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return problemRequestTooLarge.with("")
	}
	// The client left, or what it sent is no HTTP: nothing was claimed, and
	// there is nobody to be told.
	panic(http.ErrAbortHandler)
}

// workRequest is the request that the handler gets: with the claim's context,
// and a body that can be read from the start.
func (op *operation) workRequest(r *http.Request, ctx context.Context) *http.Request {
	work := r.WithContext(ctx)
	op.restoreBody(work)
	return work
}

// restoreBody gives r the body that has been read.
func (op *operation) restoreBody(r *http.Request) {
	if !op.read || r.Body == nil || r.Body == http.NoBody {
		return
	}
	if op.guarded != nil {
		op.guarded.detach()
	}
	if len(op.buf) == 0 && len(r.Trailer) == 0 {
		r.Body, r.ContentLength, r.TransferEncoding = http.NoBody, 0, nil
		return
	}
	op.guarded = &guardedBody{b: op.buf}
	op.guarded.first.body = op.guarded
	// There is no GetBody: with one, net/http's transport sends a POST that has
	// an idempotency key a second time on its own.
	r.Body = &op.guarded.first
	if len(r.Trailer) == 0 {
		r.ContentLength, r.TransferEncoding = int64(len(op.buf)), nil
	}
}

// fingerprint makes the request's fingerprint.
func (op *operation) fingerprint(r *http.Request) *Problem {
	f := op.middleware.opts.Fingerprint
	parts, err := f.Parts(r, op.buf)
	if err != nil {
		op.middleware.opts.Logger.Error("idemhttp: the fingerprint function gave an error", "route", op.middleware.opts.Route, "error", err)
		return problemRecordUnreadable.with("What tells this request from another cannot be made out.")
	}
	op.parts = parts
	op.request.Fingerprint, _ = f.Sum(f.Rule(), &op.parts)
	return nil
}

// Sum implements idem.Fingerprinter: the request's fingerprint by an older rule.
func (op *operation) Sum(rule uint8) (idem.Fingerprint, bool) {
	return op.middleware.opts.Fingerprint.Sum(rule, &op.parts)
}

// guardedBody is a request's body in a buffer that is used again: once it is
// detached, nobody reads the buffer through it any more. Its readers have no
// WriteTo, so that no writer gets hold of the buffer itself.
type guardedBody struct {
	mu    sync.Mutex
	b     []byte
	gone  bool
	first bodyReader
}

type bodyReader struct {
	body *guardedBody
	off  int
}

// Read implements io.Reader.
func (r *bodyReader) Read(p []byte) (int, error) {
	g := r.body
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return 0, http.ErrBodyReadAfterClose
	}
	if r.off == len(g.b) {
		return 0, io.EOF
	}
	n := copy(p, g.b[r.off:])
	r.off += n
	return n, nil
}

// Close implements io.Closer.
func (r *bodyReader) Close() error { return nil }

func (g *guardedBody) detach() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.b, g.gone = nil, true
}

// bufferPool lends buffers for copying.
type bufferPool struct{ pool sync.Pool }

var copyBuffers = bufferPool{pool: sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}}

func (p *bufferPool) get() *[]byte  { return p.pool.Get().(*[]byte) }
func (p *bufferPool) put(b *[]byte) { p.pool.Put(b) }
