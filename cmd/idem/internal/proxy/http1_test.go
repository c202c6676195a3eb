package proxy

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"testing"
	"time"
)

// Trap 13: HTTP/2 sends a request without a body again after a GOAWAY or a
// refused stream, whatever its headers. It is not spoken to the upstream, also
// where that offers nothing better.
func TestTrap13UpstreamIsSpokenToInHTTP1(t *testing.T) {
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Spoken", r.Proto)
		w.WriteHeader(http.StatusCreated)
	}))
	up.EnableHTTP2 = true
	up.StartTLS()
	t.Cleanup(up.Close)
	if res, err := up.Client().Get(up.URL); err != nil || res.Header.Get("Spoken") != "HTTP/2.0" {
		t.Fatalf("the server does not speak HTTP/2 to others: %v, %v", res, err)
	} else if err := res.Body.Close(); err != nil {
		t.Fatal(err)
	}

	tr := newTransport(time.Minute, time.Minute)
	trust := up.Client().Transport.(*http.Transport).TLSClientConfig
	for _, one := range []*http.Transport{tr.plain, tr.upgrades} {
		one.TLSClientConfig = trust.Clone()
		one.TLSClientConfig.NextProtos = nil
		t.Cleanup(one.CloseIdleConnections)
	}
	front := httptest.NewServer(&httputil.ReverseProxy{Transport: tr, Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "https", strings.TrimPrefix(up.URL, "https://")
	}})
	t.Cleanup(front.Close)
	for _, method := range []string{"POST", "PATCH", "GET"} {
		req, err := http.NewRequest(method, front.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Idempotency-Key", "k")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if got := res.Header.Get("Spoken"); res.StatusCode != http.StatusCreated || got != "HTTP/1.1" {
			t.Errorf("%s was spoken in %q: %v", method, got, res.Status)
		}
	}
}
