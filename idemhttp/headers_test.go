package idemhttp

import (
	"maps"
	"net/http"
	"reflect"
	"slices"
	"testing"
)

// keptBy returns the names that a filter stores of h.
func keptBy(f headerFilter, h http.Header) []string {
	var names []string
	for name := range h {
		if f.keeps(name, h) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func headersOf(names ...string) http.Header {
	h := http.Header{}
	for _, n := range names {
		h[n] = []string{"v"}
	}
	return h
}

var (
	hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}
	personal = []string{"Date", "Set-Cookie", "Age", "Alt-Svc", "Server-Timing", "Www-Authenticate", "Authentication-Info", "Proxy-Authentication-Info", "Proxy-Status"}
	content  = []string{"Content-Type", "Content-Encoding", "Etag", "Location", "Link", "Vary", "X-Custom", "Cache-Control", "Retry-After"}
)

// Trap 29: a replay keeps what belongs to the answer and drops what belongs to
// the connection, or to its first reader.
func TestTrap29WhichHeadersAreStored(t *testing.T) {
	h := headersOf(slices.Concat(hopByHop, personal, content, []string{"Content-Length", ReplayedHeader, ExpiresHeader})...)
	if got := keptBy(headerFilter{}, h); !slices.Equal(got, slices.Sorted(slices.Values(content))) {
		t.Errorf("stored are %q", got)
	}
	// What Connection and Trailer name.
	h = headersOf("X-Hop", "X-Other", "X-Sum", "X-Stays", http.TrailerPrefix+"X-Late")
	h["Connection"] = []string{"close, x-hop", "X-Other"}
	h["Trailer"] = []string{"X-Sum"}
	if got := keptBy(headerFilter{}, h); !slices.Equal(got, []string{"X-Stays"}) {
		t.Errorf("stored are %q", got)
	}
	// Names that no ResponseWriter made canonical.
	if got := keptBy(headerFilter{}, headersOf("set-cookie", "DATE", "connection", "idempotent-replayed", "x-custom")); !slices.Equal(got, []string{"x-custom"}) {
		t.Errorf("stored are %q", got)
	}
}

func TestTrap29KeepAndDropMore(t *testing.T) {
	f := newHeaderFilter([]string{"set-cookie", "Connection", "Proxy-Status", ReplayedHeader, "X-Both"}, []string{"x-custom", "X-Both"})
	h := headersOf("Set-Cookie", "Date", "Connection", "Proxy-Status", ReplayedHeader, "X-Both", "X-Custom", "Etag")
	if got := keptBy(f, h); !slices.Equal(got, []string{"Etag", "Set-Cookie"}) {
		t.Errorf("stored are %q", got)
	}
}

// Trap 31: nobody else's marker gets through, in trailers neither.
func TestTrap31MarkersAreStripped(t *testing.T) {
	h := headersOf(ReplayedHeader, ExpiresHeader, "idempotent-replayed", "IDEMPOTENCY-KEY-EXPIRES", http.TrailerPrefix+ReplayedHeader,
		http.TrailerPrefix+"idempotency-key-expires", "Idempotent-Replayer", "Idempotency-Key", "X")
	stripMarkers(h)
	if got := slices.Sorted(maps.Keys(h)); !slices.Equal(got, []string{"Idempotency-Key", "Idempotent-Replayer", "X"}) {
		t.Errorf("what remains is %q", got)
	}
	h = headersOf("A", "B", "C")
	if n := testing.AllocsPerRun(100, func() { stripMarkers(h) }); n != 0 {
		t.Errorf("it takes %v allocations", n)
	}
}

// Trap 30: both of net/http's ways to set a trailer.
func TestTrap30TrailersOf(t *testing.T) {
	h := http.Header{
		"Trailer":                        {"X-Sum, x-more"},
		"X-Sum":                          {"1"},
		"X-More":                         {"2", "3"},
		http.TrailerPrefix + "X-Late":    {"4"},
		http.TrailerPrefix + "grpc-code": {"5"},
		"X-Head":                         {"6"},
	}
	want := http.Header{"X-Sum": {"1"}, "X-More": {"2", "3"}, "X-Late": {"4"}, "Grpc-Code": {"5"}}
	if got := trailersOf(h); !reflect.DeepEqual(got, want) {
		t.Errorf("the trailers are %v", got)
	}
	if got := trailersOf(headersOf("A")); got != nil {
		t.Errorf("no trailers are %v", got)
	}
}
