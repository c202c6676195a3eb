package idemhttp_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/idem-go/idem/idemhttp"
)

func jsonField(t *testing.T, at string) idemhttp.KeySource {
	t.Helper()
	s, err := idemhttp.JSONField(at)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// keyCase is a request and the key that a source finds in it: "" for none, "!"
// for an error.
type keyCase struct {
	name   string
	header http.Header
	body   string
	want   string
}

func checkKeys(t *testing.T, s idemhttp.KeySource, cases []keyCase) {
	t.Helper()
	for _, c := range cases {
		id, ok, err := s.Key(c.header, []byte(c.body))
		var keyErr *idemhttp.KeyError
		switch {
		case c.want == "!":
			if !errors.As(err, &keyErr) {
				t.Errorf("%s: %q, %v, %v; want a KeyError", c.name, id, ok, err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case id != c.want || ok != (c.want != ""):
			t.Errorf("%s: %q, %v; want %q", c.name, id, ok, c.want)
		}
	}
}

// Trap 23: two header lines, or a list with a comma, are refused.
func TestTrap23OneHeaderLine(t *testing.T) {
	checkKeys(t, idemhttp.HeaderKey(), []keyCase{
		{"none", http.Header{}, "", ""},
		{"one", http.Header{"Idempotency-Key": {`"k"`}}, "", "k"},
		{"empty", http.Header{"Idempotency-Key": {""}}, "", "!"},
		{"two lines", http.Header{"Idempotency-Key": {"a", "b"}}, "", "!"},
		{"the same twice", http.Header{"Idempotency-Key": {"a", "a"}}, "", "!"},
		{"a list", http.Header{"Idempotency-Key": {"a, b"}}, "", "!"},
	})
}

func TestHeaderNames(t *testing.T) {
	s := idemhttp.HeaderKey("paypal-request-id", "Idempotency-Key")
	checkKeys(t, s, []keyCase{
		{"first", http.Header{"Paypal-Request-Id": {"a"}}, "", "a"},
		{"second", http.Header{"Idempotency-Key": {"a"}}, "", "a"},
		{"both, equal", http.Header{"Paypal-Request-Id": {"a"}, "Idempotency-Key": {`"a"`}}, "", "a"},
		{"both, different", http.Header{"Paypal-Request-Id": {"a"}, "Idempotency-Key": {"b"}}, "", "!"},
		{"both, one bad", http.Header{"Paypal-Request-Id": {"a"}, "Idempotency-Key": {"b c"}}, "", "!"},
		{"another", http.Header{"X-Request-Id": {"a"}}, "", ""},
	})
	if s.NeedsBody() {
		t.Error("a header is not in the body")
	}
	h := http.Header{"Paypal-Request-Id": {"a"}}
	if n := testing.AllocsPerRun(100, func() { _, _, _ = s.Key(h, nil) }); n != 0 {
		t.Errorf("a header's key takes %v allocations", n)
	}
}

func TestJSONField(t *testing.T) {
	isJSON := http.Header{"Content-Type": {"application/json; charset=utf-8"}}
	s := jsonField(t, "/meta/requestId")
	if !s.NeedsBody() {
		t.Error("a member of the body is in the body")
	}
	checkKeys(t, s, []keyCase{
		{"there", isJSON, ` {"x":[1,{}], "meta" : {"requestId" : "k 1"}} `, "body§k 1"},
		{"without a content type", http.Header{}, `{"meta":{"requestId":"k"}}`, "body§k"},
		{"escapes", isJSON, `{"met\u0061":{"requestId":"\u00e9\ud83d\ude00\""}}`, "body§é😀\""},
		{"no body", isJSON, ``, ""},
		{"missing", isJSON, `{"requestId":"k","meta":{}}`, ""},
		{"missing on the way", isJSON, `{"meta":"requestId"}`, ""},
		{"null", isJSON, `{"meta":{"requestId":null}}`, ""},
		{"no JSON, and does not say so", http.Header{"Content-Type": {"text/plain"}}, `meta=1`, ""},
		{"no JSON, and says so", isJSON, `{"meta":{"requestId":"k",}}`, "!"},
		{"two texts", isJSON, `{"meta":{"requestId":"k"}} {}`, "!"},
		{"no UTF-8", isJSON, "{\"meta\":{\"requestId\":\"\xff\"}}", "!"},
		{"half a pair", isJSON, `{"meta":{"requestId":"\ud83d"}}`, "!"},
		{"half a pair and a letter", isJSON, `{"meta":{"requestId":"\ud83dx\u0041zzzz"}}`, "!"},
		{"the other half", isJSON, `{"meta":{"requestId":"\ude00\ud83d"}}`, "!"},
		{"a number", isJSON, `{"meta":{"requestId":1}}`, "!"},
		{"empty", isJSON, `{"meta":{"requestId":""}}`, "!"},
		{"spaces", isJSON, `{"meta":{"requestId":"  \n"}}`, "!"},
		{"given twice", isJSON, `{"meta":{"requestId":"a","requestI\u0064":"b"}}`, "!"},
		{"the way given twice", isJSON, `{"meta":{"requestId":"a"},"meta":{}}`, "!"},
		{"another given twice", isJSON, `{"x":1,"x":2,"meta":{"requestId":"a"}}`, "body§a"},
		{"255", isJSON, `{"meta":{"requestId":"` + strings.Repeat("é", 255) + `"}}`, "body§" + strings.Repeat("é", 255)},
		{"256", isJSON, `{"meta":{"requestId":"` + strings.Repeat("x", 256) + `"}}`, "!"},
	})
}

// The examples of RFC 6901, section 5.
func TestJSONPointer(t *testing.T) {
	const doc = `{"foo":["bar","baz"],"":"0","a/b":"1","c%d":"2","e^f":"3","g|h":"4","i\\j":"5","k\"l":"6"," ":"7","m~n":"8","arr":[[],{"x":["y"]}]}`
	for at, want := range map[string]string{
		"/foo/0": "bar", "/foo/1": "baz", "/": "0", "/a~1b": "1", "/c%d": "2", "/e^f": "3", "/g|h": "4",
		`/i\j`: "5", `/k"l`: "6", "/ ": "7", "/m~0n": "8", "/arr/1/x/0": "y",
		"/foo/2": "", "/foo/-": "", "/foo/00": "", "/foo/01": "", "/foo/x": "", "/foo/": "", "/foo/9999999999": "", "/m~01": "",
	} {
		if want != "" {
			want = "body§" + want
		}
		checkKeys(t, jsonField(t, at), []keyCase{{at, http.Header{}, doc, want}})
	}
	for _, at := range []string{"foo", "/~", "/~2", "/a~", "/\xff"} {
		if _, err := idemhttp.JSONField(at); err == nil {
			t.Errorf("the pointer %q was taken", at)
		}
	}
}

func TestCloudEvents(t *testing.T) {
	structured := http.Header{"Content-Type": {"Application/CloudEvents+JSON; charset=utf-8"}}
	binary := func(source, id string) http.Header {
		return http.Header{"Ce-Source": {source}, "Ce-Id": {id}, "Content-Type": {"application/json"}}
	}
	checkKeys(t, idemhttp.CloudEvents(), []keyCase{
		{"none", http.Header{"Content-Type": {"application/json"}}, `{"source":"/a","id":"1"}`, ""},
		{"binary", binary("/orders", "A-1"), "", "event§7:/orders§A-1"},
		{"percent-encoded", binary("/%C3%A9", "%22A%25%22"), "", `event§3:/é§"A%"`},
		{"quoted", binary(`"/a b"`, `"x\"y"`), "", `event§4:/a b§x"y`},
		{"no source", http.Header{"Ce-Id": {"1"}}, "", "!"},
		{"no id", http.Header{"Ce-Source": {"/a"}}, "", "!"},
		{"empty id", binary("/a", " "), "", "!"},
		{"two ids", http.Header{"Ce-Source": {"/a"}, "Ce-Id": {"1", "2"}}, "", "!"},
		{"bad percent", binary("/a", "%zz"), "", "!"},
		{"bad UTF-8", binary("/a", "%ff"), "", "!"},
		{"long id", binary("/a", strings.Repeat("x", 256)), "", "!"},
		{"structured", structured, `{"specversion":"1.0","id":"A-1","source":"/orders","data":{"id":"z"}}`, "event§7:/orders§A-1"},
		{"structured, no id", structured, `{"source":"/orders"}`, "!"},
		{"structured, null source", structured, `{"source":null,"id":"1"}`, "!"},
		{"structured, id twice", structured, `{"source":"/a","id":"1","id":"2"}`, "!"},
		{"structured, a number", structured, `{"source":"/a","id":1}`, "!"},
		{"structured, no JSON", structured, `x`, "!"},
		{"batch", http.Header{"Content-Type": {"application/cloudevents-batch+json"}}, `[]`, "!"},
		{"avro", http.Header{"Content-Type": {"application/cloudevents+avro"}}, ``, "!"},
		{"another type", http.Header{"Content-Type": {"application/cloudeventsx"}}, ``, ""},
	})
}

// Trap 24: the source and the id of an event never pass for one another's, nor
// for a key from elsewhere.
func TestTrap24EventsNeverMeet(t *testing.T) {
	seen := map[string]string{}
	add := func(what string, s idemhttp.KeySource, h http.Header, body string) {
		id, ok, err := s.Key(h, []byte(body))
		if !ok || err != nil {
			t.Fatalf("%s: %v, %v", what, ok, err)
		}
		if other, met := seen[id]; met {
			t.Errorf("%s and %s are both %q", what, other, id)
		}
		seen[id] = what
	}
	for _, p := range [][2]string{{"a", "b%C2%A7c"}, {"a%C2%A7b", "c"}, {"a:b", "c"}, {"a", "b:c"}, {"1:a", "b"}, {"ab", "c"}, {"a", "bc"}} {
		add(p[0]+" "+p[1], idemhttp.CloudEvents(), http.Header{"Ce-Source": {p[0]}, "Ce-Id": {p[1]}}, "")
	}
	add("header", idemhttp.HeaderKey(), http.Header{"Idempotency-Key": {`"event 1:a b"`}}, "")
	add("webhook", idemhttp.StandardWebhooks(), http.Header{"Webhook-Id": {"k"}}, "")
	add("plain", idemhttp.HeaderKey(), http.Header{"Idempotency-Key": {"k"}}, "")
	add("field", jsonField(t, "/k"), nil, `{"k":"k"}`)
	add("field that poses as an event", jsonField(t, "/k"), nil, `{"k":"event§1:a§bc"}`)
}

func TestStandardWebhooks(t *testing.T) {
	checkKeys(t, idemhttp.StandardWebhooks(), []keyCase{
		{"none", http.Header{}, "", ""},
		{"one", http.Header{"Webhook-Id": {"msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"}}, "", "webhook§msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"},
		{"a comma is a part of it", http.Header{"Webhook-Id": {"a,b"}}, "", "webhook§a,b"},
		{"two", http.Header{"Webhook-Id": {"a", "a"}}, "", "!"},
		{"empty", http.Header{"Webhook-Id": {" "}}, "", "!"},
		{"a space inside", http.Header{"Webhook-Id": {"a b"}}, "", "!"},
		{"long", http.Header{"Webhook-Id": {strings.Repeat("x", 256)}}, "", "!"},
	})
}

func TestFirstKey(t *testing.T) {
	s := idemhttp.FirstKey(idemhttp.HeaderKey(), jsonField(t, "/k"))
	if !s.NeedsBody() || idemhttp.FirstKey(idemhttp.HeaderKey(), idemhttp.StandardWebhooks()).NeedsBody() {
		t.Error("the body is needed when one of them needs it")
	}
	checkKeys(t, s, []keyCase{
		{"the first", http.Header{"Idempotency-Key": {"h"}}, `{"k":"b"}`, "h"},
		{"the second", http.Header{}, `{"k":"b"}`, "body§b"},
		{"a bad first", http.Header{"Idempotency-Key": {"h h"}}, `{"k":"b"}`, "!"},
		{"none", http.Header{}, `{}`, ""},
	})
}
