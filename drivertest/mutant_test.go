package drivertest

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

// A mutant is a right store that has been broken in one way that the contract
// forbids. The suite is done when it notices each of them.
type mutant struct {
	name  string
	spoil func(b *broken)
}

func mutants() []mutant {
	var all []mutant
	all = append(all, claimMutants()...)
	all = append(all, ownerMutants()...)
	all = append(all, boundMutants()...)
	all = append(all, recordMutants()...)
	all = append(all, extraMutants()...)
	return all
}

// broken is a right store of which calls can be replaced. What replaces a call
// finds the right store as b.Store.
type broken struct {
	*memstore.Store

	claim    func(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error)
	renew    func(ctx context.Context, ref driver.Ref, lease time.Duration) error
	complete func(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error)
	release  func(ctx context.Context, ref driver.Ref, r driver.Release) error
	abandon  func(ctx context.Context, ref driver.Ref) error
	lookup   func(ctx context.Context, key driver.Key) (driver.Record, error)
	resolve  func(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error)
	list     func(ctx context.Context, q driver.Query) (driver.Page, error)
	sweep    func(ctx context.Context, limit int) (int, error)
	stats    func(ctx context.Context) (driver.Stats, error)
	wait     func(ctx context.Context, ref driver.Ref) error
	// record spoils each record that is returned.
	record func(r *driver.Record)
	// key takes one key for another.
	key      func(k driver.Key) driver.Key
	ping     func(ctx context.Context) error
	describe func() driver.Info
	// unbounded leaves out the bound on unknowns.
	unbounded bool
	// reopen ends the process and begins the next one.
	reopen func(ctx context.Context)

	mu   sync.Mutex
	made map[driver.Key]driver.ClaimRequest // the last claim granted of each key
}

func (b *broken) Claim(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
	key := req.Key
	req.Key = b.keyOf(key)
	f := b.Store.Claim
	if b.claim != nil {
		f = b.claim
	}
	reply, err := f(ctx, req)
	if err == nil && reply.Granted {
		b.mu.Lock()
		b.made[req.Key] = req
		b.mu.Unlock()
	}
	b.spoil(&reply.Record, key)
	return reply, err
}

func (b *broken) Renew(ctx context.Context, ref driver.Ref, lease time.Duration) error {
	ref.Key = b.keyOf(ref.Key)
	if b.renew != nil {
		return b.renew(ctx, ref, lease)
	}
	return b.Store.Renew(ctx, ref, lease)
}

func (b *broken) Complete(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
	ref.Key = b.keyOf(ref.Key)
	if b.complete != nil {
		return b.complete(ctx, ref, c)
	}
	return b.Store.Complete(ctx, ref, c)
}

func (b *broken) Release(ctx context.Context, ref driver.Ref, r driver.Release) error {
	ref.Key = b.keyOf(ref.Key)
	if b.release != nil {
		return b.release(ctx, ref, r)
	}
	return b.Store.Release(ctx, ref, r)
}

func (b *broken) Abandon(ctx context.Context, ref driver.Ref) error {
	ref.Key = b.keyOf(ref.Key)
	if b.abandon != nil {
		return b.abandon(ctx, ref)
	}
	return b.Store.Abandon(ctx, ref)
}

func (b *broken) Lookup(ctx context.Context, key driver.Key) (driver.Record, error) {
	f := b.Store.Lookup
	if b.lookup != nil {
		f = b.lookup
	}
	rec, err := f(ctx, b.keyOf(key))
	b.spoil(&rec, key)
	return rec, err
}

func (b *broken) Resolve(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error) {
	f := b.Store.Resolve
	if b.resolve != nil {
		f = b.resolve
	}
	rec, err := f(ctx, b.keyOf(key), r)
	b.spoil(&rec, key)
	return rec, err
}

func (b *broken) List(ctx context.Context, q driver.Query) (driver.Page, error) {
	f := b.Store.List
	if b.list != nil {
		f = b.list
	}
	page, err := f(ctx, q)
	for i := range page.Records {
		b.spoil(&page.Records[i], page.Records[i].Key)
	}
	return page, err
}

func (b *broken) Sweep(ctx context.Context, limit int) (int, error) {
	if b.sweep != nil {
		return b.sweep(ctx, limit)
	}
	return b.Store.Sweep(ctx, limit)
}

func (b *broken) Stats(ctx context.Context) (driver.Stats, error) {
	if b.stats != nil {
		return b.stats(ctx)
	}
	return b.Store.Stats(ctx)
}

func (b *broken) Wait(ctx context.Context, ref driver.Ref) error {
	ref.Key = b.keyOf(ref.Key)
	if b.wait != nil {
		return b.wait(ctx, ref)
	}
	return b.Store.Wait(ctx, ref)
}

func (b *broken) Ping(ctx context.Context) error {
	if b.ping != nil {
		return b.ping(ctx)
	}
	return b.Store.Ping(ctx)
}

// Describe says durable, because the harness can reopen the store.
func (b *broken) Describe() driver.Info {
	if b.describe != nil {
		return b.describe()
	}
	info := b.Store.Describe()
	info.Durable = true
	return info
}

// dies is the end of the process, to a store that is embedded: what was in
// flight is unknown.
func (b *broken) dies(ctx context.Context) {
	page, _ := b.Store.List(ctx, driver.Query{Limit: 1000, States: []driver.State{driver.StateInFlight}})
	for _, rec := range page.Records {
		_ = b.Store.Abandon(ctx, driver.Ref{Key: rec.Key, Token: rec.Token})
	}
}

func (b *broken) keyOf(k driver.Key) driver.Key {
	if b.key != nil {
		return b.key(k)
	}
	return k
}

func (b *broken) spoil(r *driver.Record, key driver.Key) {
	r.Key = key
	if b.record != nil {
		b.record(r)
	}
}

// now is the record of a key in the right store.
func (b *broken) now(key driver.Key) driver.Record {
	r, err := b.Store.Lookup(context.Background(), key)
	if err != nil {
		return driver.Record{Key: key}
	}
	return r
}

// last is the last claim that was granted of a key.
func (b *broken) last(key driver.Key) driver.ClaimRequest {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.made[key]
}

// brokenHarness is a harness of stores that a mutant has spoilt.
func brokenHarness(m mutant) Harness {
	open := func(t testing.TB, o memstore.Options) driver.Store {
		b := &broken{made: map[driver.Key]driver.ClaimRequest{}}
		m.spoil(b)
		if b.unbounded {
			o.MaxUnknown = -1
		}
		b.Store = memstore.New(&o)
		t.Cleanup(func() { b.Close() })
		return b
	}
	h := Bubble(func(t testing.TB) driver.Store {
		return open(t, memstore.Options{MaxResult: 4096})
	})
	h.Reopen = func(t testing.TB, s driver.Store) driver.Store {
		b, ok := s.(*broken)
		if !ok {
			t.Fatalf("the harness was given a store that it did not make: %T", s)
		}
		if b.reopen != nil {
			b.reopen(t.Context())
		} else {
			b.dies(t.Context())
		}
		return b
	}
	h.NewBounded = func(t testing.TB, maxUnknown int) driver.Store {
		return open(t, memstore.Options{MaxUnknown: maxUnknown})
	}
	return h
}

// recorder is a test whose failure is what is wanted.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	failure  string
	cleanups []func()
}

func (r *recorder) Helper()             {}
func (r *recorder) Log(...any)          {}
func (r *recorder) Logf(string, ...any) {}
func (r *recorder) Error(args ...any)   { r.fail(fmt.Sprint(args...)) }
func (r *recorder) Fail()               { r.fail("failed") }

func (r *recorder) Errorf(format string, args ...any) { r.fail(fmt.Sprintf(format, args...)) }

func (r *recorder) Fatal(args ...any) {
	r.fail(fmt.Sprint(args...))
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.fail(fmt.Sprintf(format, args...))
	runtime.Goexit()
}

func (r *recorder) FailNow() {
	r.fail("failed")
	runtime.Goexit()
}

func (r *recorder) Failed() bool { return r.message() != "" }

func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

func (r *recorder) fail(msg string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failure == "" {
		r.failure = msg
	}
}

func (r *recorder) message() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failure
}

// try runs a test in a bubble, and returns how it failed; "" if it did not.
func try(t *testing.T, test func(t testing.TB)) (failure string) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{TB: t}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			defer func() {
				if p := recover(); p != nil {
					rec.fail(fmt.Sprint("panic: ", p))
				}
			}()
			test(rec)
		}()
		<-ended
		for _, f := range rec.cleanups {
			f()
		}
		failure = rec.message()
	})
	return failure
}

// The store that is broken in no way passes: what notices a mutant notices the
// mutation.
func TestTheRightStorePasses(t *testing.T) {
	h := brokenHarness(mutant{"none", func(*broken) {}})
	for _, g := range groups() {
		for _, r := range g.rules {
			if failure := try(t, func(t testing.TB) { r.run(t, h) }); failure != "" {
				t.Errorf("%s/%s: %s", g.name, r.name, failure)
			}
		}
	}
}

// killer is the first rule of the suite that fails, and how; "" if none does.
func killer(t *testing.T, h Harness) (name, failure string) {
	t.Helper()
	for _, g := range groups() {
		for _, r := range g.rules {
			if failure := try(t, func(t testing.TB) { r.run(t, h) }); failure != "" {
				return g.name + "/" + r.name, failure
			}
		}
	}
	return "", ""
}

func TestEveryMutantDies(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range mutants() {
		if seen[m.name] {
			t.Errorf("two mutants are called %s", m.name)
		}
		seen[m.name] = true
		t.Run(m.name, func(t *testing.T) {
			// Those that are racy need luck to show it.
			for range 10 {
				if rule, failure := killer(t, brokenHarness(m)); failure != "" {
					t.Logf("%s: %s", rule, failure)
					return
				}
			}
			t.Errorf("the suite passes on a store that is broken: %s", m.name)
		})
	}
	if len(seen) < 20 {
		t.Errorf("there are only %d mutants", len(seen))
	}
}

// beyondTheModel are the mutants that histories of single calls, with arguments
// in bounds and records looked at one by one, cannot notice.
func beyondTheModel(name string) bool {
	for _, list := range [][]mutant{boundMutants(), extraMutants()} {
		for _, m := range list {
			if m.name == name {
				return true
			}
		}
	}
	return map[string]bool{
		"RetryComparesTheSumOnly": true, "MetaAndBodyAreComparedAsOne": true,
		"ClaimIsNotAtomic": true, "TakeOverIsNotAtomic": true, "CompleteIsNotAtomic": true,
		"WaitedForALaterClaimToo": true,
		"NamesAreTrimmed":         true, "NamesAreFolded": true, "NamesAreText": true, "KeysAreOfTheIDAlone": true,
		"ResultsAreText": true, "ResultsEndAtNUL": true, "MetaCanGrowIntoTheBody": true, "ResultsAreReused": true,
	}[name]
}

// The model knows nothing of the mutants, and notices them all the same.
func TestTheModelNoticesMutants(t *testing.T) {
	o := (&ModelOptions{Seed: 1}).defaults(t)
	for _, m := range append(mutants(), mutant{"none", func(*broken) {}}) {
		if beyondTheModel(m.name) {
			continue
		}
		h := brokenHarness(m)
		failure := ""
		for seed := uint64(1); seed <= 40 && failure == ""; seed++ {
			failure = try(t, func(t testing.TB) { runHistory(t, h, o, seed) })
		}
		if right := m.name == "none"; right != (failure == "") {
			t.Errorf("the mutant %s: the model says %q", m.name, failure)
		}
	}
}
