package pgstore_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/pgstore"
	"github.com/idem-go/idem/testserver/cut"
)

func grant(t testing.TB, s driver.Store, req driver.ClaimRequest) driver.Ref {
	t.Helper()
	reply, err := s.Claim(context.Background(), req)
	if err != nil || !reply.Granted {
		t.Fatalf("Claim: granted %v, %v, %v", reply.Granted, reply.Record.State, err)
	}
	return driver.Ref{Key: req.Key, Token: reply.Record.Token}
}

func stateOf(t testing.TB, s driver.Store, id string, want driver.State) driver.Record {
	t.Helper()
	rec, err := s.Lookup(context.Background(), driver.KeyOf("scope", id))
	if err != nil || rec.State != want {
		t.Fatalf("the record of %s is %v, %v; it should be %v", id, rec.State, err, want)
	}
	return rec
}

// waiters wait for a claim, and say when all of them know that it has ended.
func waiters(t *testing.T, s driver.Waiter, ref driver.Ref, n int) *sync.WaitGroup {
	t.Helper()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if err := s.Wait(context.Background(), ref); err != nil {
				t.Errorf("Wait: %v", err)
			}
		})
	}
	return &wg
}

// rare is a store that hardly polls, so that who waits is told or waits long.
func rare() pgstore.Options { return pgstore.Options{PollEvery: time.Hour} }

// marked waits until the end of a claim would be notified.
func (b *bed) marked(t testing.TB, s store, ref driver.Ref) {
	t.Helper()
	records, _ := s.Tables()
	eventually(t, "a claim that is waited for is marked", func() bool {
		var watched bool
		err := b.pool.QueryRow(context.Background(), "SELECT watched FROM "+records+" WHERE key = $1", ref.Key[:]).Scan(&watched)
		return err == nil && watched
	})
}

// Each end of a claim is told to those who wait in another process.
func TestNotified(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	o := rare()
	o.Schema = b.schema(t)
	here, there := b.openIn(t, o), b.openIn(t, o)
	ends := map[string]func(ref driver.Ref) error{
		"complete": func(ref driver.Ref) error {
			_, err := there.Complete(t.Context(), ref, completion("complete", "r"))
			return err
		},
		"release": func(ref driver.Ref) error {
			return there.Release(t.Context(), ref, driver.Release{Retention: time.Hour})
		},
		"abandon": func(ref driver.Ref) error { return there.Abandon(t.Context(), ref) },
		"resolve": func(ref driver.Ref) error {
			_, err := there.Resolve(t.Context(), ref.Key, driver.Resolution{Action: driver.ResolveRelease, Force: true, Retention: time.Hour, Tombstone: time.Hour})
			return err
		},
		"grouped": func(ref driver.Ref) error {
			var errs [64]error
			all(len(errs), func(i int) {
				if i > 0 {
					_, errs[i] = there.Claim(t.Context(), request(fmt.Sprint("other ", i)))
					return
				}
				_, errs[i] = there.Complete(t.Context(), ref, completion("grouped", "r"))
			})
			return errs[0]
		},
		"in a transaction": func(ref driver.Ref) error {
			return pgx.BeginFunc(t.Context(), b.pool, func(tx pgx.Tx) error {
				_, err := there.CompleteTx(t.Context(), tx, ref, completion("in a transaction", "r"))
				return err
			})
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			req := request(name)
			req.Lease = time.Hour
			ref := grant(t, there, req)
			wg := waiters(t, here, ref, 10)
			b.marked(t, here, ref)
			if err := end(ref); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
		})
	}
}

// Trap 65: the connection that listens is cut, and the claim ends before there
// is another one.
func TestTrap65ALostNotification(t *testing.T) {
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
	o := pgstore.Options{Schema: b.schema(t), PollEvery: 20 * time.Millisecond}
	far, err := pgstore.Open(context.Background(), through(b.server.DSN(), p.Addr()), defaults(o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	near := b.openIn(t, o)
	for round := range 3 {
		id := fmt.Sprint(round)
		ref := grant(t, near, request(id))
		wg := waiters(t, far, ref, 5)
		b.marked(t, near, ref)
		p.CutAll()
		if _, err := near.Complete(t.Context(), ref, completion(id, "r")); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
	}
	eventually(t, "the store listens again", far.Listening)
}

// Where nothing is notified at all, those who wait find out by looking.
func TestTrap65PollingAlone(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	s := b.open(t, pgstore.Options{NoListen: true, PollEvery: 20 * time.Millisecond})
	ref := grant(t, s, request("k"))
	wg := waiters(t, s, ref, 5)
	eventually(t, "somebody waits", func() bool { return s.Watched() == 1 })
	if _, err := s.Complete(t.Context(), ref, completion("k", "r")); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if s.Listening() {
		t.Error("it listens, though it was told not to")
	}
}

// The end of a lease is told by nobody.
func TestWaitForTheEndOfALease(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	s := b.open(t, rare())
	req := request("k")
	req.Lease = 300 * time.Millisecond
	ref := grant(t, s, req)
	waiters(t, s, ref, 5).Wait()
	stateOf(t, s, "k", driver.StateUnknown)
}

// Trap 34: a thousand wait for one key, and a thousand for keys of their own.
// They cost two connections, and other keys are not slowed.
func TestTrap34AThousandWait(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	// A pool of its own: three connections, of which waiting takes one at most.
	pool, err := pgstore.Connect(context.Background(), through(b.server.DSN(), b.server.Addr(), "pool_max_conns", "3", "application_name", "trap34"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	alone := &bed{server: b.server, pool: pool}
	o := pgstore.Options{Schema: b.schema(t), PollEvery: 100 * time.Millisecond}
	s := alone.openIn(t, o)
	const n = 1000
	one := grant(t, s, request("one"))
	wg := waiters(t, s, one, n)
	refs := make([]driver.Ref, n)
	all(n, func(i int) { refs[i] = grant(t, s, request(fmt.Sprint(i))) })
	each := make([]*sync.WaitGroup, n)
	for i, ref := range refs {
		each[i] = waiters(t, s, ref, 1)
	}
	eventually(t, "all wait", func() bool { return s.Watched() == n+1 })
	var conns int
	if err := b.pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'trap34'").Scan(&conns); err != nil || conns > 4 {
		t.Errorf("%d connections: %v", conns, err)
	}
	begun := time.Now()
	for i := range 20 {
		id := fmt.Sprint("not waited for ", i)
		if _, err := s.Complete(t.Context(), grant(t, s, request(id)), completion(id, "r")); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("20 other keys took %v", took)
	}
	if _, err := s.Complete(t.Context(), one, completion("one", "r")); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	all(n, func(i int) {
		if _, err := s.Complete(t.Context(), refs[i], completion(fmt.Sprint(i), "r")); err != nil {
			t.Error(err)
		}
		each[i].Wait()
	})
	if s.Watched() != 0 {
		t.Errorf("%d claims are watched that nobody waits for", s.Watched())
	}
}

// A claim that nobody waits for ends without a notification, for which the
// server would take a lock of all its databases.
func TestNobodyIsNotifiedWhereNobodyWaits(t *testing.T) {
	t.Parallel()
	b := bedOf(t, shared)
	if b == nil {
		return
	}
	o := pgstore.Options{Schema: b.schema(t)}
	s := b.openIn(t, o)
	ref := grant(t, s, request("waited for")) // so that the store listens
	wg := waiters(t, s, ref, 1)
	b.marked(t, s, ref)
	conn, err := b.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	listening := conn.Hijack()
	defer listening.Close(context.Background())
	if _, err := listening.Exec(t.Context(), `LISTEN "`+o.Schema+`.idem_"`); err != nil {
		t.Fatal(err)
	}
	all(50, func(i int) {
		id := fmt.Sprint(i)
		if _, err := s.Complete(t.Context(), grant(t, s, request(id)), completion(id, "r")); err != nil {
			t.Error(err)
		}
	})
	if _, err := s.Complete(t.Context(), ref, completion("waited for", "r")); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	n, err := listening.WaitForNotification(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%s %d", ref.Key, ref.Token); n.Payload != want {
		t.Errorf("the first notification is %q; it should be %q", n.Payload, want)
	}
}
