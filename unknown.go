package idem

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/idem-go/idem/driver"
)

// Unknown is what a resolver is asked about: an operation whose owner vanished,
// or said that it cannot know.
type Unknown struct {
	Key Key
	// Age is how long ago the claim was granted.
	Age time.Duration
	// Attempt is that claim's attempt.
	Attempt int
	// Token is that claim's token.
	Token uint64
}

// Resolution is a resolver's answer, made by [Done], [NotDone] or [AskAgain].
type Resolution struct {
	kind   resolutionKind
	result Result
	after  time.Duration
}

type resolutionKind uint8

const (
	resolveAgain resolutionKind = iota
	resolveDone
	resolveNotDone
)

// Done says that the operation was done and gave res.
func Done(res Result) Resolution { return Resolution{kind: resolveDone, result: res} }

// NotDone says that the operation was not done: the caller runs it.
func NotDone() Resolution { return Resolution{kind: resolveNotDone} }

// AskAgain says that it is not known yet; after, if more than zero, is when to
// ask again.
func AskAgain(after time.Duration) Resolution { return Resolution{after: after} }

// resolve asks the policy's resolver about an unknown record. Nil says that the
// record has changed, and is to be claimed anew.
func (g *Guard) resolve(ctx context.Context, c *Claim, rec *driver.Record, pol *Policy) error {
	unknown := &UnknownError{Age: rec.Age, Attempt: rec.Attempt}
	store, ok := driver.As[driver.Resolver](g.store)
	if !ok {
		return unknown
	}
	asked := time.Now()
	limit := pol.Wait
	if limit <= 0 {
		limit = DefaultWait
	}
	rctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer, err := g.askResolver(rctx, pol, Unknown{Key: Key{Scope: c.scope, ID: c.id}, Age: rec.Age, Attempt: rec.Attempt, Token: rec.Token})
	if err != nil {
		g.opts.Logger.WarnContext(ctx, "idem: the resolver gave no answer", "key", c.key.Short(), "route", c.route, "error", err)
		return unknown
	}
	r := driver.Resolution{Token: rec.Token, Retention: pol.Retention, Tombstone: pol.Tombstone, Note: "resolved by the application's resolver"}
	switch answer.kind {
	case resolveDone:
		r.Action, r.Result = driver.ResolveComplete, answer.result
		if answer.result.Size() > pol.MaxResult {
			r.Result, r.Dropped = Result{}, true
		}
	case resolveNotDone:
		r.Action = driver.ResolveRelease
	default:
		unknown.RetryAfter = answer.after
		return unknown
	}
	sctx, stop := context.WithTimeout(context.WithoutCancel(ctx), g.opts.StoreTimeout)
	defer stop()
	_, err = store.Resolve(sctx, c.key, r)
	if errors.Is(err, driver.ErrTooLarge) {
		r.Result, r.Dropped = Result{}, true
		_, err = store.Resolve(sctx, c.key, r)
	}
	switch {
	case err == nil:
		g.observe(ctx, c, EventResolved, asked, false, nil)
	case errors.Is(err, driver.ErrState), errors.Is(err, driver.ErrLost):
		// Somebody else was faster: the record is read again.
	default:
		return storeError(err)
	}
	return nil
}

func (g *Guard) askResolver(ctx context.Context, pol *Policy, u Unknown) (r Resolution, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("idem: the resolver panicked: %v", p)
		}
	}()
	return pol.Resolver(ctx, u)
}
