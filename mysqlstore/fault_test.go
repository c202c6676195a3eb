package mysqlstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/mysqlstore"
	"github.com/idem-go/idem/testserver/cut"
)

// warm makes every connection of a pool have its statements prepared, so that the
// next request is the statement itself.
func warm(t *testing.T, s driver.Store) {
	t.Helper()
	req := claimOf("warm", fmt.Sprint(driver.NewNonce()))
	ref := grant(t, s, req)
	if err := s.Renew(t.Context(), ref, time.Minute); err != nil {
		t.Fatal(err)
	}
	complete(t, s, ref, completionOf(req, "", ""))
	ref = grant(t, s, claimOf("warm", "released"))
	if err := s.Release(t.Context(), ref, driver.Release{Retention: time.Hour}); err != nil {
		t.Fatal(err)
	}
	ref = grant(t, s, claimOf("warm", fmt.Sprint(driver.NewNonce())))
	if err := s.Abandon(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	lookup(t, s, req.Key, driver.StateCompleted)
}

// step is a call that is cut, and what is so after it or after its repeat.
type step struct {
	name string
	// prepare makes what the call needs, and returns it.
	prepare func(t *testing.T, s driver.Store, id string) (call func(ctx context.Context) error, after func(t *testing.T, s driver.Store))
}

func steps() []step {
	claimed := func(t *testing.T, s driver.Store, id string) (driver.ClaimRequest, driver.Ref) {
		req := claimOf("cut", id)
		return req, grant(t, s, req)
	}
	return []step{
		{"claim", func(_ *testing.T, s driver.Store, id string) (func(context.Context) error, func(*testing.T, driver.Store)) {
			req := claimOf("cut", id)
			return func(ctx context.Context) error {
					reply, err := s.Claim(ctx, req)
					if err == nil && (!reply.Granted || reply.Record.Attempt != 1) {
						err = fmt.Errorf("granted %v, attempt %d", reply.Granted, reply.Record.Attempt)
					}
					return err
				}, func(t *testing.T, s driver.Store) {
					if rec := lookup(t, s, req.Key, driver.StateInFlight); rec.Attempt != 1 {
						t.Errorf("attempt %d", rec.Attempt)
					}
				}
		}},
		{"retry", func(t *testing.T, s driver.Store, id string) (func(context.Context) error, func(*testing.T, driver.Store)) {
			req, ref := claimed(t, s, id)
			if err := s.Abandon(t.Context(), ref); err != nil {
				t.Fatal(err)
			}
			req.Nonce, req.Retry = driver.NewNonce(), true
			return func(ctx context.Context) error {
					reply, err := s.Claim(ctx, req)
					if err == nil && (!reply.Granted || reply.Record.Attempt != 2) {
						err = fmt.Errorf("granted %v, attempt %d", reply.Granted, reply.Record.Attempt)
					}
					return err
				}, func(t *testing.T, s driver.Store) {
					if rec := lookup(t, s, req.Key, driver.StateInFlight); rec.Attempt != 2 {
						t.Errorf("attempt %d", rec.Attempt)
					}
				}
		}},
		{"renew", func(t *testing.T, s driver.Store, id string) (func(context.Context) error, func(*testing.T, driver.Store)) {
			req, ref := claimed(t, s, id)
			return func(ctx context.Context) error { return s.Renew(ctx, ref, time.Hour) }, func(t *testing.T, s driver.Store) {
				if rec := lookup(t, s, req.Key, driver.StateInFlight); rec.Left < 30*time.Minute {
					t.Errorf("what is left is %v", rec.Left)
				}
			}
		}},
		{"complete", func(t *testing.T, s driver.Store, id string) (func(context.Context) error, func(*testing.T, driver.Store)) {
			req, ref := claimed(t, s, id)
			return func(ctx context.Context) error {
					late, err := s.Complete(ctx, ref, completionOf(req, "m", "body"))
					if late {
						t.Error("it says that it was late")
					}
					return err
				}, func(t *testing.T, s driver.Store) {
					if rec := lookup(t, s, req.Key, driver.StateCompleted); string(rec.Result.Body) != "body" {
						t.Errorf("the result is %q", rec.Result.Body)
					}
				}
		}},
		{"release", func(t *testing.T, s driver.Store, id string) (func(context.Context) error, func(*testing.T, driver.Store)) {
			req, ref := claimed(t, s, id)
			return func(ctx context.Context) error {
					return s.Release(ctx, ref, driver.Release{Answered: true, Retention: time.Hour})
				}, func(t *testing.T, s driver.Store) {
					if rec := lookup(t, s, req.Key, driver.StateAbsent); !rec.Answered || rec.Attempt != 1 {
						t.Errorf("answered %v, attempt %d", rec.Answered, rec.Attempt)
					}
				}
		}},
		{"abandon", func(t *testing.T, s driver.Store, id string) (func(context.Context) error, func(*testing.T, driver.Store)) {
			req, ref := claimed(t, s, id)
			return func(ctx context.Context) error { return s.Abandon(ctx, ref) }, func(t *testing.T, s driver.Store) {
				lookup(t, s, req.Key, driver.StateUnknown)
			}
		}},
	}
}

// Traps 10 and 56: the connection is cut before the request arrives, or after it
// and before its answer, at each step. The call succeeds all the same, or, where
// the server cannot be reached meanwhile, its repeat does.
func TestTrap10Trap56CutAtEachStep(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	for _, plain := range []bool{false, true} {
		with := mysqlstore.Options{}
		if plain {
			with = with.Plain()
		}
		// With one connection the next request is the call's.
		through, proxy := b.through(t, "max-conns=1")
		s := through.open(t, with)
		direct := b.reopen(t, s.opts)
		for _, st := range steps() {
			for name, cutting := range map[string]func(){"request": proxy.CutRequests, "answer": proxy.CutAnswers} {
				t.Run(fmt.Sprint(st.name, " ", name, " plain=", plain), func(t *testing.T) {
					warm(t, s)
					call, after := st.prepare(t, s, fmt.Sprint(st.name, name, 1))
					cuts := proxy.Cuts()
					cutting()
					if err := call(t.Context()); err != nil {
						t.Errorf("the call: %v", err)
					}
					if proxy.Cuts() != cuts+1 {
						t.Errorf("%d connections were cut", proxy.Cuts()-cuts)
					}
					after(t, direct)

					warm(t, s)
					call, after = st.prepare(t, s, fmt.Sprint(st.name, name, 2))
					cuts = proxy.Cuts()
					cutting()
					refused := refuseAfter(t, proxy, cuts+1)
					err := call(t.Context())
					<-refused
					if err := proxy.Refuse(false); err != nil {
						t.Fatal(err)
					}
					if err != nil {
						// It is asked again by who does not know what became of it.
						err = call(t.Context())
					}
					if err != nil {
						t.Errorf("the repeat: %v", err)
					}
					after(t, direct)
				})
			}
		}
	}
}

// refuseAfter lets nobody connect once n connections have been cut; the channel
// is closed when that is so.
func refuseAfter(t *testing.T, proxy *cut.Proxy, n int) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := proxy.WaitCuts(ctx, n); err != nil {
			t.Errorf("nothing was cut: %v", err)
		}
		if err := proxy.Refuse(true); err != nil {
			t.Errorf("refusing: %v", err)
		}
	}()
	return done
}

// Trap 9: a server that hangs costs a call no more than its context.
func TestTrap9AServerThatHangs(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	through, proxy := b.through(t, "max-conns=4")
	s := through.open(t, mysqlstore.Options{})
	warm(t, s)
	req := claimOf("s", "k")
	ref := grant(t, s, req)
	waiting := make(chan error, 1)
	go func() { waiting <- s.Wait(context.Background(), ref) }()
	eventually(t, "waiting", func() bool { return s.Waiting() == 1 })
	proxy.Hang(true)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	calls := map[string]func() error{
		"Claim":    func() error { _, err := s.Claim(ctx, claimOf("s", "other")); return err },
		"Renew":    func() error { return s.Renew(ctx, ref, time.Minute) },
		"Complete": func() error { _, err := s.Complete(ctx, ref, completionOf(req, "", "r")); return err },
		"Lookup":   func() error { _, err := s.Lookup(ctx, req.Key); return err },
		"Stats":    func() error { _, err := s.Stats(ctx); return err },
		"Sweep":    func() error { _, err := s.Sweep(ctx, 1); return err },
		"Ping":     func() error { return s.Ping(ctx) },
		"DoTx":     func() error { _, err := s.DoTx(ctx, txRequestOf("tx", "k"), s.effect("k")); return err },
	}
	var wg sync.WaitGroup
	for name, call := range calls {
		wg.Go(func() {
			if err := call(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v; it should be the context's error", name, err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the calls took %v", took)
	}
	proxy.Hang(false)
	complete(t, s, ref, completionOf(req, "", "r"))
	if err := <-waiting; err != nil {
		t.Errorf("Wait: %v", err)
	}
}

// A server that is stopped (SIGSTOP) in the middle of what it does, too.
func TestAServerThatIsStopped(t *testing.T) {
	b := private(t, nil)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{})
	warm(t, s)
	if err := b.server.Pause(); err != nil {
		t.Fatal(err)
	}
	req := claimOf("s", "k")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Claim(ctx, req); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Claim: %v", err)
	}
	if err := b.server.Resume(); err != nil {
		t.Fatal(err)
	}
	// The claim may have been granted: the same nonce is recognised.
	if reply, err := s.Claim(t.Context(), req); err != nil || !reply.Granted || reply.Record.Attempt != 1 {
		t.Errorf("Claim: %v, %v, attempt %d", reply.Granted, err, reply.Record.Attempt)
	}
}

// Trap 7: the server is killed and started again under load, between claims and
// completions. No work is done twice, and what was acknowledged is there.
func TestTrap7KilledUnderLoad(t *testing.T) {
	b := private(t, nil)
	if b == nil {
		return
	}
	kills, workers := 4, 12
	if testing.Short() {
		kills = 1
	}
	s := b.open(t, mysqlstore.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var stop atomic.Bool
	var runs, acknowledged sync.Map // by id
	var done atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for n := 0; !stop.Load(); n++ {
				// Two workers want each key.
				id := fmt.Sprint(w/2, " ", n)
				req := claimOf("load", id)
				reply, err := until(ctx, func() (driver.ClaimReply, error) { return s.Claim(ctx, req) })
				if err != nil {
					t.Errorf("Claim: %v", err)
					return
				}
				if !reply.Granted {
					continue
				}
				count, _ := runs.LoadOrStore(id, new(atomic.Int64))
				count.(*atomic.Int64).Add(1)
				ref := driver.Ref{Key: req.Key, Token: reply.Record.Token}
				if _, err := until(ctx, func() (bool, error) { return s.Complete(ctx, ref, completionOf(req, "", id)) }); err != nil {
					t.Errorf("Complete: %v", err)
					return
				}
				acknowledged.Store(id, req.Key)
				done.Add(1)
			}
		})
	}
	for k := range kills {
		before := done.Load()
		eventually(t, "work", func() bool { return done.Load() > before+50 })
		if err := b.server.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := b.server.Start(); err != nil {
			t.Fatalf("start %d: %v", k, err)
		}
	}
	before := done.Load()
	eventually(t, "work", func() bool { return done.Load() > before+50 })
	stop.Store(true)
	wg.Wait()
	n := 0
	runs.Range(func(id, count any) bool {
		if got := count.(*atomic.Int64).Load(); got != 1 {
			t.Errorf("%v was done %d times", id, got)
		}
		return true
	})
	acknowledged.Range(func(id, key any) bool {
		n++
		if rec := lookup(t, s, key.(driver.Key), driver.StateCompleted); string(rec.Result.Body) != id {
			t.Errorf("the result of %v is %q", id, rec.Result.Body)
		}
		return true
	})
	t.Logf("%d operations over %d kills", n, kills)
}

// until makes a call until it succeeds, as the core does while a store does not
// answer.
func until[T any](ctx context.Context, call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if err == nil || ctx.Err() != nil {
			return v, err
		}
		timer := time.NewTimer(10 * time.Millisecond)
		<-timer.C
	}
}

// A pool whose connections all died while nobody looked serves the next call.
func TestStaleConnections(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	through, proxy := b.through(t, "max-conns=8")
	s := through.open(t, mysqlstore.Options{})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() { grant(t, s, claimOf("s", fmt.Sprint(i))) })
	}
	wg.Wait()
	proxy.CutAll()
	for i := range 16 {
		lookup(t, s, driver.KeyOf("s", fmt.Sprint(i)), driver.StateInFlight)
	}
}

// Traps 4 and 43: an owner that is stopped past its lease, while another takes
// over and finishes, is fenced when it goes on.
func TestTrap43AnOwnerThatIsStopped(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	prefix := b.tables(t)
	both := drivertest.Processes(t, 2, "with|"+prefix+"|"+b.server.DSN())
	owner, other := both.Process(0), both.Process(1)
	req := claimOf("s", "k")
	req.Lease = 300 * time.Millisecond
	ref := grant(t, owner, req)
	owner.Pause()
	next := claimOf("s", "k")
	next.Retry = true
	var taken driver.Ref
	eventually(t, "the end of the lease", func() bool {
		reply, err := other.Claim(t.Context(), next)
		if err != nil {
			t.Fatal(err)
		}
		taken = driver.Ref{Key: next.Key, Token: reply.Record.Token}
		return reply.Granted
	})
	complete(t, other, taken, completionOf(next, "", "of the other"))
	owner.Resume()
	if _, err := owner.Complete(t.Context(), ref, completionOf(req, "", "of the paused")); !errors.Is(err, driver.ErrLost) {
		t.Errorf("Complete of the paused owner: %v", err)
	}
	for _, err := range []error{owner.Renew(t.Context(), ref, time.Minute), owner.Abandon(t.Context(), ref), owner.Release(t.Context(), ref, driver.Release{Retention: time.Hour})} {
		if !errors.Is(err, driver.ErrLost) {
			t.Errorf("a write of the paused owner: %v", err)
		}
	}
	if rec := lookup(t, other, req.Key, driver.StateCompleted); string(rec.Result.Body) != "of the other" {
		t.Errorf("the result is %q", rec.Result.Body)
	}
}

// Traps 1 and 50: 64 callers in 8 processes on one key, one of which runs.
func TestTrap1ManyProcessesOneKey(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	for _, mode := range []string{"with", "plain"} {
		s := drivertest.Processes(t, 8, mode+"|"+b.tables(t)+"|"+b.server.DSN()+"?max-conns=4")
		for round := range 4 {
			var granted atomic.Int64
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					req := claimOf("s", fmt.Sprint("k", round))
					reply, err := s.Claim(context.Background(), req)
					if err != nil {
						t.Errorf("Claim: %v", err)
					}
					if reply.Granted {
						granted.Add(1)
						_, err = s.Complete(context.Background(), driver.Ref{Key: req.Key, Token: reply.Record.Token}, completionOf(req, "", "r"))
						if err != nil {
							t.Errorf("Complete: %v", err)
						}
					}
				})
			}
			wg.Wait()
			if granted.Load() != 1 {
				t.Errorf("%d were granted the key", granted.Load())
			}
		}
	}
}

// counted is how many statements a server was asked while f ran. What the pools
// have under way is waited for, if they have one connection each.
func counted(t *testing.T, db *sql.DB, f func(), pools ...*sql.DB) int {
	t.Helper()
	ask := func() (n int) {
		for _, pool := range pools {
			if err := pool.PingContext(t.Context()); err != nil { // which is no statement
				t.Fatal(err)
			}
		}
		var name string
		if err := db.QueryRowContext(t.Context(), "SHOW GLOBAL STATUS LIKE 'Questions'").Scan(&name, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := ask()
	f()
	return ask() - before - 1
}

// What is said about round trips is so.
func TestRoundTrips(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	for _, tt := range []struct {
		with                                                mysqlstore.Options
		claim, replay, renew, complete, release, tx, txSlow int
	}{
		{mysqlstore.Options{}, 1, 1, 1, 1, 1, 6, 6},
		{mysqlstore.Options{}.Plain(), 1, 2, 1, 1, 1, 8, 9},
	} {
		s := b.with(t, "max-conns=1&interpolateParams=true").open(t, tt.with)
		warm(t, s)
		if _, err := s.DoTx(t.Context(), txRequestOf("tx", "warm"), s.effect("warm")); err != nil {
			t.Fatal(err)
		}
		req := claimOf("s", "k")
		var ref driver.Ref
		for _, c := range []struct {
			name string
			want int
			f    func()
		}{
			{"a claim", tt.claim, func() { ref = grant(t, s, req) }},
			{"a renewal", tt.renew, func() {
				if err := s.Renew(t.Context(), ref, time.Hour); err != nil {
					t.Error(err)
				}
			}},
			{"a completion", tt.complete, func() { complete(t, s, ref, completionOf(req, "", "r")) }},
			{"a replay", tt.replay, func() {
				if reply, err := s.Claim(t.Context(), claimOf("s", "k")); err != nil || reply.Record.State != driver.StateCompleted {
					t.Errorf("%v %v", reply.Record.State, err)
				}
			}},
			{"a claim to be released", tt.claim, func() { ref = grant(t, s, claimOf("s", "other")) }},
			{"a release", tt.release, func() {
				if err := s.Release(t.Context(), ref, driver.Release{Retention: time.Hour}); err != nil {
					t.Error(err)
				}
			}},
			// BEGIN, claim, work's one statement, completion, COMMIT, and the ROLLBACK that
			// nobody waits for.
			{"a transaction", tt.tx, func() {
				if _, err := s.DoTx(t.Context(), txRequestOf("tx", "k"), s.effect("k")); err != nil {
					t.Error(err)
				}
			}},
			{"a transaction that does not wait", tt.txSlow, func() {
				req := txRequestOf("tx", "k2")
				req.Wait = 0
				if _, err := s.DoTx(t.Context(), req, s.effect("k2")); err != nil {
					t.Error(err)
				}
			}},
		} {
			if got := counted(t, b.db, c.f, s.DB()); got != c.want {
				t.Errorf("%s took %d statements; it should take %d", c.name, got, c.want)
			}
		}
	}
}
