package idem_test

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

var errDown = errors.New("the store's line is cut")

// fault stands between a guard and a call to its store. Returning without the
// call is a request that never arrived; returning an error after it is an
// answer that was lost.
type fault func(ctx context.Context, op string, call func(context.Context) error) error

// faulty is a store around another, with a fault that can be changed.
type faulty struct {
	inner driver.Store
	mu    sync.Mutex
	fault fault
	calls map[string]int
	last  driver.Nonce
}

func faults(inner driver.Store, f fault) *faulty {
	return &faulty{inner: inner, fault: f, calls: map[string]int{}}
}

func (f *faulty) set(fault fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

func (f *faulty) count(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *faulty) do(ctx context.Context, op string, call func(context.Context) error) error {
	f.mu.Lock()
	f.calls[op]++
	fault := f.fault
	f.mu.Unlock()
	if fault == nil {
		return call(ctx)
	}
	return fault(ctx, op, call)
}

// through makes a call that gives a value. The call may go on after a fault has
// given up on it.
func through[T any](ctx context.Context, f *faulty, op string, call func(context.Context) (T, error)) (T, error) {
	var got atomic.Pointer[T]
	err := f.do(ctx, op, func(ctx context.Context) error {
		v, err := call(ctx)
		got.Store(&v)
		return err
	})
	if v := got.Load(); v != nil && err == nil {
		return *v, nil
	}
	return *new(T), err
}

// nonce is that of the last claim that was asked for.
func (f *faulty) nonce() driver.Nonce {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

func (f *faulty) Unwrap() driver.Store { return f.inner }

func (f *faulty) Claim(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
	f.mu.Lock()
	f.last = req.Nonce
	f.mu.Unlock()
	return through(ctx, f, "claim", func(ctx context.Context) (driver.ClaimReply, error) { return f.inner.Claim(ctx, req) })
}

func (f *faulty) Renew(ctx context.Context, ref driver.Ref, lease time.Duration) error {
	return f.do(ctx, "renew", func(ctx context.Context) error { return f.inner.Renew(ctx, ref, lease) })
}

func (f *faulty) Complete(ctx context.Context, ref driver.Ref, c driver.Completion) (bool, error) {
	return through(ctx, f, "complete", func(ctx context.Context) (bool, error) { return f.inner.Complete(ctx, ref, c) })
}

func (f *faulty) Release(ctx context.Context, ref driver.Ref, r driver.Release) error {
	return f.do(ctx, "release", func(ctx context.Context) error { return f.inner.Release(ctx, ref, r) })
}

func (f *faulty) Abandon(ctx context.Context, ref driver.Ref) error {
	return f.do(ctx, "abandon", func(ctx context.Context) error { return f.inner.Abandon(ctx, ref) })
}

func (f *faulty) Lookup(ctx context.Context, key driver.Key) (driver.Record, error) {
	return through(ctx, f, "lookup", func(ctx context.Context) (driver.Record, error) { return f.inner.Lookup(ctx, key) })
}

func (f *faulty) Resolve(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error) {
	inner, _ := driver.As[driver.Resolver](f.inner)
	return through(ctx, f, "resolve", func(ctx context.Context) (driver.Record, error) { return inner.Resolve(ctx, key, r) })
}

// down refuses the named operations, or all.
func down(ops ...string) fault {
	return func(ctx context.Context, op string, call func(context.Context) error) error {
		if !named(ops, op) {
			return call(ctx)
		}
		return errDown
	}
}

// deaf carries the named operations out and loses their answers.
func deaf(ops ...string) fault {
	return func(ctx context.Context, op string, call func(context.Context) error) error {
		err := call(ctx)
		if named(ops, op) {
			return errDown
		}
		return err
	}
}

// hang never answers the named operations, or all, before their time is over.
func hang(ops ...string) fault {
	return func(ctx context.Context, op string, call func(context.Context) error) error {
		if !named(ops, op) {
			return call(ctx)
		}
		<-ctx.Done()
		return ctx.Err()
	}
}

func named(ops []string, op string) bool {
	for _, o := range ops {
		if o == op {
			return true
		}
	}
	return len(ops) == 0
}

// recorder is an observer that keeps what it is told.
type recorder struct {
	mu     sync.Mutex
	events []idem.Event
}

func (r *recorder) Observe(_ context.Context, e idem.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) kinds() []idem.EventKind {
	r.mu.Lock()
	defer r.mu.Unlock()
	kinds := make([]idem.EventKind, len(r.events))
	for i, e := range r.events {
		kinds[i] = e.Kind
	}
	return kinds
}

func (r *recorder) count(kind idem.EventKind) int {
	n := 0
	for _, k := range r.kinds() {
		if k == kind {
			n++
		}
	}
	return n
}

// ledger counts how often the work of a key took effect.
type ledger struct {
	mu      sync.Mutex
	effects map[string]int
}

func (l *ledger) add(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.effects == nil {
		l.effects = map[string]int{}
	}
	l.effects[id]++
	return l.effects[id]
}

func (l *ledger) sub(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.effects[id]--
}

func (l *ledger) of(id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.effects[id]
}

// bubble runs f in a synctest bubble: its time passes when everybody waits, and
// it fails when a goroutine is left behind.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func newStore() *memstore.Store { return memstore.New(nil) }

// guard makes a guard that is closed at the test's end.
func guard(t testing.TB, store driver.Store, opts *idem.Options) *idem.Guard {
	t.Helper()
	var o idem.Options
	if opts != nil {
		o = *opts
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	g := idem.New(store, &o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := g.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return g
}

func request(id string) *idem.Request { return &idem.Request{Key: idem.Key{Scope: "s", ID: id}} }

func sum(rule uint8, of string) idem.Fingerprint {
	f := idem.Fingerprint{Rule: rule}
	copy(f.Sum[:], of)
	return f
}

// begin asks for a claim that must be granted.
func begin(t testing.TB, g *idem.Guard, req *idem.Request) *idem.Claim {
	t.Helper()
	b, err := g.Begin(context.Background(), req)
	if err != nil || b.Claim == nil {
		t.Fatalf("begin: %+v, %v; want a claim", b, err)
	}
	return b.Claim
}

// replay asks for a result that must be there.
func replay(t testing.TB, g *idem.Guard, req *idem.Request, body string) {
	t.Helper()
	b, err := g.Begin(context.Background(), req)
	if err != nil || !b.Replayed || string(b.Result.Body) != body {
		t.Fatalf("begin: %+v, %v; want a replay of %q", b, err, body)
	}
}

// refused asks for what must be refused with an error.
func refused(t testing.TB, g *idem.Guard, req *idem.Request, want error) error {
	t.Helper()
	b, err := g.Begin(context.Background(), req)
	if !errors.Is(err, want) {
		t.Fatalf("begin: %+v, %v; want %v", b, err, want)
	}
	if b.Claim != nil || b.Replayed || b.Shared != nil {
		t.Fatalf("begin: %+v beside the error %v", b, err)
	}
	return err
}

func body(s string) idem.Result { return idem.Result{Body: []byte(s)} }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wants(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func lookup(t testing.TB, s driver.Store, req *idem.Request) driver.Record {
	t.Helper()
	r, err := s.Lookup(context.Background(), driver.KeyOf(req.Key.Scope, req.Key.ID))
	must(t, err)
	return r
}

func state(t testing.TB, s driver.Store, req *idem.Request, want driver.State) driver.Record {
	t.Helper()
	r := lookup(t, s, req)
	if r.State != want {
		t.Fatalf("the record is %v, want %v", r.State, want)
	}
	return r
}

func itoa(n int) string { return strconv.Itoa(n) }

// together runs f n times at once and waits for all.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}
