package pgstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/pgstore"
	"github.com/idem-go/idem/testserver/cut"
)

func txRequest(id string) driver.TxRequest {
	req := request(id)
	return driver.TxRequest{
		Key: req.Key, Scope: req.Scope, ID: id, Fingerprint: req.Fingerprint, Wait: 30 * time.Second, Retention: time.Hour,
	}
}

// effectIn is work that adds a row to a table.
func effectIn(table, id string) driver.TxWork[pgx.Tx] {
	return func(ctx context.Context, tx pgx.Tx, _ driver.Record) (driver.Completion, error) {
		_, err := tx.Exec(ctx, "INSERT INTO "+table+" (name) VALUES ($1)", id)
		return completion(id, "done"), err
	}
}

func dbEffectIn(table, id string) driver.TxWork[*sql.Tx] {
	return func(ctx context.Context, tx *sql.Tx, _ driver.Record) (driver.Completion, error) {
		_, err := tx.ExecContext(ctx, "INSERT INTO "+table+" (name) VALUES ($1)", id)
		return completion(id, "done"), err
	}
}

// Trap 44: the commit is cut before it arrives, or before its answer does: work
// has one effect, and is reported as done.
func TestTrap44TheCommitIsCut(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	p, err := cut.Listen(b.server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	// In this mode the text of each statement is in its message.
	dsn := through(b.server.DSN(), p.Addr(), "default_query_exec_mode", "exec")
	o := pgstore.Options{Schema: b.schema(t), NoListen: true}
	far, err := pgstore.Open(context.Background(), dsn, defaults(o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	farDB, err := pgstore.NewDB(t.Context(), db, defaults(o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { farDB.Close() })
	near := b.openIn(t, o)
	table := effectsTable(near)
	for _, answer := range []bool{false, true} {
		for _, kind := range []string{"pgx", "sql"} {
			for _, counted := range []bool{false, true} {
				id := fmt.Sprint(kind, answer, counted)
				before := p.Cuts()
				if answer {
					p.CutAnswersTo("commit")
				} else {
					p.CutRequestsWith("commit")
				}
				req := txRequest(id)
				req.CountAttempts = counted
				var reply driver.TxReply
				var err error
				if kind == "pgx" {
					reply, err = far.DoTx(t.Context(), req, effectIn(table, id))
				} else {
					reply, err = farDB.DoTx(t.Context(), req, dbEffectIn(table, id))
				}
				if err != nil || !reply.Ran || reply.Record.State != driver.StateCompleted {
					t.Errorf("%s: ran %v, %v, %v", id, reply.Ran, reply.Record.State, err)
				}
				if p.Cuts() != before+1 {
					t.Errorf("%s: %d cuts", id, p.Cuts()-before)
				}
				p.Forget()
				if n := b.effects(t, near, id); n != 1 {
					t.Errorf("%s: %d effects", id, n)
				}
				if rec := stateOf(t, near, id, driver.StateCompleted); rec.Attempt != 1 || rec.Token != reply.Record.Token {
					t.Errorf("%s: attempt %d, token %d and %d", id, rec.Attempt, rec.Token, reply.Record.Token)
				}
			}
		}
	}
}

// Trap 44: the answer of the commit is lost and nobody can be asked any more. The
// error says so, and whoever asks again is told what came of it.
func TestTrap44TheCommitIsCutAndTheServerGone(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	p, err := cut.Listen(b.server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	o := pgstore.Options{Schema: b.schema(t), NoListen: true}
	far, err := pgstore.Open(context.Background(), through(b.server.DSN(), p.Addr(), "default_query_exec_mode", "exec"), defaults(o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	near := b.openIn(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = far.DoTx(ctx, txRequest("k"), func(ctx context.Context, tx pgx.Tx, rec driver.Record) (driver.Completion, error) {
		c, err := effectIn(effectsTable(near), "k")(ctx, tx, rec)
		p.CutAnswersTo("commit")
		go func() {
			if p.WaitCuts(context.Background(), p.Cuts()+1) == nil {
				p.Refuse(true)
			}
		}()
		return c, err
	})
	if err == nil {
		t.Fatal("DoTx succeeded")
	}
	reply, err := near.DoTx(t.Context(), txRequest("k"), effectIn(effectsTable(near), "k"))
	if err != nil || reply.Record.State != driver.StateCompleted {
		t.Errorf("asked again: %v, %v", reply.Record.State, err)
	}
	if n := b.effects(t, near, "k"); n != 1 {
		t.Errorf("%d effects", n)
	}
}

// Exactly one effect for every key, while the server is killed again and again
// and every key is asked for twice at once.
func TestTxTheServerIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	b := own(t, nil)
	if b == nil {
		return
	}
	b.fresh(t)
	s := b.openIn(t, pgstore.Options{})
	db, err := pgstore.NewDB(t.Context(), b.sql, defaults(pgstore.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	const keys, callers = 800, 24
	var next, finished, reported atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for {
				turn := next.Add(1) - 1
				if turn >= 2*keys || t.Failed() {
					return
				}
				id := fmt.Sprint("key ", turn/2)
				err := persist(t, func(ctx context.Context) error {
					var reply driver.TxReply
					var err error
					if turn%4 < 2 {
						reply, err = s.DoTx(ctx, txRequest(id), effectIn("effects", id))
					} else {
						reply, err = db.DoTx(ctx, txRequest(id), dbEffectIn("effects", id))
					}
					if err == nil && reply.Ran {
						reported.Add(1)
					}
					if err == nil && reply.Record.State != driver.StateCompleted {
						err = fmt.Errorf("the record is %v", reply.Record.State)
					}
					return err
				})
				if err != nil {
					t.Errorf("%s: %v", id, err)
				}
				finished.Add(1)
			}
		})
	}
	for _, at := range []int64{keys / 3, keys / 2, keys, 4 * keys / 3} {
		eventually(t, "work goes on", func() bool { return finished.Load() >= at })
		if err := errors.Join(b.server.Kill(), b.server.Start()); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	var names, rows int
	if err := b.pool.QueryRow(t.Context(), "SELECT count(DISTINCT name), count(*) FROM effects").Scan(&names, &rows); err != nil {
		t.Fatal(err)
	}
	if names != keys || rows != keys {
		t.Errorf("%d effects of %d keys; it should be one of each of %d", rows, names, keys)
	}
	t.Logf("%d of %d keys were reported as run; the others' answers were lost to their callers", reported.Load(), keys)
}

// Deadlocks and serialization failures are tried again, until every key has
// its one effect.
func TestTrap44Storms(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"read committed", "repeatable read", "serializable"} {
		t.Run(isolation, func(t *testing.T) {
			t.Parallel()
			o := quick()
			o.Settings["default_transaction_isolation"], o.Settings["deadlock_timeout"] = isolation, "20ms"
			b := own(t, o)
			if b == nil {
				return
			}
			b.fresh(t)
			s := b.openIn(t, pgstore.Options{})
			if _, err := b.pool.Exec(t.Context(), "CREATE TABLE accounts (id int PRIMARY KEY, n int NOT NULL); INSERT INTO accounts SELECT i, 0 FROM generate_series(0, 3) i"); err != nil {
				t.Fatal(err)
			}
			const callers, rounds = 12, 8
			var calls, gaveUp atomic.Int64
			all(callers, func(i int) {
				for round := range rounds {
					id := fmt.Sprint(i, " ", round)
					for {
						_, err := s.DoTx(t.Context(), txRequest(id), func(ctx context.Context, tx pgx.Tx, rec driver.Record) (driver.Completion, error) {
							calls.Add(1)
							if rec.Attempt != 1 {
								t.Errorf("attempt %d", rec.Attempt)
							}
							first, second := i%4, (i+1+round%3)%4 // in whatever order
							for _, account := range []int{first, second} {
								var n int
								if err := tx.QueryRow(ctx, "SELECT n FROM accounts WHERE id = $1", account).Scan(&n); err != nil {
									return driver.Completion{}, err
								}
								if _, err := tx.Exec(ctx, "UPDATE accounts SET n = n + 1 WHERE id = $1", account); err != nil {
									return driver.Completion{}, err
								}
							}
							return effectIn("effects", id)(ctx, tx, rec)
						})
						if err == nil {
							break
						}
						var state interface{ SQLState() string }
						if !errors.As(err, &state) || state.SQLState() != "40001" && state.SQLState() != "40P01" {
							t.Errorf("%s: %v", id, err)
							return
						}
						gaveUp.Add(1) // it was tried often enough; its caller asks again
					}
				}
			})
			t.Logf("%d calls of work for %d keys; %d times DoTx gave up", calls.Load(), callers*rounds, gaveUp.Load())
			var rows, names, sum int
			err := b.pool.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM effects), (SELECT count(DISTINCT name) FROM effects), (SELECT sum(n) FROM accounts)").Scan(&rows, &names, &sum)
			if err != nil || rows != callers*rounds || names != rows || sum != 2*rows {
				t.Errorf("%d effects of %d keys, the accounts sum up to %d: %v", rows, names, sum, err)
			}
		})
	}
}

// The leased store under the same storm: claims, completions and notifications
// of groups that meet each other and serializable transactions.
func TestTrap44GroupsMeet(t *testing.T) {
	t.Parallel()
	b := bedOf(t, serializable)
	if b == nil {
		return
	}
	o := pgstore.Options{Schema: b.schema(t), MaxGroups: 4}
	one, two := b.openIn(t, o), b.openIn(t, o)
	const keys = 40
	var granted [keys]atomic.Int64
	all(64, func(i int) {
		s := one
		if i%2 == 0 {
			s = two
		}
		for k := range keys {
			id := fmt.Sprint((k*7 + i) % keys)
			reply, err := s.Claim(t.Context(), request(id))
			if err != nil {
				t.Error(err)
				return
			}
			if reply.Granted {
				granted[(k*7+i)%keys].Add(1)
				if _, err := s.Complete(t.Context(), driver.Ref{Key: reply.Record.Key, Token: reply.Record.Token}, completion(id, "r")); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for k := range granted {
		if n := granted[k].Load(); n != 1 {
			t.Errorf("key %d was granted %d times", k, n)
		}
	}
}

// Attempts are counted on a second connection: it must not be that all wait for
// one while they hold the others.
func TestTrap50AttemptsAndASmallPool(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	pool, err := pgstore.Connect(context.Background(), b.server.DSN()+"&pool_max_conns=2")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	small := &bed{server: b.server, pool: pool}
	schema := b.schema(t)
	s := small.openIn(t, pgstore.Options{Schema: schema})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	all(64, func(i int) {
		id := fmt.Sprint(i % 16)
		req := txRequest(id)
		req.CountAttempts = true
		reply, err := s.DoTx(ctx, req, effectIn(schema+".effects", id))
		if err != nil || reply.Record.State != driver.StateCompleted {
			t.Errorf("%s: %v, %v", id, reply.Record.State, err)
		}
	})
	for i := range 16 {
		if n := b.effects(t, s, fmt.Sprint(i)); n != 1 {
			t.Errorf("%d effects of key %d", n, i)
		}
	}
	var left int
	if err := b.pool.QueryRow(t.Context(), "SELECT count(*) FROM "+schema+".idem_attempts").Scan(&left); err != nil || left != 0 {
		t.Errorf("%d counts are left: %v", left, err)
	}

	one, err := pgstore.Connect(context.Background(), b.server.DSN()+"&pool_max_conns=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(one.Close)
	single := (&bed{server: b.server, pool: one}).openIn(t, pgstore.Options{Schema: schema})
	req := txRequest("one connection")
	req.CountAttempts = true
	if _, err := single.DoTx(ctx, req, effectIn(schema+".effects", "one connection")); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("with one connection: %v", err)
	}
}

// The bound on waiting is for the claim: work has the session's own setting.
func TestTheWaitIsTheClaimsAlone(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	pool, err := pgstore.Connect(context.Background(), b.server.DSN()+"&lock_timeout=77s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	mine := &bed{server: b.server, pool: pool}
	s := mine.open(t, pgstore.Options{})
	db, err := sql.Open("pgx", b.server.DSN()+"&lock_timeout=77s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	d := b.openDB(t, db, pgstore.Options{})
	check := func(setting string, err error) {
		t.Helper()
		if setting != "77s" || err != nil {
			t.Errorf("lock_timeout is %q: %v", setting, err)
		}
	}
	for _, wait := range []time.Duration{0, time.Minute} {
		req := txRequest(fmt.Sprint(wait))
		req.Wait = wait
		reply, err := s.DoTx(t.Context(), req, func(ctx context.Context, tx pgx.Tx, _ driver.Record) (driver.Completion, error) {
			var setting string
			check(setting, tx.QueryRow(ctx, "SHOW lock_timeout").Scan(&setting))
			check(setting, nil)
			return completion(req.ID, "r"), nil
		})
		if err != nil || !reply.Ran {
			t.Errorf("wait %v: ran %v, %v", wait, reply.Ran, err)
		}
		reply, err = d.DoTx(t.Context(), req, func(ctx context.Context, tx *sql.Tx, _ driver.Record) (driver.Completion, error) {
			var setting string
			err := tx.QueryRowContext(ctx, "SHOW lock_timeout").Scan(&setting)
			check(setting, err)
			return completion(req.ID, "r"), nil
		})
		if err != nil || !reply.Ran {
			t.Errorf("wait %v: ran %v, %v", wait, reply.Ran, err)
		}
	}
	ref := grant(t, s, request("theirs"))
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if _, err := s.CompleteTx(t.Context(), tx, ref, completion("theirs", "r")); err != nil {
			return err
		}
		var setting string
		err := tx.QueryRow(t.Context(), "SHOW lock_timeout").Scan(&setting)
		check(setting, err)
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Work cannot end its transaction, and nobody can use it afterwards, when its
// connection is another's. Savepoints are work's own.
func TestWorkDoesNotEndItsTransaction(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	s := b.open(t, pgstore.Options{})
	table := effectsTable(s)
	var kept pgx.Tx
	reply, err := s.DoTx(t.Context(), txRequest("k"), func(ctx context.Context, tx pgx.Tx, rec driver.Record) (driver.Completion, error) {
		kept = tx
		if tx.Commit(ctx) == nil || tx.Rollback(ctx) == nil {
			t.Error("work has ended its transaction")
		}
		inner, err := tx.Begin(ctx)
		if err != nil {
			return driver.Completion{}, err
		}
		if _, err := effectIn(table, "undone")(ctx, inner, rec); err != nil {
			return driver.Completion{}, err
		}
		if err := inner.Rollback(ctx); err != nil {
			return driver.Completion{}, err
		}
		return effectIn(table, "k")(ctx, tx, rec)
	})
	if err != nil || !reply.Ran {
		t.Fatalf("ran %v, %v", reply.Ran, err)
	}
	if b.effects(t, s, "k") != 1 || b.effects(t, s, "undone") != 0 {
		t.Error("the effects are others")
	}
	if _, err := kept.Exec(t.Context(), "SELECT 1"); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("a transaction that was kept: %v", err)
	}
	if err := kept.QueryRow(t.Context(), "SELECT 1").Scan(new(int)); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("a transaction that was kept: %v", err)
	}
}

// A statement of work's that failed, whose error work does not return: nothing is
// committed, and nothing said to be.
func TestWorkThatHidesAnError(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	s := b.open(t, pgstore.Options{})
	_, err := s.DoTx(t.Context(), txRequest("k"), func(ctx context.Context, tx pgx.Tx, rec driver.Record) (driver.Completion, error) {
		_, _ = tx.Exec(ctx, "SELECT 1/0")
		return completion("k", "r"), nil
	})
	if err == nil {
		t.Error("DoTx succeeded")
	}
	stateOf(t, s, "k", driver.StateAbsent)
	// A constraint that is checked at the commit is the application's to know.
	table := effectsTable(s)
	_, err = b.pool.Exec(t.Context(), "ALTER TABLE "+table+" ADD CONSTRAINT once UNIQUE (name) DEFERRABLE INITIALLY DEFERRED")
	if err != nil {
		t.Fatal(err)
	}
	defer b.pool.Exec(context.Background(), "ALTER TABLE "+table+" DROP CONSTRAINT once")
	if _, err := b.pool.Exec(t.Context(), "INSERT INTO "+table+" (name) VALUES ('k')"); err != nil {
		t.Fatal(err)
	}
	_, err = s.DoTx(t.Context(), txRequest("k"), effectIn(table, "k"))
	var state interface{ SQLState() string }
	if !errors.As(err, &state) || state.SQLState() != "23505" {
		t.Errorf("DoTx: %v", err)
	}
	stateOf(t, s, "k", driver.StateAbsent)
}

// Trap 38: a claim that was lost fails the whole transaction, also where it is
// completed in one that is nested, or in another's of DoTx.
func TestTrap38WhateverTheTransaction(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	s := b.open(t, pgstore.Options{})
	table := effectsTable(s)
	paused := grant(t, s, request("k"))
	pass(t, s, time.Minute)
	next := request("k")
	next.Retry = true
	grant(t, s, next)

	outer, err := b.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer outer.Rollback(context.Background())
	if _, err := effectIn(table, "outer")(t.Context(), outer, driver.Record{}); err != nil {
		t.Fatal(err)
	}
	inner, err := outer.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CompleteTx(t.Context(), inner, paused, completion("k", "paused")); !errors.Is(err, driver.ErrLost) {
		t.Errorf("CompleteTx: %v", err)
	}
	if err := outer.Commit(t.Context()); err == nil {
		t.Error("the outer transaction was committed")
	}
	if n := b.effects(t, s, "outer"); n != 0 {
		t.Errorf("%d effects of the outer transaction", n)
	}

	conn, err := b.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	plain, err := conn.Conn().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CompleteTx(t.Context(), plain, paused, completion("k", "paused")); !errors.Is(err, driver.ErrLost) {
		t.Errorf("CompleteTx: %v", err)
	}
	if err := plain.Commit(t.Context()); err == nil {
		t.Error("the transaction was committed")
	}

	_, err = s.DoTx(t.Context(), txRequest("other"), func(ctx context.Context, tx pgx.Tx, rec driver.Record) (driver.Completion, error) {
		c, err := effectIn(table, "in work")(ctx, tx, rec)
		_, _ = s.CompleteTx(ctx, tx, paused, completion("k", "paused")) // an error that work hides
		return c, err
	})
	if !errors.Is(err, driver.ErrLost) {
		t.Errorf("DoTx: %v", err)
	}
	if n := b.effects(t, s, "in work"); n != 0 {
		t.Errorf("%d effects of work", n)
	}
	stateOf(t, s, "other", driver.StateAbsent)
	stateOf(t, s, "k", driver.StateInFlight)
}

// Trap 43: an owner renews while the transaction that completes its claim is
// open: it waits, and is told what came of it.
func TestTrap43RenewedWhileItIsCompleted(t *testing.T) {
	t.Parallel()
	b := own(t, quick())
	if b == nil {
		return
	}
	b.fresh(t)
	s := b.openIn(t, pgstore.Options{})
	for _, commits := range []bool{true, false} {
		id := fmt.Sprint(commits)
		ref := grant(t, s, request(id))
		tx, err := b.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.CompleteTx(t.Context(), tx, ref, completion(id, "r")); err != nil {
			t.Fatal(err)
		}
		renewed, completed := make(chan error, 1), make(chan error, 1)
		go func() { renewed <- s.Renew(context.Background(), ref, time.Hour) }()
		go func() {
			_, err := s.Complete(context.Background(), ref, completion(id, "another"))
			completed <- err
		}()
		eventually(t, "both wait", func() bool { return b.waitingFor(t) == 2 })
		if commits {
			err = tx.Commit(t.Context())
		} else {
			err = tx.Rollback(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		r, c := <-renewed, <-completed
		if commits && (!errors.Is(r, driver.ErrCompleted) || !errors.Is(c, driver.ErrCompleted)) {
			t.Errorf("after a commit: Renew %v, Complete %v", r, c)
		}
		if !commits && (c != nil || r != nil && !errors.Is(r, driver.ErrCompleted)) {
			t.Errorf("after a rollback: Renew %v, Complete %v", r, c)
		}
	}
}

// Work that ends its transaction behind the store's back, or takes its record
// away: the store does not say that it was committed.
func TestWorkThatBreaksTheRules(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	s := b.open(t, pgstore.Options{})
	d := b.openDB(t, b.sql, pgstore.Options{})
	records, _ := s.Tables()
	dbRecords, _ := d.Tables()
	for name, text := range map[string]string{"rollback": "ROLLBACK", "delete": "DELETE FROM " + records} {
		reply, err := s.DoTx(t.Context(), txRequest(name), func(ctx context.Context, tx pgx.Tx, rec driver.Record) (driver.Completion, error) {
			c, err := effectIn(effectsTable(s), name)(ctx, tx, rec)
			return c, errors.Join(err, func() error { _, err := tx.Exec(ctx, text); return err }())
		})
		if err == nil || reply.Ran {
			t.Errorf("%s: ran %v, %v", name, reply.Ran, err)
		}
		if n := b.effects(t, s, name); n != 0 {
			t.Errorf("%s: %d effects", name, n)
		}
		stateOf(t, s, name, driver.StateAbsent)
	}
	reply, err := d.DoTx(t.Context(), txRequest("delete"), func(ctx context.Context, tx *sql.Tx, rec driver.Record) (driver.Completion, error) {
		c, err := dbEffectIn(effectsTable(d), "delete")(ctx, tx, rec)
		return c, errors.Join(err, func() error { _, err := tx.ExecContext(ctx, "DELETE FROM "+dbRecords); return err }())
	})
	if err == nil || reply.Ran || b.effects(t, d, "delete") != 0 {
		t.Errorf("delete: ran %v, %v", reply.Ran, err)
	}
	reply, err = d.DoTx(t.Context(), txRequest("k"), func(_ context.Context, tx *sql.Tx, _ driver.Record) (driver.Completion, error) {
		return completion("k", "r"), tx.Rollback()
	})
	if err == nil || reply.Ran {
		t.Errorf("rollback: ran %v, %v", reply.Ran, err)
	}
}
