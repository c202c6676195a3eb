package idemhttp

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// DefaultProblemBase is what the URIs of problem types begin with: the
// project's page that explains each under a heading of its own.
const DefaultProblemBase = "https://github.com/idem-go/idem/blob/main/docs/problems.md#"

// The types of the problems that idem answers with.
const (
	TypeMethodInvalid       = "method-invalid"
	TypeMethodNotAllowed    = "method-not-allowed"
	TypeKeyMissing          = "key-missing"
	TypeKeyInvalid          = "key-invalid"
	TypePrincipalMissing    = "principal-missing"
	TypeInFlight            = "in-flight"
	TypeOutcomeUnknown      = "outcome-unknown"
	TypeKeyReused           = "key-reused"
	TypeResponseNotStored   = "response-not-stored"
	TypeResponseForgotten   = "response-forgotten"
	TypeKeyExpired          = "key-expired"
	TypeRecordUnreadable    = "record-unreadable"
	TypeRequestTooLarge     = "request-too-large"
	TypeOverloaded          = "overloaded"
	TypeStoreUnavailable    = "store-unavailable"
	TypeUpstreamUnreachable = "upstream-unreachable"
	TypeUpstreamBroken      = "upstream-broken"
	TypeUpstreamTimeout     = "upstream-timeout"
	TypeResponseTooLarge    = "response-too-large"
)

// problemKind is a row of the table of problems.
type problemKind uint8

const (
	problemMethodInvalid problemKind = iota
	problemMethodNotAllowed
	problemKeyMissing
	problemKeyInvalid
	problemPrincipalMissing
	problemInFlight
	problemOutcomeUnknown
	// problemUnsaved is an outcome that this very request does not know of,
	// since its record could not be saved: 503, as the type is known to others
	// by 409.
	problemUnsaved
	problemKeyReused
	problemResponseNotStored
	problemResponseForgotten
	problemKeyExpired
	problemRecordUnreadable
	problemRequestTooLarge
	problemOverloaded
	problemStoreUnavailable
	problemUpstreamUnreachable
	problemUpstreamBroken
	problemUpstreamTimeout
	problemResponseTooLarge
)

var problemTable = [...]Problem{ //nolint:gochecknoglobals // a table that is never written to
	problemMethodInvalid: {Type: TypeMethodInvalid, Status: 400, Title: "The method is misspelt",
		Detail: "Methods are case-sensitive: send POST or PATCH in capitals."},
	problemMethodNotAllowed: {Type: TypeMethodNotAllowed, Status: 405, Title: "The method is not allowed",
		Detail: "CONNECT and TRACE are not served here."},
	problemKeyMissing: {Type: TypeKeyMissing, Status: 400, Title: "The request needs an idempotency key",
		Detail: "Choose a new key for each operation, such as a UUID, and send the same one with every retry."},
	problemKeyInvalid: {Type: TypeKeyInvalid, Status: 400, Title: "The idempotency key is malformed",
		Detail: "Send one key of 1 to 255 visible ASCII characters, in double quotes or without."},
	problemPrincipalMissing: {Type: TypePrincipalMissing, Status: 400, Title: "The request does not say who sends it",
		Detail: "Send, once, the header by which this service tells its callers apart."},
	problemInFlight: {Type: TypeInFlight, Status: 409, Title: "The first request still runs", RetryAfter: time.Second,
		Detail: "A request with this key is still being worked on. Send the same request again later to get its answer."},
	problemOutcomeUnknown: {Type: TypeOutcomeUnknown, Status: 409, Title: "The outcome is unknown",
		Detail: "A request with this key was begun, and whether it took effect is not known. Find out before you try again with another key; the same key is answered once the outcome has been resolved."},
	problemUnsaved: {Type: TypeOutcomeUnknown, Status: 503, Title: "The outcome could not be saved",
		Detail: "The work was done, and its answer could not be saved yet. Send the same request with the same key again later; do not use another key."},
	problemKeyReused: {Type: TypeKeyReused, Status: 422, Title: "The key was used for another request",
		Detail: "This key belongs to a request that differs from this one. Send exactly that request, or choose a new key."},
	problemResponseNotStored: {Type: TypeResponseNotStored, Status: 422, Title: "The first answer was not kept",
		Detail: "The request with this key took effect, and its answer was too large to keep. It is not done again; read what it made instead."},
	problemResponseForgotten: {Type: TypeResponseForgotten, Status: 422, Title: "The first answer is forgotten",
		Detail: "A request with this key took effect, and its answer is no longer kept. It is not done again; read what it made, or choose a new key for a new operation."},
	problemKeyExpired: {Type: TypeKeyExpired, Status: 422, Title: "The key is too old",
		Detail: "This key was made before everything that is remembered here, so whether it was used cannot be told. Choose a new key for a new operation."},
	problemRecordUnreadable: {Type: TypeRecordUnreadable, Status: 500, Title: "The record of this key cannot be read",
		Detail: "Something is on record for this key and cannot be read, so the request was not run. The service's operator has to look at it."},
	problemRequestTooLarge: {Type: TypeRequestTooLarge, Status: 413, Title: "The request's body is too large",
		Detail: "The body is larger than this service takes with an idempotency key. The request was not run."},
	problemOverloaded: {Type: TypeOverloaded, Status: 503, Title: "Too much is going on", RetryAfter: time.Second,
		Detail: "The request was not run. Send it again later, with the same key."},
	problemStoreUnavailable: {Type: TypeStoreUnavailable, Status: 503, Title: "The record cannot be reached", RetryAfter: time.Second,
		Detail: "Without its record the request cannot be run safely. Send it again later, with the same key."},
	problemUpstreamUnreachable: {Type: TypeUpstreamUnreachable, Status: 502, Title: "The service cannot be reached",
		Detail: "Nothing of the request reached the service. Send it again, with the same key."},
	problemUpstreamBroken: {Type: TypeUpstreamBroken, Status: 502, Title: "The service broke off",
		Detail: "The connection to the service ended before its answer was whole. If the request had a key, its outcome is unknown."},
	problemUpstreamTimeout: {Type: TypeUpstreamTimeout, Status: 504, Title: "The service took too long",
		Detail: "The service did not answer in time. If the request had a key, its outcome is unknown."},
	problemResponseTooLarge: {Type: TypeResponseTooLarge, Status: 500, Title: "The answer is too large to keep",
		Detail: "The answer could not be kept with the work in one transaction, so the work was rolled back. Nothing took effect."},
}

// Problem is an answer of idem's own, in the form of RFC 9457.
type Problem struct {
	// Type is one of the types above, a word.
	Type string
	// Title says what Type means, and is the same for each problem of a type
	// and status.
	Title string
	// Status is the status of the response.
	Status int
	// Detail says what to do about this one. It holds nothing of a request's.
	Detail string
	// RetryAfter is when to ask again, rounded up to seconds; 0 does not say.
	RetryAfter time.Duration
	// Base is what the type's URI begins with; "" for [DefaultProblemBase].
	Base string
}

// NewProblem returns the problem of that type with its usual status. A detail
// of "" takes the type's own. It panics for a type that is none of those above.
func NewProblem(typ, detail string) *Problem {
	for i := range problemTable {
		if problemTable[i].Type == typ {
			return problemKind(i).with(detail)
		}
	}
	panic("idemhttp: no problem has the type " + strconv.Quote(typ))
}

// with returns a problem of that kind; a detail of "" takes the kind's own.
func (k problemKind) with(detail string) *Problem {
	p := problemTable[k]
	if detail != "" {
		p.Detail = detail
	}
	return &p
}

// URI returns the problem's type as it is sent.
func (p *Problem) URI() string {
	base := p.Base
	if base == "" {
		base = DefaultProblemBase
	}
	return base + p.Type
}

// MarshalJSON returns the members of RFC 9457.
func (p *Problem) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail,omitempty"`
	}{p.URI(), p.Title, p.Status, p.Detail})
}

// Write sends the problem as the response to a request: application/problem+json
// with a Link to its explanation, not to be kept by any HTTP cache. Headers of
// w's that it does not set stay.
func (p *Problem) Write(w http.ResponseWriter) {
	var body bytes.Buffer
	if err := json.NewEncoder(&body).Encode(p); err != nil {
		body.Reset() // strings and a number always encode
	}
	h := w.Header()
	for _, stale := range [...]string{"Content-Encoding", "Etag", "Last-Modified", "Trailer"} {
		delete(h, stale)
	}
	h["Content-Type"] = []string{"application/problem+json"}
	h["Content-Length"] = []string{strconv.Itoa(body.Len())}
	h["Cache-Control"] = []string{"no-store"}
	h["Link"] = append(h["Link"], "<"+p.URI()+`>; rel="describedby"`)
	if p.RetryAfter > 0 {
		h["Retry-After"] = []string{strconv.FormatInt(int64((p.RetryAfter+time.Second-1)/time.Second), 10)}
	}
	if p.Status == http.StatusMethodNotAllowed && len(h["Allow"]) == 0 {
		h["Allow"] = []string{"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(body.Bytes()) // a client that left needs no problem
}

// allowOrigin adds what lets a page of one of the origins read the response.
// An asterisk stands for all. What is there already stays: somebody else does
// it then.
func allowOrigin(h http.Header, r *http.Request, origins []string) {
	if len(h["Access-Control-Allow-Origin"]) > 0 {
		return
	}
	if !listed(h["Vary"], "Origin") {
		h["Vary"] = append(h["Vary"], "Origin")
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return
	}
	switch {
	case slices.Contains(origins, origin):
	case slices.Contains(origins, "*"):
		origin = "*"
	default:
		return
	}
	h["Access-Control-Allow-Origin"] = []string{origin}
	h["Access-Control-Expose-Headers"] = []string{"Retry-After, Link, " + ReplayedHeader + ", " + ExpiresHeader}
}
