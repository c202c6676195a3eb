package drivertest

import (
	"context"
	"time"

	"github.com/idem-go/idem/driver"
)

// completeTxRules are about claims that end in a transaction of the
// application's.
func completeTxRules[Tx any]() []txRule[Tx] {
	type env = txEnv[Tx]
	return []txRule[Tx]{
		{"CompleteTxCommitsWithTheRows", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			tx, commit, rollback := e.h.Begin(e.TB, e.s)
			defer rollback()
			e.want(e.h.Effect(e.ctx, tx, "k"), nil, "Effect")
			e.completeTx(tx, ref, completion(req, "meta", "body"), false)
			e.state(req.Key, driver.StateInFlight)
			e.effects("k", 0)
			e.want(commit(), nil, "the commit")
			if rec := e.state(req.Key, driver.StateCompleted); string(rec.Result.Body) != "body" || rec.Token != ref.Token {
				e.Errorf("the record is %s", show(rec))
			}
			e.effects("k", 1)
		}},
		{"CompleteTxThatIsRolledBack", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			tx, _, rollback := e.h.Begin(e.TB, e.s)
			e.want(e.h.Effect(e.ctx, tx, "k"), nil, "Effect")
			e.completeTx(tx, ref, completion(req, "meta", "body"), false)
			rollback()
			e.state(req.Key, driver.StateInFlight)
			e.effects("k", 0)
			e.renew(ref, lease)
			e.complete(ref, completion(req, "meta", "later"))
		}},
		// A claim is renewed as before when its transaction has been rolled back.
		{"Trap38CompleteTxOfALostClaimFailsTheTransaction", func(e *env) {
			req := request("k")
			paused := e.grant(req)
			e.advance(lease)
			next := request("k")
			next.Retry = true
			successor := e.grant(next)
			tx2, commit2, rollback2 := e.h.Begin(e.TB, e.s)
			defer rollback2()
			e.want(e.h.Effect(e.ctx, tx2, "k"), nil, "Effect")
			e.completeTx(tx2, successor, completion(next, "meta", "successor"), false)
			e.want(commit2(), nil, "the successor's commit")

			e.lostTx(paused, completion(req, "meta", "paused"), driver.ErrLost)
			e.effects("k", 1)
			if rec := e.state(req.Key, driver.StateCompleted); string(rec.Result.Body) != "successor" {
				e.Errorf("the record is %s", show(rec))
			}
		}},
		{"CompleteTxOfAClaimThatAnotherHolds", func(e *env) {
			req := request("k")
			paused := e.grant(req)
			e.advance(lease)
			next := request("k")
			next.Retry = true
			e.grant(next)
			e.lostTx(paused, completion(req, "meta", "paused"), driver.ErrLost)
			e.effects("k", 0)
			e.state(req.Key, driver.StateInFlight)
		}},
		{"CompleteTxOfAClaimThatWasReleased", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.release(ref, false)
			e.lostTx(ref, completion(req, "meta", "body"), driver.ErrLost)
			e.lostTx(driver.Ref{Key: driver.KeyOf("scope", "nothing"), Token: 7}, completion(req, "meta", "body"), driver.ErrLost)
		}},
		{"CompleteTxLate", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			e.advance(lease)
			tx, commit, rollback := e.h.Begin(e.TB, e.s)
			defer rollback()
			e.completeTx(tx, ref, completion(req, "meta", "body"), true)
			e.want(commit(), nil, "the commit")
			e.state(req.Key, driver.StateCompleted)
		}},
		{"CompleteTxAfterAnOperatorReleased", func(e *env) {
			if e.resolver() == nil {
				e.Log("drivertest: not tested, because the store has no Resolve")
				return
			}
			req := request("k")
			ref := e.grant(req)
			e.abandon(ref)
			e.resolve(req.Key, resolution(driver.ResolveRelease))
			tx, commit, rollback := e.h.Begin(e.TB, e.s)
			defer rollback()
			e.completeTx(tx, ref, completion(req, "meta", "body"), true)
			e.want(commit(), nil, "the commit")
			if rec := e.state(req.Key, driver.StateCompleted); rec.Fingerprint != req.Fingerprint {
				e.Errorf("the record is %s; it should have the completion's fingerprint", show(rec))
			}
		}},
		// The commit before may have lost its answer: the rows of a second
		// transaction would be a second effect, whatever its result.
		{"Trap56CompleteTxAgainFailsTheTransaction", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			c := completion(req, "meta", "body")
			tx, commit, rollback := e.h.Begin(e.TB, e.s)
			defer rollback()
			e.completeTx(tx, ref, c, false)
			e.want(commit(), nil, "the commit")
			e.lostTx(ref, c, driver.ErrCompleted)
			e.lostTx(ref, completion(req, "meta", "another"), driver.ErrCompleted)
			e.advance(retention)
			e.lostTx(ref, c, driver.ErrCompleted)
		}},
		{"CompleteTxOutOfBounds", func(e *env) {
			req := request("k")
			ref := e.grant(req)
			c := completion(req, "meta", "body")
			c.Retention = 0
			tx, _, rollback := e.h.Begin(e.TB, e.s)
			defer rollback()
			_, err := e.tx.CompleteTx(e.ctx, tx, ref, c)
			e.want(err, driver.ErrInvalid, "CompleteTx")
			e.state(req.Key, driver.StateInFlight)
		}},
		{"WhoWaitsIsToldOfACompleteTx", func(e *env) {
			w, ok := driver.As[driver.Waiter](e.s)
			if !ok {
				e.Log("drivertest: not tested, because the store does not implement driver.Waiter")
				return
			}
			req := request("k")
			ref := e.grant(req)
			ctx, cancel := context.WithTimeout(e.ctx, patience)
			defer cancel()
			told := make(chan error, 1)
			go func() { told <- w.Wait(ctx, ref) }()
			tx, commit, rollback := e.h.Begin(e.TB, e.s)
			defer rollback()
			e.completeTx(tx, ref, completion(req, "meta", "body"), false)
			e.want(commit(), nil, "the commit")
			for {
				err := <-told
				e.want(err, nil, "Wait")
				if e.lookup(req.Key).State == driver.StateCompleted {
					return
				}
				go func() { told <- w.Wait(ctx, ref) }() // it may return early
			}
		}},
	}
}

// completeTx completes a claim in a transaction, which must succeed.
func (e *txEnv[Tx]) completeTx(tx Tx, ref driver.Ref, c driver.Completion, late bool) {
	e.Helper()
	got, err := e.tx.CompleteTx(e.ctx, tx, ref, c)
	e.want(err, nil, "CompleteTx")
	if got != late {
		e.Fatalf("CompleteTx says late %v; it should be %v", got, late)
	}
}

// lostTx completes a claim in a transaction, which must fail as a whole.
func (e *txEnv[Tx]) lostTx(ref driver.Ref, c driver.Completion, want error) {
	e.Helper()
	tx, commit, rollback := e.h.Begin(e.TB, e.s)
	defer rollback()
	e.want(e.h.Effect(e.ctx, tx, "lost"), nil, "Effect")
	ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
	defer cancel()
	_, err := e.tx.CompleteTx(ctx, tx, ref, c)
	e.want(err, want, "CompleteTx")
	if err := commit(); err == nil {
		e.Error("the transaction of a lost claim was committed; it should have failed")
	}
	e.effects("lost", 0)
}
