package natsstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/natsstore"
	"github.com/idem-go/idem/testserver/cut"
	"github.com/idem-go/idem/testserver/nats"
)

// throughCut is a store whose connection a test can cut.
func throughCut(t *testing.T, s *nats.Server, o *natsstore.Options) (store *natsstore.Store, p *cut.Proxy, direct *natsstore.Store, bucket string) {
	t.Helper()
	bucket, dsn := migrated(t, one(s), "")
	p, err := cut.Listen(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	store = opened(t, "nats://"+p.Addr()+"/"+bucket+"?discover=false", o)
	return store, p, opened(t, dsn, &natsstore.Options{SweepEvery: -1}), bucket
}

// step is a call that writes, with what must be so after it succeeded.
type step struct {
	name string
	call func(t *testing.T, s driver.Store, req driver.ClaimRequest, ref driver.Ref) driver.Ref
	want driver.State
}

func steps() []step {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	return []step{
		{"claim", func(t *testing.T, s driver.Store, req driver.ClaimRequest, _ driver.Ref) driver.Ref {
			return grant(t, s, req)
		}, driver.StateInFlight},
		{"renew", func(t *testing.T, s driver.Store, req driver.ClaimRequest, ref driver.Ref) driver.Ref {
			must(t, s.Renew(t.Context(), ref, time.Hour))
			return ref
		}, driver.StateInFlight},
		{"complete", func(t *testing.T, s driver.Store, req driver.ClaimRequest, ref driver.Ref) driver.Ref {
			complete(t, s, ref, completion(req, "made"))
			return ref
		}, driver.StateCompleted},
		{"release", func(t *testing.T, s driver.Store, req driver.ClaimRequest, ref driver.Ref) driver.Ref {
			must(t, s.Release(t.Context(), ref, driver.Release{Retention: time.Hour}))
			return ref
		}, driver.StateAbsent},
		{"abandon", func(t *testing.T, s driver.Store, req driver.ClaimRequest, ref driver.Ref) driver.Ref {
			must(t, s.Abandon(t.Context(), ref))
			return ref
		}, driver.StateUnknown},
	}
}

// The connection is cut before the request arrives, and after it and before the
// answer, at each step: the call succeeds, once, and its caller notices nothing.
func TestTrap56TheConnectionIsCutAtEachStep(t *testing.T) {
	t.Parallel()
	srv := alone(t)
	if srv == nil {
		return
	}
	s, p, direct, bucket := throughCut(t, srv, &natsstore.Options{SweepEvery: -1})
	for _, answer := range []bool{false, true} {
		for _, st := range steps() {
			t.Run(fmt.Sprint(st.name, " answer ", answer), func(t *testing.T) {
				req := request(t.Name())
				var ref driver.Ref
				if st.name != "claim" {
					ref = grant(t, s, req)
				}
				text := "$KV." + bucket + ".r." + req.Key.String()
				if answer {
					p.CutAnswersTo(text)
				} else {
					p.CutRequestsWith(text)
				}
				before := p.Cuts()
				ref = st.call(t, s, req, ref)
				if p.Cuts() == before {
					t.Fatal("nothing was cut")
				}
				rec := stateOf(t, direct, req.Key, st.want)
				if rec.Token != ref.Token || rec.Attempt != 1 {
					t.Errorf("token %d, attempt %d; the claim's is %d", rec.Token, rec.Attempt, ref.Token)
				}
				st.call(t, s, req, ref)
			})
			if t.Failed() {
				return
			}
		}
	}
}

// A claim of a nonce that was applied while its answer, and whatever was asked
// afterwards, was lost is recognised as the same when it is repeated.
func TestTrap10TheClaimsAnswerIsLost(t *testing.T) {
	t.Parallel()
	srv := alone(t)
	if srv == nil {
		return
	}
	s, p, direct, bucket := throughCut(t, srv, &natsstore.Options{SweepEvery: -1})
	req := request("k")
	p.CutAnswersTo("$KV." + bucket)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	go func() {
		eventually(t, "the answer is cut", func(context.Context) bool { return p.Cuts() == 1 })
		if err := p.Refuse(true); err != nil {
			t.Error(err)
		}
	}()
	if reply, err := s.Claim(ctx, req); err == nil {
		t.Logf("it was faster than the proxy: granted %v", reply.Granted)
	} else if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	first := stateOf(t, direct, req.Key, driver.StateInFlight)
	other := request("k")
	if reply, err := direct.Claim(t.Context(), other); err != nil || reply.Granted {
		t.Fatalf("another was granted it: %v", err)
	}
	eventually(t, "the proxy takes connections", func(context.Context) bool { return p.Refuse(false) == nil })
	var reply driver.ClaimReply
	eventually(t, "the claim is answered", func(ctx context.Context) bool {
		var err error
		reply, err = s.Claim(ctx, req)
		return err == nil
	})
	if !reply.Granted || reply.Record.Token != first.Token || reply.Record.Attempt != 1 {
		t.Errorf("granted %v, token %d, attempt %d; it was granted with %d", reply.Granted, reply.Record.Token, reply.Record.Attempt, first.Token)
	}
}

// What could not be sent is not sent when the connection is back: its caller has
// given up, and nobody would know of the claim. That holds for a connection of the
// application's, too, which keeps what it cannot send.
func TestTrap9NothingIsSentLate(t *testing.T) {
	t.Parallel()
	srv := alone(t)
	if srv == nil {
		return
	}
	own, p, direct, bucket := throughCut(t, srv, &natsstore.Options{SweepEvery: -1})
	nc, err := natsgo.Connect("nats://"+p.Addr(), natsgo.IgnoreDiscoveredServers(), natsgo.MaxReconnects(-1), natsgo.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	given, err := natsstore.New(t.Context(), nc, &natsstore.Options{Bucket: bucket, SweepEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	if err := p.Refuse(true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection is lost", func(context.Context) bool { return !nc.IsConnected() })
	stores := []*natsstore.Store{own, given}
	for i := range 20 {
		for n, s := range stores {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			if _, err := s.Claim(ctx, request(fmt.Sprint(i, n))); err == nil {
				t.Fatal("a claim was answered without a server")
			}
			cancel()
		}
	}
	if err := p.Refuse(false); err != nil {
		t.Fatal(err)
	}
	for _, s := range stores {
		eventually(t, "the store answers again", func(ctx context.Context) bool {
			_, err := s.Lookup(ctx, request("warm").Key)
			return err == nil
		})
	}
	for i := range 20 {
		for n := range stores {
			stateOf(t, direct, request(fmt.Sprint(i, n)).Key, driver.StateAbsent)
		}
	}
}

// A server that hangs: calls end with their contexts, or by the store's own
// limit, which is no context's error.
func TestTrap9AServerThatHangs(t *testing.T) {
	t.Parallel()
	srv := alone(t)
	if srv == nil {
		return
	}
	_, dsn := migrated(t, one(srv), "")
	s := opened(t, dsn, &natsstore.Options{SweepEvery: -1, Timeout: 500 * time.Millisecond})
	req := request("k")
	ref := grant(t, s, req)
	if err := srv.Pause(); err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(ctx context.Context) error{
		"Claim":    func(ctx context.Context) error { _, err := s.Claim(ctx, request("other")); return err },
		"Renew":    func(ctx context.Context) error { return s.Renew(ctx, ref, time.Minute) },
		"Complete": func(ctx context.Context) error { _, err := s.Complete(ctx, ref, completion(req, "x")); return err },
		"Release":  func(ctx context.Context) error { return s.Release(ctx, ref, driver.Release{Retention: time.Hour}) },
		"Lookup":   func(ctx context.Context) error { _, err := s.Lookup(ctx, req.Key); return err },
		"Ping":     s.Ping,
		"Wait":     func(ctx context.Context) error { return s.Wait(ctx, ref) },
		"List":     func(ctx context.Context) error { _, err := s.List(ctx, driver.Query{Limit: 10}); return err },
		"Sweep":    func(ctx context.Context) error { _, err := s.Sweep(ctx, 10); return err },
	}
	for name, call := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		began := time.Now()
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v; it should be the context's", name, err)
		}
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("%s took %v", name, d)
		}
		cancel()
		if name == "Wait" || name == "List" || name == "Sweep" {
			continue
		}
		err := call(t.Context())
		if err == nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "natsstore: ") {
			t.Errorf("%s without a deadline: %v; it should say that the server did not answer", name, err)
		}
	}
	if err := srv.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store answers again", func(ctx context.Context) bool {
		_, err := s.Lookup(ctx, req.Key)
		return err == nil
	})
}

// The server is killed between the steps, with nothing in its way to disk but
// the kernel: what was acknowledged is there, and tokens go on.
func TestTrap7TheServerIsKilledBetweenSteps(t *testing.T) {
	t.Parallel()
	srv := alone(t)
	if srv == nil {
		return
	}
	bucket, dsn := migrated(t, one(srv), "")
	s := opened(t, dsn, &natsstore.Options{SweepEvery: -1})
	again := func() {
		t.Helper()
		if err := errors.Join(srv.Kill(), srv.Start()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the store answers again", func(ctx context.Context) bool { return s.Ping(ctx) == nil })
	}
	req := request("k")
	ref := grant(t, s, req)
	again()
	wantErr(t, s.Renew(t.Context(), ref, time.Minute), nil, "Renew")
	again()
	complete(t, s, ref, completion(req, "made"))
	again()
	if rec := stateOf(t, s, req.Key, driver.StateCompleted); string(rec.Result.Body) != "made" || rec.Token != ref.Token {
		t.Errorf("%+v", rec)
	}
	complete(t, s, ref, completion(req, "made"))
	// The newest message of all is dropped, and the server dies: its revision is
	// not given out again.
	last := request("last")
	lastRef := grant(t, s, last)
	js, err := jetstream.New(connect(t, dsn))
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(t.Context(), "KV_"+bucket)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.DeleteMsg(t.Context(), lastRef.Token); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(srv.Kill(), srv.Start()); err != nil {
		t.Fatal(err)
	}
	var next driver.ClaimReply
	eventually(t, "a claim is answered", func(ctx context.Context) bool {
		again := request("last")
		again.Nonce = driver.Nonce{1}
		var err error
		next, err = s.Claim(ctx, again)
		return err == nil
	})
	if next.Record.Token <= lastRef.Token {
		t.Errorf("the token %d was granted after %d", next.Record.Token, lastRef.Token)
	}
}

// An owner that is stopped past its lease, while another takes over, is fenced
// when it goes on.
func TestTrap43TheOwnerIsStoppedPastItsLease(t *testing.T) {
	t.Parallel()
	srv := alone(t)
	if srv == nil {
		return
	}
	_, dsn := migrated(t, one(srv), "")
	ps := drivertest.Processes(t, 2, dsn)
	owner, other := ps.Process(0), ps.Process(1)
	req := request("k")
	req.Lease = 700 * time.Millisecond
	ref := grant(t, owner, req)
	owner.Pause()
	began := time.Now()
	var second driver.Ref
	eventually(t, "the other is granted the key", func(ctx context.Context) bool {
		take := request("k")
		take.Retry = true
		reply, err := other.Claim(ctx, take)
		if err != nil || !reply.Granted {
			return false
		}
		second = driver.Ref{Key: take.Key, Token: reply.Record.Token}
		return true
	})
	if d := time.Since(began); d < req.Lease/2 {
		t.Errorf("it was taken over after %v; the lease is %v", d, req.Lease)
	}
	owner.Resume()
	_, err := owner.Complete(t.Context(), ref, completion(req, "of the stopped owner"))
	wantErr(t, err, driver.ErrLost, "Complete")
	wantErr(t, owner.Renew(t.Context(), ref, time.Minute), driver.ErrLost, "Renew")
	wantErr(t, owner.Release(t.Context(), ref, driver.Release{Retention: time.Hour}), driver.ErrLost, "Release")
	complete(t, other, second, completion(req, "of the other"))
	if rec := stateOf(t, owner, req.Key, driver.StateCompleted); string(rec.Result.Body) != "of the other" || rec.Attempt != 2 {
		t.Errorf("%+v", rec)
	}
}

// load claims and completes keys from many callers, each key wanted by several,
// while something breaks; then it counts: no key was granted twice, and no
// completion that was acknowledged is gone.
func load(t *testing.T, dsn string, shake func()) {
	t.Helper()
	const callers, keys = 16, 40_000
	stores := []*natsstore.Store{
		opened(t, dsn, &natsstore.Options{SweepEvery: -1}), opened(t, dsn, &natsstore.Options{SweepEvery: -1}),
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	granted := make([]atomic.Int64, keys)
	acked := make([]atomic.Pointer[string], keys)
	var errs, next, done atomic.Int64
	stop := make(chan struct{})
	// Whoever gets an error asks again, with the same nonce or token, as the core
	// does.
	insist := func(call func() error) error {
		for try := 0; ; try++ {
			err := call()
			if err == nil || errors.Is(err, driver.ErrLost) || errors.Is(err, driver.ErrCompleted) || errors.Is(err, driver.ErrLapsed) {
				return err
			}
			errs.Add(1)
			if ctx.Err() != nil {
				return err
			}
		}
	}
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			s := stores[c%len(stores)]
			for ctx.Err() == nil {
				n := next.Add(1) - 1
				k := int(n/3) % keys
				select {
				case <-stop:
					return
				default:
				}
				req := request(fmt.Sprint("load", k))
				req.Lease = time.Hour
				var reply driver.ClaimReply
				if err := insist(func() (err error) { reply, err = s.Claim(ctx, req); return err }); err != nil {
					t.Errorf("Claim: %v", err)
					return
				}
				if !reply.Granted {
					continue
				}
				granted[k].Add(1)
				body := fmt.Sprint(k, " by ", c, " at ", reply.Record.Token)
				ref := driver.Ref{Key: req.Key, Token: reply.Record.Token}
				if k%3 == 0 {
					if err := insist(func() error { return s.Renew(ctx, ref, time.Hour) }); err != nil {
						t.Errorf("Renew: %v", err)
					}
				}
				if err := insist(func() error { _, err := s.Complete(ctx, ref, completion(req, body)); return err }); err != nil {
					t.Errorf("Complete: %v", err)
					return
				}
				acked[k].Store(&body)
				done.Add(1)
			}
		})
	}
	shake()
	close(stop)
	wg.Wait()
	total := 0
	for k := range int(min(next.Load()/3+1, keys)) {
		key := request(fmt.Sprint("load", k)).Key
		n, body := granted[k].Load(), acked[k].Load()
		total += int(n)
		if n > 1 {
			t.Errorf("the key %d was granted %d times", k, n)
		}
		if body == nil {
			continue
		}
		var rec driver.Record
		eventually(t, "a lookup is answered", func(ctx context.Context) bool {
			var err error
			rec, err = stores[0].Lookup(ctx, key)
			return err == nil
		})
		if rec.State != driver.StateCompleted || string(rec.Result.Body) != *body {
			t.Errorf("the key %d was completed with %q; it is %v with %q", k, *body, rec.State, rec.Result.Body)
		}
	}
	t.Logf("%d grants, %d completions, %d errors in between", total, done.Load(), errs.Load())
	if total == 0 {
		t.Error("nothing was granted")
	}
}

func TestTrap8TheServerIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	srv := alone(t)
	if srv == nil {
		return
	}
	_, dsn := migrated(t, one(srv), "")
	load(t, dsn, func() {
		for range 5 {
			breathe(200 * time.Millisecond)
			if err := errors.Join(srv.Kill(), srv.Start()); err != nil {
				t.Error(err)
			}
		}
		breathe(time.Second)
	})
}

func TestTrap8TheLeaderIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	if c == nil {
		return
	}
	bucket, dsn := migrated(t, one(c.Server), "?replicas=3")
	nc := connect(t, dsn)
	load(t, dsn, func() {
		for i := range 3 {
			breathe(300 * time.Millisecond)
			leader := c.leader(t, nc, bucket)
			var err error
			if i == 1 {
				// One that is stopped does not know, when it goes on, that it was deposed.
				err = leader.Pause()
				c.other(t, leader, bucket)
				err = errors.Join(err, leader.Resume())
			} else {
				err = leader.Kill()
				c.other(t, leader, bucket)
				err = errors.Join(err, leader.Start())
			}
			if err != nil {
				t.Error(err)
			}
		}
		c.leader(t, nc, bucket)
		breathe(2 * time.Second)
	})
}

// other waits until another server leads the bucket than the one that is away.
func (c *cluster) other(t testing.TB, away *nats.Server, bucket string) {
	t.Helper()
	for _, n := range c.Nodes() {
		if n.Addr() != away.Addr() {
			nc := connect(t, n.DSN()+"/"+bucket+"?discover=false")
			eventually(t, "another server leads", func(context.Context) bool { return c.leader(t, nc, bucket).Addr() != away.Addr() })
			return
		}
	}
}

// breathe lets real time pass while others work.
func breathe(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	<-ctx.Done()
}
