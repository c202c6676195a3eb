package idemhttp_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/idemhttp"
)

// H11: HTTP/1.0 tells the end of a body without a length by the end of the
// connection, so a response that breaks off, or whose record cannot be saved,
// must not end in a connection that is merely closed. nginx speaks HTTP/1.0 to
// what is behind it, unless told otherwise.
func TestBrokenResponseEndsBrokenInHTTP10(t *testing.T) {
	const part = "some of it"
	for _, tls := range []bool{false, true} {
		for name, breakOff := range map[string]func(g *gate){
			"aborted":          func(*gate) { panic(http.ErrAbortHandler) },
			"not to be saved":  func(g *gate) { g.refuse("complete") },
			"nothing is wrong": func(*gate) {},
		} {
			for _, key := range []string{"", "Idempotency-Key: k\r\n"} {
				if key == "" && name == "not to be saved" {
					continue
				}
				t.Run(fmt.Sprintf("%s, tls %v, key %v", name, tls, key != ""), func(t *testing.T) {
					g := newGate()
					s := serve(t, settings{store: g, h2: tls, http: idemhttp.Options{Policy: idem.Policy{SaveWait: 10 * time.Millisecond}}}, func(w http.ResponseWriter, _ *http.Request) {
						_, _ = io.WriteString(w, part)
						w.(http.Flusher).Flush()
						breakOff(g)
					})
					defer g.set(nil)
					conn, err := s.dialClient()
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					if _, err := io.WriteString(conn, "POST / HTTP/1.0\r\nHost: a\r\n"+key+"Content-Length: 0\r\n\r\n"); err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(conn)
					switch {
					case name == "nothing is wrong":
						if err != nil || !strings.HasSuffix(string(got), "\r\n\r\n"+part) {
							t.Errorf("%q, %v", got, err)
						}
					case tls && errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
					default:
						t.Errorf("%q, %v: it reads as a whole response", got, err)
					}
				})
			}
		}
	}
}

// W4: a client that stops in the middle of its body, or sends it a byte at a
// time, does not keep its place for ever; one on a slow line is not cut off.
func TestUploadThatStops(t *testing.T) {
	const limit = 256 << 10
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, settings{bubble: true, http: idemhttp.Options{MaxRequestBodies: limit}}, answerWith(201, "ok"))
		long := strings.Repeat("x", limit/2)
		part := rawPost("stops", long+long)[:limit*2/3]
		conn, _ := s.raw(part)
		fast := func(key string) reply { return s.post(key, long) }
		synctest.Wait()
		if r := fast("k1"); r.status != 503 || !r.problem(idemhttp.TypeOverloaded) {
			t.Errorf("beside the one that stopped: %v", r)
		}
		for range 5 {
			time.Sleep(10 * time.Second)
			_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = io.WriteString(conn, "x")
		}
		if r := fast("k2"); r.status != 201 {
			t.Errorf("after %v: %v", 50*time.Second, r)
		}
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("the one that stopped was sent %d bytes", n)
		}

		slow := &slowReader{left: len(long), piece: 2 << 10, pause: time.Second}
		began := time.Now()
		if r := s.send(t.Context(), "POST", "/", "slow", slow); r.status != 201 || time.Since(began) < time.Minute {
			t.Errorf("the slow one, after %v: %v", time.Since(began), r)
		}
		s.ran(2)
	})
}

// The time limit of an upload is over with the upload: one who waits for the
// first longer than that has not left, and the connection can be used again.
func TestNoReadDeadlineIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, settings{bubble: true, http: idemhttp.Options{Policy: idem.Policy{Wait: 10 * time.Minute}}}, func(http.ResponseWriter, *http.Request) {
			time.Sleep(5 * time.Minute)
		})
		first := s.async("k", "body")
		synctest.Wait()
		conn, r := s.raw(rawPost("k", "body"))
		for i := range 2 {
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }()
			if res.StatusCode != 200 || res.Header.Get(idemhttp.ReplayedHeader) != "true" {
				t.Fatalf("%v, %v", res, err)
			}
			if i == 0 {
				time.Sleep(time.Minute)
				if _, err := io.WriteString(conn, rawPost("k", "body")); err != nil {
					t.Fatal(err)
				}
			}
		}
		if r := <-first; r.status != 200 {
			t.Errorf("the first: %v", r)
		}
		s.ran(1)
	})
}

// A server that bounds the reading of a request itself keeps its own bound.
func TestServersOwnReadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, settings{bubble: true, tweak: func(srv *http.Server) { srv.ReadTimeout = 5 * time.Minute }}, answerWith(201, "ok"))
		conn, r := s.raw(rawPost("k", "body")[:len(rawPost("k", "body"))-1])
		time.Sleep(2 * time.Minute)
		if _, err := io.WriteString(conn, "y"); err != nil {
			t.Fatal(err)
		}
		if status := readStatus(t, r); status != 201 {
			t.Errorf("status %d", status)
		}
	})
}

// slowReader gives a piece after each pause.
type slowReader struct {
	left, piece int
	pause       time.Duration
}

func (r *slowReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(r.pause)
	n := min(len(p), r.piece, r.left)
	for i := range n {
		p[i] = 'x'
	}
	r.left -= n
	return n, nil
}

// Trap 54: another spelling of the principal's header is not passed on as a
// trailer either, and a Connection that names the principal's header does not
// take it from the service that idem keeps a scope of it for.
func TestTrap54TrailersAndConnection(t *testing.T) {
	tenant, err := idemhttp.HeaderPrincipal("X-Tenant")
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]idemhttp.Principal{"X-Tenant": tenant, "Authorization": idemhttp.AuthorizationPrincipal()} {
		seen := make(chan *http.Request, 1)
		s := serve(t, settings{http: idemhttp.Options{Principal: p}}, func(_ http.ResponseWriter, r *http.Request) { seen <- r })
		_, br := s.raw("POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\n" + name + ": t\r\nConnection: keep-alive, " + strings.ToUpper(name) + " ,x-hop, idempotency-key\r\n" +
			"Transfer-Encoding: chunked\r\nTrailer: X_Tenant, X-Sum\r\n\r\n1\r\nx\r\n0\r\nX_Tenant: other\r\nX-Sum: 1\r\n\r\n")
		if status := readStatus(t, br); status != 200 {
			t.Fatalf("status %d", status)
		}
		r := <-seen
		if c := strings.Join(r.Header["Connection"], ","); c != "keep-alive,x-hop" {
			t.Errorf("%s: Connection: %q", name, c)
		}
		if _, there := r.Trailer["X_tenant"]; there && name == "X-Tenant" || r.Trailer.Get("X-Sum") != "1" {
			t.Errorf("%s: trailers %v", name, r.Trailer)
		}
	}
}

// readStatus reads a response to its end.
func readStatus(t *testing.T, r *bufio.Reader) int {
	t.Helper()
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode
}
