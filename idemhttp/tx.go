package idemhttp

import (
	"context"
	"errors"
	"maps"
	"net/http"

	"github.com/idem-go/idem"
)

// NewTx returns the middleware for handlers whose work is writes to the store's
// own database: each keyed request runs in a transaction, which the handler takes
// from its context, and the rows that it writes, the record and the stored response
// commit together before the first byte of the answer leaves. There is exactly one
// effect, whatever crashes.
//
//	protect := idemhttp.NewTx(guard, nil)
//
//	func (s *service) create(w http.ResponseWriter, r *http.Request) {
//		tx, ok := idem.TxFromContext[pgx.Tx](r.Context())
//		if !ok { … } // a request without a key has none
//
// It differs from [New] in this:
//
//   - The whole response is held until the commit: nothing streams, a flush does
//     nothing, informational responses are not sent.
//   - The response's status decides about the transaction too. What completes the
//     record commits; what would release it or leave its outcome unknown rolls
//     back, and so does every other 5xx that Options.Status does not list: the
//     response is passed on, nothing took effect, and the next request runs.
//   - A panic rolls back, and nothing is recorded.
//   - A response over Options.MaxStoredResponse rolls back and is answered 500, of
//     type response-too-large.
//   - The handler may be called again for the same request, after a deadlock or
//     another conflict of the database's own; what it answered before is dropped.
//     What it does outside of the transaction must bear that.
//   - Options.FailOpen is not heeded: there would be no transaction.
//
// Guard and options are as for [New]. The guard stays the caller's to close.
func NewTx[Tx any](guard *idem.TxGuard[Tx], opts *Options) func(http.Handler) http.Handler {
	m := newMiddleware(guard.Guard(), opts)
	m.opts.FailOpen = false
	run := func(ctx context.Context, req *idem.Request, work func(context.Context) (idem.TxEnd, error)) (idem.TxDone, error) {
		return guard.Run(ctx, req, func(ctx context.Context, _ Tx) (idem.TxEnd, error) { return work(ctx) })
	}
	return func(next http.Handler) http.Handler {
		return &handler{middleware: m, next: next, inTx: run}
	}
}

// txRunner is a TxGuard's Run, whatever its transactions are: they are in the
// work's context.
type txRunner func(ctx context.Context, req *idem.Request, work func(context.Context) (idem.TxEnd, error)) (idem.TxDone, error)

// errCut: the handler wrote another length than it declared.
var errCut = errors.New("idemhttp: the response has another length than was declared")

// runTx runs an operation in a transaction, and gives its answer.
func (h *handler) runTx(op *operation, w http.ResponseWriter, r *http.Request) {
	header := r.Header.Clone() // for a second call of the handler
	d, err := h.inTx(r.Context(), &op.request, func(ctx context.Context) (idem.TxEnd, error) {
		clear(r.Header)
		maps.Copy(r.Header, header)
		return h.workTx(op, w, r, ctx)
	})
	switch {
	case errors.Is(err, errCut):
		h.opts.Logger.Error("idemhttp: a handler wrote another length than it declared; its transaction was rolled back", "route", h.opts.Route)
		panic(http.ErrAbortHandler)
	case err != nil:
		h.refused(op, w, r, err)
	case d.Replayed:
		h.replay(op, w, r, &idem.Begun{Replayed: true, Result: d.Result, Expires: d.Expires})
	case d.Shared != nil:
		h.share(op, w, r, d.Shared)
	default:
		op.recorder.letGo()
	}
}

// workTx calls the handler, and says what becomes of its transaction.
func (h *handler) workTx(op *operation, w http.ResponseWriter, r *http.Request, ctx context.Context) (idem.TxEnd, error) {
	rec := &op.recorder
	rec.begin(w, r, h.policy.MaxResult, h.opts.ClientTimeout)
	rec.whole = true
	h.next.ServeHTTP(rec, op.workRequest(r, ctx))
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
	if rec.cut() {
		return idem.TxEnd{}, errCut
	}
	if rec.over() {
		return idem.TxEnd{}, idem.ErrTooLarge
	}
	rec.sniff(nil)
	if h.commits(rec) {
		op.meta = rec.appendMeta(op.meta[:0], &h.keep)
		return idem.TxEnd{Result: idem.Result{Meta: op.meta, Body: rec.body}}, nil
	}
	return idem.TxEnd{Rollback: h.sharedAnswer(rec)}, nil
}

// commits reports that a response's transaction is to be committed.
func (h *handler) commits(rec *recorder) bool {
	if rec.verdict != OutcomeByStatus {
		return rec.verdict == OutcomeComplete
	}
	return h.opts.Status.commits(rec.status)
}
