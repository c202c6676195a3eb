// Command bareproxy is what idem proxy is compared with: net/http/httputil's
// ReverseProxy, with the same settings towards the upstream, and nothing else.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/idem-go/idem/bench/internal/serve"
)

func main() {
	upstream := flag.String("upstream", "", "the service's URL")
	flag.Parse()
	target, err := url.Parse(*upstream)
	if err == nil && target.Host == "" {
		err = fmt.Errorf("-upstream is not a URL with a host")
	}
	if err == nil {
		err = serve.Run("bareproxy", proxy(target), nil)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bareproxy:", err)
		os.Exit(1)
	}
}

func proxy(target *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			IdleConnTimeout:       4 * time.Second,
			MaxIdleConnsPerHost:   1024,
			ResponseHeaderTimeout: time.Minute,
			DisableCompression:    true,
			TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{},
		},
		BufferPool: &buffers{},
	}
}

type buffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
