package idemhttp

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func TestAccepts(t *testing.T) {
	for _, c := range []struct {
		accept         string
		gzip, identity bool
	}{
		{"", false, true},
		{"gzip", true, true},
		{"GZIP", true, true},
		{"x-gzip", true, true},
		{"gzip, deflate, br", true, true},
		{" br ;q=1 ,\tgzip ; q=0.5", true, true},
		{"gzip;q=0", false, true},
		{"gzip;q=0.000", false, true},
		{"gzip;Q=0.001", true, true},
		{"gzip;q=1.000", true, true},
		{"gzip;q=1.001", false, true},
		{"gzip;q=2", false, true},
		{"gzip;q=x", false, true},
		{"gzip;q=", false, true},
		{"gzip;x=1", false, true},
		{"gzip;q=0.1234", false, true},
		{"*", true, true},
		{"*;q=0", false, false},
		{"*;q=0, identity", false, true},
		{"*;q=0, gzip", true, false},
		{"gzip;q=0, *", false, true},
		{"*, gzip;q=0", false, true},
		{"identity;q=0, gzip", true, false},
		{"identity", false, true},
		{"br", false, true},
		{"gzipped, notgzip", false, true},
		{",,gzip,", true, true},
	} {
		if got := Accepts(c.accept, "gzip"); got != c.gzip {
			t.Errorf("%q accepts gzip: %v", c.accept, got)
		}
		if got := Accepts(c.accept, "x-gzip"); got != c.gzip {
			t.Errorf("%q accepts x-gzip: %v", c.accept, got)
		}
		if got := Accepts(c.accept, "identity"); got != c.identity {
			t.Errorf("%q accepts identity: %v", c.accept, got)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _ = Accepts("br;q=1, gzip;q=0.5", "gzip") }); n != 0 {
		t.Errorf("it takes %v allocations", n)
	}
}

func TestNarrowAcceptEncoding(t *testing.T) {
	for in, want := range map[string]string{
		"gzip":                        "gzip",
		"identity":                    "identity",
		"gzip, deflate, br, zstd":     "gzip",
		"br":                          "identity",
		"":                            "identity",
		"*":                           "gzip, identity",
		"br, *;q=0.1":                 "gzip;q=0.1, identity;q=0.1",
		"*;q=0":                       "identity;q=0",
		"br, identity;q=0":            "identity;q=0",
		"gzip, identity;q=0":          "gzip, identity;q=0",
		"gzip, *;q=0":                 "gzip, identity;q=0",
		"gzip;q=0, identity":          "identity",
		"gzip;q=0, br":                "identity",
		"gzip;q=0.25, identity;q=0.5": "gzip;q=0.25, identity;q=0.5",
		"x-gzip":                      "gzip",
	} {
		old := []string{in}
		h := http.Header{"Accept-Encoding": old}
		NarrowAcceptEncoding(h)
		if got := h["Accept-Encoding"]; len(got) != 1 || got[0] != want || old[0] != in {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
		for _, coding := range []string{"gzip", "identity"} {
			if in != "" && Accepts(in, coding) != Accepts(h.Get("Accept-Encoding"), coding) {
				t.Errorf("%q and %q do not agree about %s", in, want, coding)
			}
		}
	}
	h := http.Header{}
	NarrowAcceptEncoding(h)
	if len(h) != 0 {
		t.Errorf("nothing became %v", h)
	}
	h = http.Header{"Accept-Encoding": {"br", "gzip;q=0.5"}}
	NarrowAcceptEncoding(h)
	if got := h["Accept-Encoding"]; !reflect.DeepEqual(got, []string{"gzip;q=0.5"}) {
		t.Errorf("two lines became %q", got)
	}
}

func gzipped(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Trap 26: a retry that does not accept gzip can read what was compressed for
// the first client; one that does gets the very same bytes.
func TestTrap26GzipForWhoDoesNotAcceptIt(t *testing.T) {
	body := gzipped(t, "hello")
	stored := func() http.Header {
		return http.Header{
			"Content-Encoding": {"gzip"}, "Content-Length": {"29"}, "Etag": {`"x"`}, "Vary": {"Origin"},
			"Repr-Digest": {"sha-256=:x:"}, "Content-Digest": {"y"}, "Content-Md5": {"z"}, "Content-Type": {"text/plain"},
		}
	}
	for _, accept := range []string{"gzip", "br, gzip;q=0.1", "*", "x-gzip"} {
		head := stored()
		got, ok := suit(head, http.Header{"Accept-Encoding": {accept}}, body, 5)
		if !ok || !bytes.Equal(got, body) || !reflect.DeepEqual(head, stored()) {
			t.Errorf("%s: %v, %v, %v", accept, got, ok, head)
		}
	}
	want := http.Header{"Content-Length": {"5"}, "Etag": {`W/"x"`}, "Vary": {"Origin", "Accept-Encoding"}, "Content-Type": {"text/plain"}}
	for _, request := range []http.Header{{}, {"Accept-Encoding": {"identity"}}, {"Accept-Encoding": {"gzip;q=0"}}, {"Accept-Encoding": {"br", "deflate"}}} {
		head := stored()
		got, ok := suit(head, request, body, 5)
		if !ok || string(got) != "hello" || !reflect.DeepEqual(head, want) {
			t.Errorf("%v: %q, %v, %v", request, got, ok, head)
		}
	}
	// What is weak stays so, a Vary that says it is not said twice, and a length
	// that was not told is not told now.
	head := http.Header{"Content-Encoding": {"X-GZIP"}, "Etag": {`W/"x"`}, "Vary": {"accept-encoding"}}
	if _, ok := suit(head, http.Header{}, body, 5); !ok || !reflect.DeepEqual(head, http.Header{"Etag": {`W/"x"`}, "Vary": {"accept-encoding"}}) {
		t.Errorf("%v, %v", ok, head)
	}
}

func TestTrap26WhatCannotBeUndone(t *testing.T) {
	whole := gzipped(t, "hello")
	damaged := bytes.Clone(whole)
	damaged[len(damaged)-6] ^= 1
	for name, c := range map[string]struct {
		head http.Header
		body []byte
	}{
		"brotli":    {http.Header{"Content-Encoding": {"br"}}, whole},
		"two":       {http.Header{"Content-Encoding": {"gzip", "br"}}, whole},
		"a part":    {http.Header{"Content-Encoding": {"gzip"}, "Content-Range": {"bytes 0-1/2"}}, whole},
		"cut":       {http.Header{"Content-Encoding": {"gzip"}}, whole[:len(whole)-1]},
		"damaged":   {http.Header{"Content-Encoding": {"gzip"}}, damaged},
		"not gzip":  {http.Header{"Content-Encoding": {"gzip"}}, []byte("hello")},
		"too large": {http.Header{"Content-Encoding": {"gzip"}}, gzipped(t, "hello!")},
		"a bomb":    {http.Header{"Content-Encoding": {"gzip"}}, gzipped(t, strings.Repeat("\x00", 10<<20))},
	} {
		head := c.head.Clone()
		if got, ok := suit(head, http.Header{}, c.body, 5); ok || got != nil || !reflect.DeepEqual(head, c.head) {
			t.Errorf("%s: %.10q, %v, %v", name, got, ok, head)
		}
	}
	for name, c := range map[string]struct {
		head, request http.Header
		body          string
	}{
		"no coding":       {http.Header{}, http.Header{"Accept-Encoding": {"gzip, identity;q=0"}}, "hello"},
		"identity":        {http.Header{"Content-Encoding": {"identity"}}, http.Header{}, "hello"},
		"an empty body":   {http.Header{"Content-Encoding": {"gzip"}}, http.Header{}, ""},
		"brotli accepted": {http.Header{"Content-Encoding": {"br"}}, http.Header{"Accept-Encoding": {"br"}}, "hello"},
	} {
		if got, ok := suit(c.head, c.request, []byte(c.body), 5); !ok || string(got) != c.body {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
}
