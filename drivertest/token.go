package drivertest

import (
	"github.com/idem-go/idem/driver"
)

func tokenRules() []rule {
	return []rule{
		{"GrowsAfterRelease", func(e *env) {
			first := e.grant(request("k"))
			e.release(first, false)
			second := e.grant(request("k"))
			e.larger(second, first)
		}},
		{"GrowsUnderRetry", func(e *env) {
			first := e.grant(request("k"))
			e.advance(lease)
			retry := request("k")
			retry.Retry = true
			second := e.grant(retry)
			e.larger(second, first)
			e.abandon(second)
			retry.Nonce = driver.NewNonce()
			e.larger(e.grant(retry), second)
		}},
		// The key was absent in between, and nothing was known of it any more.
		{"GrowsAfterAbsence", func(e *env) {
			var last driver.Ref
			for range 4 {
				ref := e.grant(request("k"))
				e.larger(ref, last)
				e.release(ref, false)
				e.advance(retention)
				e.sweep()
				last = ref
			}
			for range 4 {
				req := request("k")
				ref := e.grant(req)
				e.larger(ref, last)
				e.complete(ref, completion(req, "", ""))
				e.advance(retention + tombstone)
				e.sweep()
				last = ref
			}
			for range 4 {
				ref := e.grant(request("k"))
				e.larger(ref, last)
				e.advance(lease + tombstone)
				e.sweep()
				last = ref
			}
		}},
		{"IsNotChangedByTheOwner", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.renew(ref, lease)
			equal(e, e.lookup(req.Key).Token, ref.Token, "the token")
			e.complete(ref, completion(req, "", ""))
			equal(e, e.lookup(req.Key).Token, ref.Token, "the token")
			e.advance(retention)
			equal(e, e.lookup(req.Key).Token, ref.Token, "the token")
		}},
		// A paused owner wakes after another took over: it must neither save nor
		// renew nor release nor abandon, however far the other has come.
		{"Trap4ThePausedOwnerIsFenced", func(e *env) {
			old := e.grant(request("k"))
			e.advance(lease)
			req := request("k")
			req.Retry = true
			ref := e.grant(req)
			e.fenced(req, old)
			e.complete(ref, completion(req, "", "of the other"))
			e.fenced(req, old)
			e.advance(retention)
			e.fenced(req, old)
			e.advance(tombstone)
			e.fenced(req, old)
		}},
		{"Trap4FencedAfterItsRelease", func(e *env) {
			old := e.grant(request("k"))
			e.release(old, false)
			req := request("k")
			ref := e.grant(req)
			e.fenced(req, old)
			e.abandon(ref)
			e.fenced(req, old)
			retry := request("k")
			retry.Retry = true
			ref = e.grant(retry)
			e.fenced(req, old)
			e.release(ref, true)
			e.fenced(req, old)
		}},
		{"NeverGrantedIsLost", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			for _, token := range []uint64{0, ref.Token + 1, ref.Token + 1000, 1<<64 - 1} {
				e.fenced(req, driver.Ref{Key: req.Key, Token: token})
			}
			other := request("other")
			e.fenced(other, driver.Ref{Key: other.Key, Token: ref.Token})
		}},
	}
}

func (e *env) larger(ref, than driver.Ref) {
	e.Helper()
	if ref.Token <= than.Token {
		e.Fatalf("the token %d was granted after %d; every grant of a key has a larger one", ref.Token, than.Token)
	}
}

// fenced checks that a token which is not the newest changes nothing.
func (e *env) fenced(req driver.ClaimRequest, old driver.Ref) {
	e.Helper()
	e.unchanged(req.Key, "an old token", func() {
		e.Helper()
		e.want(e.s.Renew(e.ctx, old, lease), driver.ErrLost, "Renew with an old token")
		e.want(e.s.Abandon(e.ctx, old), driver.ErrLost, "Abandon with an old token")
		e.want(e.s.Release(e.ctx, old, driver.Release{Retention: retention}), driver.ErrLost, "Release with an old token")
		_, err := e.s.Complete(e.ctx, old, completion(req, "", "of the old owner"))
		e.want(err, driver.ErrLost, "Complete with an old token")
	})
}

// sweep drops what is over, in a store that can be told to.
func (e *env) sweep() {
	e.Helper()
	if s, ok := driver.As[driver.Sweeper](e.s); ok {
		if _, err := s.Sweep(e.ctx, 1000); err != nil {
			e.Fatalf("Sweep: %v", err)
		}
	}
}
