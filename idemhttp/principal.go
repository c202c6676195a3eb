package idemhttp

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Anonymous is the principal that callers without Authorization share, where
// [AuthorizationPrincipal] is used.
const Anonymous = "anonymous"

// MaxPrincipal is the most bytes that a principal may have.
const MaxPrincipal = 1024

// Principal says who sends a request. Callers with different principals never
// see each other's records. It is safe for use by many goroutines.
type Principal interface {
	// Of returns the principal, which is not empty but for [NoPrincipal]'s.
	// known is false for a caller of whom nothing is known, who shares a scope
	// with all others like that. An error, a [*PrincipalError], refuses the
	// request.
	Of(r *http.Request) (principal string, known bool, err error)
	// Clean takes from a request's headers what others may mistake for the
	// header that Of reads, and what would take that header from the service
	// behind. It is called for every request, keyed or not, and for the trailers
	// of those that are.
	Clean(h http.Header)
}

// PrincipalError says why it is not known who sends a request.
type PrincipalError struct {
	// Reason is what is wrong, and what to send.
	Reason string
	// Err is what the application's function returned, if it did. It is for
	// logs and not for clients.
	Err error
}

// Error returns the reason, and the application's error after it.
func (e *PrincipalError) Error() string {
	if e.Err != nil {
		return "idemhttp: " + e.Reason + ": " + e.Err.Error()
	}
	return "idemhttp: " + e.Reason
}

// Unwrap returns the application's error.
func (e *PrincipalError) Unwrap() error { return e.Err }

// Detail returns the reason as a sentence for the client.
func (e *PrincipalError) Detail() string { return sentence(e.Reason) }

// AuthorizationPrincipal tells callers apart by a short hash of their
// Authorization header; it is the default. Callers without the header, or with
// an empty one, share the principal [Anonymous]. A token that is refreshed
// makes another caller: where that happens between retries, use
// [FuncPrincipal]. A request with more than one such header is refused.
func AuthorizationPrincipal() Principal { return authorization{} }

type authorization struct{}

func (authorization) Clean(h http.Header) { keepEndToEnd(h, "Authorization") }

func (authorization) Of(r *http.Request) (principal string, known bool, err error) {
	values := r.Header["Authorization"]
	if len(values) > 1 {
		return "", false, &PrincipalError{Reason: "the header Authorization was sent more than once; send one"}
	}
	if len(values) == 0 || values[0] == "" {
		return Anonymous, false, nil
	}
	const domain = "idem authorization 1\x00"
	var stack [512]byte
	sum := sha256.Sum256(append(append(stack[:0], domain...), values[0]...))
	var text [32]byte
	hex.Encode(text[:], sum[:16])
	return string(text[:]), true, nil
}

// HeaderPrincipal tells callers apart by a header, which something in front of
// idem must set, and must take from clients who send it themselves. A request
// where it is missing, empty, longer than [MaxPrincipal], or there more than
// once is refused. Other spellings of the name, such as X_Tenant for X-Tenant,
// are dropped from every request, since many servers take them for the same
// header.
func HeaderPrincipal(name string) (Principal, error) {
	if name == "" {
		return nil, fmt.Errorf("idemhttp: principal: name a header, such as X-Tenant")
	}
	for i := range len(name) {
		if c := name[i]; !alphanumeric(c) && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return nil, fmt.Errorf("idemhttp: principal: %q is no name of a header", name)
		}
	}
	name = http.CanonicalHeaderKey(name)
	if name == "Host" {
		return nil, fmt.Errorf("idemhttp: principal: the host is part of every scope; name another header")
	}
	return &headerPrincipal{name}, nil
}

type headerPrincipal struct{ name string }

func (p *headerPrincipal) Clean(h http.Header) {
	for k := range h {
		if k != p.name && sameSpelling(k, p.name) {
			delete(h, k)
		}
	}
	keepEndToEnd(h, p.name)
}

// keepEndToEnd takes a name from Connection, which would have a proxy drop the
// header of that name: the service would be asked by somebody else than the one
// whose scope the answer is kept in.
func keepEndToEnd(h http.Header, name string) {
	values := h["Connection"]
	if !listed(values, name) {
		return
	}
	var options []string
	for _, v := range values {
		for option := range strings.SplitSeq(v, ",") {
			if option = strings.Trim(option, " \t"); option != "" && !strings.EqualFold(option, name) {
				options = append(options, option)
			}
		}
	}
	delete(h, "Connection")
	if len(options) > 0 {
		h["Connection"] = options
	}
}

func (p *headerPrincipal) Of(r *http.Request) (principal string, known bool, err error) {
	values := r.Header[p.name]
	reason := ""
	switch {
	case len(values) == 0:
		reason = " is missing; send it"
	case len(values) > 1:
		reason = " was sent more than once; send one"
	default:
		principal = strings.Trim(values[0], " \t")
		if principal == "" {
			reason = " is empty; give it a value"
		} else if len(principal) > MaxPrincipal {
			reason = " is too long; give it at most 1024 bytes"
		}
	}
	if reason != "" {
		return "", false, &PrincipalError{Reason: "the header " + p.name + reason}
	}
	return principal, true, nil
}

// sameSpelling says that two names of headers become one where every character
// but letters and digits is written alike (as CGI, WSGI and PHP do), whatever
// the case.
func sameSpelling(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		x, y := lower(a[i]), lower(b[i])
		if x != y && (alphanumeric(x) || alphanumeric(y)) {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	c = lower(c)
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
}

// FuncPrincipal tells callers apart by what fn returns: a claim of a token that
// has been verified, say. It may be called by many goroutines at once. An
// error, an empty string, and one longer than [MaxPrincipal] refuse the
// request; a [*PrincipalError] says with which words. What fn returns is stored
// readable: a hash of a credential, never the credential.
func FuncPrincipal(fn func(*http.Request) (string, error)) Principal { return funcPrincipal(fn) }

type funcPrincipal func(*http.Request) (string, error)

func (funcPrincipal) Clean(http.Header) {}

func (fn funcPrincipal) Of(r *http.Request) (principal string, known bool, err error) {
	const reason = "the request does not say who sends it; send the credentials that this service asks for"
	principal, err = fn(r)
	if err != nil {
		var said *PrincipalError
		if errors.As(err, &said) {
			return "", false, said
		}
		return "", false, &PrincipalError{Reason: reason, Err: err}
	}
	if principal == "" || len(principal) > MaxPrincipal {
		return "", false, &PrincipalError{Reason: reason}
	}
	return principal, true, nil
}

// NoPrincipal makes no difference between callers: all of them are one tenant,
// and may read each other's responses if they know their keys.
func NoPrincipal() Principal { return noPrincipal{} }

type noPrincipal struct{}

func (noPrincipal) Clean(http.Header) {}

func (noPrincipal) Of(*http.Request) (principal string, known bool, err error) { return "", true, nil }
