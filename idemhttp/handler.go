package idemhttp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/idem-go/idem"
)

// New returns the middleware. The guard stays the caller's to close. The
// options are copied.
func New(guard *idem.Guard, opts *Options) func(http.Handler) http.Handler {
	m := newMiddleware(guard, opts)
	return func(next http.Handler) http.Handler {
		return &handler{middleware: m, next: next}
	}
}

type middleware struct {
	guard     *idem.Guard
	opts      Options
	policy    *idem.Policy
	keep      headerFilter
	needsBody bool
	bodies    atomic.Int64
	anonymous sync.Once
}

type handler struct {
	*middleware
	next http.Handler
	// inTx, unless nil, runs operations in transactions; otherwise their claims
	// are leased.
	inTx txRunner
}

func newMiddleware(guard *idem.Guard, opts *Options) *middleware {
	m := &middleware{guard: guard}
	if opts != nil {
		m.opts = *opts
	}
	o := &m.opts
	if len(o.Methods) == 0 {
		o.Methods = []string{http.MethodPost, http.MethodPatch}
	}
	if len(o.Keys) == 0 {
		o.Keys = []KeySource{HeaderKey()}
	}
	for _, k := range o.Keys {
		m.needsBody = m.needsBody || k.NeedsBody()
	}
	if o.Principal == nil {
		o.Principal = AuthorizationPrincipal()
	}
	if o.Fingerprint == nil {
		o.Fingerprint = Whole()
	}
	if o.MaxRequestBody <= 0 {
		o.MaxRequestBody = DefaultMaxRequestBody
	}
	if o.MaxRequestBodies <= 0 {
		o.MaxRequestBodies = DefaultMaxRequestBodies
	}
	if o.MaxStoredResponse <= 0 {
		o.MaxStoredResponse = DefaultMaxStoredResponse
	}
	if o.ClientTimeout <= 0 {
		o.ClientTimeout = DefaultClientTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Policy.MaxResult == 0 {
		o.Policy.MaxResult = o.MaxStoredResponse
	}
	m.policy = guard.Policy(o.Policy)
	m.keep = newHeaderFilter(o.KeepHeaders, o.DropHeaders)
	return m
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !r.ProtoAtLeast(1, 1) {
		defer breakOff(w)
	}
	h.opts.Principal.Clean(r.Header)
	switch h.class(r.Method) {
	case methodPlain:
		h.servePlain(w, r, false)
		return
	case methodMisspelt:
		h.refuse(w, r, problemMethodInvalid.with(fmt.Sprintf("Methods are case-sensitive: send %s.", strings.ToUpper(r.Method))))
		return
	case methodForbidden:
		h.refuse(w, r, problemMethodNotAllowed.with(""))
		return
	}
	op := operations.Get().(*operation)
	op.middleware = h.middleware
	defer op.end()
	h.serveKeyed(op, w, r)
}

type methodClass uint8

const (
	methodPlain methodClass = iota
	methodKeyed
	methodMisspelt
	methodForbidden
)

func (m *middleware) class(method string) methodClass {
	for _, k := range m.opts.Methods {
		if method == k {
			return methodKeyed
		}
		if len(method) == len(k) && strings.EqualFold(method, k) {
			return methodMisspelt
		}
	}
	if strings.EqualFold(method, http.MethodConnect) || strings.EqualFold(method, http.MethodTrace) {
		return methodForbidden
	}
	return methodPlain
}

// serveKeyed serves a request whose method is keyed, be there a key or not.
func (h *handler) serveKeyed(op *operation, w http.ResponseWriter, r *http.Request) {
	if h.needsBody {
		if p := op.readBody(w, r); p != nil {
			h.refuse(w, r, p)
			return
		}
	}
	id, present, err := h.key(r.Header, op.body())
	if err != nil {
		h.refuse(w, r, problemKeyInvalid.with(detail(err)))
		return
	}
	if !present {
		if h.opts.RequireKey {
			h.refuse(w, r, problemKeyMissing.with(""))
			return
		}
		op.restoreBody(r)
		h.servePlain(w, r, false)
		return
	}
	if p := h.checkTime(id); p != nil {
		h.refuse(w, r, p)
		return
	}
	scope, err := h.scope(r)
	if err != nil {
		h.refuse(w, r, problemPrincipalMissing.with(detail(err)))
		return
	}
	if p := op.readBody(w, r); p != nil {
		h.refuse(w, r, p)
		return
	}
	h.opts.Principal.Clean(r.Trailer) // they have been read with the body
	if len(r.Header["Connection"]) > 0 {
		h.keepKeyHeaders(r.Header)
	}
	r.Header.Del("Upgrade")
	op.accept = r.Header["Accept-Encoding"]
	NarrowAcceptEncoding(r.Header)
	op.key = idem.Key{Scope: scope, ID: id}
	h.run(op, w, r)
}

// key returns the id of the first source that has one.
func (m *middleware) key(h http.Header, body []byte) (id string, present bool, err error) {
	for _, k := range m.opts.Keys {
		if id, present, err = k.Key(h, body); present || err != nil {
			return id, present, err
		}
	}
	return "", false, nil
}

// keepKeyHeaders sees to it that the service gets the key that the claim is of.
func (m *middleware) keepKeyHeaders(h http.Header) {
	for _, k := range m.opts.Keys {
		if k, ok := k.(interface{ headers() []string }); ok {
			for _, name := range k.headers() {
				keepEndToEnd(h, name)
			}
		}
	}
}

func (m *middleware) scope(r *http.Request) (string, error) {
	principal, known, err := m.opts.Principal.Of(r)
	if err != nil {
		return "", err
	}
	if !known {
		m.anonymous.Do(func() {
			m.opts.Logger.Warn("idemhttp: a keyed request carries no Authorization; all such callers share one anonymous scope. Configure a principal, or say that there is none.", "route", m.opts.Route)
		})
	}
	host := m.opts.Host
	if host == "" {
		host = r.Host
	}
	return scopeLabel(NormalHost(host), m.opts.Route, principal), nil
}

// maxAhead is how far a time-based key's time may lie ahead of this clock.
const maxAhead = 5 * time.Minute

func (m *middleware) checkTime(id string) *Problem {
	if !m.opts.TimeBased {
		return nil
	}
	t, ok := KeyTime(id)
	if !ok {
		return problemKeyInvalid.with("This route takes time-based keys only: send a UUIDv7 or a ULID.")
	}
	if time.Until(t) > maxAhead {
		return problemKeyInvalid.with("The key's time lies more than five minutes ahead; mend the clock that made it.")
	}
	if time.Since(t) > m.policy.Retention+m.policy.Tombstone {
		return problemKeyExpired.with("")
	}
	return nil
}

// run asks for the operation and gives its answer.
func (h *handler) run(op *operation, w http.ResponseWriter, r *http.Request) {
	if p := op.fingerprint(r); p != nil {
		h.refuse(w, r, p)
		return
	}
	op.request.Key, op.request.Rules, op.request.Route, op.request.Policy = op.key, op, h.opts.Route, h.policy
	if h.inTx != nil {
		h.runTx(op, w, r)
		return
	}
	for {
		b, err := h.guard.Begin(r.Context(), &op.request)
		switch {
		case err != nil:
			h.refused(op, w, r, err)
			return
		case b.Replayed:
			h.replay(op, w, r, &b)
			return
		case b.Shared != nil:
			h.share(op, w, r, b.Shared)
			return
		case op.ran:
			// The claim that the work was done under is lost, and nothing is on
			// record in its place. The work is not done again, and what it gave
			// is not to be told as final: a person or a resolver decides.
			_ = b.Claim.Abandon()
			h.refuse(w, r, problemOutcomeUnknown.with(""))
			return
		}
		op.ran = true
		err = h.execute(op, b.Claim, w, r)
		if err == nil {
			return
		}
		// The response is not the one on record; nothing of it was sent. What
		// is on record now is the answer.
		if !errors.Is(err, idem.ErrLost) && !errors.Is(err, idem.ErrSuperseded) {
			h.refused(op, w, r, err)
			return
		}
	}
}

// refused answers a request that Begin, or the end of its claim, has refused.
func (h *handler) refused(op *operation, w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		// The client left. One that only closed its half of the connection must
		// not take an empty 200 for an answer.
		panic(http.ErrAbortHandler)
	}
	var inFlight *idem.InFlightError
	var unknown *idem.UnknownError
	p := problemStoreUnavailable.with("")
	switch {
	case errors.As(err, &inFlight):
		p = problemInFlight.with("")
		p.RetryAfter = RetryAfter(inFlight.Age)
	case errors.Is(err, context.DeadlineExceeded) && r.Context().Err() != nil:
		p = problemInFlight.with("The time that this service gives a request was over before a record could be read. Send the same request again later.")
		p.RetryAfter = RetryAfter(0)
	case errors.Is(err, idem.ErrUnsaved):
		p = problemUnsaved.with("")
	case errors.Is(err, idem.ErrUnknown):
		p = problemOutcomeUnknown.with("")
		if errors.As(err, &unknown) {
			p.RetryAfter = unknown.RetryAfter
		}
	case errors.Is(err, idem.ErrReused):
		p = problemKeyReused.with("")
	case errors.Is(err, idem.ErrNotStored):
		p = problemResponseNotStored.with("")
	case errors.Is(err, idem.ErrForgotten):
		p = problemResponseForgotten.with("")
	case errors.Is(err, idem.ErrTooLarge):
		p = problemResponseTooLarge.with("")
		h.opts.Logger.Error("idemhttp: a response was too large to be kept with its transaction, which was rolled back", "route", h.opts.Route, "error", err)
	case errors.Is(err, idem.ErrMaxRun):
		p = problemOverloaded.with("The request took longer than this service gives one, and was rolled back: nothing took effect. Send it again later, with the same key.")
		p.RetryAfter = RetryAfter(0)
	case op.ran:
		// What is wrong with the store now does not undo the work.
		p = problemUnsaved.with("")
		h.opts.Logger.Error("idemhttp: the work was done, and its record cannot be reached", "route", h.opts.Route, "error", err)
	case errors.Is(err, idem.ErrUnreadable):
		p = problemRecordUnreadable.with("")
		h.opts.Logger.Error("idemhttp: a record cannot be read", "route", h.opts.Route, "error", err)
	case errors.Is(err, idem.ErrOverloaded):
		p = problemOverloaded.with("")
		p.RetryAfter = RetryAfter(0)
	case errors.Is(err, idem.ErrInvalid):
		p = problemKeyInvalid.with("The key is too long.")
	default:
		p.RetryAfter = RetryAfter(0)
		if h.opts.FailOpen {
			h.opts.Logger.Warn("idemhttp: the store does not answer; passed on unprotected", "route", h.opts.Route, "error", err)
			op.restoreBody(r)
			h.servePlain(w, r, true)
			return
		}
		h.opts.Logger.Error("idemhttp: the store does not answer", "route", h.opts.Route, "error", err)
	}
	h.refuse(w, r, p)
}

// refuse writes one of the middleware's own answers.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, p *Problem) {
	h.opts.WriteProblem(w, r, p)
}

// execute runs the handler under its claim. An error says that nothing was
// sent to the client yet, and what to answer.
func (h *handler) execute(op *operation, c *idem.Claim, w http.ResponseWriter, r *http.Request) error {
	rec := &op.recorder
	rec.begin(w, r, h.policy.MaxResult, h.opts.ClientTimeout)
	op.claim, op.returned = c, false
	defer h.recoverWork(op)
	h.next.ServeHTTP(rec, op.workRequest(r, c.Context()))
	op.returned = true
	return h.finish(op)
}

// recoverWork ends the claim of a handler that did not return. A handler that
// crashed before it said anything is like one that answered 500: whether its
// work was done is not known, so it is not done twice, and the key is not
// stuck. One that crashed in the middle of its response leaves the outcome
// unknown, and so does one that aborted on purpose.
func (h *handler) recoverWork(op *operation) {
	if op.returned {
		return
	}
	rec := &op.recorder
	aborted := false
	p := recover()
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		aborted = true
	}
	if p == nil || aborted || rec.head || rec.status != 0 {
		_ = op.claim.Abandon() // reported by the observer; nobody is left to tell
	} else {
		h.opts.Logger.Error("idemhttp: a handler panicked; its 500 is recorded", "route", h.opts.Route, "panic", p, "stack", string(debug.Stack()))
		head := http.Header{"Content-Type": {"text/plain; charset=utf-8"}}
		_ = op.claim.Complete(idem.Result{
			Meta: appendStored(nil, http.StatusInternalServerError, head, nil, &h.keep),
			Body: []byte(http.StatusText(http.StatusInternalServerError) + "\n"),
		})
	}
	if p != nil {
		panic(p)
	}
}

// finish records what the handler answered, and lets its end go.
func (h *handler) finish(op *operation) error {
	rec, c := &op.recorder, op.claim
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
	if rec.cut() {
		_ = c.Abandon()
		h.opts.Logger.Error("idemhttp: a handler wrote another length than it declared; the outcome is unknown", "route", h.opts.Route)
		panic(http.ErrAbortHandler)
	}
	if !rec.head {
		rec.sniff(nil)
	}
	outcome := rec.verdict
	if outcome == OutcomeByStatus {
		outcome = h.opts.Status.outcome(rec.status)
	}
	var err error
	switch outcome {
	case OutcomeRelease:
		err = c.Release(h.sharedAnswer(rec))
	case OutcomeUnknown:
		err = c.Abandon()
	default:
		err = h.complete(op)
	}
	if err != nil && outcome == OutcomeComplete {
		if rec.head {
			panic(http.ErrAbortHandler)
		}
		rec.discard()
		return err
	}
	rec.letGo()
	return nil
}

func (h *handler) complete(op *operation) error {
	rec := &op.recorder
	if rec.over() {
		return op.claim.CompleteWithoutResult()
	}
	op.meta = rec.appendMeta(op.meta[:0], &h.keep)
	return op.claim.Complete(idem.Result{Meta: op.meta, Body: rec.body})
}

// detail returns what a client may be told of an error: never more than the
// sentence made for it.
func detail(err error) string {
	var d interface{ Detail() string }
	if errors.As(err, &d) {
		return d.Detail()
	}
	return ""
}
