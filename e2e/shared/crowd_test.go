package shared

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

const (
	crowdWorkers = 8
	crowdCallers = 8 // in each of them
)

// 64 callers in 8 processes want one key: there is one effect, and each of them has its
// value. While they wait, as many callers with keys of their own get on: no pool is
// exhausted by the crowd. With SQLite, which has one writer, others wait for a transaction.
func TestTrap50CallersInEightProcesses(t *testing.T) {
	each(t, once, func(t *testing.T, k *kind) {
		l := labOf(t, k)
		if l == nil {
			return
		}
		c := newCrew(t, crowdWorkers, &config{
			Store: k.name, DSN: l.dsn, Scope: scopeOf(t), Lease: 10 * time.Second, Wait: patience,
			StoreTimeout: 10 * time.Second,
		})
		book := newBook()
		ops := []op{opDo}
		if k.tx {
			ops = append(ops, opTx)
		}
		keys := map[op][]string{}
		for _, o := range ops {
			for round := range 3 {
				key := fmt.Sprintf("%s-%d", o, round)
				others := crowd(t, c, book, o, key, o == opTx && k.start == nil)
				keys[o] = append(append(keys[o], key), others...)
			}
		}
		c.end()
		book.report(t)
		p := playerOf(t, *c.config)
		for _, o := range ops {
			took := ledgerOf(t, c.config.Ledger)
			if o == opTx {
				took = rowsOf(t, p.opened, c.config.Scope)
			}
			for _, key := range keys[o] {
				if !slices.Equal(took[key], []string{book.told[key].value}) {
					t.Errorf("%s: the effects are %v, %q was told", key, took[key], book.told[key].value)
				}
			}
		}
		t.Logf("%d keys: %v", len(book.keys), book.by)
	})
}

// crowd is one round: the work waits until the others have got on, unless alone.
func crowd(t *testing.T, c *crew, book *book, o op, key string, alone bool) (others []string) {
	t.Helper()
	type caller struct {
		worker int
		number uint64
	}
	begun := make(chan caller, crowdWorkers*crowdCallers)
	ended := make(chan answer, crowdWorkers*crowdCallers)
	for i := range crowdWorkers * crowdCallers {
		w := i % crowdWorkers
		n, answers := c.send(w, task{Op: o, Key: key, Gate: true})
		go func() {
			for a := range answers {
				if a.Begun {
					begun <- caller{w, n}
					continue
				}
				ended <- a
				return
			}
			ended <- answer{What: gone}
		}()
	}
	owner := within(t, "one of the crowd begins", begun)
	if !alone {
		var waiting []<-chan answer
		for i := range crowdWorkers * crowdCallers {
			others = append(others, fmt.Sprintf("%s-other-%d", key, i))
			_, answers := c.send(i%crowdWorkers, task{Op: o, Key: others[i]})
			waiting = append(waiting, answers)
		}
		for i, answers := range waiting {
			a := receive(t, "another key while the crowd waits", answers)
			if a.What != ran {
				t.Errorf("%s: %+v", others[i], a)
			}
			book.note(others[i], a)
		}
	}
	c.worker(owner.worker).send(task{N: owner.number, Op: opGo})
	for range crowdWorkers * crowdCallers {
		a := within(t, "one of the crowd has its answer", ended)
		if !book.note(key, a) {
			t.Errorf("%s: one of the crowd was told %+v", key, a)
		}
	}
	if n := len(begun); n > 0 {
		t.Errorf("%s: the work began %d times more", key, n)
	}
	return others
}

// within waits for a value.
func within[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case v := <-c:
		return v
	case <-late.C:
		t.Fatalf("it did not happen in %v: %s", patience, what)
	}
	panic("unreachable")
}
