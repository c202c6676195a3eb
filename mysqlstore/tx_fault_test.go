package mysqlstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/mysqlstore"
)

// Trap 44: the commit's answer is lost, or the commit itself. What took effect
// is recognised, and what did not is done again: one effect.
func TestTrap44TheCommitIsCut(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	for _, plain := range []bool{false, true} {
		with := mysqlstore.Options{}
		if plain {
			with = with.Plain()
		}
		through, proxy := b.through(t, "max-conns=2")
		s := through.open(t, with)
		direct := &one{Store: b.reopen(t, s.opts).Store, bed: b, prefix: s.prefix}
		for name, c := range map[string]struct {
			cutting func(text string)
			text    string
			calls   int64
		}{
			"its answer":                     {proxy.CutAnswersTo, "COMMIT", 1},
			"its request":                    {proxy.CutRequestsWith, "COMMIT", 2},
			"the answer of work's statement": {proxy.CutAnswersTo, "effects", 1},
			"the answer of the beginning":    {proxy.CutAnswersTo, "START TRANSACTION", 1},
			"the completion":                 {proxy.CutRequestsWith, "meta of", 2},
			"the answer of the completion":   {proxy.CutAnswersTo, "meta of", 2},
			"the claim":                      {proxy.CutRequestsWith, "id of", 1},
			"the answer of the claim":        {proxy.CutAnswersTo, "id of", 1},
		} {
			t.Run(fmt.Sprint(name, " plain=", plain), func(t *testing.T) {
				if _, err := s.DoTx(t.Context(), txRequestOf("tx", "warm "+name), s.effect("warm")); err != nil {
					t.Fatal(err)
				}
				id := fmt.Sprint("id of ", name)
				var calls atomic.Int64
				work := func(ctx context.Context, tx *sql.Tx, rec driver.Record) (driver.Completion, error) {
					calls.Add(1)
					c, err := s.effect(id)(ctx, tx, rec)
					c.Result.Meta = []byte("meta of " + name)
					return c, err
				}
				cuts := proxy.Cuts()
				c.cutting(c.text)
				reply, err := s.DoTx(t.Context(), txRequestOf("tx", id), work)
				if proxy.Cuts() != cuts+1 {
					t.Errorf("%d connections were cut", proxy.Cuts()-cuts)
				}
				if strings.Contains(name, "work's") {
					// Work's error is work's: nothing took effect, and the next call runs.
					if err == nil || reply.Ran {
						t.Errorf("DoTx: ran %v, %v", reply.Ran, err)
					}
					if n := direct.effects(t, id); n != 0 {
						t.Errorf("%d effects", n)
					}
					reply, err = s.DoTx(t.Context(), txRequestOf("tx", id), work)
					calls.Add(-1)
				}
				if err != nil || !reply.Ran || reply.Record.State != driver.StateCompleted {
					t.Errorf("DoTx: ran %v, %v, %v", reply.Ran, reply.Record.State, err)
				}
				if calls.Load() != c.calls {
					t.Errorf("work was called %d times; it should be %d", calls.Load(), c.calls)
				}
				if n := direct.effects(t, id); n != 1 {
					t.Errorf("%d effects; it should be 1", n)
				}
				rec := lookup(t, direct, driver.KeyOf("tx", id), driver.StateCompleted)
				if rec.Token != reply.Record.Token || rec.Attempt != 1 || string(rec.Result.Body) != "done "+id {
					t.Errorf("the record has the token %d (%d was returned), attempt %d, %q", rec.Token, reply.Record.Token, rec.Attempt, rec.Result.Body)
				}
			})
		}
	}
}

// The commit is lost, and another who waited for the key does the same work: the
// other's record is returned, and not taken for one's own.
func TestTrap44SomebodyElseWasFaster(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	through, proxy := b.through(t, "max-conns=2")
	s := through.open(t, mysqlstore.Options{})
	direct := b.reopen(t, s.opts)
	if _, err := s.DoTx(t.Context(), txRequestOf("tx", "warm"), s.effect("warm")); err != nil {
		t.Fatal(err)
	}
	faster := make(chan driver.TxReply, 1)
	reply, err := s.DoTx(t.Context(), txRequestOf("tx", "k"), func(ctx context.Context, tx *sql.Tx, rec driver.Record) (driver.Completion, error) {
		if rec.Attempt != 1 {
			t.Errorf("attempt %d", rec.Attempt)
		}
		go func() {
			reply, err := direct.DoTx(context.Background(), txRequestOf("tx", "k"), s.effect("k"))
			if err != nil {
				t.Errorf("DoTx of who waits: %v", err)
			}
			faster <- reply
		}()
		direct.blocked(t)
		proxy.CutRequestsWith("COMMIT")
		return s.effect("k")(ctx, tx, rec)
	})
	other := <-faster
	if err != nil || reply.Ran == other.Ran || reply.Record.State != driver.StateCompleted || other.Record.State != driver.StateCompleted {
		t.Errorf("one: ran %v, %v, %v; the other: ran %v, %v", reply.Ran, reply.Record.State, err, other.Ran, other.Record.State)
	}
	if n := s.effects(t, "k"); n != 1 {
		t.Errorf("%d effects", n)
	}
}

// Where nobody can be asked what became of a commit, that is what is said, and
// whoever asks later is told.
func TestTrap44NobodyCanBeAsked(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	through, proxy := b.through(t, "max-conns=2")
	s := through.open(t, mysqlstore.Options{})
	if _, err := s.DoTx(t.Context(), txRequestOf("tx", "warm"), s.effect("warm")); err != nil {
		t.Fatal(err)
	}
	cuts := proxy.Cuts()
	proxy.CutAnswersTo("COMMIT")
	refused := refuseAfter(t, proxy, cuts+1)
	reply, err := s.DoTx(t.Context(), txRequestOf("tx", "k"), s.effect("k"))
	<-refused
	if err == nil || reply.Ran || !strings.Contains(err.Error(), "whether it took effect cannot be asked") {
		t.Errorf("DoTx: ran %v, %v", reply.Ran, err)
	}
	if err := proxy.Refuse(false); err != nil {
		t.Fatal(err)
	}
	reply, err = s.DoTx(t.Context(), txRequestOf("tx", "k"), func(context.Context, *sql.Tx, driver.Record) (driver.Completion, error) {
		t.Error("work was called again")
		return driver.Completion{}, errors.New("again")
	})
	if err != nil || reply.Ran || string(reply.Record.Result.Body) != "done k" {
		t.Errorf("DoTx: ran %v, %q, %v", reply.Ran, reply.Record.Result.Body, err)
	}
	if n := s.effects(t, "k"); n != 1 {
		t.Errorf("%d effects", n)
	}
}

// A commit that the server does not get done is given up once its context has
// ended, and a little later; what the error leaves open is one of the two: all of
// it took effect or nothing did.
func TestACommitThatHangs(t *testing.T) {
	b := private(t, nil)
	if b == nil {
		return
	}
	for _, with := range []mysqlstore.Options{{}, mysqlstore.Options{}.Plain()} {
		s := b.open(t, with)
		if _, err := s.DoTx(t.Context(), txRequestOf("tx", "warm"), s.effect("warm")); err != nil {
			t.Fatal(err)
		}
		backup, err := b.db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stage := func(name string) {
			if _, err := backup.ExecContext(context.Background(), "BACKUP STAGE "+name); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		reply, err := s.DoTx(ctx, txRequestOf("tx", "k"), func(ctx context.Context, tx *sql.Tx, rec driver.Record) (driver.Completion, error) {
			c, err := s.effect("k")(ctx, tx, rec)
			stage("START")
			stage("BLOCK_COMMIT") // until the end of the backup
			time.AfterFunc(time.Second, cancel)
			return c, err
		})
		cancel()
		if err == nil || reply.Ran || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "the commit was not answered") {
			t.Errorf("DoTx: ran %v, %v", reply.Ran, err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("DoTx took %v", took)
		}
		stage("END")
		_ = backup.Close()
		reply, err = s.DoTx(t.Context(), txRequestOf("tx", "k"), s.effect("k"))
		if err != nil || !reply.Ran && reply.Record.State != driver.StateCompleted {
			t.Errorf("DoTx: ran %v, %v, %v", reply.Ran, reply.Record.State, err)
		}
		if n := s.effects(t, "k"); n != 1 {
			t.Errorf("%d effects", n)
		}
	}
}

// A server that hangs while work runs ends the call with its context, and nothing
// took effect.
func TestWorkWhileTheServerHangs(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	through, proxy := b.through(t, "max-conns=2")
	s := through.open(t, mysqlstore.Options{})
	warm(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.DoTx(ctx, txRequestOf("tx", "k"), func(inner context.Context, tx *sql.Tx, rec driver.Record) (driver.Completion, error) {
		c, err := s.effect("k")(inner, tx, rec)
		time.AfterFunc(50*time.Millisecond, func() {
			proxy.Hang(true)
			cancel()
		})
		<-inner.Done()
		return c, err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("DoTx: %v", err)
	}
	proxy.Hang(false)
	eventually(t, "the rollback", func() bool { return s.effects(t, "k") == 0 })
	if _, err := s.DoTx(t.Context(), txRequestOf("tx", "k"), s.effect("k")); err != nil {
		t.Error(err)
	}
	if n := s.effects(t, "k"); n != 1 {
		t.Errorf("%d effects", n)
	}
}

// The server is killed again and again while many transactions run. In the end
// each key has exactly one effect.
func TestExactlyOnceOverKills(t *testing.T) {
	b := private(t, nil)
	if b == nil {
		return
	}
	keys, workers, every := 10_000, 24, time.Second
	if testing.Short() {
		keys = 1_000
	}
	s := b.open(t, mysqlstore.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var next, ran, told, errs atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				n := next.Add(1) - 1
				if n >= int64(keys)*5/4 {
					return
				}
				// Every fourth key is wanted a second time.
				id := fmt.Sprint("key ", n%int64(keys))
				reply, err := until(ctx, func() (driver.TxReply, error) {
					reply, err := s.DoTx(ctx, txRequestOf("tx", id), s.effect(id))
					if err != nil {
						errs.Add(1)
					}
					return reply, err
				})
				switch {
				case err != nil:
					t.Errorf("DoTx: %v", err)
					return
				case reply.Ran:
					ran.Add(1)
				case reply.Record.State == driver.StateCompleted:
					told.Add(1)
				default:
					t.Errorf("%s is %v", id, reply.Record.State)
				}
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	kills, before := 0, int64(0)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for running := true; running; {
		select {
		case <-ended:
			running = false
		case <-ticker.C:
			// On a machine that is busy with other things a second may see no work.
			now := ran.Load() + told.Load()
			if now < before+int64(keys/100) {
				continue
			}
			before = now
			kills++
			if err := errors.Join(b.server.Kill(), b.server.Start()); err != nil {
				t.Fatal(err)
			}
		}
	}
	rows, err := b.db.QueryContext(t.Context(), "SELECT name, COUNT(*) FROM "+s.prefix+"effects GROUP BY name")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	seen := 0
	for rows.Next() {
		var name string
		var n int
		if err := rows.Scan(&name, &n); err != nil {
			t.Fatal(err)
		}
		seen++
		if n != 1 {
			t.Errorf("%s took effect %d times", name, n)
		}
	}
	if err := rows.Err(); err != nil || seen != keys {
		t.Errorf("%d keys took effect, of %d: %v", seen, keys, err)
	}
	if kills == 0 {
		t.Error("no kill")
	}
	t.Logf("%d keys, %d kills, %d calls ran, %d were told, %d errors on the way", keys, kills, ran.Load(), told.Load(), errs.Load())
}

// Deadlocks in work and between keys are tried again.
func TestTrap44DeadlockStorm(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	storm(t, b)
	s := b.open(t, mysqlstore.Options{}.Plain())
	// All want one key, whose first owners fail: each failure wakes all others,
	// whose inserts then deadlock.
	var runs atomic.Int64
	var wg sync.WaitGroup
	for range 24 {
		wg.Go(func() {
			_, err := s.DoTx(context.Background(), txRequestOf("tx", "k"), func(ctx context.Context, tx *sql.Tx, rec driver.Record) (driver.Completion, error) {
				c, err := s.effect("k")(ctx, tx, rec)
				if runs.Add(1) <= 5 {
					err = errors.New("not yet")
				}
				return c, err
			})
			if err != nil && err.Error() != "not yet" {
				t.Errorf("DoTx: %v", err)
			}
		})
	}
	wg.Wait()
	if n := s.effects(t, "k"); n != 1 {
		t.Errorf("%d effects", n)
	}
}

// Work that goes on after a deadlock, which took the claim with it, does not
// complete the key.
func TestWorkThatHidesADeadlock(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	for _, with := range []mysqlstore.Options{{}, mysqlstore.Options{}.Plain()} {
		s := b.open(t, with)
		_, err := s.DoTx(t.Context(), txRequestOf("tx", "k"), func(ctx context.Context, tx *sql.Tx, _ driver.Record) (driver.Completion, error) {
			_, err := tx.ExecContext(ctx, "ROLLBACK")
			return completionOf(driver.ClaimRequest{}, "", "r"), err
		})
		if err == nil || !strings.Contains(err.Error(), "no longer part of the transaction") {
			t.Errorf("DoTx: %v", err)
		}
		lookup(t, s, driver.KeyOf("tx", "k"), driver.StateAbsent)
		_, err = s.DoTx(t.Context(), txRequestOf("tx", "k"), func(_ context.Context, tx *sql.Tx, _ driver.Record) (driver.Completion, error) {
			return completionOf(driver.ClaimRequest{}, "", "r"), tx.Commit()
		})
		if err == nil {
			t.Error("DoTx succeeded though work had committed")
		}
	}
}

// After a deadlock in CompleteTx the server has rolled back: a commit must not
// succeed with nothing to commit.
func TestCompleteTxThatDeadlocks(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{})
	reqs := []driver.ClaimRequest{claimOf("s", "a"), claimOf("s", "b")}
	refs := []driver.Ref{grant(t, s, reqs[0]), grant(t, s, reqs[1])}
	var txs [2]*sql.Tx
	for i := range txs {
		tx, err := b.db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback() }()
		txs[i] = tx
		if _, err := tx.ExecContext(t.Context(), "INSERT INTO "+s.prefix+"effects (name) VALUES (?)", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.CompleteTx(t.Context(), tx, refs[i], completionOf(reqs[i], "", "r")); err != nil {
			t.Fatal(err)
		}
	}
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i := range txs {
		wg.Go(func() {
			_, errs[i] = s.CompleteTx(context.Background(), txs[i], refs[1-i], completionOf(reqs[1-i], "", "other"))
		})
	}
	// One is the deadlock's victim; the other then completes what the victim gave
	// up.
	wg.Wait()
	victims := 0
	for i, err := range errs {
		commit := txs[i].Commit()
		if err != nil {
			victims++
			var e *mysql.MySQLError
			if !errors.As(err, &e) || e.Number != 1213 || !strings.HasPrefix(err.Error(), "mysqlstore: ") {
				t.Errorf("CompleteTx: %v", err)
			}
			if commit == nil {
				t.Error("the victim's transaction was committed")
			}
			if n := s.effects(t, fmt.Sprint(i)); n != 0 {
				t.Errorf("the victim's rows are there: %d", n)
			}
		} else if commit != nil {
			t.Errorf("the commit: %v", commit)
		}
	}
	if victims != 1 {
		t.Errorf("%d deadlocked", victims)
	}
}

// Trap 43: in CompleteTx the rows of a paused owner and of its successor never
// both commit, whoever comes first.
func TestTrap38OneOfTwoTransactionsCommits(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{})
	for round := range 20 {
		id := fmt.Sprint("k", round)
		req := claimOf("s", id)
		req.Lease = time.Microsecond
		refs := [2]driver.Ref{grant(t, s, req)}
		next := claimOf("s", id)
		next.Retry = true
		refs[1] = grant(t, s, next)
		var committed atomic.Int64
		var wg sync.WaitGroup
		for i, ref := range refs {
			wg.Go(func() {
				tx, err := b.db.BeginTx(context.Background(), nil)
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = tx.Rollback() }()
				if _, err := tx.ExecContext(context.Background(), "INSERT INTO "+s.prefix+"effects (name) VALUES (?)", id); err != nil {
					t.Error(err)
					return
				}
				if _, err := s.CompleteTx(context.Background(), tx, ref, completionOf(req, "", fmt.Sprint(i))); err != nil {
					if i == 1 || !errors.Is(err, driver.ErrLost) {
						t.Errorf("CompleteTx of %d: %v", i, err)
					}
					return
				}
				if tx.Commit() == nil {
					committed.Add(1)
				}
			})
		}
		wg.Wait()
		if n := s.effects(t, id); n != 1 || committed.Load() != 1 {
			t.Fatalf("%d effects, %d commits", n, committed.Load())
		}
	}
}

// Attempts are counted on a second connection; a pool that has few is not
// exhausted by those who hold one and wait for another.
func TestTrap34CountingWithFewConnections(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	for _, conns := range []int{2, 3, 5} {
		s := b.with(t, fmt.Sprint("max-conns=", conns)).open(t, mysqlstore.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				req := txRequestOf("tx", fmt.Sprint(i))
				req.CountAttempts = true
				reply, err := s.DoTx(ctx, req, s.effect(fmt.Sprint(i)))
				if err != nil || !reply.Ran || reply.Record.Attempt != 1 {
					t.Errorf("DoTx with %d connections: %v %v", conns, reply.Ran, err)
				}
			})
		}
		wg.Wait()
	}
	s := b.with(t, "max-conns=1").open(t, mysqlstore.Options{})
	req := txRequestOf("tx", "k")
	req.CountAttempts = true
	if _, err := s.DoTx(t.Context(), req, s.effect("k")); err == nil || !strings.Contains(err.Error(), "second connection") {
		t.Errorf("DoTx with one connection: %v", err)
	}
	req.CountAttempts = false
	if _, err := s.DoTx(t.Context(), req, s.effect("k")); err != nil {
		t.Errorf("DoTx with one connection: %v", err)
	}
}

// The wait for another's transaction leaves no trace on the connection: work's
// own statements wait as the server is set.
func TestTheWaitOfAClaimIsNotWorks(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	for _, with := range []mysqlstore.Options{{}, mysqlstore.Options{}.Plain()} {
		s := b.with(t, "max-conns=1&innodb_lock_wait_timeout=17").open(t, with)
		for _, wait := range []time.Duration{0, time.Minute} {
			req := txRequestOf("tx", fmt.Sprint(wait))
			req.Wait = wait
			_, err := s.DoTx(t.Context(), req, func(ctx context.Context, tx *sql.Tx, _ driver.Record) (driver.Completion, error) {
				var seconds int
				err := tx.QueryRowContext(ctx, "SELECT @@innodb_lock_wait_timeout").Scan(&seconds)
				if seconds != 17 {
					t.Errorf("work waits for %d seconds", seconds)
				}
				return completionOf(driver.ClaimRequest{}, "", ""), err
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
}
