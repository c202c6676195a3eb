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
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/pgstore"
	"github.com/idem-go/idem/testserver"
	"github.com/idem-go/idem/testserver/cut"
)

// step is a write, with the state that it leaves.
type step struct {
	name string
	call func(s store, id string, ref driver.Ref) error
	want driver.State
}

func steps() []step {
	ctx := context.Background()
	return []step{
		{"claim", func(s store, id string, _ driver.Ref) error {
			reply, err := s.Claim(ctx, request(id))
			if err == nil && (!reply.Granted || reply.Record.Attempt != 1) {
				err = fmt.Errorf("granted %v, attempt %d", reply.Granted, reply.Record.Attempt)
			}
			return err
		}, driver.StateInFlight},
		{"renew", func(s store, _ string, ref driver.Ref) error { return s.Renew(ctx, ref, time.Hour) }, driver.StateInFlight},
		{"complete", func(s store, id string, ref driver.Ref) error {
			late, err := s.Complete(ctx, ref, completion(id, "made"))
			if late {
				err = errors.Join(err, errors.New("it says that it was late"))
			}
			return err
		}, driver.StateCompleted},
		{"release", func(s store, _ string, ref driver.Ref) error {
			return s.Release(ctx, ref, driver.Release{Retention: time.Hour})
		}, driver.StateAbsent},
		{"abandon", func(s store, _ string, ref driver.Ref) error { return s.Abandon(ctx, ref) }, driver.StateUnknown},
		{"resolve", func(s store, _ string, ref driver.Ref) error {
			_, err := s.Resolve(ctx, ref.Key, driver.Resolution{Action: driver.ResolveRelease, Force: true, Retention: time.Hour, Tombstone: time.Hour})
			return err
		}, driver.StateAbsent},
	}
}

// farStores are stores whose one connection a test can cut.
func farStores(t *testing.T, b *bed) (*cut.Proxy, map[string]store) {
	t.Helper()
	p, err := cut.Listen(b.server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	dsn := through(b.server.DSN(), p.Addr())
	far, err := pgstore.Open(context.Background(), dsn+"&pool_max_conns=1", defaults(pgstore.Options{Schema: b.schema(t), NoListen: true, MaxUnknown: -1}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(1)
	return p, map[string]store{"pgx": far, "sql": b.openDB(t, db, pgstore.Options{MaxUnknown: -1})}
}

// The connection is cut before the request arrives, and after it and before the
// answer, at each step: the call succeeds, once, and its caller notices nothing.
func TestTrap56TheConnectionIsCutAtEachStep(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	p, stores := farStores(t, b)
	for kind, s := range stores {
		for _, st := range steps() {
			for _, answer := range []bool{false, true} {
				id := fmt.Sprint(kind, st.name, answer)
				var ref driver.Ref
				// What has been done once on a connection is one request from then on.
				warm := "warm " + id
				if st.name != "claim" {
					ref = grant(t, s, request(warm))
				}
				if err := st.call(s, warm, ref); err != nil {
					t.Fatalf("%s: %v", warm, err)
				}
				if st.name != "claim" {
					ref = grant(t, s, request(id))
				}
				before := p.Cuts()
				if answer {
					p.CutAnswers()
				} else {
					p.CutRequests()
				}
				if err := st.call(s, id, ref); err != nil {
					t.Errorf("%s: %v", id, err)
				}
				if p.Cuts() != before+1 {
					t.Errorf("%s: %d cuts", id, p.Cuts()-before)
				}
				p.Forget()
				rec := stateOf(t, s, id, st.want)
				if rec.Attempt != 1 {
					t.Errorf("%s: attempt %d", id, rec.Attempt)
				}
			}
		}
	}
}

// own is a server that a test may kill, with its own defaults.
func own(t *testing.T, o *testserver.Options) *bed {
	t.Helper()
	server, err := testserver.Postgres(o)
	if !testserver.Need(t, "postgres", err) {
		return nil
	}
	if server.External() {
		testserver.Need(t, "postgres", testserver.ErrExternal)
		return nil
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	b := &bed{server: server}
	if b.pool, err = pgstore.Connect(context.Background(), server.DSN()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.pool.Close)
	if b.sql, err = sql.Open("pgx", server.DSN()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.sql.Close() })
	return b
}

// fresh makes the tables of a server of a test's own.
func (b *bed) fresh(t *testing.T) {
	t.Helper()
	err := pgstore.Migrate(context.Background(), b.pool, nil)
	if err == nil {
		_, err = b.pool.Exec(context.Background(), "CREATE TABLE effects (name text, n bigint GENERATED ALWAYS AS IDENTITY)")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Trap 7: the server is killed and started again after each step: what it has
// acknowledged is there.
func TestTrap7TheServerIsKilledBetweenSteps(t *testing.T) {
	t.Parallel()
	b := own(t, nil)
	if b == nil {
		return
	}
	b.fresh(t)
	s := b.openIn(t, pgstore.Options{})
	restart := func() {
		t.Helper()
		if err := errors.Join(b.server.Kill(), b.server.Start()); err != nil {
			t.Fatal(err)
		}
	}
	for _, st := range steps() {
		if st.name == "claim" {
			continue
		}
		req := request(st.name)
		ref := grant(t, s, req)
		restart()
		again, err := s.Claim(t.Context(), req)
		if err != nil || !again.Granted || again.Record.Token != ref.Token || again.Record.Attempt != 1 {
			t.Fatalf("%s: the claim asked for again: %+v, %v", st.name, again, err)
		}
		if err := st.call(s, st.name, ref); err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
		restart()
		stateOf(t, s, st.name, st.want)
	}
	rec := stateOf(t, s, "complete", driver.StateCompleted)
	if string(rec.Result.Body) != "made" {
		t.Errorf("the result is %q", rec.Result.Body)
	}
	before := grant(t, s, request("token"))
	restart()
	if after := grant(t, s, request("another")); after.Token <= before.Token {
		t.Errorf("the token %d was granted after %d", after.Token, before.Token)
	}
}

// persist repeats a call until the server answers.
func persist(t *testing.T, f func(ctx context.Context) error) error {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := f(ctx)
		cancel()
		if err == nil || errors.Is(err, driver.ErrLost) || errors.Is(err, driver.ErrLapsed) || errors.Is(err, driver.ErrCompleted) || t.Failed() {
			return err
		}
	}
}

// The server is killed under load, again and again. Work is done at most once
// for each key, and since no owner dies, exactly once.
func TestTrap7TheServerIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	b := own(t, nil)
	if b == nil {
		return
	}
	b.fresh(t)
	s := b.openIn(t, pgstore.Options{})
	const keys, callers = 600, 24
	var effects [keys]atomic.Int64
	var next, finished atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for {
				// Each key is asked for by two of them.
				n := (next.Add(1) - 1) / 2
				if n >= keys || t.Failed() {
					return
				}
				id := fmt.Sprint("key ", n)
				req := request(id)
				req.Lease = time.Hour
				var reply driver.ClaimReply
				err := persist(t, func(ctx context.Context) (err error) {
					reply, err = s.Claim(ctx, req)
					return err
				})
				if err != nil || !reply.Granted {
					if err != nil {
						t.Errorf("%s: Claim: %v", id, err)
					}
					continue
				}
				effects[n].Add(1)
				ref := driver.Ref{Key: req.Key, Token: reply.Record.Token}
				err = persist(t, func(ctx context.Context) error {
					_, err := s.Complete(ctx, ref, completion(id, "made"))
					return err
				})
				if err != nil {
					t.Errorf("%s: Complete: %v", id, err)
				}
				finished.Add(1)
			}
		})
	}
	for _, at := range []int64{keys / 6, keys / 3, keys / 2, 2 * keys / 3} {
		eventually(t, "work goes on", func() bool { return finished.Load() >= at })
		if err := errors.Join(b.server.Kill(), b.server.Start()); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	for n := range effects {
		if e := effects[n].Load(); e != 1 {
			t.Errorf("key %d: %d effects", n, e)
		}
		stateOf(t, s, fmt.Sprint("key ", n), driver.StateCompleted)
	}
}

// Trap 9: a server that hangs: every call ends with its context, alone and in a
// group, and the store goes on once the server does.
func TestTrap9TheServerHangs(t *testing.T) {
	t.Parallel()
	b := own(t, quick())
	if b == nil {
		return
	}
	b.fresh(t)
	s := b.openIn(t, pgstore.Options{})
	ref := grant(t, s, request("before"))
	if err := b.server.Pause(); err != nil {
		t.Fatal(err)
	}
	const n = 64
	var late atomic.Int64
	all(n, func(i int) {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		begun := time.Now()
		var err error
		switch i % 4 {
		case 0:
			_, err = s.Claim(ctx, request(fmt.Sprint(i)))
		case 1:
			_, err = s.Complete(ctx, ref, completion("before", "made"))
		case 2:
			err = s.Renew(ctx, ref, time.Hour)
		case 3:
			_, err = s.Lookup(ctx, ref.Key)
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("call %d: %v", i, err)
		}
		if time.Since(begun) > 5*time.Second {
			late.Add(1)
		}
	})
	if late.Load() > 0 {
		t.Errorf("%d calls ended long after their contexts", late.Load())
	}
	if err := b.server.Resume(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Complete(t.Context(), ref, completion("before", "made")); err != nil {
		t.Error(err)
	}
	grant(t, s, request("after"))
}

// Close does not wait for a server that hangs, and ends who waits in groups.
func TestCloseWhileTheServerHangs(t *testing.T) {
	t.Parallel()
	b := own(t, quick())
	if b == nil {
		return
	}
	b.fresh(t)
	s := b.openIn(t, pgstore.Options{})
	grant(t, s, request("before"))
	if err := b.server.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var closed atomic.Int64
	for i := range 32 {
		wg.Go(func() {
			if _, err := s.Claim(ctx, request(fmt.Sprint(i))); errors.Is(err, driver.ErrClosed) {
				closed.Add(1)
			}
		})
	}
	eventually(t, "calls wait for others", func() bool { return s.Queued() >= 30 })
	s.Close()
	eventually(t, "those who waited are told", func() bool { return closed.Load() >= 30 })
	cancel()
	wg.Wait()
	if err := b.server.Resume(); err != nil {
		t.Fatal(err)
	}
}

// Trap 33: the server's clock is ten minutes off from the client's, either way.
// Leases go by the server's alone.
func TestTrap33TheServersClockIsOff(t *testing.T) {
	t.Parallel()
	for _, offset := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
		t.Run(offset.String(), func(t *testing.T) {
			t.Parallel()
			o := quick()
			o.ClockOffset = offset
			server, err := testserver.Postgres(o)
			if !testserver.Need(t, "faketime", err) {
				return
			}
			t.Cleanup(func() { server.Stop() })
			b := &bed{server: server}
			if b.pool, err = pgstore.Connect(context.Background(), server.DSN()); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(b.pool.Close)
			var now time.Time
			if err := b.pool.QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&now); err != nil {
				t.Fatal(err)
			}
			if off := time.Until(now) - offset; off.Abs() > time.Minute {
				t.Fatalf("the server's clock is %v off", off+offset)
			}
			b.fresh(t)
			h := b.harness()
			h.New = func(t testing.TB) driver.Store {
				t.Cleanup(func() { b.pool.Exec(context.Background(), "DELETE FROM idem_records") })
				return b.openIn(t, pgstore.Options{})
			}
			drivertest.RunModel(t, h, &drivertest.ModelOptions{Histories: 1, Steps: 200})

			s := b.openIn(t, pgstore.Options{})
			req := request("k")
			req.Lease = 500 * time.Millisecond
			begun := time.Now()
			ref := grant(t, s, req)
			eventually(t, "the lease ends", func() bool {
				rec, err := s.Lookup(t.Context(), req.Key)
				if err != nil {
					t.Fatal(err)
				}
				if rec.State == driver.StateInFlight && (rec.Left <= 0 || rec.Left > req.Lease) {
					t.Fatalf("what is left is %v", rec.Left)
				}
				return rec.State == driver.StateUnknown
			})
			if took := time.Since(begun); took < req.Lease-50*time.Millisecond {
				t.Errorf("the lease ended after %v", took)
			}
			if late, err := s.Complete(t.Context(), ref, completion("k", "r")); err != nil || !late {
				t.Errorf("Complete: late %v, %v", late, err)
			}
		})
	}
}

// holding is a transaction of DoTx's that is open until it is let go.
func holding(t *testing.T, s *pgstore.Store, id string) (letGo func(err error)) {
	t.Helper()
	began, end := make(chan struct{}), make(chan error)
	ended := make(chan struct{})
	var once sync.Once
	go func() {
		defer close(ended)
		req := request(id)
		_, err := s.DoTx(context.Background(), driver.TxRequest{
			Key: req.Key, Scope: req.Scope, ID: id, Fingerprint: req.Fingerprint, Retention: time.Hour,
		}, func(context.Context, pgx.Tx, driver.Record) (driver.Completion, error) {
			once.Do(func() { close(began) })
			return completion(id, "in a transaction"), <-end
		})
		if err != nil && !errors.Is(err, errWork) {
			t.Errorf("DoTx: %v", err)
		}
	}()
	<-began
	return func(err error) {
		end <- err
		<-ended
	}
}

var errWork = errors.New("the work's own error")

// waitingFor is how many sessions wait for another's transaction.
func (b *bed) waitingFor(t testing.TB) int {
	t.Helper()
	var n int
	if err := b.pool.QueryRow(context.Background(), "SELECT count(*) FROM pg_locks WHERE NOT granted").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Trap 45: somebody's open transaction holds a key. A claim of it waits for a
// bounded time, and other keys are not held up.
func TestTrap45AnOpenTransactionHoldsAKey(t *testing.T) {
	t.Parallel()
	b := own(t, quick())
	if b == nil {
		return
	}
	b.fresh(t)
	tx := b.openIn(t, pgstore.Options{})
	s := b.openIn(t, pgstore.Options{ClaimWait: 400 * time.Millisecond})
	letGo := holding(t, tx, "held")
	// Alone, with nobody whose call would be held up.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if reply, err := s.Claim(ctx, request("held")); err != nil || reply.Granted || reply.Record.State != driver.StateInFlight {
		t.Fatalf("the key that is held: granted %v, %v, %v", reply.Granted, reply.Record.State, err)
	}
	var slow, held atomic.Int64
	begun := time.Now()
	all(96, func(i int) {
		id := fmt.Sprint("other ", i)
		if i%3 == 0 {
			id = "held"
		}
		for round := range 5 {
			req := request(fmt.Sprint(id, " ", round))
			if id == "held" {
				req = request("held")
			}
			begun := time.Now()
			reply, err := s.Claim(t.Context(), req)
			took := time.Since(begun)
			switch {
			case err != nil:
				t.Error(err)
			case id == "held" && (reply.Granted || reply.Record.State != driver.StateInFlight || reply.Record.Left <= 0):
				t.Errorf("the key that is held: granted %v, %v", reply.Granted, reply.Record.State)
			case id == "held":
				held.Add(1)
			case !reply.Granted:
				t.Errorf("%s was not granted", id)
			case took > 5*time.Second:
				slow.Add(1)
			}
		}
	})
	t.Logf("320 claims of other keys, with %d of a key that is held: %v", held.Load(), time.Since(begun))
	if slow.Load() > 0 {
		t.Errorf("%d claims of other keys were held up", slow.Load())
	}
	letGo(errWork)
	grant(t, s, request("held"))
}

// A claim that waits for an open transaction finds no row before it, and one
// that it may not have afterwards: it asks again, and is told the truth.
func TestTrap45TheClaimThatLosesARaceAsksAgain(t *testing.T) {
	t.Parallel()
	b := own(t, quick())
	if b == nil {
		return
	}
	b.fresh(t)
	tx := b.openIn(t, pgstore.Options{})
	patient := pgstore.Options{ClaimWait: time.Minute}
	stores := map[string]store{"pgx": b.openIn(t, patient)}
	db, err := pgstore.NewDB(t.Context(), b.sql, defaults(patient))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	stores["sql"] = db
	for kind, s := range stores {
		for _, commits := range []bool{true, false} {
			id := fmt.Sprint(kind, commits)
			letGo := holding(t, tx, id)
			replies := make(chan driver.ClaimReply, 8)
			for range cap(replies) {
				go func() {
					reply, err := s.Claim(context.Background(), request(id))
					if err != nil {
						t.Error(err)
					}
					replies <- reply
				}()
			}
			eventually(t, "a claim waits at the server", func() bool { return b.waitingFor(t) > 0 })
			if commits {
				letGo(nil)
			} else {
				letGo(errWork)
			}
			granted := 0
			for range cap(replies) {
				reply := <-replies
				switch {
				case reply.Granted:
					granted++
				case commits && string(reply.Record.Result.Body) != "in a transaction":
					t.Errorf("%s: the record is %v, %q", id, reply.Record.State, reply.Record.Result.Body)
				case !commits && (reply.Record.State != driver.StateInFlight || reply.Record.Token == 0):
					t.Errorf("%s: the record is %v, token %d", id, reply.Record.State, reply.Record.Token)
				}
			}
			if want := map[bool]int{true: 0, false: 1}[commits]; granted != want {
				t.Errorf("%s: %d were granted", id, granted)
			}
		}
	}
}

// Whether a completion is late is judged once nobody else can change the row: not
// before it waited for a transaction that was then rolled back.
func TestLateIsJudgedWithTheRow(t *testing.T) {
	t.Parallel()
	b := own(t, quick())
	if b == nil {
		return
	}
	b.fresh(t)
	db, err := pgstore.NewDB(t.Context(), b.sql, defaults(pgstore.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	for kind, s := range map[string]store{"pgx": b.openIn(t, pgstore.Options{}), "sql": db} {
		req := request(kind)
		req.Lease = 150 * time.Millisecond
		tx, err := b.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.Background())
		ref := grant(t, s, req)
		if _, err := tx.Exec(t.Context(), "SELECT FROM idem_records WHERE key = $1 FOR UPDATE", ref.Key[:]); err != nil {
			t.Fatal(err)
		}
		late := make(chan bool, 1)
		go func() {
			l, err := s.Complete(context.Background(), ref, completion(kind, "r"))
			if err != nil {
				t.Error(err)
			}
			late <- l
		}()
		eventually(t, "the completion waits", func() bool { return b.waitingFor(t) > 0 })
		eventually(t, "the lease ends", func() bool {
			var over bool
			err := b.pool.QueryRow(t.Context(), "SELECT due < date_part('epoch', clock_timestamp()) * 1000000 FROM idem_records WHERE key = $1", ref.Key[:]).Scan(&over)
			return err == nil && over
		})
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !<-late {
			t.Errorf("%s: it says that it was in time", kind)
		}
	}
}

// Of an operator and an owner who act at once, none undoes what the other did
// without knowing.
func TestResolveRaces(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	s := b.open(t, pgstore.Options{})
	for round := range 100 {
		id := fmt.Sprint(round)
		ref := grant(t, s, request(id))
		if err := s.Abandon(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		var errs [3]error
		all(len(errs), func(i int) {
			switch i {
			case 0:
				_, errs[i] = s.Complete(t.Context(), ref, completion(id, "done"))
			default:
				_, errs[i] = s.Resolve(t.Context(), ref.Key, driver.Resolution{
					Action: driver.ResolveRelease, Token: ref.Token, Retention: time.Hour, Tombstone: time.Hour,
				})
			}
		})
		if errs[0] != nil {
			t.Fatalf("Complete: %v", errs[0])
		}
		// Whoever was first: the owner's result is there.
		stateOf(t, s, id, driver.StateCompleted)
	}
}

// What is over is kept for a while before it is dropped: see dropText.
func TestKeptForAWhile(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	o := defaults(pgstore.Options{Schema: b.schema(t)})
	s, err := pgstore.New(t.Context(), b.pool, o.WithGrace(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	ref := grant(t, s, request("k"))
	if err := s.Release(t.Context(), ref, driver.Release{Retention: time.Hour}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		passes time.Duration
		swept  int
	}{{time.Hour, 0}, {50 * time.Second, 0}, {11 * time.Second, 1}} {
		pass(t, s, step.passes)
		if n, err := s.Sweep(t.Context(), 10); err != nil || n != step.swept {
			t.Errorf("after another %v %d were swept: %v", step.passes, n, err)
		}
		if rec := stateOf(t, s, "k", driver.StateAbsent); rec.Attempt != 0 {
			t.Errorf("the record is there still: attempt %d", rec.Attempt)
		}
	}
}

// The sweeper of the store's own, and the counts while it works: trap 35.
func TestTrap35SweptByItself(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	s := b.open(t, pgstore.Options{SweepEvery: 10 * time.Millisecond})
	const n = 3000
	all(16, func(i int) {
		for k := i; k < n; k += 16 {
			id := fmt.Sprint(k)
			c := completion(id, "r")
			c.Retention, c.Tombstone = time.Millisecond, time.Millisecond
			if _, err := s.Complete(t.Context(), grant(t, s, request(id)), c); err != nil {
				t.Error(err)
			}
		}
	})
	records, _ := s.Tables()
	eventually(t, "all is dropped", func() bool {
		var left int
		return b.pool.QueryRow(t.Context(), "SELECT count(*) FROM "+records).Scan(&left) == nil && left == 0
	})
}
