package idem_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/internal/memtx"
	"github.com/idem-go/idem/memstore"
)

// txBed is a guard over a store with transactions, in a bubble.
type txBed struct {
	t     *testing.T
	store *memtx.Store
	guard *idem.TxGuard[*memtx.Tx]
	seen  *seenEvents
	other *idem.Guard // over the same store, as another process has it
}

// seenEvents counts what an observer is told.
type seenEvents struct {
	mu    sync.Mutex
	kinds map[idem.EventKind]int
}

func (s *seenEvents) Observe(_ context.Context, e idem.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kinds[e.Kind]++
}

func (s *seenEvents) count(k idem.EventKind) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kinds[k]
}

func withTx(t *testing.T, o idem.Options, f func(t *testing.T, b *txBed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &txBed{t: t, store: memtx.New(&memstore.Options{MaxResult: 10_000}), seen: &seenEvents{kinds: map[idem.EventKind]int{}}}
		o.Observer = b.seen
		b.guard = idem.NewTx(b.store, &o)
		b.other = idem.New(b.store, nil)
		f(t, b)
		if err := errors.Join(b.guard.Close(t.Context()), b.other.Close(t.Context()), b.store.Close()); err != nil {
			t.Error(err)
		}
	})
}

func order(id string) idem.Request {
	return idem.Request{Key: idem.Key{Scope: "orders", ID: id}, Fingerprint: idem.Fingerprint{Rule: 1, Sum: driver.KeyOf("", "order")}}
}

// insert is work that adds one row and returns its number.
func insert(name string) func(context.Context, *memtx.Tx) (int, error) {
	return func(_ context.Context, tx *memtx.Tx) (int, error) { return 7, tx.Insert(name) }
}

func (b *txBed) do(id string) (idem.Outcome[int], error) {
	return idem.DoTxOutcome(b.t.Context(), b.guard, order(id), insert(id))
}

// rows checks how many rows of a name there are.
func (b *txBed) rows(name string, want int) {
	b.t.Helper()
	if got := b.store.Rows(name); got != want {
		b.t.Errorf("%d rows of %q, want %d", got, name, want)
	}
}

func (b *txBed) state(id string, want driver.State) {
	b.t.Helper()
	rec, err := b.store.Lookup(b.t.Context(), driver.KeyOf("orders", id))
	if err != nil || rec.State != want {
		b.t.Errorf("the record of %q is %v, %v; want %v", id, rec.State, err, want)
	}
}

func TestTxTakesEffectOnce(t *testing.T) {
	withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
		first, err := b.do("k")
		if err != nil || first.Replayed || first.Value != 7 {
			t.Errorf("%+v %v", first, err)
		}
		again, err := b.do("k")
		if err != nil || !again.Replayed || again.Value != 7 {
			t.Errorf("again: %+v %v", again, err)
		}
		b.rows("k", 1)
		if b.seen.count(idem.EventRan) != 1 || b.seen.count(idem.EventReplayed) != 1 {
			t.Errorf("observed: %v", b.seen.kinds)
		}
		// A leased claim of the same key sees the same record.
		v, err := idem.Do(t.Context(), b.guard.Guard(), order("k"), func(context.Context) (int, error) {
			t.Error("the work ran again")
			return 0, nil
		})
		if v != 7 || err != nil {
			t.Errorf("Do: %d %v", v, err)
		}
	})
}

func TestTxErrors(t *testing.T) {
	failed := errors.New("no such account")
	for name, tt := range map[string]struct {
		err     error
		commits bool
	}{
		"unmarked": {failed, false},
		"release":  {idem.ReleaseError(failed), false},
		"keep":     {idem.KeepError(failed), true},
	} {
		t.Run(name, func(t *testing.T) {
			withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
				runs := 0
				do := func() error {
					_, err := idem.DoTx(t.Context(), b.guard, order("k"), func(_ context.Context, tx *memtx.Tx) (int, error) {
						runs++
						return 0, errors.Join(tx.Insert("k"), tt.err)
					})
					return err
				}
				if name != "unmarked" { // a joined error is not marked outermost, and means the same
					if err := do(); !errors.Is(err, failed) {
						t.Errorf("%v", err)
					}
				} else if err := do(); !errors.Is(err, failed) || errors.Is(err, idem.ErrUnknown) {
					t.Errorf("%v", err)
				}
				err := do()
				var kept *idem.KeptError
				switch {
				case tt.commits:
					if runs != 1 || !errors.As(err, &kept) {
						t.Errorf("%d runs, %v; want one that is kept", runs, err)
					}
					b.rows("k", 1)
				default:
					if runs != 2 || !errors.Is(err, failed) {
						t.Errorf("%d runs, %v; want two that are rolled back", runs, err)
					}
					b.rows("k", 0)
					b.state("k", driver.StateAbsent)
				}
			})
		})
	}
}

func TestTrap14TxPanicsRollBack(t *testing.T) {
	withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
		func() {
			defer func() {
				if p := recover(); p != "broken" {
					t.Errorf("recovered %v", p)
				}
			}()
			_, _ = idem.DoTx(t.Context(), b.guard, order("k"), func(_ context.Context, tx *memtx.Tx) (int, error) {
				_ = tx.Insert("k")
				panic("broken")
			})
		}()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = idem.DoTx(t.Context(), b.guard, order("k"), func(_ context.Context, tx *memtx.Tx) (int, error) {
				_ = tx.Insert("k")
				runtime.Goexit()
				return 0, nil
			})
		})
		wg.Wait()
		b.rows("k", 0)
		if o, err := b.do("k"); err != nil || o.Replayed {
			t.Errorf("the key is stuck: %+v %v", o, err)
		}
		b.rows("k", 1)
	})
}

// A hundred callers in one process take one transaction, and wait for it here.
func TestTrap1TxManyAtOnce(t *testing.T) {
	withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
		var replayed, open, most atomic.Int64
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				o, err := idem.DoTxOutcome(t.Context(), b.guard, order("k"), func(_ context.Context, tx *memtx.Tx) (int, error) {
					most.Store(max(most.Load(), open.Add(1)))
					defer open.Add(-1)
					time.Sleep(time.Second)
					return 7, tx.Insert("k")
				})
				if err != nil || o.Value != 7 {
					t.Errorf("%+v %v", o, err)
				}
				if o.Replayed {
					replayed.Add(1)
				}
			})
		}
		wg.Wait()
		b.rows("k", 1)
		if replayed.Load() != 99 || most.Load() != 1 {
			t.Errorf("%d replays, %d transactions at once", replayed.Load(), most.Load())
		}
	})
}

// Two guards on one store are as two processes: one waits in the database.
func TestTxWaitsForAnotherProcess(t *testing.T) {
	withTx(t, idem.Options{Policy: idem.Policy{Wait: 2 * time.Second}}, func(t *testing.T, b *txBed) {
		other := idem.NewTx(b.store, &idem.Options{Policy: idem.Policy{Wait: 2 * time.Second}})
		run := func(id string, d time.Duration) {
			began := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				_, err := idem.DoTx(t.Context(), other, order(id), func(_ context.Context, tx *memtx.Tx) (int, error) {
					close(began)
					time.Sleep(d)
					return 7, tx.Insert(id)
				})
				if err != nil {
					t.Errorf("the other process: %v", err)
				}
			})
			<-began
			at := time.Now()
			o, err := b.do(id)
			took := time.Since(at)
			if d > 2*time.Second {
				if !errors.Is(err, idem.ErrInFlight) || took != 2*time.Second {
					t.Errorf("after %v: %v, want in-flight after 2s", took, err)
				}
			} else if err != nil || !o.Replayed || took != d {
				t.Errorf("after %v: %+v %v, want a replay after %v", took, o, err, d)
			}
			wg.Wait()
		}
		run("short", time.Second)
		run("long", 3*time.Second)
	})
	withTx(t, idem.Options{Policy: idem.Policy{Wait: -1}}, func(t *testing.T, b *txBed) {
		other := idem.NewTx(b.store, nil)
		_, err := idem.DoTx(t.Context(), other, order("k"), func(_ context.Context, tx *memtx.Tx) (int, error) {
			if _, err := b.do("k"); !errors.Is(err, idem.ErrInFlight) {
				t.Errorf("who does not wait: %v", err)
			}
			return 7, tx.Insert("k")
		})
		if err != nil {
			t.Error(err)
		}
		b.rows("k", 1)
	})
}

func TestTrap16TxAnotherFingerprint(t *testing.T) {
	withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
		another := order("k")
		another.Fingerprint.Sum[0]++
		ask := func() error {
			_, err := idem.DoTx(t.Context(), b.guard, another, insert("another"))
			return err
		}
		_, err := idem.DoTx(t.Context(), b.guard, order("k"), func(_ context.Context, tx *memtx.Tx) (int, error) {
			if err := ask(); !errors.Is(err, idem.ErrReused) {
				t.Errorf("while it runs: %v", err)
			}
			return 7, tx.Insert("k")
		})
		if err != nil {
			t.Error(err)
		}
		if err := ask(); !errors.Is(err, idem.ErrReused) {
			t.Errorf("afterwards: %v", err)
		}
		b.rows("another", 0)
	})
}

func TestTrap11TxCallerLeaves(t *testing.T) {
	withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		v, err := idem.DoTx(ctx, b.guard, order("k"), func(ctx context.Context, tx *memtx.Tx) (int, error) {
			time.Sleep(600 * time.Millisecond)
			return 7, errors.Join(ctx.Err(), tx.Insert("k"))
		})
		if v != 7 || err != nil {
			t.Errorf("%d %v", v, err)
		}
		if o, err := b.do("k"); err != nil || !o.Replayed {
			t.Errorf("the retry: %+v %v", o, err)
		}
		b.rows("k", 1)
	})
}

// Work that runs for too long is rolled back: nothing is unknown.
func TestTxMaxRun(t *testing.T) {
	withTx(t, idem.Options{Policy: idem.Policy{MaxRun: time.Minute}}, func(t *testing.T, b *txBed) {
		for _, heeds := range []bool{true, false} {
			_, err := idem.DoTx(t.Context(), b.guard, order("k"), func(ctx context.Context, tx *memtx.Tx) (int, error) {
				_ = tx.Insert("k")
				if heeds {
					<-ctx.Done()
					return 0, ctx.Err()
				}
				time.Sleep(2 * time.Minute)
				return 7, nil
			})
			if !errors.Is(err, idem.ErrMaxRun) || errors.Is(err, idem.ErrUnknown) {
				t.Errorf("work that heeds its context (%v): %v", heeds, err)
			}
			b.state("k", driver.StateAbsent)
		}
		b.rows("k", 0)
	})
}

func TestTrap61TxTooLarge(t *testing.T) {
	withTx(t, idem.Options{Policy: idem.Policy{MaxResult: 100}}, func(t *testing.T, b *txBed) {
		ask := func(n int) error {
			_, err := idem.DoTx(t.Context(), b.guard, order("k"), func(_ context.Context, tx *memtx.Tx) (string, error) {
				return text(n), tx.Insert("k")
			})
			return err
		}
		meta := len("idem/json/1")
		if err := ask(100 - meta - 1); !errors.Is(err, idem.ErrTooLarge) {
			t.Errorf("one byte more than fits: %v", err)
		}
		b.rows("k", 0)
		b.state("k", driver.StateAbsent)
		if err := ask(100 - meta - 2); err != nil {
			t.Errorf("what just fits: %v", err)
		}
		b.rows("k", 1)
	})
	withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
		_, err := idem.DoTx(t.Context(), b.guard, order("k"), func(_ context.Context, tx *memtx.Tx) (string, error) {
			return text(10_001), tx.Insert("k")
		})
		if !errors.Is(err, idem.ErrTooLarge) {
			t.Errorf("more than the store takes: %v", err)
		}
		_, err = idem.DoTx(t.Context(), b.guard, order("k"), func(_ context.Context, tx *memtx.Tx) (func(), error) {
			return func() {}, tx.Insert("k")
		})
		if err == nil || errors.Is(err, idem.ErrUnknown) {
			t.Errorf("a value that cannot be encoded: %v", err)
		}
		b.rows("k", 0)
		b.state("k", driver.StateAbsent)
	})
}

func text(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'x'
	}
	return string(b)
}

// Trap 44: a commit that was not taken is tried again, one that was taken and
// lost its answer is found.
func TestTrap44TxCommitLosesItsAnswer(t *testing.T) {
	for _, took := range []bool{true, false} {
		withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
			b.store.FailCommits = []bool{took}
			runs := 0
			v, err := idem.DoTx(t.Context(), b.guard, order("k"), func(_ context.Context, tx *memtx.Tx) (int, error) {
				runs++
				return 7, tx.Insert("k")
			})
			want := 2
			if took {
				want = 1
			}
			if v != 7 || err != nil || runs != want {
				t.Errorf("taken %v: %d %v after %d runs, want %d", took, v, err, runs, want)
			}
			b.rows("k", 1)
		})
	}
}

func TestTxConflictsAreNoAttempts(t *testing.T) {
	withTx(t, idem.Options{Policy: idem.Policy{CountAttempts: true}}, func(t *testing.T, b *txBed) {
		var attempts []int
		var derived []string
		calls := 0
		work := func(ctx context.Context, tx *memtx.Tx) (int, error) {
			calls++
			c, ok := idem.FromContext(ctx)
			got, found := idem.TxFromContext[*memtx.Tx](ctx)
			if !ok || !found || got != tx {
				t.Fatal("claim and transaction are not in the work's context")
			}
			if err := c.Complete(idem.Result{}); !errors.Is(err, idem.ErrEnded) {
				t.Errorf("the work could end its claim: %v", err)
			}
			attempts, derived = append(attempts, c.Attempt()), append(derived, c.Derive("charge"))
			switch calls {
			case 1, 2:
				return 0, memtx.ErrConflict
			case 3:
				return 0, errors.New("broken")
			}
			return 7, tx.Insert("k")
		}
		if _, err := idem.DoTx(t.Context(), b.guard, order("k"), work); err == nil {
			t.Error("no error")
		}
		if _, err := idem.DoTx(t.Context(), b.guard, order("k"), work); err != nil {
			t.Error(err)
		}
		if want := []int{1, 1, 1, 2}; len(attempts) != 4 || attempts[2] != want[2] || attempts[3] != want[3] {
			t.Errorf("attempts %v, want %v", attempts, want)
		}
		for _, d := range derived {
			if d != derived[0] {
				t.Errorf("derived keys differ: %v", derived)
			}
		}
		b.rows("k", 1)
	})
}

// Trap 57: those who wait for work that says no do not run it one by one.
func TestTrap57TxReleaseIsShared(t *testing.T) {
	withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
		busy := errors.New("busy")
		var runs atomic.Int64
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_, err := idem.DoTx(t.Context(), b.guard, order("k"), func(_ context.Context, tx *memtx.Tx) (int, error) {
					runs.Add(1)
					time.Sleep(time.Second)
					return 0, idem.ReleaseError(busy)
				})
				if !errors.Is(err, busy) {
					t.Errorf("%v", err)
				}
			})
		}
		wg.Wait()
		if runs.Load() != 1 {
			t.Errorf("%d ran, want 1", runs.Load())
		}
	})
}

// hanging is a store whose transactions wait for the context's end, before the
// work or at the commit.
type hanging struct {
	*memtx.Store
	commit bool
}

func (s *hanging) DoTx(ctx context.Context, req driver.TxRequest, work driver.TxWork[*memtx.Tx]) (driver.TxReply, error) {
	if s.commit {
		if _, err := work(ctx, s.Begin(), driver.Record{Key: req.Key, Token: 1, Attempt: 1}); err != nil {
			return driver.TxReply{}, err
		}
	}
	<-ctx.Done()
	return driver.TxReply{}, ctx.Err()
}

func TestTrap9TxStoreHangs(t *testing.T) {
	for _, commit := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := &hanging{Store: memtx.New(nil), commit: commit}
			g := idem.NewTx[*memtx.Tx](s, &idem.Options{StoreTimeout: 5 * time.Second, Policy: idem.Policy{Wait: time.Second}})
			at := time.Now()
			_, err := idem.DoTx(t.Context(), g, order("k"), insert("k"))
			if took := time.Since(at); !errors.Is(err, idem.ErrStore) || took > 6*time.Second {
				t.Errorf("hangs at the commit %v: %v after %v", commit, err, took)
			}
			_ = g.Close(t.Context())
			_ = s.Close()
		})
	}
}

// Records of leased claims, that Tx mode finds.
func TestTxOverLeasedRecords(t *testing.T) {
	begin := func(b *txBed) *idem.Claim {
		begun, err := b.other.Begin(t.Context(), &idem.Request{Key: order("k").Key, Fingerprint: order("k").Fingerprint})
		if err != nil {
			t.Fatal(err)
		}
		return begun.Claim
	}
	withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
		c := begin(b)
		go func() {
			time.Sleep(time.Second)
			_ = c.Complete(idem.Result{Meta: []byte("idem/json/1"), Body: []byte("8")})
		}()
		if o, err := b.do("k"); err != nil || !o.Replayed || o.Value != 8 {
			t.Errorf("a claim that completes while one waits: %+v %v", o, err)
		}
		b.rows("k", 0)
	})
	withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
		_ = begin(b).Abandon()
		if _, err := b.do("k"); !errors.Is(err, idem.ErrUnknown) {
			t.Errorf("an unknown outcome: %v", err)
		}
	})
	withTx(t, idem.Options{Policy: idem.Policy{Unknown: idem.RetryUnknown}}, func(t *testing.T, b *txBed) {
		_ = begin(b).Abandon()
		if o, err := b.do("k"); err != nil || o.Replayed {
			t.Errorf("an unknown outcome under retry: %+v %v", o, err)
		}
		b.rows("k", 1)
	})
	resolve := idem.Policy{Unknown: idem.ResolveUnknown, Resolver: func(context.Context, idem.Unknown) (idem.Resolution, error) {
		return idem.NotDone(), nil
	}}
	withTx(t, idem.Options{Policy: resolve}, func(t *testing.T, b *txBed) {
		_ = begin(b).Abandon()
		if o, err := b.do("k"); err != nil || o.Replayed {
			t.Errorf("an unknown outcome under resolve: %+v %v", o, err)
		}
		b.rows("k", 1)
	})
	withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
		_, _ = b.do("k")
		time.Sleep(idem.DefaultRetention)
		if _, err := b.do("k"); !errors.Is(err, idem.ErrForgotten) {
			t.Errorf("a forgotten result: %v", err)
		}
		b.rows("k", 1)
	})
}

func TestTxRefusals(t *testing.T) {
	withTx(t, idem.Options{}, func(t *testing.T, b *txBed) {
		if _, err := b.do(""); !errors.Is(err, idem.ErrInvalid) {
			t.Errorf("no id: %v", err)
		}
		if _, err := b.do(text(driver.MaxName + 1)); !errors.Is(err, idem.ErrInvalid) {
			t.Errorf("an id that is too long: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := idem.DoTx(ctx, b.guard, order("k"), insert("k")); !errors.Is(err, context.Canceled) {
			t.Errorf("a context that has ended: %v", err)
		}
		b.rows("k", 0)
	})
	withTx(t, idem.Options{MaxClaims: 1}, func(t *testing.T, b *txBed) {
		_, err := idem.DoTx(t.Context(), b.guard, order("k"), func(_ context.Context, tx *memtx.Tx) (int, error) {
			if _, err := b.do("other"); !errors.Is(err, idem.ErrOverloaded) {
				t.Errorf("a second transaction where one is the most: %v", err)
			}
			return 7, nil
		})
		if err != nil {
			t.Error(err)
		}
		_ = b.guard.Close(t.Context())
		if _, err := b.do("k"); !errors.Is(err, idem.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}
