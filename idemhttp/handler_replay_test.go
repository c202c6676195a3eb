package idemhttp_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/idemhttp"
)

// Trap 29, H9: the first answer keeps every header, the replay those that
// belong to the answer; repeated ones stay in their order.
func TestTrap29HeadersOfAReplay(t *testing.T) {
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Location", "/users/1")
		h.Set("ETag", `"v1"`)
		h["X-List"] = []string{"b", "a", "c"}
		h.Set("Set-Cookie", "session=1")
		h.Set("Server-Timing", "db;dur=1")
		h.Set("Connection", "X-Hop")
		h.Set("X-Hop", "1")
		h.Set("Date", "Thu, 01 Jan 1970 00:00:00 GMT")
		w.WriteHeader(201)
		h.Set("X-Late", "comes after the head")
		_, _ = io.WriteString(w, `{"id":1}`)
	})
	first, again := s.post("k", "a"), s.post("k", "a")
	s.ran(1)
	for _, r := range []reply{first, again} {
		if r.status != 201 || r.body != `{"id":1}` || r.err != nil {
			t.Errorf("got %v", r)
		}
		if r.header.Get("Location") != "/users/1" || r.header.Get("ETag") != `"v1"` || strings.Join(r.header["X-List"], "") != "bac" {
			t.Errorf("headers of the answer: %v", r.header)
		}
		if r.header.Get("X-Late") != "" {
			t.Error("a header that was set after the head is there")
		}
		if len(r.header["Date"]) != 1 || len(r.header["Content-Length"]) != 1 || len(r.header["Content-Type"]) != 1 {
			t.Errorf("Date, Content-Length and Content-Type once each: %v", r.header)
		}
	}
	if first.replayed() || first.header.Get("Set-Cookie") == "" || first.header.Get("X-Hop") == "" || first.header.Get("Server-Timing") == "" || first.header.Get("Date") != "Thu, 01 Jan 1970 00:00:00 GMT" {
		t.Errorf("the first answer lost a header, or is marked: %v", first.header)
	}
	for _, name := range []string{"Set-Cookie", "X-Hop", "Server-Timing"} {
		if again.header.Get(name) != "" {
			t.Errorf("the replay has %s", name)
		}
	}
	if again.header.Get("Date") == first.header.Get("Date") {
		t.Error("the replay has the first answer's Date")
	}
	expires, err := http.ParseTime(again.header.Get(idemhttp.ExpiresHeader))
	if left := time.Until(expires); !again.replayed() || err != nil || left < 23*time.Hour || left > 25*time.Hour {
		t.Errorf("the markers of a replay: %v, %v left, %v", again.header, left, err)
	}
}

// The route's lists add to what is kept, and take from it.
func TestKeepAndDropHeaders(t *testing.T) {
	s := serve(t, settings{http: idemhttp.Options{KeepHeaders: []string{"set-cookie", "Connection"}, DropHeaders: []string{"x-request-id"}}}, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
		w.Header().Set("X-Request-Id", "7")
	})
	s.post("k", "")
	again := s.post("k", "")
	if !again.replayed() || strings.Join(again.header["Set-Cookie"], ";") != "a=1;b=2" || again.header.Get("X-Request-Id") != "" {
		t.Errorf("got %v", again)
	}
}

// What stands around the middleware keeps its own headers on refusals, and is
// not told those of a response that was given up.
func TestHeadersFromAround(t *testing.T) {
	s := serve(t, settings{wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Around", "1")
			next.ServeHTTP(w, r)
		})
	}}, func(w http.ResponseWriter, r *http.Request) {
		if w.Header().Get("X-Around") != "1" {
			t.Error("the handler does not see what was set around it")
		}
		w.Header().Set("Content-Encoding", "br")
		_, _ = io.WriteString(w, "no gzip")
	})
	first := s.post("k", "", "Accept-Encoding", "br")
	again := s.post("k", "")
	if first.header.Get("X-Around") != "1" || again.header.Get("X-Around") != "1" || again.status != 422 || again.header.Get("Content-Encoding") != "" {
		t.Errorf("first %v, then %v", first, again)
	}
}

// Trap 26, H12: bytes are exact, and whoever does not accept a coding does not
// get it.
func TestTrap26BodiesAreExact(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(z, "plain text")
	_ = z.Close()
	bodies := map[string][2]string{
		"binary": {"application/octet-stream", "\x00\xff\xfe\x80\r\n\x00"},
		"latin1": {"text/plain; charset=iso-8859-1", "caf\xe9"},
		"gzip":   {"text/plain", zipped.String()},
		"br":     {"text/plain", "not really brotli"},
	}
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		kind, _ := io.ReadAll(r.Body)
		b := bodies[string(kind)]
		w.Header().Set("Content-Type", b[0])
		if string(kind) == "gzip" || string(kind) == "br" {
			w.Header().Set("Content-Encoding", string(kind))
			w.Header().Set("ETag", `"x"`)
		}
		_, _ = io.WriteString(w, b[1])
	})
	for kind, b := range bodies {
		first := s.post(kind, kind, "Accept-Encoding", "gzip, br")
		again := s.post(kind, kind, "Accept-Encoding", "gzip, br")
		if first.body != b[1] || again.body != b[1] || !again.replayed() || again.header.Get("Content-Type") != b[0] {
			t.Errorf("%s: first %v, then %v", kind, first, again)
		}
	}
	if r := s.post("gzip", "gzip"); r.body != "plain text" || r.header.Get("Content-Encoding") != "" || r.header.Get("Content-Length") != "10" || r.header.Get("ETag") != `W/"x"` {
		t.Errorf("a retry without Accept-Encoding got %v", r)
	}
	if r := s.post("br", "br", "Accept-Encoding", "gzip"); r.status != 422 || !r.problem(idemhttp.TypeResponseNotStored) || r.header.Get("ETag") != "" {
		t.Errorf("a retry that takes no br got %v", r)
	}
	s.ran(4)
}

// Trap 26: Accept-Encoding of a keyed request is narrowed to what idem can undo.
func TestTrap26AcceptEncodingIsNarrowed(t *testing.T) {
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Join(r.Header["Accept-Encoding"], "|"))
	})
	if r := s.post("k", "", "Accept-Encoding", "br, gzip, zstd"); r.body != "gzip" {
		t.Errorf("keyed: %v", r)
	}
	if r := s.post("", "", "Accept-Encoding", "br, gzip, zstd"); r.body != "br, gzip, zstd" {
		t.Errorf("not keyed: %v", r)
	}
}

// Trap 27: 204, and 201 without a body.
func TestTrap27EmptyResponses(t *testing.T) {
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		var status int
		_, _ = fmt.Sscan(string(b), &status)
		w.Header().Set("X-Mark", "1")
		w.WriteHeader(status)
		if n, err := w.Write([]byte("x")); status == 204 && (n != 0 || !errors.Is(err, http.ErrBodyNotAllowed)) {
			t.Errorf("a body for 204: %d, %v", n, err)
		}
	})
	empty := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(201) })
	silent := serve(t, settings{}, func(http.ResponseWriter, *http.Request) {})
	for name, c := range map[string]struct {
		site   *site
		body   string
		status int
	}{"204": {s, "204", 204}, "304": {s, "304", 304}, "201": {empty, "", 201}, "nothing said": {silent, "", 200}} {
		first, again := c.site.post("k"+c.body, c.body), c.site.post("k"+c.body, c.body)
		if first.status != c.status || first.body != "" || again.status != c.status || again.body != "" || !again.replayed() || again.err != nil {
			t.Errorf("%s: first %v, then %v", name, first, again)
		}
		if cl := again.header.Get("Content-Length"); c.status < 204 && cl != "0" || c.status >= 204 && cl != "" {
			t.Errorf("%s: Content-Length %q", name, cl)
		}
	}
	s.ran(2)
}

// Trap 28, H10: informational responses pass, and are not what is recorded.
func TestTrap28EarlyHints(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		s := serve(t, settings{h2: h2}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</style.css>")
			w.Header().Set(idemhttp.ReplayedHeader, "true")
			w.WriteHeader(103)
			w.Header().Del("Link")
			w.WriteHeader(201)
			_, _ = io.WriteString(w, "made")
		})
		var hints []http.Header
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if code == 103 {
				hints = append(hints, http.Header(h))
			}
			return nil
		}})
		first := s.send(ctx, "POST", "/", "k", strings.NewReader("b"))
		again := s.send(ctx, "POST", "/", "k", strings.NewReader("b"))
		if len(hints) != 1 || hints[0].Get("Link") != "</style.css>" || hints[0].Get(idemhttp.ReplayedHeader) != "" {
			t.Errorf("h2 %v: hints %v", h2, hints)
		}
		if first.status != 201 || again.status != 201 || again.body != "made" || !again.replayed() || again.header.Get("Link") != "" {
			t.Errorf("h2 %v: first %v, then %v", h2, first, again)
		}
		s.ran(1)
	}
}

// Trap 28: what an informational response said does not stay on an answer that
// is not the handler's.
func TestTrap28HintsDoNotStayOnARefusal(t *testing.T) {
	g := newGate()
	s := serve(t, settings{store: g, guard: idem.Options{Policy: idem.Policy{SaveWait: time.Millisecond}}}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Secret", "1")
		w.WriteHeader(103)
		_, _ = io.WriteString(w, "done")
	})
	g.refuse("complete")
	r := s.post("k", "")
	g.set(nil)
	if r.status != 503 || !r.problem(idemhttp.TypeOutcomeUnknown) || r.header.Get("X-Secret") != "" {
		t.Errorf("got %v", r)
	}
}

// Trap 30: an error is replayed with its body, and trailers survive however
// they were announced.
func TestTrap30ErrorsAndTrailers(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, size := range []int{5, 10_000} {
			body := strings.Repeat("x", size)
			s := serve(t, settings{h2: h2}, func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/declared":
					w.Header().Set("Trailer", "X-Sum, X-Never")
				case "/error":
					w.WriteHeader(500)
				}
				_, _ = io.WriteString(w, body)
				switch r.URL.Path {
				case "/declared":
					w.Header().Set("X-Sum", "1")
				case "/prefix":
					w.Header().Set(http.TrailerPrefix+"X-Sum", "1")
					w.Header().Set(http.TrailerPrefix+idemhttp.ReplayedHeader, "true")
				}
				w.Header().Set("X-Stray", "neither head nor trailer")
			})
			for _, path := range []string{"/declared", "/prefix", "/error"} {
				first := s.send(t.Context(), "POST", path, path[1:], nil)
				again := s.send(t.Context(), "POST", path, path[1:], nil)
				for i, r := range []reply{first, again} {
					want := http.Header{}
					if path != "/error" {
						want.Set("X-Sum", "1")
					}
					got := maps.Clone(r.trailer)
					delete(got, "X-Never")
					if r.err != nil || r.body != body || fmt.Sprint(got) != fmt.Sprint(want) && len(got)+len(want) > 0 || r.replayed() != (i == 1) || r.header.Get("X-Stray") != "" {
						t.Errorf("h2 %v, %d bytes, %s, answer %d: %d %v trailers %v %v", h2, size, path, i, r.status, r.header, r.trailer, r.err)
					}
					if path == "/error" && r.status != 500 {
						t.Errorf("got %v", r)
					}
				}
			}
			s.ran(3)
		}
	}
}

// Trap 31, H13: only a replay carries the markers.
func TestTrap31MarkersCannotBeForged(t *testing.T) {
	forge := func(w http.ResponseWriter, r *http.Request) {
		// A handler that has used the controller first must not slip through.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		for _, name := range []string{idemhttp.ReplayedHeader, idemhttp.ExpiresHeader, "idempotent-replayed"} {
			w.Header()[name] = []string{"true"}
		}
		w.Header().Set("Trailer", idemhttp.ReplayedHeader+", X-Sum")
		if r.URL.Path == "/head" {
			w.WriteHeader(200)
		}
		if r.URL.Path == "/flush" {
			_ = http.NewResponseController(w).Flush()
		}
		if r.URL.Path != "/silent" {
			_, _ = io.WriteString(w, "x")
		}
		w.Header().Set(idemhttp.ReplayedHeader, "true")
		w.Header().Set(http.TrailerPrefix+idemhttp.ExpiresHeader, "now")
		w.Header().Set("X-Sum", "1")
	}
	for _, h2 := range []bool{false, true} {
		s := serve(t, settings{h2: h2}, forge)
		for _, path := range []string{"/", "/head", "/flush", "/silent"} {
			for _, method := range []string{"POST", "GET"} {
				for _, key := range []string{"", path + "x"} {
					r := s.send(t.Context(), method, path, key, nil)
					for _, h := range []http.Header{r.header, r.trailer} {
						for name := range h {
							if v := h[name]; len(v) > 0 && (strings.EqualFold(name, idemhttp.ReplayedHeader) || strings.EqualFold(name, idemhttp.ExpiresHeader)) {
								t.Errorf("h2 %v %s %s key %q: %v", h2, method, path, key, r)
							}
						}
					}
				}
			}
		}
	}
}

// H9: what net/http finds out of a body's type is the replay's too, also where
// the handler flushed early; a type that was withheld stays withheld.
func TestContentTypeIsTheFirstAnswers(t *testing.T) {
	s := serve(t, settings{}, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/flushed":
			_, _ = io.WriteString(w, "\x00\x01")
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "<html><body>")
		case "/head":
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "<html>")
		case "/withheld":
			w.Header()["Content-Type"] = nil
			_, _ = io.WriteString(w, "<html>")
		case "/long":
			_, _ = io.WriteString(w, "<ht")
			_, _ = io.WriteString(w, "ml>"+strings.Repeat("x", 10_000))
		default:
			_, _ = io.WriteString(w, "<html>")
		}
	})
	for path, want := range map[string]string{
		"/": "text/html; charset=utf-8", "/flushed": "application/octet-stream", "/head": "", "/withheld": "", "/long": "text/html; charset=utf-8",
	} {
		first, again := s.send(t.Context(), "POST", path, "k"+path[1:], nil), s.send(t.Context(), "POST", path, "k"+path[1:], nil)
		if first.header.Get("Content-Type") != want || again.header.Get("Content-Type") != want || !again.replayed() {
			t.Errorf("%s: first %v, then %v; want %q", path, first.header, again.header, want)
		}
	}
}
