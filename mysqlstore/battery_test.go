package mysqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/drivertest/linearize"
	"github.com/idem-go/idem/mysqlstore"
	"github.com/idem-go/idem/testserver"
)

func settings(of ...string) *testserver.Options {
	o := &testserver.Options{Settings: map[string]string{}}
	for _, s := range of {
		name, value, _ := strings.Cut(s, "=")
		o.Settings[name] = value
	}
	return o
}

func textLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// large is work whose result has so many bytes.
func large(size int) driver.TxWork[*sql.Tx] {
	return func(context.Context, *sql.Tx, driver.Record) (driver.Completion, error) {
		return completionOf(driver.ClaimRequest{}, "", strings.Repeat("\xff", size)), nil
	}
}

// battery is a little of each suite, for a server or connections that are set in
// some way, in both of the store's ways to speak.
func battery(t *testing.T, b *bed) {
	t.Helper()
	for name, with := range map[string]mysqlstore.Options{"mariadb": {}, "plain": mysqlstore.Options{}.Plain()} {
		h := b.harness(with)
		t.Run(name+"/model", func(t *testing.T) { drivertest.RunModel(t, h, &drivertest.ModelOptions{Histories: 1, Steps: 300}) })
		t.Run(name+"/race", func(t *testing.T) { linearize.Run(t, h, &linearize.Options{Rounds: 10}) })
		t.Run(name+"/tx", func(t *testing.T) {
			s := b.open(t, with)
			var wg sync.WaitGroup
			var ran, replayed [4]int
			var mu sync.Mutex
			for range 8 {
				wg.Go(func() {
					for i := range ran {
						id := fmt.Sprint("k", i)
						reply, err := s.DoTx(context.Background(), txRequestOf("tx", id), s.effect(id))
						mu.Lock()
						switch {
						case err != nil:
							t.Errorf("DoTx: %v", err)
						case reply.Ran:
							ran[i]++
						case reply.Record.State == driver.StateCompleted && string(reply.Record.Result.Body) == "done "+id:
							replayed[i]++
						}
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			for i := range ran {
				if ran[i] != 1 || replayed[i] != 7 || s.effects(t, fmt.Sprint("k", i)) != 1 {
					t.Errorf("%d ran and %d were given the result, of 8", ran[i], replayed[i])
				}
			}
		})
	}
}

// storm runs transactions that take two rows each in an order of their own, so
// that many of them deadlock, or fail because of what others committed.
func storm(t *testing.T, b *bed) {
	t.Helper()
	s := b.open(t, mysqlstore.Options{})
	const accounts, callers, each = 4, 8, 12
	table := s.prefix + "accounts"
	b.exec(t, "CREATE TABLE "+table+" (id INT PRIMARY KEY, balance BIGINT) ENGINE=InnoDB")
	defer b.exec(t, "DROP TABLE "+table)
	for i := range accounts {
		b.exec(t, "INSERT INTO "+table+" VALUES (?, 100)", i)
	}
	seed := drivertest.Seed(t)
	t.Logf("%s=%d", drivertest.SeedVariable, seed)
	var wg sync.WaitGroup
	var again, mostAttempts sync.Map
	for c := range callers {
		rng := rand.New(rand.NewPCG(seed, uint64(c)))
		wg.Go(func() {
			for n := range each {
				id := fmt.Sprint("transfer ", c, " ", n)
				from := rng.IntN(accounts)
				to := (from + 1 + rng.IntN(accounts-1)) % accounts
				calls := 0
				req := txRequestOf("tx", id)
				req.CountAttempts = n%4 == 0
				work := func(ctx context.Context, tx *sql.Tx, rec driver.Record) (driver.Completion, error) {
					calls++
					if rec.Attempt != 1 {
						mostAttempts.Store(id, rec.Attempt)
					}
					for _, step := range []struct{ id, by int }{{from, -1}, {to, 1}} {
						var balance int
						if err := tx.QueryRowContext(ctx, "SELECT balance FROM "+table+" WHERE id = ? FOR UPDATE", step.id).Scan(&balance); err != nil {
							return driver.Completion{}, err
						}
						if _, err := tx.ExecContext(ctx, "UPDATE "+table+" SET balance = ? WHERE id = ?", balance+step.by, step.id); err != nil {
							return driver.Completion{}, fmt.Errorf("moving: %w", err)
						}
					}
					return s.effect(id)(ctx, tx, rec)
				}
				for try := 0; ; try++ {
					reply, err := s.DoTx(context.Background(), req, work)
					if err != nil && mysqlstore.IsConflict(err) && try < 20 {
						continue // it gave up after a bounded number of tries
					}
					if err != nil || !reply.Ran {
						t.Errorf("DoTx: %v %v", reply.Ran, err)
					}
					break
				}
				if calls > 1 {
					again.Store(id, calls)
				}
			}
		})
	}
	wg.Wait()
	for c := range callers {
		for n := range each {
			if got := s.effects(t, fmt.Sprint("transfer ", c, " ", n)); got != 1 {
				t.Errorf("transfer %d %d took effect %d times", c, n, got)
			}
		}
	}
	var sum int
	if err := b.db.QueryRowContext(t.Context(), "SELECT SUM(balance) FROM "+table).Scan(&sum); err != nil || sum != 100*accounts {
		t.Errorf("the balances sum up to %d, %v", sum, err)
	}
	repeated := 0
	again.Range(func(any, any) bool { repeated++; return true })
	t.Logf("%d of %d transactions were run again", repeated, callers*each)
	mostAttempts.Range(func(id, n any) bool {
		t.Errorf("%v was attempt %v: a conflict is no attempt", id, n)
		return true
	})
}
