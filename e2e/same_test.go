package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"

	"github.com/idem-go/idem/e2e/internal/rig"
)

// other is a request under a key that another request has.
type other struct {
	name string
	req  rig.Request
}

// wantOthers checks that each of the requests is told apart from the first.
func wantOthers(t *testing.T, first rig.Request, others ...other) {
	t.Helper()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	one := p.Send(first)
	wantFirst(t, "the first", one, 201)
	for _, o := range others {
		o.req.Key = first.Key
		wantProblem(t, o.name, p.Send(o.req), 422, "key-reused")
	}
	wantRuns(t, up, strings.Trim(first.Key, `"`), 1)
	wantReplay(t, "the first again", one, p.Send(first))
}

// wantSames checks that each of the requests is a retry of the first.
func wantSames(t *testing.T, first rig.Request, others ...other) {
	t.Helper()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	one := p.Send(first)
	wantFirst(t, "the first", one, 201)
	for _, o := range others {
		if o.req.Key == "" {
			o.req.Key = first.Key
		}
		wantReplay(t, o.name, one, p.Send(o.req))
	}
	wantRuns(t, up, strings.Trim(first.Key, `"`), 1)
}

const jsonType = "Content-Type: application/json"

func TestTrap16AnotherBody(t *testing.T) {
	t.Parallel()
	wantOthers(t, rig.Request{Key: "k", Body: `{"amount":1}`},
		other{"another value", rig.Request{Body: `{"amount":2}`}},
		other{"another space", rig.Request{Body: `{"amount": 1}`}},
		other{"no body", rig.Request{}},
		other{"a prefix", rig.Request{Body: `{"amount":1`}},
		other{"in chunks", rig.Request{Body: `{"amount":2}`, Chunked: true}},
	)
}

func TestTrap17AnotherPathMethodOrQuery(t *testing.T) {
	t.Parallel()
	wantOthers(t, rig.Request{Key: "k", Path: "/a?x=1", Body: "{}"},
		other{"another path", rig.Request{Path: "/b?x=1", Body: "{}"}},
		other{"a longer path", rig.Request{Path: "/a/?x=1", Body: "{}"}},
		other{"an encoded path", rig.Request{Path: "/%61?x=1", Body: "{}"}},
		other{"another case", rig.Request{Path: "/A?x=1", Body: "{}"}},
		other{"another query", rig.Request{Path: "/a?x=2", Body: "{}"}},
		other{"no query", rig.Request{Path: "/a", Body: "{}"}},
		other{"a longer query", rig.Request{Path: "/a?x=1&y=2", Body: "{}"}},
		other{"another method", rig.Request{Method: "PATCH", Path: "/a?x=1", Body: "{}"}},
	)
}

// Another host is another scope: it runs, and never sees foreign data.
func TestTrap17AnotherHost(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	one := p.Send(rig.Request{Key: "k", Host: "a.test"})
	wantFirst(t, "a.test", one, 201)
	wantFirst(t, "b.test", p.Send(rig.Request{Key: "k", Host: "b.test"}), 201)
	wantFirst(t, "sub.a.test", p.Send(rig.Request{Key: "k", Host: "sub.a.test"}), 201)
	for _, host := range []string{"a.test:8080", "A.Test", "a.test.", "A.TEST.:80"} {
		wantReplay(t, host, one, p.Send(rig.Request{Key: "k", Host: host}))
	}
	for i, want := range []string{"a.test", "b.test", "sub.a.test"} {
		if got := up.Seen()[i].Host; got != want {
			t.Errorf("the service got Host %q, want %q", got, want)
		}
	}
}

// Another caller gets neither the body nor the cookie of the first.
func TestTrap18AnotherAuthorization(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, func(x *rig.Exchange) {
		x.Respond(201, "for "+x.Header.Get("Authorization"), "Set-Cookie: sid="+x.Header.Get("Authorization"))
	})
	p := rig.Start(t, up.URL())
	ask := func(lines ...string) rig.Reply { return p.Send(rig.Request{Key: "k", Header: lines, Body: "{}"}) }
	alice := ask("Authorization: Bearer alice")
	wantFirst(t, "alice", alice, 201)
	bob := ask("Authorization: Bearer bob")
	wantFirst(t, "bob", bob, 201)
	nobody := ask()
	wantFirst(t, "nobody", nobody, 201)
	if string(bob.Body) != "for Bearer bob" || string(nobody.Body) != "for " {
		t.Errorf("bob got %q, nobody %q", bob.Body, nobody.Body)
	}
	again := ask("Authorization: Bearer alice")
	wantReplay(t, "alice again", alice, again)
	if again.Header.Get("Set-Cookie") != "" {
		t.Errorf("a cookie is replayed: %v", again.Header)
	}
	wantReplay(t, "nobody again", nobody, ask())
	wantProblem(t, "two at once", ask("Authorization: Bearer alice", "Authorization: Bearer bob"), 400, "principal-missing")
	for _, rec := range p.Records("completed") {
		if strings.Contains(rec.Scope, "alice") || strings.Contains(rec.Path, "alice") {
			t.Errorf("the credential can be read in the record: %+v", rec)
		}
	}
	if strings.Contains(p.Log(), "alice") {
		t.Error("the credential is in the log")
	}
}

// A token that is refreshed between retries is still the same caller, where a
// header says who it is.
func TestTrap18RefreshedToken(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--scope=header:X-Tenant")
	one := p.Send(rig.Request{Key: "k", Header: []string{"X-Tenant: a", "Authorization: Bearer 1"}})
	wantFirst(t, "the first", one, 201)
	wantReplay(t, "with a new token", one, p.Send(rig.Request{Key: "k", Header: []string{"X-Tenant: a", "Authorization: Bearer 2"}}))
	wantFirst(t, "another tenant", p.Send(rig.Request{Key: "k", Header: []string{"X-Tenant: b", "Authorization: Bearer 1"}}), 201)
}

func TestTrap18NoPrincipal(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--scope=none")
	one := p.Send(rig.Request{Key: "k", Header: []string{"Authorization: Bearer 1"}})
	wantFirst(t, "the first", one, 201)
	wantReplay(t, "with another credential", one, p.Send(rig.Request{Key: "k", Header: []string{"Authorization: Bearer 2"}}))
}

func TestTrap19SameBodyOtherKeys(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	for i := range 5 {
		wantFirst(t, "one of five", p.Post(fmt.Sprint(i), "{}"), 201)
	}
	if up.Total() != 5 {
		t.Errorf("%d runs", up.Total())
	}
}

// However the body is framed, it is what is compared.
func TestTrap20ChunkedBodies(t *testing.T) {
	t.Parallel()
	wantSames(t, rig.Request{Key: "k", Body: `{"a":"0123456789"}`, Chunked: true},
		other{"in chunks again", rig.Request{Body: `{"a":"0123456789"}`, Chunked: true}},
		other{"with a length", rig.Request{Body: `{"a":"0123456789"}`}},
	)
	wantOthers(t, rig.Request{Key: "k", Body: "one", Chunked: true},
		other{"another one in chunks", rig.Request{Body: "two", Chunked: true}},
		other{"none in chunks", rig.Request{Chunked: true}},
	)
}

func TestTrap20BodiesThatLookAlike(t *testing.T) {
	t.Parallel()
	for name, pair := range map[string][2]string{
		"numbers beyond a double": {`{"n":9007199254740992}`, `{"n":9007199254740993}`},
		"invalid UTF-8":           {"{\"s\":\"\xff\"}", "{\"s\":\"\xfe\"}"},
		"a repeated member":       {`{"a":1,"a":2}`, `{"a":2}`},
		"case of a member":        {`{"a":1}`, `{"A":1}`},
		"composed and decomposed": {"{\"s\":\"\u00e9\"}", "{\"s\":\"e\u0301\"}"},
	} {
		t.Run(name, func(t *testing.T) {
			wantOthers(t, rig.Request{Key: "k", Header: []string{jsonType}, Body: pair[0]},
				other{"the other", rig.Request{Header: []string{jsonType}, Body: pair[1]}})
		})
	}
}

// Over the limit it is refused, never passed on unprotected: the table's test is
// TestAnswerRequestTooLarge; here two of them race.
func TestTrap21OverTheLimitNeverRuns(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--max-request-body=1KiB")
	var replies []<-chan rig.Reply
	for i := range 8 {
		replies = append(replies, async(t, p, rig.Request{Key: "k", Body: fill(5000), Chunked: i%2 == 0}))
	}
	for _, r := range replies {
		wantProblem(t, "over the limit", rig.Receive(t, "an answer", r), 413, "request-too-large")
	}
	if up.Total() != 0 {
		t.Errorf("%d runs", up.Total())
	}
}

func TestTrap22KeysByteForByte(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	ids := []string{"ABC", "abc", "Abc", `"abc "`, `" abc"`, `"a bc"`, "abc.", "abc%20", "abc+", "a/b", "a%2Fb", "..", ".", "../abc", "*", `"a,b"`, `"\\"`, `"\""`}
	var first []rig.Reply
	for _, id := range ids {
		r := p.Post(id, "{}")
		wantFirst(t, id, r, 201)
		first = append(first, r)
	}
	for i, id := range ids {
		wantReplay(t, id, first[i], p.Post(id, "{}"))
	}
	if up.Total() != len(ids) {
		t.Errorf("%d runs for %d keys", up.Total(), len(ids))
	}
	// Each is found under its path on the admin address.
	for _, rec := range p.Records("completed") {
		if got := p.Ask("GET", rec.Path, ""); got.Status != 200 {
			t.Errorf("%q at %s: %v", rec.Key, rec.Path, got)
		}
	}
}

func TestTrap23QuotedAndBareAreOneKey(t *testing.T) {
	t.Parallel()
	wantSames(t, rig.Request{Key: "k-1", Body: "{}"},
		other{"quoted", rig.Request{Key: `"k-1"`, Body: "{}"}},
		other{"with space around", rig.Request{Key: `  "k-1"	`, Body: "{}"}},
		other{"bare", rig.Request{Key: "k-1", Body: "{}"}},
	)
}

// Tenant a:b with key c, and tenant a with key b:c, never meet.
func TestTrap24ScopesNeverMeet(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL(), "--scope=header:X-Tenant")
	pairs := [][2]string{{"a:b", "c"}, {"a", "b:c"}, {"a/b", "c"}, {"a", "b/c"}, {"a%2Fb", "c"}, {"*", "c"}, {"%2A", "c"}, {"anonymous", "c"}}
	var first []rig.Reply
	ask := func(pair [2]string) rig.Reply {
		return p.Send(rig.Request{Key: pair[1], Header: []string{"X-Tenant: " + pair[0]}})
	}
	for _, pair := range pairs {
		r := ask(pair)
		wantFirst(t, fmt.Sprint(pair), r, 201)
		first = append(first, r)
	}
	for i, pair := range pairs {
		wantReplay(t, fmt.Sprint(pair), first[i], ask(pair))
	}
}

// A method that is not keyed is never claimed, whatever it carries.
func TestTrap25UnkeyedMethods(t *testing.T) {
	t.Parallel()
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PROPFIND"} {
		for range 2 {
			r := p.Send(rig.Request{Method: method, Key: "k", NoLength: true})
			if r.Status != 201 || r.Replayed() {
				t.Errorf("%s: %v", method, r)
			}
		}
	}
	wantRuns(t, up, "k", 12)
	if all := p.Records("in-flight", "completed", "unknown", "forgotten"); len(all) != 0 {
		t.Errorf("there are records: %+v", all)
	}
	wantFirst(t, "a POST with that key", p.Post("k", "{}"), 201)
}

// Headers that change with every retry do not make another request.
func TestTrap25HeadersThatChange(t *testing.T) {
	t.Parallel()
	wantSames(t, rig.Request{Key: "k", Body: "{}", Header: []string{"Traceparent: 00-1-1-01", "Date: Tue, 24 Nov 2026 10:00:00 GMT", "X-Nonce: 1", "User-Agent: a", "Accept: */*"}},
		other{"others", rig.Request{Body: "{}", Header: []string{"Traceparent: 00-2-2-01", "Date: Tue, 24 Nov 2026 11:00:00 GMT", "X-Nonce: 2", "User-Agent: b", "Accept: text/html", "Cookie: a=b"}}},
		other{"none", rig.Request{Body: "{}"}},
	)
}

// A file that is uploaded again has another boundary, and is the same request.
func TestTrap59NewBoundary(t *testing.T) {
	t.Parallel()
	form := func(boundary, content string) rig.Request {
		return rig.Request{Key: "k", Header: []string{"Content-Type: multipart/form-data; boundary=" + boundary},
			Body: "--" + boundary + "\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\n" + content + "\r\n--" + boundary + "--\r\n"}
	}
	wantSames(t, form("one", "content"), other{"another boundary", form("two", "content")})
	wantOthers(t, form("one", "content"), other{"another content", form("one", "other")}, other{"both", form("two", "other")})
}

func TestTrap59ContentTypeAndEncoding(t *testing.T) {
	t.Parallel()
	typed := func(lines ...string) rig.Request { return rig.Request{Key: "k", Body: "{}", Header: lines} }
	first := typed("Content-Type: application/json;charset=UTF-8")
	wantSames(t, first,
		other{"space and case", typed("Content-Type: application/json; charset=utf-8")},
		other{"case of the type", typed("Content-Type: Application/JSON; Charset=\"utf-8\"")},
	)
	wantOthers(t, first,
		other{"another type", typed("Content-Type: text/plain; charset=utf-8")},
		other{"another charset", typed("Content-Type: application/json; charset=latin1")},
		other{"no type", typed()},
		other{"another coding", typed("Content-Type: application/json;charset=UTF-8", "Content-Encoding: gzip")},
	)
}

// A compressed body reaches the service as it is.
func TestTrap59CompressedRequest(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	up := rig.NewUpstream(t, nil)
	p := rig.Start(t, up.URL())
	r := rig.Request{Key: "k", Body: b.String(), Header: []string{jsonType, "Content-Encoding: gzip"}}
	one := p.Send(r)
	wantFirst(t, "the first", one, 201)
	wantReplay(t, "the retry", one, p.Send(r))
	if got := up.Seen()[0]; got.Body != b.String() || got.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("the service got %q %v", got.Body, got.Header)
	}
}
