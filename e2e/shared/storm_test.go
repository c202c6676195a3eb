package shared

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
)

const (
	accounts = 4
	opening  = 1000 // of each
)

// transfer is what a key's transaction moves, the same for each caller of it.
func transfer(key string) (amount, from, to int) {
	h := fnv.New32a()
	h.Write([]byte(key))
	n := int(h.Sum32() % (1 << 20))
	from = n % accounts
	to = (from + 1 + n/accounts%(accounts-1)) % accounts
	return 1 + n/100%20, from, to
}

// Transactions of many processes update few rows in opposite orders, so that the database
// ends some of them by a deadlock, a serialization failure, or as busy: each key's is
// made once all the same, no try counts as an attempt, and nothing is lost on the way.
func TestTrap44Storms(t *testing.T) {
	each(t, withTx, func(t *testing.T, k *kind) {
		variants := map[string]string{"default": ""}
		if k.need == "postgres" {
			// Deadlocks are looked for each 20 ms, not each second.
			variants["default"] = "&deadlock_timeout=20ms"
			variants["serializable"] = k.serializable + "&deadlock_timeout=20ms"
		}
		for name, more := range variants {
			for _, count := range []bool{false, true} {
				if k.need == "postgres" && count == k.again {
					continue // one server with two clients: half of it for each
				}
				t.Run(fmt.Sprintf("%s, attempts counted apart %v", name, count), func(t *testing.T) { storm(t, k, more, count) })
			}
		}
	})
}

func storm(t *testing.T, k *kind, more string, count bool) {
	seed := seedOf(t)
	l := labOf(t, k)
	if l == nil {
		return
	}
	keys := 150
	if testing.Short() {
		keys = 40
	}
	c := newCrew(t, 3, &config{
		Store: k.name, DSN: l.dsn + more, Scope: scopeOf(t), Wait: 20 * time.Second, StoreTimeout: 20 * time.Second, CountAttempts: count,
	})
	p := playerOf(t, *c.config)
	for i := range accounts {
		must(t, p.tx.exec(t.Context(), "INSERT INTO accounts (s, id, balance) VALUES (?, ?, ?)", c.config.Scope, i, opening))
	}
	began := time.Now()
	work := &load{
		crew: c, book: newBook(), op: opTx, clients: 16, seed: seed, keys: keys, limit: 3 * time.Minute,
		more: func() bool { return false },
		task: func(random *rand.Rand, t *task) {
			t.Amount, t.From, t.To = transfer(t.Key)
			t.After = time.Duration(random.Int64N(int64(3 * time.Millisecond)))
		},
	}
	work.run(t)
	took := time.Since(began)
	c.end()
	work.book.attempts(t, p)
	balances(t, p, work.book.keys)
	y := work.book.settle(t, p, opTx, rowsOf(t, p.opened, c.config.Scope), true)
	t.Logf("IDEM_TEST_SEED=%d: %v; the work was called %d times, in %.1fs; %v",
		seed, y, work.book.calls, took.Seconds(), work.book.by)
	if k.start != nil && work.book.calls == y.effects {
		t.Error("no transaction was tried twice: the storm proves nothing")
	}
}

// attempts checks that a try that the database ended is no attempt: a caller's work is
// one, however often it was called.
func (b *book) attempts(t *testing.T, p *player) {
	t.Helper()
	for _, key := range b.keys {
		r, err := p.store.Lookup(context.Background(), driver.KeyOf(p.config.Scope, key))
		if err != nil || r.Attempt < 1 || r.Attempt > b.told[key].began {
			t.Errorf("%s: attempt %d, %v; the work was called for %d callers", key, r.Attempt, err, b.told[key].began)
		}
	}
}

// balances checks that each key's transfer was made once.
func balances(t *testing.T, p *player, keys []string) {
	t.Helper()
	want := map[string]int{}
	for i := range accounts {
		want[strconv.Itoa(i)] = opening
	}
	for _, key := range keys {
		amount, from, to := transfer(key)
		want[strconv.Itoa(from)] -= amount
		want[strconv.Itoa(to)] += amount
	}
	rows, err := p.tx.query(t.Context(), "SELECT id, balance FROM accounts WHERE s = ?", p.config.Scope)
	must(t, err)
	sum := 0
	for _, r := range rows {
		n, err := strconv.Atoi(r[1])
		must(t, err)
		sum += n
		if want[r[0]] != n {
			t.Errorf("account %s has %d; the transfers make %d", r[0], n, want[r[0]])
		}
	}
	if len(rows) != accounts || sum != accounts*opening {
		t.Errorf("%d accounts have %d", len(rows), sum)
	}
	if t.Failed() {
		t.Log(fmt.Sprint(rows))
	}
}
