package idemhttp

import (
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/idem-go/idem"
)

// The markers of a replay. They are idem's alone: whoever else sends them, they
// are dropped.
const (
	// ReplayedHeader marks a response that was recorded before; its value is
	// "true".
	ReplayedHeader = "Idempotent-Replayed"
	// ExpiresHeader tells when a replayed response will be forgotten, as an
	// HTTP date.
	ExpiresHeader = "Idempotency-Key-Expires"
)

// replay gives a recorded response again.
func (h *handler) replay(op *operation, w http.ResponseWriter, r *http.Request, b *idem.Begun) {
	head := w.Header()
	before := copyOf(head)
	status, trailers, err := readStored(b.Result.Meta, head)
	if err != nil {
		h.opts.Logger.Error("idemhttp: a recorded response cannot be read", "route", h.opts.Route, "error", err)
		h.refuse(w, r, problemRecordUnreadable.with(""))
		return
	}
	body, ok := h.suit(op, head, b.Result.Body)
	if !ok {
		clear(head)
		maps.Copy(head, before)
		h.refuse(w, r, problemResponseNotStored.with("The first response was compressed in a way that this request does not accept. Ask again with the Accept-Encoding of the first request."))
		return
	}
	if _, typed := head["Content-Type"]; !typed {
		head["Content-Type"] = nil // the first response had none either: nothing is to be guessed
	}
	// One string and one slice for the three values: replays are many.
	var stack [64]byte
	text := time.Now().Add(b.Expires).UTC().AppendFormat(stack[:0], http.TimeFormat)
	date := len(text)
	all := string(strconv.AppendInt(text, int64(len(body)), 10))
	values := []string{"true", all[:date], all[date:]}
	head[ReplayedHeader], head[ExpiresHeader] = values[:1:1], values[1:2:2]
	give(w, status, body, trailers, values[2:])
}

// suit makes a response that is at hand suit the request's client.
func (h *handler) suit(op *operation, head http.Header, body []byte) ([]byte, bool) {
	if len(head["Content-Encoding"]) == 0 {
		return body, true
	}
	return suit(head, http.Header{"Accept-Encoding": op.accept}, body, maxPlain(h.opts.MaxStoredResponse))
}

// copyOf costs nothing where nobody around the middleware set a header.
func copyOf(h http.Header) http.Header {
	if len(h) == 0 {
		return nil
	}
	return maps.Clone(h)
}

// maxPlain bounds what a stored body may become when it is decompressed.
func maxPlain(stored int) int { return max(16*stored, 16<<20) }

// give writes a response that is at hand in whole; length is its Content-Length.
func give(w http.ResponseWriter, status int, body []byte, trailers http.Header, length []string) {
	head := w.Header()
	if len(trailers) > 0 {
		for name := range trailers {
			head.Add("Trailer", name)
		}
	} else if bodyAllowed(status) {
		head["Content-Length"] = length
	}
	w.WriteHeader(status)
	if bodyAllowed(status) && len(body) > 0 {
		_, _ = w.Write(body) // a client that left has its answer on record
	}
	for name, values := range trailers {
		head[name] = values
	}
}

// answer is a response that a claim was released with, for those in this
// process who waited for it.
type answer struct {
	status   int
	header   http.Header
	body     []byte
	trailers http.Header
	// partial says that the response was too large to be shared.
	partial bool
}

func (h *handler) sharedAnswer(rec *recorder) *answer {
	if rec.over() {
		return &answer{partial: true}
	}
	header, trailers := rec.split(&h.keep)
	return &answer{status: rec.status, header: header, trailers: trailers, body: append([]byte(nil), rec.body...)}
}

// share gives a waiter the answer of the release that it waited for. It is no
// replay: nothing is on record.
func (h *handler) share(op *operation, w http.ResponseWriter, r *http.Request, shared any) {
	head := w.Header()
	before := copyOf(head)
	if a, ok := shared.(*answer); ok && !a.partial {
		for name, values := range a.header {
			head[name] = append([]string(nil), values...)
		}
		if body, ok := h.suit(op, head, a.body); ok {
			give(w, a.status, body, a.trailers, []string{strconv.Itoa(len(body))})
			return
		}
		clear(head)
		maps.Copy(head, before)
	}
	p := problemInFlight.with("")
	p.RetryAfter = RetryAfter(0)
	h.refuse(w, r, p)
}
