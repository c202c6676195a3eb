package shared

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
)

// shortLease is that of tests which stop an owner until it is over.
const shortLease = 1500 * time.Millisecond

// stopBed is two workers, the first of which is stopped in the midst of its work.
type stopBed struct {
	*crew
	t *testing.T
}

func newStopBed(t *testing.T, k *kind, retry bool) *stopBed {
	t.Helper()
	l := labOf(t, k)
	if l == nil {
		return nil
	}
	return beginStop(t, &config{
		Store: k.name, DSN: l.dsn, Scope: scopeOf(t), Lease: shortLease, Wait: 30 * time.Second,
		StoreTimeout: 5 * time.Second, Retry: retry, SweepEvery: time.Second,
	})
}

// beginStop starts the workers and waits until both have the store open.
func beginStop(t *testing.T, c *config) *stopBed {
	t.Helper()
	b := &stopBed{t: t, crew: newCrew(t, 2, c)}
	for i := range 2 {
		if a := b.ask(i, task{Op: opNothing}); a.What != ran {
			t.Fatalf("a worker: %+v", a)
		}
	}
	return b
}

// stopped lets the first worker begin the task, and stops it there.
func (b *stopBed) stopped(tk task) (number uint64, answers <-chan answer) {
	b.t.Helper()
	tk.Gate = true
	number, answers = b.send(0, tk)
	if a := receive(b.t, "the first begins", answers); !a.Begun {
		b.t.Fatalf("the first: %+v", a)
	}
	b.signal(0, sigStop)
	return number, answers
}

// wakes lets the first worker go on with its task, and returns its answer.
func (b *stopBed) wakes(number uint64, answers <-chan answer) answer {
	b.t.Helper()
	b.signal(0, sigCont)
	b.worker(0).send(task{N: number, Op: opGo})
	return receive(b.t, "the first, awake", answers)
}

// settled ends the workers and returns the effects and the value of the record.
func (b *stopBed) settled(o op, key string) (effects []string, value string) {
	b.t.Helper()
	b.end()
	p := playerOf(b.t, *b.config)
	a := p.play(b.t.Context(), task{Op: opDo, Key: key})
	if a.What != replayed {
		b.t.Errorf("at the end: %+v", a)
	}
	if o == opDo {
		return ledgerOf(b.t, b.config.Ledger)[key], a.Value
	}
	return rowsOf(b.t, p.opened, b.config.Scope)[key], a.Value
}

// parallel lets the kinds run beside each other: they mostly wait. The tests of this
// package that load or kill a server are not running meanwhile.
func parallel(test func(t *testing.T, k *kind)) func(t *testing.T, k *kind) {
	return func(t *testing.T, k *kind) {
		t.Parallel()
		test(t, k)
	}
}

// An owner is stopped past its lease (SIGSTOP), another takes over and
// completes, and the first goes on: it is told that it has lost its claim, and the
// record stays the other's.
func TestTrap43StoppedPastItsLease(t *testing.T) {
	each(t, every, parallel(func(t *testing.T, k *kind) {
		b := newStopBed(t, k, true)
		if b == nil {
			return
		}
		n, first := b.stopped(task{Op: opDo, Key: "k"})
		second := b.ask(1, task{Op: opDo, Key: "k"})
		if second.What != ran || second.Attempt != 2 {
			t.Fatalf("the second: %+v", second)
		}
		if a := b.wakes(n, first); a.What != lost {
			t.Errorf("the first, awake: %+v", a)
		}
		// The policy is to try again, so the work has run twice; its record is one.
		took, value := b.settled(opDo, "k")
		if len(took) != 2 || value != second.Value {
			t.Errorf("the effects are %v, the record %s, the second's %s", took, value, second.Value)
		}
	}))
}

// So it is in a transaction: that of the first is refused as a whole, so there is
// one effect, whether the other has completed already or has just begun.
func TestTrap38StoppedPastItsLeaseTx(t *testing.T) {
	each(t, withTx, parallel(func(t *testing.T, k *kind) {
		for _, completed := range []bool{true, false} {
			b := newStopBed(t, k, true)
			if b == nil {
				return
			}
			key := map[bool]string{true: "completed", false: "in-flight"}[completed]
			n, first := b.stopped(task{Op: opCompleteTx, Key: key})
			number, answers := b.send(1, task{Op: opCompleteTx, Key: key, Gate: true})
			receive(t, "the second begins", answers)
			goOn := func() answer {
				b.worker(1).send(task{N: number, Op: opGo})
				return receive(t, "the second", answers)
			}
			var second answer
			if completed {
				second = goOn()
			}
			if a := b.wakes(n, first); a.What != lost {
				t.Errorf("%s: the first, awake: %+v", key, a)
			}
			if !completed {
				second = goOn()
			}
			if second.What != ran || second.Attempt != 2 {
				t.Errorf("%s: the second: %+v", key, second)
			}
			if took, value := b.settled(opCompleteTx, key); value != second.Value || !slices.Equal(took, []string{value}) {
				t.Errorf("%s: the effects are %v, the record %s, the second's %s", key, took, value, second.Value)
			}
		}
	}))
}

// Each write of an owner that was stopped past its lease is refused by the store
// itself, while its successor is at work and when that has completed.
func TestTrap4NoWriteOfAStoppedOwner(t *testing.T) {
	each(t, every, parallel(func(t *testing.T, k *kind) {
		for _, completed := range []bool{true, false} {
			b := newStopBed(t, k, true)
			if b == nil {
				return
			}
			key := map[bool]string{true: "completed", false: "in-flight"}[completed]
			n, first := b.stopped(task{Op: opRaw, Key: key})
			number, answers := b.send(1, task{Op: opDo, Key: key, Gate: true})
			receive(t, "the second begins", answers)
			goOn := func() answer {
				b.worker(1).send(task{N: number, Op: opGo})
				return receive(t, "the second", answers)
			}
			var second answer
			if completed {
				second = goOn()
			}
			a := b.wakes(n, first)
			want := 4
			if k.tx {
				want = 5
			}
			if a.What != ran || len(a.Writes) != want {
				t.Errorf("%s: the first, awake: %+v", key, a)
			}
			for _, name := range slices.Sorted(maps.Keys(a.Writes)) {
				if got := a.Writes[name]; got != driver.ErrLost.Error() {
					t.Errorf("%s: %s gave %q", key, name, got)
				}
			}
			if !completed {
				second = goOn()
			}
			if second.What != ran {
				t.Errorf("%s: the second: %+v", key, second)
			}
			took, value := b.settled(opDo, key)
			if value != second.Value || !slices.Equal(took, []string{value}) {
				t.Errorf("%s: the effects are %v, the record %s, the second's %s", key, took, value, second.Value)
			}
			if k.tx {
				p := playerOf(t, *b.config)
				if rows := rowsOf(t, p.opened, b.config.Scope)[key]; len(rows) > 0 {
					t.Errorf("%s: the refused transaction has left %v", key, rows)
				}
			}
		}
	}))
}

// Where nobody takes over, others are told that it is unknown; and when the
// owner goes on after all its completion counts, late.
func TestTrap62StoppedAndLate(t *testing.T) {
	each(t, every, parallel(func(t *testing.T, k *kind) {
		ops := []op{opDo}
		if k.tx {
			ops = append(ops, opCompleteTx)
		}
		for _, o := range ops {
			b := newStopBed(t, k, false)
			if b == nil {
				return
			}
			key := string(o)
			n, first := b.stopped(task{Op: o, Key: key})
			if a := b.ask(1, task{Op: o, Key: key}); a.What != unknown {
				t.Errorf("%s: the second: %+v", key, a)
			}
			a := b.wakes(n, first)
			if a.What != ran {
				t.Errorf("%s: the first, awake: %+v", key, a)
			}
			if again := b.ask(1, task{Op: o, Key: key}); again.What != replayed || again.Value != a.Value {
				t.Errorf("%s: the second, later: %+v, the first's is %s", key, again, a.Value)
			}
			if took, value := b.settled(o, key); value != a.Value || !slices.Equal(took, []string{value}) {
				t.Errorf("%s: the effects are %v, the record %s, the first's %s", key, took, value, a.Value)
			}
		}
	}))
}

// A process is stopped in the midst of its transaction. Whoever asks for the key waits
// for as long as it wanted to, and no longer; other keys go on, but for SQLite, which has
// one writer. In the end there is one effect, whether the process goes on or is killed.
func TestTrap45StoppedInItsTransaction(t *testing.T) {
	each(t, withTx, parallel(func(t *testing.T, k *kind) {
		for _, killed := range []bool{false, true} {
			l := labOf(t, k)
			if l == nil {
				return
			}
			b := beginStop(t, &config{
				Store: k.name, DSN: l.dsn, Scope: scopeOf(t), Wait: 500 * time.Millisecond, StoreTimeout: 5 * time.Second,
			})
			key := map[bool]string{true: "killed", false: "goes-on"}[killed]
			n, first := b.stopped(task{Op: opTx, Key: key})
			began := time.Now()
			if a := b.ask(1, task{Op: opTx, Key: key}); a.What != inFlight {
				t.Errorf("%s: the second: %+v", key, a)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("%s: the second was told after %v", key, took)
			}
			other := b.ask(1, task{Op: opTx, Key: key + "-other"})
			if want := map[bool]what{true: ran, false: inFlight}[k.start != nil]; other.What != want {
				t.Errorf("%s: another key: %+v", key, other)
			}
			value := ""
			if killed {
				b.replace(0)
				if a := final(first); a.What != gone {
					t.Errorf("%s: the first: %+v", key, a)
				}
			} else {
				a := b.wakes(n, first)
				if value = a.Value; a.What != ran {
					t.Errorf("%s: the first, awake: %+v", key, a)
				}
			}
			var a answer
			for end := time.Now().Add(patience); a.What == "" || a.What == inFlight && time.Now().Before(end); {
				a = b.ask(1, task{Op: opTx, Key: key})
			}
			if killed && a.What != ran || !killed && (a.What != replayed || a.Value != value) {
				t.Errorf("%s: the second, later: %+v; the first's value is %q", key, a, value)
			}
			if took, value := b.settled(opTx, key); value != a.Value || !slices.Equal(took, []string{value}) {
				t.Errorf("%s: the effects are %v, the record %s, the answer %s", key, took, value, a.Value)
			}
		}
	}))
}
