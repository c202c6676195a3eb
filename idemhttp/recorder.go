package idemhttp

import (
	"io"
	"net/http"
	"strconv"
	"time"
)

// holdBytes is how much of a response's body is held back before the head is
// sent. A response that ends within it is sent whole, once its record is
// durable; net/http would hold back about as much in its own buffer.
const holdBytes = 4 << 10

// recorder is the ResponseWriter of a keyed request's handler. It passes the
// response on while it is made, keeps a copy of it, and holds its end back
// until the record is durable.
type recorder struct {
	w      http.ResponseWriter
	header http.Header // the handler's; it reaches w when the head is sent
	limit  int         // of the copy, in bytes

	status    int   // 0 until the handler has given one
	declared  int64 // Content-Length as declared, -1 for none
	head      bool  // the head has been handed to w
	trailing  bool  // trailers are declared
	gone      bool  // w takes no more
	broken    bool  // the handler wrote more than it declared
	last      byte  // the byte held back
	tail      [1]byte
	deadlined bool
	written   int64 // bytes the handler wrote
	passed    int64 // bytes handed to w
	body      []byte
	verdict   Outcome
	sendLimit time.Duration
	ctl       http.ResponseController
	owns      bool // the write deadline is the recorder's to set
}

// Header implements http.ResponseWriter.
func (r *recorder) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if r.status != 0 {
		return
	}
	if status >= 100 && status < 200 {
		if status != http.StatusSwitchingProtocols && !r.gone {
			r.copyHeader()
			r.w.WriteHeader(status)
		}
		return
	}
	r.status = status
	h := r.header
	r.declared = -1
	if v := h["Content-Length"]; len(v) == 1 {
		if n, err := strconv.ParseInt(v[0], 10, 64); err == nil && n >= 0 {
			r.declared = n
		}
	}
	if len(h["Trailer"]) > 0 {
		r.trailing = true
		r.sendHeld()
	}
}

// bodyless reports that the head alone is the whole response, and so is what
// must be held back.
func (r *recorder) bodyless() bool {
	return r.declared == 0 || !bodyAllowed(r.status)
}

func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// Write implements http.ResponseWriter. A client that has left does not make it
// fail: the operation goes on to its end.
func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	if !bodyAllowed(r.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if r.declared >= 0 && r.written+int64(len(p)) > r.declared {
		r.broken = true
		return 0, http.ErrContentLength
	}
	r.written += int64(len(p))
	if !r.head && r.written <= holdBytes {
		r.body = append(r.body, p...)
		return len(p), nil
	}
	r.sendHeld()
	r.pass(p)
	if r.written <= int64(r.limit) {
		r.body = append(r.body, p...)
	} else {
		r.body = r.body[:0]
	}
	return len(p), nil
}

// over reports that the response is larger than what may be kept.
func (r *recorder) over() bool { return r.written > int64(r.limit) }

// WriteString implements io.StringWriter.
func (r *recorder) WriteString(s string) (int, error) { return r.Write([]byte(s)) }

// ReadFrom implements io.ReaderFrom: what passes through is copied on the way.
func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	buf := copyBuffers.get()
	defer copyBuffers.put(buf)
	return io.CopyBuffer(onlyWriter{r}, onlyReader{src}, *buf)
}

type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }

// Flush implements http.Flusher.
func (r *recorder) Flush() { _ = r.FlushError() }

// FlushError is what an http.ResponseController calls.
func (r *recorder) FlushError() error {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	if r.bodyless() {
		return nil
	}
	r.sendHeld()
	if r.gone {
		return nil
	}
	r.deadline()
	if err := r.ctl.Flush(); err != nil {
		r.gone = true
	}
	return nil
}

// SetOutcome decides what becomes of the record, whatever the status says.
func (r *recorder) SetOutcome(o Outcome) { r.verdict = o }

// sendHeld sends the head, and what of the body was held back with it.
func (r *recorder) sendHeld() {
	if r.head {
		return
	}
	r.sendHead()
	r.pass(r.body)
}

func (r *recorder) sendHead() {
	r.head = true
	if r.gone {
		return
	}
	r.copyHeader()
	r.w.WriteHeader(r.status)
}

// copyHeader makes w's header the handler's, without what is idem's to say and
// without trailers, which come after the body.
func (r *recorder) copyHeader() {
	dst := r.w.Header()
	clear(dst)
	for k, v := range r.header {
		if !isMarker(k) && !isTrailer(k, r.header) {
			dst[k] = v
		}
	}
}

// pass hands p to the client, but for the last byte of a response whose length
// is known.
func (r *recorder) pass(p []byte) {
	if r.declared > 0 && r.passed+int64(len(p)) >= r.declared {
		p, r.last = p[:len(p)-1], p[len(p)-1]
	}
	r.send(p)
}

func (r *recorder) send(p []byte) {
	r.passed += int64(len(p))
	if r.gone || len(p) == 0 {
		return
	}
	r.deadline()
	if _, err := r.w.Write(p); err != nil {
		r.gone = true
	}
}

// deadline gives the client a while to take what is sent next, so that one who
// reads nothing does not hold the operation up.
func (r *recorder) deadline() {
	if r.owns {
		r.deadlined = true
		_ = r.ctl.SetWriteDeadline(time.Now().Add(r.sendLimit))
	}
}

// begin readies a recorder for one handler call.
func (r *recorder) begin(w http.ResponseWriter, req *http.Request, limit int, sendLimit time.Duration) {
	header, body := r.header, r.body
	if header == nil {
		header = make(http.Header, 16)
	}
	clear(header)
	for k, v := range w.Header() {
		header[k] = v
	}
	*r = recorder{w: w, header: header, body: body[:0], limit: limit, declared: -1, sendLimit: sendLimit, ctl: *http.NewResponseController(w)}
	if srv, ok := req.Context().Value(http.ServerContextKey).(*http.Server); ok && srv.WriteTimeout == 0 {
		r.owns = true
	}
}

// cut reports that the response is not whole: the handler wrote another length
// than it declared.
func (r *recorder) cut() bool {
	return r.broken || r.declared >= 0 && bodyAllowed(r.status) && r.written != r.declared
}

// letGo sends what was held back: the whole response, the last byte, or
// nothing where the server ends the response itself once the handler returns.
func (r *recorder) letGo() {
	if !r.head {
		if r.declared < 0 && bodyAllowed(r.status) && r.written > 0 && !r.hasTrailers() {
			r.header["Content-Length"] = []string{strconv.FormatInt(r.written, 10)}
		}
		r.sendHead()
		r.send(r.body)
	} else if r.declared > 0 && r.passed == r.declared-1 {
		r.tail[0] = r.last
		r.send(r.tail[:])
	}
	if !r.gone {
		r.sendTrailers()
	}
	if r.owns && r.head && r.deadlined {
		_ = r.ctl.SetWriteDeadline(time.Time{})
	}
}

// discard forgets a response of which nothing was sent.
func (r *recorder) discard() {
	r.body = r.body[:0]
}

// sendTrailers hands the trailers to w, which sends them once the handler
// returns.
func (r *recorder) sendTrailers() {
	var dst http.Header
	for k, v := range r.header {
		if isTrailer(k, r.header) && !isMarker(trailerName(k)) {
			if dst == nil {
				dst = r.w.Header()
			}
			dst[k] = v
		}
	}
}

func (r *recorder) hasTrailers() bool {
	for k := range r.header {
		if isTrailer(k, r.header) {
			return true
		}
	}
	return false
}

// appendMeta appends the head, and the trailers, as they are stored.
func (r *recorder) appendMeta(dst []byte, keep *headerFilter) []byte {
	return appendStored(dst, r.status, r.header, trailersOf(r.header), keep)
}

// split returns copies of the headers and trailers that a replay would have.
func (r *recorder) split(keep *headerFilter) (header, trailers http.Header) {
	header = make(http.Header, len(r.header))
	for k, v := range r.header {
		if keep.keeps(k, r.header) {
			header[k] = append([]string(nil), v...)
		}
	}
	return header, trailersOf(r.header)
}
