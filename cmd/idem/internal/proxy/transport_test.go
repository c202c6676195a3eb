package proxy

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// Trap 12: nothing was reached, so nothing is recorded.
func TestTrap12ClosedPortReleases(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	r := newRig(t, "http://"+addr, nil)
	r.send("POST", "/pay", "k", "x").want(t, 502, "upstream-unreachable")
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) }))
	if up.Listener, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	up.Start()
	defer up.Close()
	res := r.send("POST", "/pay", "k", "x")
	res.want(t, 201, "")
	if res.Header.Get("Idempotent-Replayed") != "" {
		t.Error("the first answer is marked as a replay")
	}
}

// Trap 12: the upstream read the request and reset: unknown, never a stored 502.
func TestTrap12ResetAfterReadIsUnknown(t *testing.T) {
	for _, end := range []struct {
		name string
		do   func(net.Conn) bool
	}{{"reset", reset}, {"close", func(net.Conn) bool { return false }}} {
		t.Run(end.name, func(t *testing.T) {
			up := newRawServer(t, func(_ int, c net.Conn, _ *http.Request) bool { return end.do(c) })
			r := newRig(t, up.url, nil)
			r.send("POST", "/pay", "k", "x").want(t, 502, "upstream-broken")
			r.send("POST", "/pay", "k", "x").want(t, 409, "outcome-unknown")
			if got := up.requests(); len(got) != 1 {
				t.Errorf("the upstream got %q", got)
			}
		})
	}
}

// Trap 13: a connection that was kept alive breaks after the upstream has read
// the request. Go's transport would send it again.
func TestTrap13KeepAliveBreaks(t *testing.T) {
	for _, header := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		for _, keyed := range []bool{true, false} {
			for _, method := range []string{"POST", "PATCH"} {
				for _, body := range []string{"", "x"} {
					t.Run(fmt.Sprint(header, keyed, method, len(body)), func(t *testing.T) {
						up := newRawServer(t, func(n int, c net.Conn, _ *http.Request) bool {
							if n == 1 {
								return reply(c, 200, "warm")
							}
							return false // read, and hung up on
						})
						r := newRig(t, up.url, nil)
						r.send("GET", "/warm", "", "").want(t, 200, "")
						name, value := strings.ToLower(header), "k"
						if !keyed {
							// The header is there, and it is not what makes the
							// request keyed: the rule holds all the same.
							name = "x-idempotency-key"
						}
						res := r.send(method, "/pay", "", body, name, value)
						if res.StatusCode != 502 {
							t.Errorf("got %d %s", res.StatusCode, res.body)
						}
						if got := up.requests(); len(got) != 2 {
							t.Errorf("the upstream got %q, want one request after the warm one", got)
						}
					})
				}
			}
		}
	}
}

// A kept-alive connection that the upstream has closed before the request was
// written costs nothing: the request goes out on another one, whole.
func TestStaleConnectionIsNotAnOutcome(t *testing.T) {
	closed := make(chan struct{})
	up := newRawServer(t, func(n int, c net.Conn, _ *http.Request) bool {
		if n == 1 {
			reply(c, 200, "warm")
			_ = c.(*net.TCPConn).CloseWrite()
			close(closed)
			return false
		}
		return reply(c, 201, "made")
	})
	r := newRig(t, up.url, nil)
	r.send("GET", "/warm", "", "").want(t, 200, "")
	<-closed
	for i := range 20 {
		res := r.send("POST", "/pay", fmt.Sprint("k", i), "body")
		if res.StatusCode == 201 && res.body != "made" || res.StatusCode != 201 && res.StatusCode != 502 {
			t.Fatalf("got %d %s", res.StatusCode, res.body)
		}
	}
	seen := map[string]int{}
	for _, q := range up.requests() {
		seen[q]++
	}
	if seen["POST /pay body"] > 20 {
		t.Errorf("sent more than once: %v", seen)
	}
}

// A response that breaks off reaches the client broken, and is not recorded.
func TestBrokenResponseEndsBroken(t *testing.T) {
	for name, raw := range map[string]string{
		"short of its length": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
		"long and short":      "HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + strings.Repeat("x", 9000),
		"chunked, cut":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
		"chunked, bad":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			up := newRawServer(t, func(_ int, c net.Conn, _ *http.Request) bool {
				_, _ = c.Write([]byte(raw))
				return false
			})
			r := newRig(t, up.url, nil)
			req, _ := http.NewRequest("POST", r.url+"/pay", strings.NewReader("x"))
			req.Header["idempotency-key"] = []string{"k"}
			if res, err := r.client.Do(req); err == nil {
				buf := make([]byte, 20000)
				var rerr error
				for rerr == nil {
					_, rerr = res.Body.Read(buf)
				}
				if rerr.Error() == "EOF" {
					t.Error("the response reached the client as if it were whole")
				}
				_ = res.Body.Close()
			}
			r.send("POST", "/pay", "k", "x").want(t, 409, "outcome-unknown")
			if got := up.requests(); len(got) != 1 {
				t.Errorf("the upstream got %q", got)
			}
		})
	}
}

// The head that never comes, and the body that stops, are both too slow.
func TestUpstreamTimeout(t *testing.T) {
	hold := make(chan struct{})
	up := newRawServer(t, func(_ int, c net.Conn, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/body") {
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\nsome"))
		}
		<-hold
		return false
	})
	t.Cleanup(func() { close(hold) })
	r := newRig(t, up.url, func(c *Config) { c.UpstreamTimeout = 100 * time.Millisecond })
	r.send("POST", "/head", "k1", "x").want(t, 504, "upstream-timeout")
	r.send("POST", "/head", "k1", "x").want(t, 409, "outcome-unknown")
	r.send("GET", "/head", "", "").want(t, 504, "upstream-timeout")
	req, _ := http.NewRequest("POST", r.url+"/body", strings.NewReader("x"))
	req.Header["idempotency-key"] = []string{"k2"}
	if res, err := r.client.Do(req); err == nil {
		if _, err := res.Body.Read(make([]byte, 1)); err == nil {
			t.Error("the response did not end broken")
		}
		_ = res.Body.Close()
	}
	r.send("POST", "/body", "k2", "x").want(t, 409, "outcome-unknown")
	if got := up.requests(); len(got) != 3 {
		t.Errorf("the upstream got %q", got)
	}
}

// The time to the head is bounded however busy the upstream is meanwhile: with
// a head that comes a byte at a time, or with one 103 after another.
func TestUpstreamTimeoutOfABusyUpstream(t *testing.T) {
	const timeout = 200 * time.Millisecond
	gone := make(chan struct{})
	up := newRawServer(t, func(_ int, c net.Conn, r *http.Request) bool {
		piece := "X"
		if r.URL.Path == "/early" {
			piece = "HTTP/1.1 103 Early Hints\r\n\r\n"
		} else if _, err := c.Write([]byte("HTTP/1.1 200 OK\r\nX-Long: ")); err != nil {
			return false
		}
		tick := time.NewTicker(timeout / 4)
		defer tick.Stop()
		for range 200 {
			select {
			case <-tick.C:
			case <-gone:
				return false
			}
			if _, err := c.Write([]byte(piece)); err != nil {
				return false
			}
		}
		return false
	})
	t.Cleanup(func() { close(gone) })
	r := newRig(t, up.url, func(c *Config) { c.UpstreamTimeout = timeout })
	r.send("POST", "/trickle", "k1", "x").want(t, 504, "upstream-timeout")
	r.send("POST", "/trickle", "k1", "x").want(t, 409, "outcome-unknown")
	r.send("POST", "/early", "k2", "x").want(t, 504, "upstream-timeout")
	r.send("GET", "/trickle", "", "").want(t, 504, "upstream-timeout")
	r.send("GET", "/trickle", "", "", "Connection", "Upgrade", "Upgrade", "x").want(t, 504, "upstream-timeout")
}

// A request that asks for an upgrade is told apart like every other.
func TestUpgradeThatGetsNoAnswer(t *testing.T) {
	hold := make(chan struct{})
	up := newRawServer(t, func(_ int, _ net.Conn, r *http.Request) bool {
		if r.URL.Path == "/silent" {
			<-hold
		}
		return false
	})
	t.Cleanup(func() { close(hold) })
	r := newRig(t, up.url, func(c *Config) { c.UpstreamTimeout = 100 * time.Millisecond })
	r.send("GET", "/silent", "", "", "Connection", "Upgrade", "Upgrade", "x").want(t, 504, "upstream-timeout")
	r.send("GET", "/breaks", "", "", "Connection", "Upgrade", "Upgrade", "x").want(t, 502, "upstream-broken")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r = newRig(t, nobody, nil)
	r.send("GET", "/", "", "", "Connection", "Upgrade", "Upgrade", "x").want(t, 502, "upstream-unreachable")
}
