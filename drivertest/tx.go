package drivertest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
)

// TxHarness says how the tests handle a store with transactions of the type Tx.
// All of it is required but for what says otherwise.
type TxHarness[Tx any] struct {
	// Harness is the store's. Its New must return a driver.TxStore[Tx].
	Harness
	// Effect adds one row of that name in a transaction.
	Effect func(ctx context.Context, tx Tx, name string) error
	// Effects counts the rows of a name that are committed.
	Effects func(t testing.TB, s driver.Store, name string) int
	// Begin begins a transaction of the application's on the store's database.
	// Rollback after a commit, or a second time, does nothing.
	Begin func(t testing.TB, s driver.Store) (tx Tx, commit func() error, rollback func())
	// Conflict returns an error as the engine gives it when a transaction must be
	// tried again: a deadlock, a serialization failure, a busy database.
	Conflict func() error
	// OneWriter says that the engine has one writing transaction at a time, so
	// that one that is open holds up every other.
	OneWriter bool
}

// RunTx tests that a store keeps the contract of driver.TxStore, each rule in a
// subtest of its own on a fresh store. It is beside [Run], which tests the rest.
func RunTx[Tx any](t *testing.T, h TxHarness[Tx]) {
	t.Helper()
	h.check(t)
	for _, g := range txGroups[Tx]() {
		t.Run(g.name, func(t *testing.T) {
			for _, r := range g.rules {
				t.Run(r.name, func(t *testing.T) {
					h.around(t, func(t *testing.T) { r.run(t, h) })
				})
			}
		})
	}
}

// txGroup is the rules of one subject.
type txGroup[Tx any] struct {
	name  string
	rules []txRule[Tx]
}

func txGroups[Tx any]() []txGroup[Tx] {
	return []txGroup[Tx]{
		{"Tx", txRules[Tx]()},
		{"CompleteTx", completeTxRules[Tx]()},
	}
}

type txRule[Tx any] struct {
	name string
	test func(e *txEnv[Tx])
}

func (r txRule[Tx]) run(t testing.TB, h TxHarness[Tx]) {
	t.Helper()
	e := &txEnv[Tx]{env: &env{TB: t, h: h.Harness, ctx: context.WithoutCancel(t.Context())}, h: h}
	e.env.s = h.New(t)
	s, ok := e.env.s.(driver.TxStore[Tx])
	if !ok {
		t.Fatalf("drivertest: New returned a %T, which is no driver.TxStore of these transactions", e.env.s)
	}
	e.tx = s
	r.test(e)
}

type txEnv[Tx any] struct {
	*env
	h  TxHarness[Tx]
	tx driver.TxStore[Tx]
}

const patience = 30 * time.Second

func txRequest(id string) driver.TxRequest {
	r := request(id)
	return driver.TxRequest{
		Key: r.Key, Scope: r.Scope, ID: r.ID, Fingerprint: r.Fingerprint, Wait: patience, Retention: retention,
	}
}

// work adds a row of the request's id and gives a result.
func (e *txEnv[Tx]) work(id, body string) driver.TxWork[Tx] {
	return func(ctx context.Context, tx Tx, _ driver.Record) (driver.Completion, error) {
		if err := e.h.Effect(ctx, tx, id); err != nil {
			return driver.Completion{}, err
		}
		return completion(request(id), "meta", body), nil
	}
}

// never is work that must not be called.
func (e *txEnv[Tx]) never() driver.TxWork[Tx] {
	return func(context.Context, Tx, driver.Record) (driver.Completion, error) {
		e.Error("work was called; it should not be")
		return driver.Completion{}, errors.New("drivertest: not to be called")
	}
}

// ran does the work, which must run and be committed.
func (e *txEnv[Tx]) ran(req driver.TxRequest, body string) driver.Record {
	e.Helper()
	reply, err := e.tx.DoTx(e.ctx, req, e.work(req.ID, body))
	if err != nil || !reply.Ran {
		e.Fatalf("DoTx: ran %v, the record is %s, %v; it should run", reply.Ran, show(reply.Record), err)
	}
	if reply.Record.State != driver.StateCompleted || reply.Record.Token == 0 {
		e.Fatalf("the record that DoTx returned is %s; it should be completed, with a token", show(reply.Record))
	}
	return reply.Record
}

// refused asks for work that must not run, and returns the record.
func (e *txEnv[Tx]) refused(req driver.TxRequest) driver.Record {
	e.Helper()
	reply, err := e.tx.DoTx(e.ctx, req, e.never())
	if err != nil {
		e.Fatalf("DoTx: %v; it should return the record", err)
	}
	if reply.Ran {
		e.Fatal("DoTx says that work ran; it should not have")
	}
	return reply.Record
}

// effects checks how many rows of a name are committed.
func (e *txEnv[Tx]) effects(name string, want int) {
	e.Helper()
	if got := e.h.Effects(e.TB, e.s, name); got != want {
		e.Fatalf("%d rows of %q are committed; it should be %d", got, name, want)
	}
}

func (e *txEnv[Tx]) isAbsent(key driver.Key) {
	e.Helper()
	if rec := e.state(key, driver.StateAbsent); rec.Attempt != 0 {
		e.Fatalf("the record is %s; nothing should be known of it", show(rec))
	}
}

var errWork = errors.New("drivertest: the work's own error")

func txRules[Tx any]() []txRule[Tx] {
	type env = txEnv[Tx]
	return []txRule[Tx]{
		{"RecordAndRowsCommitTogether", func(e *env) {
			req := txRequest("k")
			got := e.ran(req, "body")
			if got.Attempt != 1 {
				e.Errorf("attempt %d; it should be 1", got.Attempt)
			}
			rec := e.state(req.Key, driver.StateCompleted)
			if string(rec.Result.Meta) != "meta" || string(rec.Result.Body) != "body" || rec.Fingerprint != req.Fingerprint ||
				rec.Scope != req.Scope || rec.ID != req.ID || rec.Token != got.Token || rec.Attempt != 1 {
				e.Errorf("the record is %s", show(rec))
			}
			e.effects("k", 1)
			again := e.refused(req)
			if again.State != driver.StateCompleted || string(again.Result.Body) != "body" || string(again.Result.Meta) != "meta" || again.Left <= 0 {
				e.Errorf("asked again, the record is %s", show(again))
			}
			if r := e.refuse(request("k")); r.State != driver.StateCompleted || string(r.Result.Body) != "body" {
				e.Errorf("to a claim the record is %s", show(r))
			}
			e.effects("k", 1)
		}},
		{"NothingIsSeenBeforeTheCommit", func(e *env) {
			req := txRequest("k")
			_, err := e.tx.DoTx(e.ctx, req, func(ctx context.Context, tx Tx, rec driver.Record) (driver.Completion, error) {
				if rec.Key != req.Key || rec.Token == 0 || rec.Attempt != 1 {
					e.Errorf("work is given the record %s", show(rec))
				}
				c, err := e.work("k", "body")(ctx, tx, rec)
				e.isAbsent(req.Key)
				e.effects("k", 0)
				return c, err
			})
			e.want(err, nil, "DoTx")
			e.effects("k", 1)
		}},
		{"AnErrorRollsBack", func(e *env) {
			req := txRequest("k")
			for range 3 {
				_, err := e.tx.DoTx(e.ctx, req, func(ctx context.Context, tx Tx, rec driver.Record) (driver.Completion, error) {
					if rec.Attempt != 1 {
						e.Errorf("attempt %d; what was rolled back should be forgotten", rec.Attempt)
					}
					_, err := e.work("k", "")(ctx, tx, rec)
					e.want(err, nil, "Effect")
					return driver.Completion{}, fmt.Errorf("wrapped: %w", errWork)
				})
				e.want(err, errWork, "DoTx")
				e.isAbsent(req.Key)
				e.effects("k", 0)
			}
			e.ran(req, "body")
			e.effects("k", 1)
		}},
		{"APanicRollsBackAndGoesOn", func(e *env) {
			req := txRequest("k")
			for range 40 { // more than a pool has connections
				func() {
					defer func() {
						if p := recover(); p != "drivertest" {
							e.Errorf("DoTx let %v go on; it should be the work's panic", p)
						}
					}()
					_, _ = e.tx.DoTx(e.ctx, req, func(ctx context.Context, tx Tx, rec driver.Record) (driver.Completion, error) {
						_, _ = e.work("k", "")(ctx, tx, rec)
						panic("drivertest")
					})
				}()
			}
			e.isAbsent(req.Key)
			e.effects("k", 0)
			e.ran(req, "body")
		}},
		{"GoexitRollsBack", func(e *env) {
			req := txRequest("k")
			for range 40 {
				var wg sync.WaitGroup
				wg.Go(func() {
					_, _ = e.tx.DoTx(e.ctx, req, func(ctx context.Context, tx Tx, rec driver.Record) (driver.Completion, error) {
						_, _ = e.work("k", "")(ctx, tx, rec)
						runtime.Goexit()
						return driver.Completion{}, nil
					})
				})
				wg.Wait()
			}
			e.isAbsent(req.Key)
			e.effects("k", 0)
			e.ran(req, "body")
		}},
		{"Trap61OverTheLimitRollsBack", func(e *env) {
			limit := e.limit()
			if limit == 0 {
				e.Log("drivertest: not tested, because the store has no limit of its own")
				return
			}
			req := txRequest("k")
			for _, size := range []int{limit + 1, limit + 2} {
				_, err := e.tx.DoTx(e.ctx, req, e.work("k", string(make([]byte, size-len("meta")))))
				e.want(err, driver.ErrTooLarge, "DoTx")
				e.isAbsent(req.Key)
				e.effects("k", 0)
			}
			e.ran(req, string(make([]byte, limit-len("meta"))))
			if rec := e.state(req.Key, driver.StateCompleted); rec.Result.Size() != limit {
				e.Errorf("%d bytes were kept; it should be %d", rec.Result.Size(), limit)
			}
		}},
		{"AResultThatIsDropped", func(e *env) {
			req := txRequest("k")
			reply, err := e.tx.DoTx(e.ctx, req, func(ctx context.Context, tx Tx, rec driver.Record) (driver.Completion, error) {
				c, err := e.work("k", "")(ctx, tx, rec)
				c.Result, c.Dropped = driver.Result{}, true
				return c, err
			})
			e.want(err, nil, "DoTx")
			if !reply.Ran {
				e.Error("DoTx does not say that work ran")
			}
			if rec := e.state(req.Key, driver.StateCompleted); !rec.Dropped || rec.Result.Size() != 0 {
				e.Errorf("the record is %s", show(rec))
			}
		}},
		{"Trap1OneOfManyRuns", func(e *env) {
			const n = 32
			req := txRequest("k")
			var ran, replayed atomic.Int64
			errs := make([]error, n)
			all(n, func(i int) {
				reply, err := e.tx.DoTx(e.ctx, req, e.work("k", "body"))
				errs[i] = err
				switch {
				case reply.Ran:
					ran.Add(1)
				case reply.Record.State == driver.StateCompleted && string(reply.Record.Result.Body) == "body":
					replayed.Add(1)
				}
			})
			for _, err := range errs {
				e.want(err, nil, "DoTx")
			}
			if ran.Load() != 1 || replayed.Load() != n-1 {
				e.Errorf("%d of %d ran and %d got the result; it should be 1 and %d", ran.Load(), n, replayed.Load(), n-1)
			}
			e.effects("k", 1)
		}},
		{"AnotherOpenTransactionIsWaitedFor", func(e *env) {
			req := txRequest("k")
			first := e.holding(req, nil)
			for _, wait := range []time.Duration{0, 50 * time.Millisecond} {
				short := req
				short.Wait = wait
				if rec := e.refused(short); rec.State != driver.StateInFlight || rec.Left <= 0 {
					e.Errorf("while another's transaction is open the record is %s; it should be in-flight", show(rec))
				}
			}
			if !e.h.OneWriter {
				e.ran(txRequest("other"), "body")
			}
			second := make(chan driver.TxReply, 1)
			go func() {
				reply, err := e.tx.DoTx(e.ctx, req, e.never())
				if err != nil {
					e.Errorf("DoTx of who waits: %v", err)
				}
				second <- reply
			}()
			stillWaits(e.TB, second)
			first.letGo()
			if reply := <-second; reply.Ran || reply.Record.State != driver.StateCompleted || string(reply.Record.Result.Body) != "body" {
				e.Errorf("who waited is given ran %v and %s", reply.Ran, show(reply.Record))
			}
			e.effects("k", 1)
		}},
		{"AnotherTransactionThatRollsBack", func(e *env) {
			req := txRequest("k")
			first := e.holding(req, errWork)
			second := make(chan driver.TxReply, 1)
			go func() {
				reply, err := e.tx.DoTx(e.ctx, req, e.work("k", "second"))
				if err != nil {
					e.Errorf("DoTx of who waits: %v", err)
				}
				second <- reply
			}()
			stillWaits(e.TB, second)
			first.letGo()
			if reply := <-second; !reply.Ran {
				e.Errorf("who waited did not run: %s", show(reply.Record))
			}
			e.effects("k", 1)
			if rec := e.state(req.Key, driver.StateCompleted); string(rec.Result.Body) != "second" || rec.Attempt != 1 {
				e.Errorf("the record is %s", show(rec))
			}
		}},
		{"ACancelledContextChangesNothing", func(e *env) {
			req := txRequest("k")
			ctx, cancel := context.WithCancel(e.ctx)
			cancel()
			_, err := e.tx.DoTx(ctx, req, e.never())
			e.want(err, context.Canceled, "DoTx")
			e.isAbsent(req.Key)
		}},
		{"AContextThatEndsRollsBack", func(e *env) {
			req := txRequest("k")
			ctx, cancel := context.WithCancel(e.ctx)
			_, err := e.tx.DoTx(ctx, req, func(inner context.Context, tx Tx, rec driver.Record) (driver.Completion, error) {
				c, err := e.work("k", "body")(inner, tx, rec)
				cancel()
				<-inner.Done()
				return c, err
			})
			e.want(err, context.Canceled, "DoTx")
			e.isAbsent(req.Key)
			e.effects("k", 0)
			e.ran(req, "body")
		}},
		{"ArgumentsOutOfBounds", func(e *env) {
			for _, spoil := range []func(r *driver.TxRequest){
				func(r *driver.TxRequest) { r.Retention = 0 },
				func(r *driver.TxRequest) { r.Wait = -1 },
				func(r *driver.TxRequest) { r.ID = string(make([]byte, driver.MaxName+1)) },
			} {
				req := txRequest("k")
				spoil(&req)
				_, err := e.tx.DoTx(e.ctx, req, e.never())
				e.want(err, driver.ErrInvalid, "DoTx")
			}
			req := txRequest("k")
			_, err := e.tx.DoTx(e.ctx, req, func(ctx context.Context, tx Tx, rec driver.Record) (driver.Completion, error) {
				c, err := e.work("k", "")(ctx, tx, rec)
				c.Retention = 0
				return c, err
			})
			e.want(err, driver.ErrInvalid, "DoTx with a completion without a retention")
			e.isAbsent(req.Key)
			e.effects("k", 0)
		}},
		{"AClaimThatIsHeld", func(e *env) {
			req := txRequest("k")
			ref := e.grant(request("k"))
			req.Wait = 0
			if rec := e.refused(req); rec.State != driver.StateInFlight || rec.Token != ref.Token || rec.Fingerprint != req.Fingerprint {
				e.Errorf("the record is %s", show(rec))
			}
			e.complete(ref, completion(request("k"), "m", "leased"))
			if rec := e.refused(req); rec.State != driver.StateCompleted || string(rec.Result.Body) != "leased" {
				e.Errorf("the record is %s", show(rec))
			}
		}},
		{"AnUnknownRecord", func(e *env) {
			req := txRequest("k")
			ref := e.grant(request("k"))
			e.abandon(ref)
			if rec := e.refused(req); rec.State != driver.StateUnknown {
				e.Errorf("the record is %s", show(rec))
			}
			req.Retry, req.Fingerprint = true, fingerprint("something else")
			if rec := e.refused(req); rec.State != driver.StateUnknown || rec.Fingerprint != fingerprint("what was asked for") {
				e.Errorf("to another request the record is %s", show(rec))
			}
			req.Fingerprint = fingerprint("what was asked for")
			if rec := e.ran(req, "body"); rec.Attempt != 2 || rec.Token <= ref.Token {
				e.Errorf("the record is %s; the attempt should be 2 and the token larger than %d", show(rec), ref.Token)
			}
			e.completeErr(ref, completion(request("k"), "m", "late"), driver.ErrLost)
		}},
		{"ALapsedLeaseIsUnknown", func(e *env) {
			req := txRequest("k")
			e.grant(request("k"))
			e.advance(lease)
			if rec := e.refused(req); rec.State != driver.StateUnknown {
				e.Errorf("the record is %s", show(rec))
			}
			req.Retry = true
			e.ran(req, "body")
		}},
		{"AReleasedRecord", func(e *env) {
			req := txRequest("k")
			ref := e.grant(request("k"))
			e.release(ref, true)
			if rec := e.ran(req, "body"); rec.Attempt != 2 || rec.Token <= ref.Token {
				e.Errorf("the record is %s; the attempt should be 2 and the token larger than %d", show(rec), ref.Token)
			}
		}},
		{"RetentionAndTombstone", func(e *env) {
			req := txRequest("k")
			first := e.ran(req, "body")
			e.advance(retention)
			if rec := e.refused(req); rec.State != driver.StateForgotten || rec.Result.Size() != 0 {
				e.Errorf("after its retention the record is %s", show(rec))
			}
			e.advance(tombstone)
			if rec := e.ran(req, "again"); rec.Token <= first.Token {
				e.Errorf("the token is %d; it should be larger than %d", rec.Token, first.Token)
			}
			e.effects("k", 2)
		}},
		{"Trap44AConflictIsTriedAgain", func(e *env) {
			req := txRequest("k")
			calls := 0
			reply, err := e.tx.DoTx(e.ctx, req, func(ctx context.Context, tx Tx, rec driver.Record) (driver.Completion, error) {
				calls++
				c, err := e.work("k", "body")(ctx, tx, rec)
				if err == nil && calls < 3 {
					err = fmt.Errorf("wrapped: %w", e.h.Conflict())
				}
				return c, err
			})
			e.want(err, nil, "DoTx")
			if calls != 3 || !reply.Ran || reply.Record.Attempt != 1 {
				e.Errorf("%d calls, ran %v, attempt %d; it should be 3 calls that count as one attempt", calls, reply.Ran, reply.Record.Attempt)
			}
			e.effects("k", 1)
		}},
		{"AConflictIsNotTriedForEver", func(e *env) {
			req := txRequest("k")
			calls := 0
			conflict := e.h.Conflict()
			_, err := e.tx.DoTx(e.ctx, req, func(ctx context.Context, tx Tx, rec driver.Record) (driver.Completion, error) {
				calls++
				if _, err := e.work("k", "")(ctx, tx, rec); err != nil {
					return driver.Completion{}, err
				}
				return driver.Completion{}, conflict
			})
			e.want(err, conflict, "DoTx")
			if calls < 2 || calls > 50 {
				e.Errorf("it was tried %d times", calls)
			}
			e.isAbsent(req.Key)
			e.effects("k", 0)
		}},
		{"AttemptsAreCountedOutside", func(e *env) {
			req := txRequest("k")
			req.CountAttempts = true
			for n := 1; n <= 3; n++ {
				calls := 0
				_, err := e.tx.DoTx(e.ctx, req, func(ctx context.Context, tx Tx, rec driver.Record) (driver.Completion, error) {
					if calls++; calls == 1 {
						return driver.Completion{}, e.h.Conflict()
					}
					if rec.Attempt != n {
						e.Errorf("attempt %d; it should be %d", rec.Attempt, n)
					}
					return driver.Completion{}, errWork
				})
				e.want(err, errWork, "DoTx")
			}
			if rec := e.ran(req, "body"); rec.Attempt != 4 {
				e.Errorf("attempt %d; it should be 4", rec.Attempt)
			}
			if rec := e.state(req.Key, driver.StateCompleted); rec.Attempt != 4 {
				e.Errorf("attempt %d is on record; it should be 4", rec.Attempt)
			}
			e.refused(req)
		}},
		{"ContentionIsNoAttempt", func(e *env) {
			req := txRequest("k")
			req.CountAttempts = true
			first := e.holding(req, errWork)
			short := req
			short.Wait = 0
			for range 3 {
				e.refused(short)
			}
			first.letGo()
			<-first.ended
			if rec := e.ran(req, "body"); rec.Attempt != 2 {
				e.Errorf("attempt %d; it should be 2", rec.Attempt)
			}
		}},
		{"AnAttemptCountEnds", func(e *env) {
			req := txRequest("k")
			req.CountAttempts = true
			_, err := e.tx.DoTx(e.ctx, req, func(context.Context, Tx, driver.Record) (driver.Completion, error) {
				return driver.Completion{}, errWork
			})
			e.want(err, errWork, "DoTx")
			e.advance(retention)
			if rec := e.ran(req, "body"); rec.Attempt != 1 {
				e.Errorf("attempt %d after the retention of the count; it should be 1", rec.Attempt)
			}
		}},
		{"AfterClose", func(e *env) {
			c, ok := e.s.(interface{ Close() error })
			if !ok {
				e.Log("drivertest: not tested, because the store has no Close")
				return
			}
			e.want(c.Close(), nil, "Close")
			_, err := e.tx.DoTx(e.ctx, txRequest("k"), e.never())
			e.want(err, driver.ErrClosed, "DoTx")
		}},
	}
}

// stillWaits gives a call a while in which it must not return.
func stillWaits(t testing.TB, c <-chan driver.TxReply) {
	t.Helper()
	select {
	case reply := <-c:
		t.Fatalf("DoTx did not wait for another's open transaction; it returned ran %v and %s", reply.Ran, show(reply.Record))
	case <-time.After(100 * time.Millisecond):
	}
}

// held is a transaction whose work waits.
type held struct {
	letting chan struct{}
	ended   chan struct{}
}

func (h *held) letGo() { close(h.letting) }

// holding begins work that has added its row and waits until it is let go; it
// then returns err.
func (e *txEnv[Tx]) holding(req driver.TxRequest, err error) *held {
	e.Helper()
	h := &held{letting: make(chan struct{}), ended: make(chan struct{})}
	began := make(chan struct{})
	var once sync.Once // the database may want the transaction to be tried again
	go func() {
		defer close(h.ended)
		_, got := e.tx.DoTx(e.ctx, req, func(ctx context.Context, tx Tx, rec driver.Record) (driver.Completion, error) {
			c, werr := e.work(req.ID, "body")(ctx, tx, rec)
			once.Do(func() { close(began) })
			<-h.letting
			return c, errors.Join(werr, err)
		})
		if !errors.Is(got, err) {
			e.Errorf("DoTx of who was first: %v; it should be %v", got, err)
		}
	}()
	<-began
	return h
}
