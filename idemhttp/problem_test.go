package idemhttp

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Each type has its row, and a heading of its own on the page that its URI leads
// to, which says what to do to those who can do something.
func TestProblemsAreExplained(t *testing.T) {
	page, err := os.ReadFile("../docs/problems.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for section := range strings.SplitSeq(string(page), "\n## ") {
		heading, text, _ := strings.Cut(section, "\n")
		sections[heading] = text
	}
	seen := map[string]bool{}
	for kind, p := range problemTable {
		text, ok := sections[p.Type]
		if !ok {
			t.Errorf("docs/problems.md has no heading %q", p.Type)
		}
		for _, part := range []string{"*Client:* ", "*Operator:* ", "**" + strconv.Itoa(p.Status)} {
			if !strings.Contains(text, part) {
				t.Errorf("%s: the page does not say %q", p.Type, part)
			}
		}
		if !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(p.Type) || p.Title == "" || strings.HasSuffix(p.Title, ".") || !strings.HasSuffix(p.Detail, ".") {
			t.Errorf("row %d: %+v", kind, p)
		}
		if p.Base != "" {
			t.Errorf("%s: its base is the setting's", p.Type)
		}
		seen[p.Type] = true
	}
	for heading := range sections {
		if !seen[heading] && !strings.HasPrefix(heading, "# Problems") {
			t.Errorf("docs/problems.md explains %q, which is no type", heading)
		}
	}
}

// The statuses of the contract's table.
func TestProblemStatuses(t *testing.T) {
	for typ, want := range map[string]int{
		TypeMethodInvalid: 400, TypeMethodNotAllowed: 405, TypeKeyMissing: 400, TypeKeyInvalid: 400, TypePrincipalMissing: 400,
		TypeInFlight: 409, TypeOutcomeUnknown: 409, TypeKeyReused: 422, TypeResponseNotStored: 422, TypeResponseForgotten: 422,
		TypeKeyExpired: 422, TypeRecordUnreadable: 500, TypeRequestTooLarge: 413, TypeOverloaded: 503, TypeStoreUnavailable: 503,
		TypeUpstreamUnreachable: 502, TypeUpstreamBroken: 502, TypeUpstreamTimeout: 504, TypeResponseTooLarge: 500,
	} {
		p := NewProblem(typ, "")
		if p.Type != typ || p.Status != want {
			t.Errorf("%s: %+v", typ, p)
		}
		if waits := slices.Contains([]string{TypeInFlight, TypeOverloaded, TypeStoreUnavailable}, typ); waits != (p.RetryAfter > 0) {
			t.Errorf("%s says to come back after %v", typ, p.RetryAfter)
		}
	}
	if p := problemUnsaved.with(""); p.Status != 503 || p.Type != TypeOutcomeUnknown {
		t.Errorf("an outcome that could not be saved: %+v", p)
	}
	defer func() {
		if recover() == nil {
			t.Error("a type that does not exist was taken")
		}
	}()
	NewProblem("no-such-type", "")
}

func TestProblemOnTheWire(t *testing.T) {
	w := httptest.NewRecorder()
	w.Header().Set("X-Outer", "stays")
	w.Header().Set("Content-Encoding", "gzip")
	w.Header().Set("Etag", `"x"`)
	w.Header().Add("Link", "<a>; rel=b")
	p := NewProblem(TypeInFlight, "Wait <a> while.")
	p.RetryAfter = 1500 * time.Millisecond
	p.Write(w)
	res := w.Result()
	for name, want := range map[string]string{
		"Content-Type": "application/problem+json", "Cache-Control": "no-store", "Retry-After": "2", "X-Outer": "stays",
		"Content-Encoding": "", "Etag": "", "Allow": "",
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	uri := DefaultProblemBase + "in-flight"
	if got := res.Header["Link"]; !slices.Equal(got, []string{"<a>; rel=b", "<" + uri + `>; rel="describedby"`}) {
		t.Errorf("Link is %q", got)
	}
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 409 || len(got) != 4 || got["type"] != uri || got["status"] != 409.0 || got["title"] != "The first request still runs" || got["detail"] != "Wait <a> while." {
		t.Errorf("%d: %v", res.StatusCode, got)
	}
	if res.ContentLength != int64(w.Body.Len()) {
		t.Errorf("the length is %d of %d", res.ContentLength, w.Body.Len())
	}
	// The table's own text is not what was changed.
	if again := problemInFlight.with(""); again.Detail == p.Detail || again.RetryAfter == p.RetryAfter {
		t.Error("a problem changed its type")
	}

	w = httptest.NewRecorder()
	p = NewProblem(TypeMethodNotAllowed, "")
	p.Base = "https://errors.example/"
	p.Write(w)
	if w.Header().Get("Allow") == "" || w.Header().Get("Retry-After") != "" || !strings.Contains(w.Body.String(), `"https://errors.example/method-not-allowed"`) {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
}

func TestAllowOrigin(t *testing.T) {
	for _, c := range []struct {
		origins      []string
		origin, want string
	}{
		{[]string{"https://a.example"}, "https://a.example", "https://a.example"},
		{[]string{"https://a.example"}, "https://b.example", ""},
		{[]string{"https://a.example"}, "https://a.example.evil", ""},
		{[]string{"https://a.example"}, "null", ""},
		{[]string{"https://a.example"}, "", ""},
		{[]string{"*"}, "https://b.example", "*"},
		{[]string{"*", "https://a.example"}, "https://a.example", "https://a.example"},
	} {
		h := http.Header{"Vary": {"Accept"}}
		r := httptest.NewRequest("POST", "/", nil)
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		allowOrigin(h, r, c.origins)
		if h.Get("Access-Control-Allow-Origin") != c.want || (c.want != "") != strings.Contains(h.Get("Access-Control-Expose-Headers"), "Retry-After") || !slices.Equal(h["Vary"], []string{"Accept", "Origin"}) {
			t.Errorf("%q and %q: %v", c.origins, c.origin, h)
		}
	}
	h := http.Header{"Access-Control-Allow-Origin": {"https://outer.example"}}
	allowOrigin(h, requestWith(http.Header{"Origin": {"https://a.example"}}), []string{"*"})
	if len(h) != 1 {
		t.Errorf("another's header was changed: %v", h)
	}
}
