package idemhttp

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"time"
)

// holdBytes is how much of a response's body is held back before the head is
// sent. A response that ends within it is sent whole, once its record is
// durable; net/http would hold back about as much in its own buffer.
const holdBytes = 4 << 10

// sendPiece is how much a client must take within its time before it is given
// more: a client on a slow line that takes a long write bit by bit is not gone.
const sendPiece = 32 << 10

// serverLength is how long a response may be for net/http to find out its
// length itself.
const serverLength = 2 << 10

// recorder is the ResponseWriter of a keyed request's handler. It passes the
// response on while it is made, keeps a copy of it, and holds its end back
// until the record is durable.
type recorder struct {
	w      http.ResponseWriter
	header http.Header // the handler's, which it may change at any time
	final  http.Header // the response's, as it was when the handler gave a status
	limit  int         // of the copy, in bytes

	status    int   // 0 until the handler has given one
	declared  int64 // Content-Length as declared, -1 for none
	head      bool  // the head has been handed to w
	gone      bool  // w takes no more
	whole     bool  // nothing is sent before letGo
	old       bool  // the client speaks HTTP/1.0, which knows no 1xx
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
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("idemhttp: invalid WriteHeader code %v", status)) // as net/http does
	}
	if status < 200 {
		if status != http.StatusSwitchingProtocols && !r.old && !r.whole {
			r.inform(status)
		}
		return
	}
	r.status = status
	for k, v := range r.header {
		if !isMarker(k) && !isTrailer(k, r.header) {
			r.final[k] = v
		}
	}
	r.declared = -1
	if v, ok := r.final["Content-Length"]; ok {
		if len(v) > 0 {
			if n, err := strconv.ParseUint(v[0], 10, 63); err == nil {
				r.declared = int64(n)
			}
		}
		switch {
		case r.declared < 0:
			delete(r.final, "Content-Length")
		case len(v) > 1:
			r.final["Content-Length"] = v[:1]
		}
	}
}

// inform passes an informational response on. What it says is not part of what
// w answers in the end, which may be somebody else's response.
func (r *recorder) inform(status int) {
	h := r.w.Header()
	before := maps.Clone(h)
	clear(h)
	for k, v := range r.header {
		if !isMarker(k) && !isTrailer(k, r.header) {
			h[k] = v
		}
	}
	r.w.WriteHeader(status)
	clear(h)
	maps.Copy(h, before)
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
	if r.whole && r.over() {
		r.body = r.body[:0] // the work will be rolled back, and this response not given
		return len(p), nil
	}
	if r.whole || !r.head && r.written <= holdBytes {
		r.body = append(r.body, p...)
		return len(p), nil
	}
	r.sendHeld(p)
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
	if r.bodyless() || r.whole {
		return nil
	}
	r.sendHeld(nil)
	if r.gone {
		return nil
	}
	r.deadline()
	err := r.ctl.Flush()
	if errors.Is(err, http.ErrNotSupported) {
		return err
	}
	r.gone = err != nil
	return nil
}

// SetWriteDeadline serves http.ResponseController. From then on the handler says
// how long its client may take; the operation goes on past the deadline.
func (r *recorder) SetWriteDeadline(t time.Time) error {
	err := r.ctl.SetWriteDeadline(t)
	if err == nil {
		r.owns = false
	}
	return err
}

// SetReadDeadline serves http.ResponseController. The request has been read.
func (r *recorder) SetReadDeadline(time.Time) error { return nil }

// EnableFullDuplex serves http.ResponseController. The request has been read.
func (r *recorder) EnableFullDuplex() error { return nil }

// SetOutcome decides what becomes of the record, whatever the status says.
func (r *recorder) SetOutcome(o Outcome) { r.verdict = o }

// sendHeld sends the head, and what of the body was held back with it. next is
// what comes after that.
func (r *recorder) sendHeld(next []byte) {
	if r.head {
		return
	}
	r.sniff(next)
	r.sendHead()
	r.pass(r.body)
}

func (r *recorder) sendHead() {
	r.head = true
	h := r.w.Header()
	clear(h)
	maps.Copy(h, r.final)
	r.w.WriteHeader(r.status)
}

// sniff gives a response without a content type the one that net/http would
// find out, so that it stands in the record too. next follows what is held.
func (r *recorder) sniff(next []byte) {
	const enough = 512 // net/http looks no further
	if _, typed := r.final["Content-Type"]; typed || len(r.body)+len(next) == 0 || !bodyAllowed(r.status) ||
		len(r.final["Content-Encoding"]) > 0 || len(r.final["Transfer-Encoding"]) > 0 {
		return
	}
	start := r.body
	if len(start) < enough {
		start = append(start, next[:min(len(next), enough)]...)
	}
	r.final["Content-Type"] = []string{http.DetectContentType(start)}
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
	for len(p) > 0 && !r.gone {
		piece := p
		if r.owns && len(p) > sendPiece {
			piece = p[:sendPiece]
		}
		p = p[len(piece):]
		r.deadline()
		if _, err := r.w.Write(piece); err != nil {
			r.gone = true
		}
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
	header, final, body := r.header, r.final, r.body
	if header == nil {
		header, final = make(http.Header, 16), make(http.Header, 16)
	}
	clear(header)
	clear(final)
	maps.Copy(header, w.Header())
	*r = recorder{w: w, header: header, final: final, body: body[:0], limit: limit, declared: -1, sendLimit: sendLimit, ctl: *http.NewResponseController(w)}
	r.old = !req.ProtoAtLeast(1, 1)
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
		r.declareTrailers()
		if r.declared < 0 && r.written > serverLength && len(r.final["Trailer"]) == 0 && len(r.final["Transfer-Encoding"]) == 0 {
			r.final["Content-Length"] = []string{strconv.FormatInt(r.written, 10)}
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
	if r.owns && r.deadlined {
		_ = r.ctl.SetWriteDeadline(time.Time{})
	}
}

// declareTrailers names in the head the trailers that the handler did not
// declare: net/http would not send them after a short response otherwise.
func (r *recorder) declareTrailers() {
	for k := range r.header {
		if name := trailerName(k); name != k && !isMarker(name) && !listed(r.final["Trailer"], name) {
			declared := r.final["Trailer"]
			r.final["Trailer"] = append(declared[:len(declared):len(declared)], http.CanonicalHeaderKey(name))
		}
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
		name := trailerName(k)
		if !isTrailer(k, r.final) || isMarker(name) {
			continue
		}
		if dst == nil {
			dst = r.w.Header()
		}
		if listed(r.final["Trailer"], name) {
			k = http.CanonicalHeaderKey(name)
		}
		dst[k] = v
	}
}

// trailers returns a copy of the trailers, nil when there are none.
func (r *recorder) trailers() http.Header {
	var trailers http.Header
	for k, v := range r.header {
		if isTrailer(k, r.final) {
			if trailers == nil {
				trailers = make(http.Header)
			}
			name := http.CanonicalHeaderKey(trailerName(k))
			trailers[name] = append(trailers[name], v...)
		}
	}
	return trailers
}

// appendMeta appends the head, and the trailers, as they are stored.
func (r *recorder) appendMeta(dst []byte, keep *headerFilter) []byte {
	return appendStored(dst, r.status, r.final, r.trailers(), keep)
}

// split returns copies of the headers and trailers that a replay would have.
func (r *recorder) split(keep *headerFilter) (header, trailers http.Header) {
	header = make(http.Header, len(r.final))
	for k, v := range r.final {
		if keep.keeps(k, r.final) {
			header[k] = append([]string(nil), v...)
		}
	}
	trailers = r.trailers()
	for k := range trailers {
		if !keep.keeps(k, trailers) {
			delete(trailers, k)
		}
	}
	return header, trailers
}
