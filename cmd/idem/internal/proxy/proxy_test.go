package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestReplayThroughTheProxy(t *testing.T) {
	var runs atomic.Int64
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Location", fmt.Sprint("/users/", runs.Add(1)))
		w.Header().Set("Idempotent-Replayed", "forged")
		w.WriteHeader(201)
		_, _ = w.Write(body)
	}))
	defer up.Close()
	r := newRig(t, up.URL, nil)
	for i := range 3 {
		res := r.send("POST", "/users?x=1;y", "k", "hello")
		res.want(t, 201, "")
		replayed := res.Header.Get("Idempotent-Replayed")
		if want := map[bool]string{false: "", true: "true"}[i > 0]; replayed != want || res.Header.Get("Location") != "/users/1" || res.body != "hello" {
			t.Errorf("answer %d: replayed %q, %v %q", i, replayed, res.Header, res.body)
		}
	}
	if res := r.send("GET", "/users", "", ""); res.Header.Get("Idempotent-Replayed") != "" {
		t.Error("an upstream forged the mark of a replay on a plain request (trap 31)")
	}
}

// The upstream gets the client's host, key and query, and forwarded headers
// that the client cannot choose.
func TestWhatTheUpstreamGets(t *testing.T) {
	var got *http.Request
	up := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Clone(r.Context()) }))
	defer up.Close()
	r := newRig(t, up.URL+"/base", nil)
	req, _ := http.NewRequest("POST", r.url+"/pay%2Fnow?a=1;b=%zz", strings.NewReader("x"))
	req.Host = "shop.example:8443"
	req.Header.Set("Idempotency-Key", `"k 1"`)
	req.Header.Set("X-Forwarded-For", "6.6.6.6")
	req.Header.Set("Accept-Encoding", "br, gzip")
	req.Header.Set("Upgrade", "h2c")
	req.Header.Set("Connection", "Upgrade")
	res, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	for _, c := range []struct{ what, got, want string }{
		{"host", got.Host, "shop.example:8443"},
		{"path and query", got.RequestURI, "/base/pay%2Fnow?a=1;b=%zz"},
		{"key", got.Header.Get("Idempotency-Key"), `"k 1"`},
		{"X-Forwarded-For", got.Header.Get("X-Forwarded-For"), "127.0.0.1"},
		{"X-Forwarded-Host", got.Header.Get("X-Forwarded-Host"), "shop.example:8443"},
		{"X-Forwarded-Proto", got.Header.Get("X-Forwarded-Proto"), "http"},
		{"Accept-Encoding", got.Header.Get("Accept-Encoding"), "gzip"},
		{"Upgrade", got.Header.Get("Upgrade"), ""},
		{"length", fmt.Sprint(got.ContentLength), "1"},
	} {
		if c.got != c.want {
			t.Errorf("%s: the upstream got %q, want %q", c.what, c.got, c.want)
		}
	}
}

// WebSocket and the like pass, and may be silent for longer than the timeout.
func TestUpgradePasses(t *testing.T) {
	up := newRawServer(t, func(_ int, c net.Conn, _ *http.Request) bool {
		_, _ = c.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"))
		_, _ = io.Copy(c, c)
		return false
	})
	const timeout = 50 * time.Millisecond
	r := newRig(t, up.url, func(c *Config) { c.UpstreamTimeout = timeout })
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != 101 {
		t.Fatalf("%v %v", res, err)
	}
	_ = res.Body.Close()
	// Nothing is said for some timeouts; the reader would notice an end.
	_ = conn.SetReadDeadline(time.Now().Add(4 * timeout))
	if _, err := br.ReadByte(); err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Fatalf("the silent connection ended: %v", err)
	}
	_ = conn.SetReadDeadline(time.Time{})
	_, _ = conn.Write([]byte("ping\n"))
	if line, err := br.ReadString('\n'); line != "ping\n" {
		t.Fatalf("got %q, %v", line, err)
	}
}

// A response's trailers, events, and its 103 pass, and come again in a replay.
func TestTrailersThroughTheProxy(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a>")
		w.WriteHeader(103)
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(201)
		_, _ = io.WriteString(w, "part one,")
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, "part two")
		w.Header().Set("X-Sum", "42")
		w.Header().Set(http.TrailerPrefix+"X-Late", "7")
	}))
	defer up.Close()
	r := newRig(t, up.URL, nil)
	for i := range 2 {
		res := r.send("POST", "/s", "k", "x")
		res.want(t, 201, "")
		if res.body != "part one,part two" || res.Trailer.Get("X-Sum") != "42" || res.Trailer.Get("X-Late") != "7" {
			t.Errorf("answer %d: %q, trailers %v", i, res.body, res.Trailer)
		}
	}
}
