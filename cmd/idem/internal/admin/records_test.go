package admin_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/idemhttp"
)

type list struct {
	Records []shown
	Next    string
}

func TestListPages(t *testing.T) {
	d := newDesk(t, nil)
	want := map[string]bool{}
	for i := range 25 {
		id := fmt.Sprintf("k%02d", i)
		d.unknown("shop/anonymous", id)
		want[id] = true
	}
	after, pages := "", 0
	for {
		page := decodeInto[list](t, d.want(d.ask("GET", "/v1/records?limit=10&after="+url.QueryEscape(after), ""), 200))
		pages++
		for _, r := range page.Records {
			if !want[r.Key] {
				t.Errorf("%q is listed twice, or was never there", r.Key)
			}
			delete(want, r.Key)
		}
		if page.Next == "" {
			break
		}
		after = page.Next
	}
	if len(want) > 0 || pages < 3 {
		t.Errorf("%d pages, and missing from them: %v", pages, want)
	}
}

func TestListFilters(t *testing.T) {
	d := newDesk(t, nil)
	d.claim("a", "running")
	d.unknown("a", "lost")
	d.completed("b", "done", driver.Result{Body: []byte("x")})
	for query, want := range map[string]string{
		"":                                     "done lost running",
		"?state=unknown":                       "lost",
		"?state=unknown,in-flight":             "lost running",
		"?state=completed&state=in-flight":     "done running",
		"?scope=a":                             "lost running",
		"?scope=b&state=unknown":               "",
		"?state=forgotten":                     "",
		"?limit=1000&state=completed&scope=b":  "done",
		"?scope=" + url.QueryEscape("nowhere"): "",
	} {
		a := d.want(d.ask("GET", "/v1/records"+query, ""), 200)
		if strings.Contains(a.body, "null") {
			t.Errorf("%s: an empty list is [], not null: %s", query, a.body)
		}
		var got []string
		for _, r := range decodeInto[list](t, a).Records {
			got = append(got, r.Key)
		}
		if s := sorted(got); s != want {
			t.Errorf("%s: %q, want %q", query, s, want)
		}
	}
	for _, query := range []string{"?state=absent", "?state=", "?limit=0", "?limit=1001", "?limit=x", "?order=key", "?scope=a&scope=b", "?scope=%zz", "?after=no-page-of-mine"} {
		d.want(d.ask("GET", "/v1/records"+query, ""), 400)
	}
}

func TestRecordShowsWhatIsKnown(t *testing.T) {
	d := newDesk(t, nil)
	meta := (&idemhttp.Stored{Status: 201, Header: http.Header{"Location": {"/users/7"}, "X-Many": {"1", "2"}}, Length: 3}).AppendMeta(nil)
	d.completed("shop/anonymous", "k1", driver.Result{Meta: meta, Body: []byte("\xff\x00{")})
	r := decodeInto[shown](t, d.want(d.ask("GET", "/v1/records/shop%2Fanonymous/k1", ""), 200))
	if r.Scope != "shop/anonymous" || r.Key != "k1" || r.State != "completed" || r.Token == 0 || r.Attempt != 1 ||
		r.Age == nil || r.Left == nil || *r.Left <= 3000 || r.Dropped == nil || *r.Dropped || r.Note == nil || r.Hash != driver.KeyOf("shop/anonymous", "k1").Short() {
		t.Errorf("shown: %+v", r)
	}
	if r.Response == nil || r.Response.Status != 201 || r.Response.Headers.Get("Location") != "/users/7" ||
		fmt.Sprint(r.Response.Headers["X-Many"]) != "[1 2]" || string(r.Response.Body) != "\xff\x00{" {
		t.Errorf("response: %+v", r.Response)
	}

	d.unknown("s", "u")
	if r := decodeInto[shown](t, d.want(d.ask("GET", "/v1/records/s/u", ""), 200)); r.State != "unknown" || r.Response != nil {
		t.Errorf("shown: %+v", r)
	}
	d.want(d.ask("GET", "/v1/records/s/nothing", ""), 404)
	d.want(d.ask("GET", "/v1/records/s", ""), 404)
	d.want(d.ask("GET", "/v1/records/s/u/erase", ""), 404)
	d.want(d.ask("GET", "/v1/records/s/u/release", ""), 405)
	d.want(d.ask("DELETE", "/v1/records/s/u", ""), 405)
	d.want(d.ask("POST", "/v1/records", ""), 405)
}

// A result that was not recorded from HTTP is shown as the bytes that it is.
func TestResultThatIsNoResponse(t *testing.T) {
	d := newDesk(t, nil)
	d.completed("jobs", "j1", driver.Result{Meta: []byte("idem/json/1"), Body: []byte(`7`)})
	r := decodeInto[shown](t, d.want(d.ask("GET", "/v1/records/jobs/j1", ""), 200))
	if r.Response != nil || r.Result == nil || string(r.Result.Meta) != "idem/json/1" || string(r.Result.Body) != "7" {
		t.Errorf("shown: %+v", r)
	}
}

// Scopes and keys hold what they like; each is one segment, and the path that
// the list gives leads to its record and to no other.
func TestPathsOfOddNames(t *testing.T) {
	names := []string{"k", "a/b", "a%2Fb", "100%", "%zz", "two words", "é", "e\u0301", "日本", "..", ".", "a..b", "?x=1", "#frag", "a+b", "a;b", "\"q\"", "//", "release", "", "a\x00b", "\xff\xfe"}
	d := newDesk(t, nil)
	for _, scope := range names {
		for _, id := range names {
			if id != "" {
				d.unknown(scope, id)
			}
		}
	}
	n := 0
	for _, scope := range names {
		for _, id := range names {
			if id == "" {
				continue
			}
			n++
			a := d.ask("GET", "/v1/records/"+segment(scope)+"/"+segment(id), "")
			if a.status != 200 {
				t.Errorf("%q %q: %d %s", scope, id, a.status, a.body)
				continue
			}
			r := decodeInto[shown](t, a)
			if r.Hash != driver.KeyOf(scope, id).Short() {
				t.Errorf("%q %q: another record: %+v", scope, id, r)
			}
			if strings.Contains(r.Path+"/", "/../") || strings.Contains(r.Path+"/", "/./") {
				t.Errorf("%q %q: clients would mend its path %s", scope, id, r.Path)
			}
			if a := d.ask("GET", r.Path, ""); a.status != 200 || decodeInto[shown](t, a).Hash != r.Hash {
				t.Errorf("%q %q: its path %s leads elsewhere: %d", scope, id, r.Path, a.status)
			}
		}
	}
	if got := len(decodeInto[list](t, d.want(d.ask("GET", "/v1/records?limit=1000", ""), 200)).Records); got != n {
		t.Errorf("%d listed, want %d", got, n)
	}
	d.want(d.ask("POST", "/v1/records/a%2Fb/..%2F..", ""), 405)
	rel := d.want(d.ask("POST", "/v1/records/a%252Fb/%2F%2F/release", ""), 200)
	if r := decodeInto[shown](t, rel); r.Scope != "a%2Fb" || r.Key != "//" {
		t.Errorf("released: %+v", r)
	}
	if d.lookup("a/b", "//").State != driver.StateUnknown || d.lookup("a%2Fb", "//").State != driver.StateAbsent {
		t.Error("another record was released")
	}
}

func TestNamesLongerThanAnyRecords(t *testing.T) {
	d := newDesk(t, nil)
	long := strings.Repeat("x", driver.MaxName+1)
	d.want(d.ask("GET", "/v1/records/s/"+long, ""), 404)
}

// segment encodes every byte, which no client may take for anything else.
func segment(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

func sorted(s []string) string {
	slices.Sort(s)
	return strings.Join(s, " ")
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
