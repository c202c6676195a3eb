package shared

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/idem-go/idem/driver"
)

// book is what callers were told, by key.
type book struct {
	mu       sync.Mutex
	keys     []string // in the order of their first asking
	told     map[string]*told
	problems []string
	asked    int
	calls    int // of the work, as far as it is known
	by       map[what]int
}

// told is what callers were told of one key.
type told struct {
	value   string // "" while nobody was told one
	how     what   // the value was told first
	unknown bool
	ran     int
	began   int // callers for whom the work was called, or may have been
}

func newBook() *book { return &book{told: map[string]*told{}, by: map[what]int{}} }

// name adds a key, once.
func (b *book) name(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of(key)
}

func (b *book) of(key string) *told {
	t := b.told[key]
	if t == nil {
		t = &told{}
		b.told[key] = t
		b.keys = append(b.keys, key)
	}
	return t
}

// earlier returns one of the keys that were asked for lately, by a number.
func (b *book) earlier(n int) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.keys) == 0 {
		return "", false
	}
	return b.keys[len(b.keys)-1-n%min(len(b.keys), 100)], true
}

// note keeps an answer, and reports whether it is final: whether its caller asks
// no more.
func (b *book) note(key string, a answer) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	b.by[a.What]++
	b.calls += a.Calls
	t := b.of(key)
	if a.Calls > 0 || a.What == gone {
		t.began++
	}
	switch a.What {
	case ran, replayed:
		if a.What == ran {
			if t.ran++; t.ran > 1 {
				b.problem("%s: %d callers were told that it ran for them", key, t.ran)
			}
		}
		switch {
		case a.Value == "":
			b.problem("%s: an answer without a value", key)
		case t.value == "":
			t.value, t.how = a.Value, a.What
		case t.value != a.Value:
			b.problem("%s: two values: %s (%s) and then %s (%s)", key, t.value, t.how, a.Value, a.What)
		}
		return true
	case unknown:
		if t.value != "" {
			b.problem("%s: a value was told, and then that it is unknown: %s", key, a.Error)
		}
		t.unknown = true
		return true
	case unsaved, inFlight, noStore, undone, gone:
		return false
	}
	b.problem("%s: an answer that nothing explains: %s: %s", key, a.What, a.Error)
	return true
}

func (b *book) problem(format string, args ...any) {
	b.problems = append(b.problems, fmt.Sprintf(format, args...))
}

// report tells what went against the promise while callers asked.
func (b *book) report(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, p := range b.problems {
		if i == 20 {
			t.Errorf("and %d more", len(b.problems)-i)
			break
		}
		t.Error(p)
	}
}

// effects are the values that took effect, by key.
type effects map[string][]string

// ledgerOf reads the effects of a ledger.
func ledgerOf(t *testing.T, name string) effects {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	e := effects{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		key, value, ok := strings.Cut(lines.Text(), " ")
		if !ok {
			t.Fatalf("the ledger has a line that is not whole: %q", lines.Text())
		}
		e[key] = append(e[key], value)
	}
	must(t, lines.Err())
	return e
}

// rowsOf reads the effects that the transactions of a scope have committed.
func rowsOf(t *testing.T, o *opened, scope string) effects {
	t.Helper()
	e, err := committed(t.Context(), o, scope)
	must(t, err)
	return e
}

func committed(ctx context.Context, o *opened, scope string) (effects, error) {
	rows, err := o.tx.query(ctx, "SELECT k, v FROM effects WHERE s = ?", scope)
	e := effects{}
	for _, r := range rows {
		e[r[0]] = append(e[r[0]], r[1])
	}
	return e, err
}

// listed returns the ids of a scope's records in a state.
func listed(t *testing.T, o *opened, scope string, state driver.State) map[string]bool {
	t.Helper()
	l, ok := driver.As[driver.Lister](o.store)
	if !ok {
		t.Fatal("the store lists nothing")
	}
	ids := map[string]bool{}
	q := driver.Query{Limit: 1000, Scope: scope, States: []driver.State{state}}
	for {
		page, err := l.List(t.Context(), q)
		must(t, err)
		for _, r := range page.Records {
			ids[r.ID] = true
		}
		if q.After = page.Next; page.Next == "" {
			return ids
		}
	}
}

// tally counts how the keys of a book ended.
type tally struct{ keys, effects, values, unknown, late, back int }

// String says it in a line.
func (y tally) String() string {
	return fmt.Sprintf("%d keys, %d effects: %d answered (%d of them unknown at first), %d unknown, %d given back as not begun",
		y.keys, y.effects, y.values, y.late, y.unknown, y.back)
}

// settle asks once more for every key, of a store that nobody disturbs any
// more, and holds what was told and what took effect against the promise: at most
// one effect for each key, or just one where exactly is set; one value for each key
// that was answered, that of its effect; and every other key unknown, and listed so.
func (b *book) settle(t *testing.T, p *player, o op, took effects, exactly bool) tally {
	t.Helper()
	b.report(t)
	again := b.askAll(t, p, o)
	unknowns := listed(t, p.opened, p.config.Scope, driver.StateUnknown)
	if left := listed(t, p.opened, p.config.Scope, driver.StateInFlight); len(left) > 0 {
		t.Errorf("%d records are still in flight", len(left))
	}
	y := tally{keys: len(b.keys)}
	var wrong []string
	for _, key := range b.keys {
		if n := len(took[key]); n > 1 || exactly && n != 1 {
			wrong = append(wrong, fmt.Sprintf("%s took effect %d times", key, n))
		}
		y.effects += len(took[key])
		told, a := b.told[key], again[key]
		switch a.What {
		case replayed:
			y.values++
			if told.unknown {
				y.late++
			}
			if told.value != "" && told.value != a.Value {
				wrong = append(wrong, fmt.Sprintf("%s: %s was told, and at the end %s", key, told.value, a.Value))
			}
			if !slices.Equal(took[key], []string{a.Value}) {
				wrong = append(wrong, fmt.Sprintf("%s: the answer is %s, the effects are %v", key, a.Value, took[key]))
			}
			if unknowns[key] {
				wrong = append(wrong, key+" is answered, and listed as unknown")
			}
		case unknown:
			y.unknown++
			if exactly || told.value != "" {
				wrong = append(wrong, fmt.Sprintf("%s is unknown at the end; %q was told", key, told.value))
			}
			if !unknowns[key] {
				wrong = append(wrong, key+" is unknown, and not listed")
			}
		case ran:
			// A claim whose answer its caller never had is given back by it, late: nothing
			// was done, and whoever was told so by an unknown may ask again.
			y.back++
			if exactly || !told.unknown || told.value != "" || len(took[key]) > 0 {
				wrong = append(wrong, fmt.Sprintf("%s ran at the end; %q was told, unknown %v, the effects were %v", key, told.value, told.unknown, took[key]))
			}
		default:
			wrong = append(wrong, fmt.Sprintf("%s at the end: %s %s", key, a.What, a.Error))
		}
		delete(unknowns, key)
	}
	for key := range unknowns {
		wrong = append(wrong, key+" is listed as unknown, and nobody has asked for it")
	}
	for key := range took {
		if b.told[key] == nil {
			wrong = append(wrong, key+" took effect, and nobody has asked for it")
		}
	}
	for i, w := range wrong {
		if i == 20 {
			t.Errorf("and %d more", len(wrong)-i)
			break
		}
		t.Error(w)
	}
	return y
}

// askAll asks for every key once. Each has been asked for until its answer was
// final, so none may run now.
func (b *book) askAll(t *testing.T, p *player, o op) map[string]answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var mu sync.Mutex
	again := map[string]answer{}
	next := make(chan string)
	var running sync.WaitGroup
	for range 16 {
		running.Go(func() {
			for key := range next {
				a := p.play(ctx, task{Op: o, Key: key})
				mu.Lock()
				again[key] = a
				mu.Unlock()
			}
		})
	}
	for _, key := range b.keys {
		next <- key
	}
	close(next)
	running.Wait()
	return again
}
