package idemhttp

import (
	"net/http"
	"slices"
	"strings"
)

// isMarker says that a header is idem's alone, however it is spelt.
func isMarker(name string) bool {
	switch len(name) {
	case len(ReplayedHeader):
		return strings.EqualFold(name, ReplayedHeader)
	case len(ExpiresHeader):
		return strings.EqualFold(name, ExpiresHeader)
	}
	return false
}

// stripMarkers deletes idem's headers from h, trailers included.
func stripMarkers(h http.Header) {
	for k := range h {
		if isMarker(trailerName(k)) {
			delete(h, k)
		}
	}
}

// isTrailer says that net/http sends the header k of the response h as a
// trailer: because of the prefix of its name, or since Trailer declares it.
func isTrailer(k string, h http.Header) bool {
	if strings.HasPrefix(k, http.TrailerPrefix) {
		return true
	}
	declared := h["Trailer"]
	return len(declared) > 0 && listed(declared, k)
}

// trailerName returns the name that the trailer under k has on the wire.
func trailerName(k string) string { return strings.TrimPrefix(k, http.TrailerPrefix) }

// trailersOf returns the trailers among the headers of a response, by their
// names; nil when there are none.
func trailersOf(h http.Header) http.Header {
	var trailers http.Header
	for k, v := range h {
		if !isTrailer(k, h) {
			continue
		}
		if trailers == nil {
			trailers = make(http.Header)
		}
		name := http.CanonicalHeaderKey(trailerName(k))
		trailers[name] = append(trailers[name], v...)
	}
	return trailers
}

// listed says that a header's values, each a list with commas, have the name in
// them, whatever its case.
func listed(values []string, name string) bool {
	for _, v := range values {
		for v != "" {
			var item string
			item, v, _ = strings.Cut(v, ",")
			if strings.EqualFold(strings.Trim(item, " \t"), name) {
				return true
			}
		}
	}
	return false
}

// headerFilter says which headers of a response are stored. Its zero value has
// the defaults.
type headerFilter struct {
	keep, drop []string // canonical
}

// newHeaderFilter returns a filter that also keeps and drops the headers named.
// Dropping goes before keeping; neither concerns what is never stored.
func newHeaderFilter(keep, drop []string) headerFilter {
	return headerFilter{keep: canonicalNames(keep), drop: canonicalNames(drop)}
}

func canonicalNames(names []string) []string {
	var out []string
	for _, n := range names {
		out = append(out, http.CanonicalHeaderKey(n))
	}
	return out
}

// keeps says whether the header of that name is stored. all are the headers
// that it is one of: Connection there names further hop-by-hop fields, and
// Trailer those that are stored as trailers.
func (f *headerFilter) keeps(name string, all http.Header) bool {
	name = http.CanonicalHeaderKey(name)
	switch name {
	case "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return false
	case "Content-Length":
		return false // told by the body, or by Stored.Length
	}
	switch {
	case strings.HasPrefix(name, "Proxy-"), isMarker(name), isTrailer(name, all), listed(all["Connection"], name):
		return false
	case slices.Contains(f.drop, name):
		return false
	case slices.Contains(f.keep, name):
		return true
	}
	switch name {
	case "Date", "Set-Cookie", "Age", "Alt-Svc", "Server-Timing", "Www-Authenticate", "Authentication-Info":
		return false
	}
	return true
}
