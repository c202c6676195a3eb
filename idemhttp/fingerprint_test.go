package idemhttp_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/idemhttp"
)

func sum(t *testing.T, f *idemhttp.Fingerprinting, rule uint8, p idemhttp.Parts) driver.Fingerprint {
	t.Helper()
	fp, ok := f.Sum(rule, &p)
	if !ok || fp.Rule != rule || fp.IsZero() {
		t.Fatalf("Sum(%d) = %v, %v", rule, fp, ok)
	}
	return fp
}

func members(t *testing.T, pointers ...string) *idemhttp.Fingerprinting {
	t.Helper()
	f, err := idemhttp.ChosenMembers(pointers...)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// post is a JSON request, with changes.
func post(body string, changes ...func(*idemhttp.Parts)) idemhttp.Parts {
	p := idemhttp.Parts{Method: "POST", Path: "/users", ContentType: "application/json", Body: []byte(body)}
	for _, change := range changes {
		change(&p)
	}
	return p
}

func contentType(s string) func(*idemhttp.Parts) {
	return func(p *idemhttp.Parts) { p.ContentType = s }
}

func contentEncoding(s string) func(*idemhttp.Parts) {
	return func(p *idemhttp.Parts) { p.ContentEncoding = s }
}

// allDiffer holds that no two of the requests have one fingerprint.
func allDiffer(t *testing.T, f *idemhttp.Fingerprinting, requests map[string]idemhttp.Parts) {
	t.Helper()
	seen := map[driver.Fingerprint]string{}
	for name, p := range requests {
		fp := sum(t, f, f.Rule(), p)
		if other, ok := seen[fp]; ok {
			t.Errorf("%s and %s have one fingerprint", name, other)
		}
		seen[fp] = name
	}
}

// allSame holds that the requests have one fingerprint.
func allSame(t *testing.T, f *idemhttp.Fingerprinting, requests ...idemhttp.Parts) {
	t.Helper()
	first := sum(t, f, f.Rule(), requests[0])
	for i, p := range requests[1:] {
		if sum(t, f, f.Rule(), p) != first {
			t.Errorf("request %d (%s, %q, %q) has another fingerprint than the first", i+1, p.ContentType, p.ContentEncoding, p.Body)
		}
	}
}

// Traps 16, 17 and 24: each part counts, and none passes for another.
func TestTrap16And17EveryPartCounts(t *testing.T) {
	requests := map[string]idemhttp.Parts{
		"base":           post(`{"a":1}`),
		"another body":   post(`{"a":2}`),
		"empty body":     post(``),
		"another method": post(`{"a":1}`, func(p *idemhttp.Parts) { p.Method = "PATCH" }),
		"another path":   post(`{"a":1}`, func(p *idemhttp.Parts) { p.Path = "/users/" }),
		"escaped path":   post(`{"a":1}`, func(p *idemhttp.Parts) { p.Path = "/user%73" }),
		"query":          post(`{"a":1}`, func(p *idemhttp.Parts) { p.RawQuery = "x=1" }),
		"query in path":  post(`{"a":1}`, func(p *idemhttp.Parts) { p.Path = "/users?x=1" }),
		"another type":   post(`{"a":1}`, contentType("text/plain")),
		"no type":        post(`{"a":1}`, contentType("")),
		"moved boundary": post(`{"a":1}`, func(p *idemhttp.Parts) { p.Method, p.Path = "POST/", "users" }),
		"zeros":          post("\x00"),
		"two zeros":      post("\x00\x00"),
	}
	for _, f := range []*idemhttp.Fingerprinting{idemhttp.Whole(), idemhttp.CanonicalJSON(), members(t, "/a", "/b")} {
		allDiffer(t, f, requests)
	}
}

// Trap 20: numbers that a double confuses, invalid UTF-8, repeated members.
func TestTrap20BodiesThatParsersConfuse(t *testing.T) {
	requests := map[string]idemhttp.Parts{
		"…992":              post(`{"a":9007199254740992}`),
		"…993":              post(`{"a":9007199254740993}`),
		"…993.0":            post(`{"a":9007199254740993.0}`),
		"1e400":             post(`{"a":1e400}`),
		"2e400":             post(`{"a":2e400}`),
		"ff":                post("{\"a\":\"\xff\"}"),
		"fe":                post("{\"a\":\"\xfe\"}"),
		"replacement":       post(`{"a":"\ufffd"}`),
		"half a pair":       post(`{"a":"\ud800"}`),
		"another half":      post(`{"a":"\ud801"}`),
		"first member":      post(`{"a":1}`),
		"repeated":          post(`{"a":1,"a":2}`),
		"repeated, swapped": post(`{"a":2,"a":1}`),
		"last member":       post(`{"a":2}`),
	}
	for _, f := range []*idemhttp.Fingerprinting{idemhttp.Whole(), idemhttp.CanonicalJSON(), members(t, "/a")} {
		allDiffer(t, f, requests)
	}
}

func TestCanonicalJSONFingerprint(t *testing.T) {
	f := idemhttp.CanonicalJSON()
	allSame(t, f,
		post(`{"b":[1.0,"é"],"a":null}`),
		post(" {\n\"a\" : null, \"b\": [1, \"\\u00e9\"] }"),
		post(`{"a":null,"b":[10e-1,"é"]}`))
	allSame(t, f, post(`{"a":1}`, contentType("application/merge-patch+json")), post(`{ "a": 1 }`, contentType("application/Merge-Patch+JSON")))
	allDiffer(t, f, map[string]idemhttp.Parts{
		"text":         post(`{"a":1}`, contentType("text/plain")),
		"spaced text":  post(`{"a": 1}`, contentType("text/plain")),
		"compressed":   post(`{"a":1}`, contentEncoding("gzip")),
		"spaced too":   post(`{"a": 1}`, contentEncoding("gzip")),
		"latin-1":      post(`{"a":1}`, contentType("application/json; charset=latin1")),
		"latin-1 too":  post(`{"a": 1}`, contentType("application/json; charset=latin1")),
		"JSON":         post(`{"a":1}`),
		"null":         post(`{"a":null}`),
		"missing":      post(`{}`),
		"a list":       post(`[]`),
		"a string":     post(`"1"`),
		"a number":     post(`1`),
		"bytes of '1'": post(`1`, contentType("application/octet-stream")),
	})
}

// A body that was compared by its bytes never has the fingerprint of one in
// canonical form, even where the bytes are those of that form.
func TestBytesNeverPassForAForm(t *testing.T) {
	f := idemhttp.CanonicalJSON()
	canonical := sum(t, f, f.Rule(), post(`{"a":1}`))
	for _, typ := range []string{"application/json;charset=latin1", "text/plain"} {
		if sum(t, f, f.Rule(), post(`{"a":1}`, contentType(typ))) == canonical {
			t.Errorf("%s was taken for JSON", typ)
		}
	}
	// Rules too are kept apart, where they compare the very same things.
	p := post("x", contentType("text/plain"))
	if sum(t, f, idemhttp.RuleWhole, p).Sum == sum(t, f, idemhttp.RuleCanonicalJSON, p).Sum {
		t.Error("two rules give one sum")
	}
}

// Trap 25: what changes with every retry does not make another request.
func TestTrap25ChosenMembers(t *testing.T) {
	f := members(t, "/amount", "/to/id", "/amount")
	allSame(t, f,
		post(`{"amount":1,"to":{"id":"x","seen":1},"at":"2026-01-01"}`),
		post(`{"at":"2026-01-02","trace":1760000000123456789,"to":{"id":"\u0078"},"amount":1.0}`))
	allSame(t, f, post(`{"to":{"id":"x"}}`), post(`{"to":{"id":"x"},"amounts":3}`))
	allDiffer(t, f, map[string]idemhttp.Parts{
		"base":               post(`{"amount":1,"to":{"id":"x"}}`),
		"another amount":     post(`{"amount":2,"to":{"id":"x"}}`),
		"another id":         post(`{"amount":1,"to":{"id":"y"}}`),
		"missing":            post(`{"to":{"id":"x"}}`),
		"null":               post(`{"amount":null,"to":{"id":"x"}}`),
		"text":               post(`{"amount":"1","to":{"id":"x"}}`),
		"swapped":            post(`{"amount":"x","to":{"id":1}}`),
		"twice":              post(`{"amount":1,"amount":1,"to":{"id":"x"}}`),
		"twice, other bytes": post(`{"amount":1,"amount": 1,"to":{"id":"x"}}`),
		"beyond a double":    post(`{"amount":9007199254740993,"to":{"id":"x"}}`),
		"its neighbour":      post(`{"amount":9007199254740992,"to":{"id":"x"}}`),
		"no JSON":            post(`{"amount":1,"to":{"id":"x"}`),
		"not an object":      post(`[]`),
	})
	// The pointers are part of it, their order is not.
	p := post(`{"to":{"id":"x"},"amount":1}`)
	if sum(t, f, f.Rule(), p) != sum(t, members(t, "/to/id", "/amount"), f.Rule(), p) {
		t.Error("the order of pointers counts")
	}
	if sum(t, members(t, "/x"), f.Rule(), p) == sum(t, members(t, "/y"), f.Rule(), p) {
		t.Error("other pointers that find nothing either have the same fingerprint")
	}
	for _, bad := range [][]string{nil, {"amount"}, {"/a", "/~"}} {
		if _, err := idemhttp.ChosenMembers(bad...); err == nil || !strings.HasPrefix(err.Error(), "idemhttp: ") {
			t.Errorf("ChosenMembers(%q): %v", bad, err)
		}
	}
}

// Trap 25: headers other than the content's never count.
func TestTrap25HeadersDoNotCount(t *testing.T) {
	f := idemhttp.Whole()
	traced := func(trace string) driver.Fingerprint {
		r := httptest.NewRequest("POST", "/users?x=%20", strings.NewReader("b"))
		r.Header.Set("Traceparent", trace)
		r.Header.Set("Date", trace)
		r.Header.Set("Content-Type", "text/plain")
		p, err := f.Parts(r, []byte("b"))
		if err != nil {
			t.Fatal(err)
		}
		return sum(t, f, f.Rule(), p)
	}
	if traced("1") != traced("2") {
		t.Error("a header that changes made another request")
	}
}

// Trap 59: the content type in its many spellings; a content encoding counts.
func TestTrap59ContentTypes(t *testing.T) {
	for _, f := range []*idemhttp.Fingerprinting{idemhttp.Whole(), idemhttp.CanonicalJSON()} {
		allSame(t, f,
			post(`{}`, contentType("application/json;charset=UTF-8")),
			post(`{}`, contentType("application/json; charset=utf-8")),
			post(`{}`, contentType("application/json; charset=UTF-8")),
			post(`{}`, contentType("application/json;charset=utf-8")),
			post(`{}`, contentType("Application/JSON ;  Charset=\"Utf-8\"")))
		allSame(t, f,
			post(`x`, contentType(`text/plain; b="y z"; a=X`)),
			post(`x`, contentType(`text/PLAIN;a="X";B="y z"`)))
		allSame(t, f, post(`x`, contentEncoding("gzip, br")), post(`x`, contentEncoding("GZIP,BR")), post(`x`, contentEncoding("gzip\nbr")))
		allDiffer(t, f, map[string]idemhttp.Parts{
			"plain":                post(`{}`),
			"charset":              post(`{}`, contentType("application/json;charset=utf-8")),
			"another charset":      post(`{}`, contentType("application/json;charset=utf-16")),
			"charset in a name":    post(`{}`, contentType(`application/json;x="1;charset=utf-8"`)),
			"case of a value":      post(`{}`, contentType("application/json;v=a")),
			"case of another":      post(`{}`, contentType("application/json;v=A")),
			"unparsable":           post(`{}`, contentType("application/json;;=")),
			"unparsable, spelt":    post(`{}`, contentType("Application/json;;=")),
			"two lines":            post(`{}`, contentType("application/json\napplication/json")),
			"gzip":                 post(`{}`, contentEncoding("gzip")),
			"gzip and br":          post(`{}`, contentEncoding("gzip,br")),
			"br and gzip":          post(`{}`, contentEncoding("br,gzip")),
			"what it is made into": post(`{}`, contentType(`application/json;charset="utf-8";x=""`)),
		})
	}
}

// form is a multipart body with that boundary.
func form(boundary string, parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&b, "--%s\r\n%s\r\n", boundary, p)
	}
	return b.String() + "--" + boundary + "--\r\n"
}

func formOf(boundary, body string) idemhttp.Parts {
	return post(body, contentType("multipart/form-data; boundary="+boundary))
}

// Trap 59: a file upload is tried again with another boundary.
func TestTrap59MultipartBoundaries(t *testing.T) {
	const (
		name = "Content-Disposition: form-data; name=\"a\"\r\n\r\n1"
		file = "Content-Disposition: form-data; name=\"f\"; filename=\"x/y.png\"\r\nContent-Type: image/png\r\n\r\n\x89PNG\r\n\x00--B"
	)
	for _, f := range []*idemhttp.Fingerprinting{idemhttp.Whole(), idemhttp.CanonicalJSON(), members(t, "/a")} {
		allSame(t, f,
			formOf("AAAA", form("AAAA", name, file)),
			formOf("BBBB", form("BBBB", name, file)),
			formOf(`"C C"`, form("C C", name, file)))
		allDiffer(t, f, map[string]idemhttp.Parts{
			"both":            formOf("A", form("A", name, file)),
			"swapped":         formOf("A", form("A", file, name)),
			"one":             formOf("A", form("A", name)),
			"one twice":       formOf("A", form("A", name, name)),
			"none":            formOf("A", form("A")),
			"another name":    formOf("A", form("A", strings.Replace(name, `"a"`, `"b"`, 1))),
			"another content": formOf("A", form("A", name+"1")),
			"another folder":  formOf("A", form("A", name, strings.Replace(file, "x/", "z/", 1))),
			"another type":    formOf("A", form("A", name, strings.Replace(file, "image/png", "image/gif", 1))),
			"another charset": post(form("A", name, file), contentType("multipart/form-data; boundary=A; charset=x")),
			"compressed":      post(form("A", name, file), contentType("multipart/form-data; boundary=A"), contentEncoding("gzip")),
			"mixed":           post(form("A", name, file), contentType("multipart/mixed; boundary=A")),
			"text":            post(form("A", name, file), contentType("text/plain")),
		})
		// What is not whole is compared by its bytes, the boundary with them.
		cut := strings.TrimSuffix(form("A", name, file), "--A--\r\n")
		allDiffer(t, f, map[string]idemhttp.Parts{
			"cut":            formOf("A", cut),
			"cut elsewhere":  formOf("A", cut[:len(cut)-1]),
			"other boundary": formOf("B", strings.ReplaceAll(cut, "--A", "--B")),
			"wrong boundary": formOf("C", form("A", name, file)),
			"no boundary":    post(form("A", name, file), contentType("multipart/form-data")),
			"empty":          formOf("A", ""),
			"empty too":      formOf("B", ""),
			"bad header":     formOf("A", form("A", "no colon\r\n\r\n1")),
			"bad header too": formOf("A", form("A", "no colon\r\n\r\n2")),
			"encoded":        formOf("A", form("A", "Content-Transfer-Encoding: quoted-printable\r\n\r\n=41")),
			"decoded":        formOf("A", form("A", "Content-Transfer-Encoding: quoted-printable\r\n\r\nA")),
		})
	}
}

// Trap 60: records are compared by the rule that they were made by, whatever
// the rule is now; a rule that is not known is said to be so.
func TestTrap60RulesByNumber(t *testing.T) {
	p := post(`{"a":1}`)
	whole, canonical, chosen := idemhttp.Whole(), idemhttp.CanonicalJSON(), members(t, "/a")
	if sum(t, whole, idemhttp.RuleCanonicalJSON, p) != sum(t, canonical, canonical.Rule(), p) ||
		sum(t, chosen, idemhttp.RuleWhole, p) != sum(t, whole, whole.Rule(), p) {
		t.Error("a rule depends on who computes it")
	}
	for _, f := range []*idemhttp.Fingerprinting{whole, canonical, chosen} {
		for _, rule := range []uint8{0, idemhttp.RuleCustom, 5, 255} {
			if fp, ok := f.Sum(rule, &p); ok || !fp.IsZero() {
				t.Errorf("the rule %d was taken for known", rule)
			}
		}
	}
	if _, ok := whole.Sum(idemhttp.RuleMembers, &p); ok {
		t.Error("chosen members without members")
	}
	if new(idemhttp.Fingerprinting).Rule() != idemhttp.RuleWhole {
		t.Error("the zero value compares the whole request")
	}
}

// Trap 60: the fingerprints of every rule are what they were.
func TestTrap60GoldenFingerprints(t *testing.T) {
	custom := idemhttp.CustomFingerprint(func(*http.Request, []byte) ([]byte, error) { return []byte("chosen"), nil })
	request, err := custom.Parts(httptest.NewRequest("POST", "/users?x=1", nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	values := map[string]string{}
	add := func(name string, f *idemhttp.Fingerprinting, p idemhttp.Parts) {
		fp := sum(t, f, f.Rule(), p)
		names = append(names, name)
		values[name] = fmt.Sprintf("%d:%x", fp.Rule, fp.Sum)
	}
	json := post(`{"b": 1.0, "a": {"id": "é", "n": null}}`, func(p *idemhttp.Parts) { p.Path, p.RawQuery = "/a%20b", "q=%C3%A9&r" })
	upload := formOf("B", form("B", "Content-Disposition: form-data; name=\"f\"; filename=\"x.txt\"\r\nContent-Type: text/plain\r\n\r\ntext"))
	inexact := post(`{"a":9007199254740993}`)
	spelt := post("x", contentType(`text/Plain; Charset=UTF-8; v="a\"b"`), contentEncoding("GZIP, br"))
	for _, f := range []struct {
		name string
		f    *idemhttp.Fingerprinting
	}{{"whole", idemhttp.Whole()}, {"canonical", idemhttp.CanonicalJSON()}, {"members", members(t, "/a/id", "/a/n", "/c")}} {
		add(f.name+"/json", f.f, json)
		add(f.name+"/multipart", f.f, upload)
		add(f.name+"/inexact", f.f, inexact)
		add(f.name+"/spelt", f.f, spelt)
		add(f.name+"/unparsable", f.f, post("x", contentType("text")))
		add(f.name+"/empty", f.f, idemhttp.Parts{Method: "POST", Path: "/"})
	}
	add("custom", custom, request)
	checkGolden(t, "fingerprints.golden", names, values)
}

func TestPartsOfARequest(t *testing.T) {
	var got idemhttp.Parts
	h := http.StripPrefix("/v1", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got, _ = idemhttp.Whole().Parts(r, []byte("b"))
	}))
	r := httptest.NewRequest("POST", "/v1/a%2Fb?x=1&y", nil)
	r.Header["Content-Type"] = []string{"a/b", "c/d"}
	r.Header["Content-Encoding"] = []string{"gzip"}
	h.ServeHTTP(httptest.NewRecorder(), r)
	if got.Method != "POST" || got.Path != "/v1/a%2Fb" || got.RawQuery != "x=1&y" || got.ContentType != "a/b\nc/d" || got.ContentEncoding != "gzip" || string(got.Body) != "b" {
		t.Errorf("%+v", got)
	}
	out, err := idemhttp.Whole().Parts(&http.Request{Method: "PATCH", URL: &url.URL{Path: "/a b"}}, nil)
	if err != nil || out.Path != "/a%20b" {
		t.Errorf("a request of a client's: %+v, %v", out, err)
	}
}

func TestCustomFingerprint(t *testing.T) {
	calls := 0
	f := idemhttp.CustomFingerprint(func(r *http.Request, body []byte) ([]byte, error) {
		calls++
		if r.Header.Get("X-Bad") != "" {
			return nil, errors.New("no such thing")
		}
		return body[:min(1, len(body))], nil
	})
	of := func(path, body string) driver.Fingerprint {
		p, err := f.Parts(httptest.NewRequest("POST", path, nil), []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return sum(t, f, f.Rule(), p)
	}
	if of("/a", "xy") != of("/a", "xz") || of("/a", "x") == of("/a", "y") || of("/a", "x") == of("/b", "x") || of("/a", "") == of("/a", "x") {
		t.Error("what counts is the method, the path, and what the function says")
	}
	if calls != 8 {
		t.Errorf("the function was called %d times for 8 requests", calls)
	}
	bad := httptest.NewRequest("POST", "/", nil)
	bad.Header.Set("X-Bad", "1")
	if _, err := f.Parts(bad, nil); err == nil || !strings.HasPrefix(err.Error(), "idemhttp: ") {
		t.Errorf("its error was lost: %v", err)
	}
}

func TestWholeFingerprintDoesNotAllocate(t *testing.T) {
	f := idemhttp.Whole()
	r := httptest.NewRequest("POST", "/users", nil)
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	body := []byte(strings.Repeat(`{"a":1}`, 100))
	if n := testing.AllocsPerRun(100, func() {
		p, _ := f.Parts(r, body)
		_, _ = f.Sum(f.Rule(), &p)
	}); n != 0 {
		t.Errorf("a fingerprint takes %v allocations", n)
	}
}

func BenchmarkFingerprint(b *testing.B) {
	body := []byte(`{"items":[` + strings.Repeat(`{"name":"a b","price":12.50,"id":1234},`, 25) + `{}],"customer":"c"}`)
	chosen, err := idemhttp.ChosenMembers("/customer")
	if err != nil {
		b.Fatal(err)
	}
	for _, bm := range []struct {
		name string
		f    *idemhttp.Fingerprinting
	}{{"whole", idemhttp.Whole()}, {"canonical", idemhttp.CanonicalJSON()}, {"members", chosen}} {
		b.Run(bm.name, func(b *testing.B) {
			p := post(string(body))
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				_, _ = bm.f.Sum(bm.f.Rule(), &p)
			}
		})
	}
}
