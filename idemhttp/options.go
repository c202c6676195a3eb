package idemhttp

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/idem-go/idem"
)

// The defaults of [Options].
const (
	DefaultMaxRequestBody    = 10 << 20
	DefaultMaxRequestBodies  = 256 << 20
	DefaultMaxStoredResponse = 1 << 20
	DefaultClientTimeout     = 30 * time.Second
)

// Options are the settings of the middleware. Nil, and the zero value of each
// field, take the defaults. Every behaviour of the middleware is here; what
// concerns claims and results (wait, lease, retention, tombstone, max-run, the
// policy for unknown outcomes) is in Policy.
type Options struct {
	// Methods are the methods whose requests are keyed. Default POST, PATCH.
	Methods []string
	// Keys are the sources of the key, asked in their order; the first that is
	// present counts. Default HeaderKey(), which is Idempotency-Key.
	Keys []KeySource
	// RequireKey refuses requests of those methods that carry no key.
	RequireKey bool
	// TimeBased refuses keys that do not tell their time (UUIDv7, ULID), are
	// older than all that is remembered, or lie more than five minutes ahead.
	TimeBased bool

	// Principal says who asks; it is part of the key's scope. Default
	// AuthorizationPrincipal().
	Principal Principal
	// Host, unless empty, stands in the scope for the request's own host: for
	// where a balancer rewrites that.
	Host string
	// Route, unless empty, is part of the scope, so that keys of one route
	// never meet those of another, and labels the observer's events.
	Route string

	// Fingerprint says what makes two requests the same. Default Whole().
	Fingerprint *Fingerprinting

	// Policy is what idem keeps to for these requests; its zero fields take
	// the guard's.
	Policy idem.Policy
	// Status lists statuses that are not treated as by default.
	Status StatusPolicy
	// KeepHeaders are headers that a replay keeps although it would not by
	// default (such as Set-Cookie); DropHeaders are those it drops besides.
	// Hop-by-hop fields are never kept.
	KeepHeaders, DropHeaders []string

	// MaxRequestBody bounds a keyed request's body, in bytes: 413 past it.
	// Default 10 MiB.
	MaxRequestBody int64
	// MaxRequestBodies bounds the bodies of all keyed requests held at once, in
	// bytes: 503 past it. Default 256 MiB.
	MaxRequestBodies int64
	// MaxStoredResponse bounds what is kept of a response, in bytes, its
	// headers included. A longer one reaches its client whole and is not
	// replayed. Default 1 MiB.
	MaxStoredResponse int
	// ClientTimeout bounds how long a client may take nothing of a streamed
	// response before it counts as gone; the operation goes on. It also bounds
	// how long a client may take for each 32 KiB of a keyed request's body; past
	// it the connection ends, and nothing was run. It is not used for responses
	// where the server has a WriteTimeout of its own, nor for bodies where it has
	// a ReadTimeout. Default 30s.
	ClientTimeout time.Duration

	// FailOpen passes requests on unprotected, marked Idempotency-Unprotected,
	// where the store does not answer. Default: they are refused.
	FailOpen bool

	// ProblemBase is what the types of problem details begin with. Default
	// DefaultProblemBase.
	ProblemBase string
	// Problem, unless nil, writes the middleware's own answers in the
	// application's shape. A panic in it costs the request its answer, no more.
	Problem func(w http.ResponseWriter, r *http.Request, p *Problem)
	// AllowOrigins are the origins whose pages may read the middleware's own
	// answers (CORS); "*" allows all.
	AllowOrigins []string

	// Logger takes what an operator should know. Default slog.Default.
	Logger *slog.Logger
}

// WriteProblem answers a request with a problem as the options say: under
// ProblemBase, with CORS headers for AllowOrigins, in the shape that Problem
// gives it. A handler behind the middleware may use it for its own problems.
func (o *Options) WriteProblem(w http.ResponseWriter, r *http.Request, p *Problem) {
	p.Base = o.ProblemBase
	if len(o.AllowOrigins) > 0 {
		allowOrigin(w.Header(), r, o.AllowOrigins)
	}
	if o.Problem == nil {
		p.Write(w)
		return
	}
	o.Problem(w, r, p)
}
