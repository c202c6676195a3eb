// Package proxy puts idem in front of a service: a reverse proxy whose keyed
// requests reach the service at most once.
package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/idemhttp"
)

// Config is what a proxy needs to know.
type Config struct {
	// Upstream is the service; http or https, with a host.
	Upstream *url.URL
	// UpstreamTimeout bounds the time to the response's head, and between reads
	// of its body; 0 for no bound.
	UpstreamTimeout time.Duration
	// UpstreamIdleTimeout is how long an unused connection is kept. Shorter
	// than the upstream's own: a request that meets a connection as it is closed
	// has an unknown outcome.
	UpstreamIdleTimeout time.Duration
	// HTTP are the settings of the middleware.
	HTTP idemhttp.Options
	// Logger takes what an operator should know; nil takes slog.Default.
	Logger *slog.Logger
}

// New returns the proxy's handler, and a function that closes its unused
// connections to the upstream. The guard stays the caller's.
func New(guard *idem.Guard, cfg Config) (http.Handler, func()) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.HTTP.Logger == nil {
		cfg.HTTP.Logger = cfg.Logger
	}
	t := newTransport(cfg.UpstreamTimeout, cfg.UpstreamIdleTimeout)
	p := &upstream{target: cfg.Upstream, logger: cfg.Logger, problems: cfg.HTTP}
	p.proxy = httputil.ReverseProxy{
		Rewrite:      p.rewrite,
		Transport:    t,
		ErrorHandler: p.failed,
		BufferPool:   &buffers{},
		ErrorLog:     slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	return idemhttp.New(guard, &cfg.HTTP)(&p.proxy), t.closeIdle
}

type upstream struct {
	proxy    httputil.ReverseProxy
	target   *url.URL
	logger   *slog.Logger
	problems idemhttp.Options
}

// rewrite addresses a request to the upstream, which gets the client's Host and
// its query as they were sent.
func (u *upstream) rewrite(r *httputil.ProxyRequest) {
	r.SetURL(u.target)
	r.Out.Host = r.In.Host
	query := r.In.URL.RawQuery
	if base := u.target.RawQuery; base != "" && query != "" {
		query = base + "&" + query
	} else if base != "" {
		query = base
	}
	r.Out.URL.RawQuery = query
	r.SetXForwarded()
	if _, keyed := idem.FromContext(r.In.Context()); keyed {
		// The body is here already: nobody waits for a go-ahead.
		r.Out.Header.Del("Expect")
	}
}

// failed answers a request that got no response from the upstream.
func (u *upstream) failed(w http.ResponseWriter, r *http.Request, err error) {
	word, outcome := idemhttp.TypeUpstreamBroken, idemhttp.OutcomeUnknown
	switch {
	case errors.Is(err, errUnreachable):
		word, outcome = idemhttp.TypeUpstreamUnreachable, idemhttp.OutcomeRelease
	case errors.Is(err, errTimeout):
		word = idemhttp.TypeUpstreamTimeout
	}
	if !idemhttp.SetOutcome(w, outcome) && errors.Is(err, context.Canceled) {
		return // the client left, and nothing is kept
	}
	u.logger.Warn("proxy: the upstream gave no response", "problem", word, "error", err)
	u.problems.WriteProblem(w, r, idemhttp.NewProblem(word, ""))
}

// buffers lends the buffers that responses are copied through.
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
