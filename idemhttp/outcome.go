package idemhttp

import (
	"net/http"
	"slices"
)

// Outcome is what becomes of an operation's record.
type Outcome uint8

const (
	// OutcomeByStatus leaves the decision to the response's status.
	OutcomeByStatus Outcome = iota
	// OutcomeComplete: the operation was done; its response is recorded and
	// replayed.
	OutcomeComplete
	// OutcomeRelease: the operation was not done; the response is passed on,
	// and the next request runs.
	OutcomeRelease
	// OutcomeUnknown: whether it was done cannot be known; the response is
	// passed on, and the key is refused until it is resolved.
	OutcomeUnknown
)

// SetOutcome decides what becomes of the record of the request that w answers,
// whatever the status says. It looks through wrappers that have an Unwrap
// method, and reports whether there is a record: a request without a key has
// none. It is called by the handler, before it returns; the last call counts.
func SetOutcome(w http.ResponseWriter, o Outcome) bool {
	for {
		switch t := w.(type) {
		case interface{ SetOutcome(Outcome) }:
			t.SetOutcome(o)
			return true
		case interface{ Unwrap() http.ResponseWriter }:
			w = t.Unwrap()
		default:
			return false
		}
	}
}

// StatusPolicy lists statuses that are treated otherwise than by default. A
// status stands in one list at most.
type StatusPolicy struct {
	// Complete, Release and Unknown are the statuses with that outcome.
	Complete, Release, Unknown []int
}

// commits reports that the transaction of a response with that status is
// committed: where nothing took effect a failure needs no record.
func (p *StatusPolicy) commits(status int) bool {
	return p.outcome(status) == OutcomeComplete && (status < 500 || slices.Contains(p.Complete, status))
}

// outcome is the table of docs/contract.md: 401, 403, 407, 408, 409, 423, 425,
// 429 and 503 say that nothing was done, or not now; 502 and 504 are a gateway's
// that does not know; every other final response is an outcome.
func (p *StatusPolicy) outcome(status int) Outcome {
	switch {
	case slices.Contains(p.Complete, status):
		return OutcomeComplete
	case slices.Contains(p.Release, status):
		return OutcomeRelease
	case slices.Contains(p.Unknown, status):
		return OutcomeUnknown
	}
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired, http.StatusRequestTimeout,
		http.StatusConflict, http.StatusLocked, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return OutcomeRelease
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return OutcomeUnknown
	}
	return OutcomeComplete
}
