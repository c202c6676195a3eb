// Package admin is the interface for those who operate idem: health, metrics,
// and the records with what can be done about them.
//
// It is made for a port that no browser should reach and that one may reach all
// the same: a page that a browser shows cannot read it or change anything
// through it, whatever name it is reached under.
package admin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
)

// recordsPath is where records are; each of the two segments after it is
// percent-encoded as a whole.
const recordsPath = "/v1/records"

// Options are the settings of [New]. Nil, and the zero value of each field,
// take the defaults.
type Options struct {
	// Ready says whether requests are served now. Nil: they are.
	Ready func() bool
	// Metrics answers GET /metrics; nil leaves it out.
	Metrics http.Handler
	// Token, unless empty, is demanded of every request but those for /healthz
	// and /readyz, as a bearer token. Without one, the interface must not be
	// reachable from another machine.
	Token string
	// Hosts are names, besides those of the loopback and the address that a
	// request came in on, under which the interface may be asked.
	Hosts []string
	// Retention and Tombstone are those of records that are resolved. Defaults
	// idem.DefaultRetention and idem.DefaultTombstone.
	Retention, Tombstone time.Duration
	// MaxResponse bounds a response that a record is completed with, in bytes,
	// its headers included. Default idem.DefaultMaxResult.
	MaxResponse int
	// StoreTimeout bounds each call to the store. Default
	// idem.DefaultStoreTimeout.
	StoreTimeout time.Duration
	// Logger is told who resolved what, by the key's short hash. Default
	// slog.Default.
	Logger *slog.Logger
}

type admin struct {
	opts     Options
	store    driver.Store
	lister   driver.Lister
	resolver driver.Resolver
	pinger   driver.Pinger
	token    *tokenHash
	hosts    map[string]bool
}

// New returns the interface's handler over a store, which stays the caller's.
func New(store driver.Store, opts *Options) http.Handler {
	a := &admin{store: store, hosts: map[string]bool{}}
	if opts != nil {
		a.opts = *opts
	}
	o := &a.opts
	if o.Retention <= 0 {
		o.Retention = idem.DefaultRetention
	}
	if o.Tombstone <= 0 {
		o.Tombstone = idem.DefaultTombstone
	}
	if o.MaxResponse <= 0 {
		o.MaxResponse = idem.DefaultMaxResult
	}
	if o.StoreTimeout <= 0 {
		o.StoreTimeout = idem.DefaultStoreTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Token != "" {
		a.token = hashToken(o.Token)
	}
	for _, h := range o.Hosts {
		a.hosts[normalHost(h)] = true
	}
	a.lister, _ = driver.As[driver.Lister](store)
	a.resolver, _ = driver.As[driver.Resolver](store)
	a.pinger, _ = driver.As[driver.Pinger](store)
	return a
}

// ServeHTTP implements http.Handler.
func (a *admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if p := a.refuseBrowser(r); p != nil {
		p.write(w)
		return
	}
	path := r.URL.EscapedPath()
	switch path {
	case "/healthz":
		a.reading(w, r, a.health)
		return
	case "/readyz":
		a.reading(w, r, a.readiness)
		return
	}
	if !a.authorized(r) {
		h.Set("WWW-Authenticate", `Bearer realm="idem"`)
		refuse(http.StatusUnauthorized, "This address needs the token that stands in the file given with --admin-token-file; send it as Authorization: Bearer TOKEN.").write(w)
		return
	}
	switch {
	case path == "/metrics" && a.opts.Metrics != nil:
		a.reading(w, r, a.opts.Metrics.ServeHTTP)
	case path == recordsPath:
		a.reading(w, r, a.list)
	case strings.HasPrefix(path, recordsPath+"/"):
		a.record(w, r, path[len(recordsPath)+1:])
	default:
		refuse(http.StatusNotFound, "There is nothing here; see /healthz, /readyz, /metrics and /v1/records.").write(w)
	}
}

// reading serves what only reads.
func (a *admin) reading(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		methodNotAllowed(w, "GET, HEAD")
		return
	}
	serve(w, r)
}

func (a *admin) health(w http.ResponseWriter, _ *http.Request) { say(w, "ok\n") }

func (a *admin) readiness(w http.ResponseWriter, r *http.Request) {
	if a.opts.Ready != nil && !a.opts.Ready() {
		refuse(http.StatusServiceUnavailable, "Requests are not served: it starts, or it ends.").write(w)
		return
	}
	if a.pinger != nil {
		ctx, cancel := a.storeContext(r)
		defer cancel()
		switch err := a.pinger.Ping(ctx); {
		case errors.Is(err, driver.ErrFull):
			refuse(http.StatusServiceUnavailable, "The store is full: new keys are refused, retries of known ones are answered. Resolve unknown outcomes, make room on its disk, or raise its bounds.").write(w)
			return
		case err != nil:
			a.opts.Logger.Warn("admin: not ready, the store does not answer", "error", err)
			refuse(http.StatusServiceUnavailable, "The store does not answer; the log says why.").write(w)
			return
		}
	}
	say(w, "ready\n")
}

func say(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(text)) // whoever asked may have left
}

func (a *admin) storeContext(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), a.opts.StoreTimeout)
}
