package idemhttp

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
)

func storedExample() Stored {
	return Stored{
		Status: 201,
		Length: 7,
		Header: http.Header{
			"Location":     {"/users/1"},
			"Link":         {"<a>; rel=b", "<c>; rel=d", "<a>; rel=b"},
			"Content-Type": {"application/json"},
			"Etag":         {`"x"`},
			"X-Empty":      {""},
			"x-raw":        {"\x00\xff"},
		},
		Trailer: http.Header{"X-Checksum": {"1", "2"}},
	}
}

// Traps 26, 29 and 30: what is stored comes back, repeated headers in their
// order, trailers too.
func TestTrap29And30StoredRoundTrip(t *testing.T) {
	for name, s := range map[string]Stored{
		"full":        storedExample(),
		"least":       {Status: 204, Length: -1, Header: http.Header{}},
		"length zero": {Status: 201, Length: 0, Header: http.Header{}},
		"long":        {Status: 999, Length: 1<<62 - 1, Header: http.Header{"X": {strings.Repeat("y", 70000)}}},
	} {
		meta := s.AppendMeta([]byte("before"))
		if !bytes.HasPrefix(meta, []byte("before")) {
			t.Fatal("what was there is gone")
		}
		got, err := ParseStored(meta[len("before"):])
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	many := Stored{Status: 200, Length: -1, Header: http.Header{}}
	for i := range 100 {
		many.Header.Set(fmt.Sprintf("X-%d", i), "v")
	}
	first := many.AppendMeta(nil)
	for range 5 {
		if !bytes.Equal(many.AppendMeta(nil), first) {
			t.Fatal("one response has two forms")
		}
	}
}

// Trap 27: a response without headers and body is a response.
func TestTrap27EmptyResponses(t *testing.T) {
	for _, status := range []int{201, 204} {
		meta := appendStored(nil, status, http.Header{"Content-Length": {"0"}}, nil, &headerFilter{})
		if got, err := ParseStored(meta); err != nil || got.Status != status || got.Length != 0 || len(meta) > 8 {
			t.Errorf("%d: %v, %v, %d bytes", status, got, err, len(meta))
		}
	}
}

func TestAppendStoredReadsTheLength(t *testing.T) {
	for value, want := range map[string]int64{"7": 7, "0": 0, "": -1, "-1": -1, "x": -1, "99999999999999999999": -1} {
		got, err := ParseStored(appendStored(nil, 200, http.Header{"Content-Length": {value}}, nil, &headerFilter{}))
		if err != nil || got.Length != want || len(got.Header) != 0 {
			t.Errorf("%q: %v, %v", value, got, err)
		}
	}
}

// Replays of one record do not share what one of them may append to.
func TestReadStoredKeepsValuesApart(t *testing.T) {
	s := storedExample()
	h := http.Header{"Etag": {"old"}, "X-Outer": {"stays"}}
	status, trailers, err := readStored(s.AppendMeta(nil), h)
	if err != nil || status != 201 || !reflect.DeepEqual(trailers, s.Trailer) {
		t.Fatalf("%d, %v, %v", status, trailers, err)
	}
	h["Link"] = append(h["Link"], "more")
	h["Content-Type"] = append(h["Content-Type"], "more")
	if h["Location"][0] != "/users/1" || h["Etag"][0] != `"x"` || h["X-Outer"][0] != "stays" || len(h["Etag"]) != 1 {
		t.Errorf("the headers are %v", h)
	}
}

func TestStoredThatCannotBeRead(t *testing.T) {
	s := storedExample()
	whole := s.AppendMeta(nil)
	dst := http.Header{}
	refuse := func(what string, meta []byte) {
		t.Helper()
		if _, _, err := readStored(meta, dst); err == nil || !strings.HasPrefix(err.Error(), "idemhttp: ") || len(dst) > 0 {
			t.Errorf("%s was read, or the error is %v", what, err)
		}
	}
	for n := range whole {
		refuse(fmt.Sprintf("the first %d bytes", n), whole[:n])
	}
	refuse("one byte more", append(whole[:len(whole):len(whole)], 0))
	refuse("version 0", append([]byte{0}, whole[1:]...))
	refuse("version 2", append([]byte{2}, whole[1:]...))
	refuse("a status of 100", []byte{1, 100, 0, 0, 0, 0, 0})
	refuse("a status of 1000", []byte{1, 0xe8, 7, 0, 0, 0, 0, 0})
	refuse("a billion headers", []byte{1, 0xc8, 1, 0, 0x80, 0x94, 0xeb, 0xdc, 3, 0x80, 0x94, 0xeb, 0xdc, 3, 0, 0})
	refuse("a header without values", []byte{1, 0xc8, 1, 0, 0, 1, 1, 'A', 0, 0, 0})
	refuse("a wrong number of values", []byte{1, 0xc8, 1, 0, 2, 1, 1, 'A', 1, 0, 0, 0})
	refuse("a name twice", []byte{1, 0xc8, 1, 0, 2, 2, 1, 'A', 1, 0, 1, 'A', 1, 0, 0, 0})
	refuse("no name", []byte{1, 0xc8, 1, 0, 1, 1, 0, 1, 0, 0, 0})
	if _, err := ParseStored([]byte{1, 0xc8, 1, 0, 1, 1, 1, 'A', 1, 0, 0, 0}); err != nil {
		t.Errorf("the smallest header cannot be read: %v", err)
	}
}

func TestStoredTakesFewAllocations(t *testing.T) {
	s := storedExample()
	s.Trailer = nil
	delete(s.Header, "x-raw") // to see what it stands for takes one
	buf := s.AppendMeta(nil)
	if n := testing.AllocsPerRun(100, func() { buf = appendStored(buf[:0], s.Status, s.Header, nil, &headerFilter{}) }); n != 0 {
		t.Errorf("writing takes %v allocations", n)
	}
	dst := make(http.Header, 16)
	if n := testing.AllocsPerRun(100, func() { _, _, _ = readStored(buf, dst) }); n > 2 {
		t.Errorf("reading takes %v allocations", n)
	}
}

// Trap 60: what was stored by this version can be read by every later one.
func TestTrap60GoldenStored(t *testing.T) {
	text, err := os.ReadFile("testdata/stored-v1.golden")
	if err != nil {
		t.Fatal(err)
	}
	meta, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	want := storedExample()
	got, err := ParseStored(meta)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("it reads %v, %v", got, err)
	}
	if now := want.AppendMeta(nil); !bytes.Equal(now, meta) {
		t.Errorf("it is now written %x: another format needs another version", now)
	}
}

func FuzzStored(f *testing.F) {
	s := storedExample()
	f.Add(s.AppendMeta(nil))
	f.Add([]byte{1, 0xc8, 1, 0, 1, 1, 1, 'A', 1, 0, 0, 0})
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, meta []byte) {
		got, err := ParseStored(meta)
		if err != nil {
			return
		}
		everything := &headerFilter{keep: []string{"Date", "Set-Cookie", "Age", "Alt-Svc", "Server-Timing", "Www-Authenticate", "Authentication-Info"}}
		again, err := ParseStored(appendMeta(nil, got.Status, got.Length, got.Header, got.Trailer, everything))
		if err != nil || again.Status != got.Status || again.Length != got.Length {
			t.Fatalf("%v became %v, %v", got, again, err)
		}
		for name, values := range again.Header {
			if !reflect.DeepEqual(values, got.Header[name]) {
				t.Fatalf("%q became %q", got.Header[name], values)
			}
		}
		for name := range got.Header {
			if everything.keeps(name, got.Header) != (again.Header[name] != nil) {
				t.Fatalf("the header %q was lost, or came back", name)
			}
		}
	})
}
