package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/redisstore"
	"github.com/idem-go/idem/testserver"
	"github.com/idem-go/idem/testserver/cut"
)

// throughCut is a store whose connections a test can cut, and one of the same
// records whose it cannot.
func throughCut(t *testing.T, server *testserver.Server, o redisstore.Options) (s *bed, p *cut.Proxy, direct *bed) {
	t.Helper()
	p, err := cut.Listen(server.Addr())
	must(t, err)
	t.Cleanup(func() { p.Close() })
	direct = newBed(t, connect(t, server.DSN()), o)
	return openBed(t, connect(t, "redis://"+p.Addr()+"?cluster=false&timeout=20s"), direct.opts), p, direct
}

// step is a call that writes, and what must be so once it has succeeded.
type step struct {
	name string
	call func(t *testing.T, s *bed, req driver.ClaimRequest, ref driver.Ref)
	want driver.State
}

func steps() []step {
	return []step{
		{"claim", func(t *testing.T, s *bed, req driver.ClaimRequest, ref driver.Ref) {
			if again := grant(t, s, req); ref.Token != 0 && again != ref {
				t.Errorf("the repeat has the token %d, not %d", again.Token, ref.Token)
			}
		}, driver.StateInFlight},
		{"renew", func(t *testing.T, s *bed, _ driver.ClaimRequest, ref driver.Ref) {
			must(t, s.Renew(t.Context(), ref, time.Hour))
		}, driver.StateInFlight},
		{"complete", func(t *testing.T, s *bed, req driver.ClaimRequest, ref driver.Ref) {
			late, err := s.Complete(t.Context(), ref, completion(req, "made"))
			must(t, err)
			if late {
				t.Error("late")
			}
		}, driver.StateCompleted},
		{"release", func(t *testing.T, s *bed, _ driver.ClaimRequest, ref driver.Ref) {
			must(t, s.Release(t.Context(), ref, driver.Release{Retention: time.Hour}))
		}, driver.StateAbsent},
		{"abandon", func(t *testing.T, s *bed, _ driver.ClaimRequest, ref driver.Ref) {
			must(t, s.Abandon(t.Context(), ref))
		}, driver.StateUnknown},
		{"resolve", func(t *testing.T, s *bed, _ driver.ClaimRequest, ref driver.Ref) {
			_, err := s.Resolve(t.Context(), ref.Key, driver.Resolution{
				Action: driver.ResolveRelease, Token: ref.Token, Force: true, Retention: time.Hour, Tombstone: time.Hour,
			})
			must(t, err)
		}, driver.StateAbsent},
	}
}

// Traps 10 and 56: the connection breaks after the request was sent and before
// the answer came, or before it was sent, at each step: the call succeeds, once.
func TestTrap56TheConnectionIsCut(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	s, p, direct := throughCut(t, server, small())
	for name, cut := range map[string]func(string){"request": p.CutRequestsWith, "answer": p.CutAnswersTo} {
		for _, st := range steps() {
			t.Run(name+"/"+st.name, func(t *testing.T) {
				req := request(name + st.name)
				var ref driver.Ref
				if st.name != "claim" {
					ref = grant(t, direct, req)
				}
				cuts := p.Cuts()
				cut("evalsha")
				st.call(t, s, req, ref)
				if p.Cuts() != cuts+1 {
					t.Errorf("%d connections were cut", p.Cuts()-cuts)
				}
				rec := state(t, direct, req.Key, st.want)
				if rec.Attempt != 1 {
					t.Errorf("the attempt is %d", rec.Attempt)
				}
				// The caller repeats it as well: nothing changes.
				if st.name == "claim" {
					ref = driver.Ref{Key: req.Key, Token: rec.Token}
				}
				st.call(t, s, req, ref)
				if again := state(t, direct, req.Key, st.want); again.Token != rec.Token || again.Attempt != 1 {
					t.Errorf("the repeat made the token %d of %d, and the attempt %d", again.Token, rec.Token, again.Attempt)
				}
			})
		}
	}
}

// Trap 9: a server that hangs, or is not there, keeps no call beyond its context,
// however many there are.
func TestTrap9TheServerHangs(t *testing.T) {
	server := own(t, nil)
	if server == nil {
		return
	}
	o := small()
	o.MaxUnknown = -1
	s := newBed(t, connect(t, with(t, server.DSN(), "timeout", "20s")), o)
	ref := grant(t, s, request("k"))
	hung := func(what string, n int) {
		t.Helper()
		var late atomic.Int64
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				began := time.Now()
				var err error
				switch i % 4 {
				case 0:
					_, err = s.Claim(ctx, request(fmt.Sprint(i)))
				case 1:
					err = s.Renew(ctx, ref, time.Hour)
				case 2:
					_, err = s.Lookup(ctx, ref.Key)
				case 3:
					_, err = s.Stats(ctx)
				}
				if err == nil {
					t.Errorf("%s: a call succeeded", what)
				}
				if time.Since(began) > 5*time.Second {
					late.Add(1)
				}
			})
		}
		wg.Wait()
		if late.Load() > 0 {
			t.Errorf("%s: %d of %d calls ended late", what, late.Load(), n)
		}
	}
	must(t, server.Pause())
	hung("a server that is stopped", 200)
	hung("one that still is", 200)
	must(t, server.Resume())
	eventually(t, 20*time.Second, func() error { return s.Renew(t.Context(), ref, time.Hour) })
	must(t, server.Kill())
	hung("a server that is gone", 100)
	must(t, server.Start())
	eventually(t, 20*time.Second, func() error { return s.Renew(t.Context(), ref, time.Hour) })
	complete(t, s, ref, completion(request("k"), "r"))
}

// More calls than the client has room for, on a network that passes nothing on.
func TestTrap9TheNetworkHangs(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	o := small()
	o.MaxUnknown = -1
	s, p, direct := throughCut(t, server, o)
	ref := grant(t, s, request("k"))
	p.Hang(true)
	began := time.Now()
	for range 3 {
		var wg sync.WaitGroup
		for i := range 4000 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				defer cancel()
				if _, err := s.Claim(ctx, request(fmt.Sprint(i))); err == nil {
					t.Error("a claim was granted")
				}
			})
		}
		wg.Wait()
	}
	// The client itself waits for 20 seconds.
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	p.Hang(false)
	eventually(t, 20*time.Second, func() error { return s.Renew(t.Context(), ref, time.Hour) })
	state(t, direct, ref.Key, driver.StateInFlight)
}

// With appendfsync always nothing that was acknowledged is lost when the server
// is killed, again and again, under load.
func TestKilledUnderLoad(t *testing.T) {
	server := own(t, map[string]string{"appendonly": "yes", "appendfsync": "always"})
	if server == nil {
		return
	}
	s := newBed(t, connect(t, with(t, server.DSN(), "dial_timeout", "500ms")), small())
	if !s.Describe().Durable {
		t.Error("the store does not say that it is durable")
	}
	type done struct {
		req       driver.ClaimRequest
		token     uint64
		completed bool
	}
	var mu sync.Mutex
	var acked []done
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var n atomic.Int64
	for range 16 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				req := request(fmt.Sprint(n.Add(1)))
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				reply, err := s.Claim(ctx, req)
				if err != nil {
					// Nothing is known; the same nonce finds out.
					reply, err = s.Claim(ctx, req)
				}
				if err == nil && !reply.Granted {
					t.Errorf("a fresh key is %v", reply.Record.State)
				}
				d := done{req: req, token: reply.Record.Token}
				if err == nil {
					_, cerr := s.Complete(ctx, driver.Ref{Key: req.Key, Token: d.token}, completion(req, req.ID))
					d.completed = cerr == nil
					mu.Lock()
					acked = append(acked, d)
					mu.Unlock()
				}
				cancel()
			}
		})
	}
	for round := range 4 {
		eventually(t, 20*time.Second, func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(acked) < 300*(round+1) {
				return fmt.Errorf("%d operations so far", len(acked))
			}
			return nil
		})
		must(t, server.Kill())
		must(t, server.Start())
	}
	close(stop)
	wg.Wait()
	for _, d := range acked {
		rec, err := s.Lookup(t.Context(), d.req.Key)
		must(t, err)
		switch {
		case rec.Token != d.token || rec.Attempt != 1:
			t.Fatalf("a claim that was acknowledged with token %d is %v with token %d", d.token, rec.State, rec.Token)
		case d.completed && string(rec.Result.Body) != d.req.ID:
			t.Fatalf("a completion that was acknowledged is %v", rec.State)
		}
	}
	st, err := s.Stats(t.Context())
	must(t, err)
	t.Logf("%d acknowledged over 4 kills; %+v", len(acked), st)
}

// The server may forget its scripts at any time.
func TestScriptsAreFlushed(t *testing.T) {
	server := own(t, nil)
	if server == nil {
		return
	}
	client := connect(t, server.DSN())
	s := newBed(t, client, small())
	stop := make(chan struct{})
	var flusher, wg sync.WaitGroup
	flusher.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				do(t, client, "SCRIPT", "FLUSH")
			}
		}
	})
	for c := range 8 {
		wg.Go(func() {
			for i := range 100 {
				req := request(fmt.Sprint(c, "-", i))
				ref := grant(t, s, req)
				must(t, s.Renew(t.Context(), ref, time.Hour))
				complete(t, s, ref, completion(req, "r"))
				if _, err := s.Sweep(t.Context(), 10); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	flusher.Wait()
	st, err := s.Stats(t.Context())
	must(t, err)
	if st.Completed != 800 {
		t.Errorf("counted %+v", st)
	}
}

// Trap 33: the clocks of the processes do not matter, only the server's.
func TestTrap33ClocksApart(t *testing.T) {
	for _, offset := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
		t.Run(offset.String(), func(t *testing.T) {
			server := ownWith(t, &testserver.Options{ClockOffset: offset, Settings: map[string]string{"appendonly": "no"}})
			if server == nil {
				return
			}
			s := newBed(t, connect(t, server.DSN()), small())
			req := request("k")
			req.Lease = time.Minute
			ref := grant(t, s, req)
			rec := state(t, s, req.Key, driver.StateInFlight)
			if rec.Left > time.Minute || rec.Left < 30*time.Second || rec.Age > 30*time.Second {
				t.Errorf("left is %v, the age %v", rec.Left, rec.Age)
			}
			clock := time.UnixMicro(int64(ref.Token))
			if off := time.Until(clock); (off - offset).Abs() > time.Minute {
				t.Errorf("the server's clock is off by %v; this test means nothing", off)
			}
			must(t, s.Renew(t.Context(), ref, time.Minute))
			complete(t, s, ref, completion(req, "r"))
			short := request("short")
			short.Lease = 50 * time.Millisecond
			grant(t, s, short)
			eventually(t, 10*time.Second, func() error {
				rec, err := s.Lookup(t.Context(), short.Key)
				if err == nil && rec.State != driver.StateUnknown {
					err = fmt.Errorf("the record is %v", rec.State)
				}
				return err
			})
		})
	}
}

// A clock that jumps while the server runs never gives a key to two owners, nor
// a token that is not larger.
func TestTrap33TheServersClockJumps(t *testing.T) {
	server := ownWith(t, &testserver.Options{MovableClock: true, Settings: map[string]string{"appendonly": "no"}})
	if server == nil {
		return
	}
	s := newBed(t, connect(t, server.DSN()), small())
	req := request("back")
	ref := grant(t, s, req)
	must(t, s.Release(t.Context(), ref, driver.Release{Retention: time.Hour}))
	open := request("open")
	open.Lease = time.Minute
	running := grant(t, s, open)
	must(t, server.SetClock(-10*time.Minute))
	again := grant(t, s, request("back"))
	if again.Token <= ref.Token {
		t.Errorf("the token %d came after %d", again.Token, ref.Token)
	}
	if rec := state(t, s, again.Key, driver.StateInFlight); rec.Age < 0 || rec.Left <= 0 {
		t.Errorf("the age is %v, left is %v", rec.Age, rec.Left)
	}
	if rec := state(t, s, running.Key, driver.StateInFlight); rec.Age < 0 {
		t.Errorf("the age is %v", rec.Age)
	}
	must(t, s.Renew(t.Context(), running, time.Minute))

	// Forth: the lease ends too early, which is an unknown, and no second run.
	must(t, server.SetClock(10*time.Minute))
	state(t, s, running.Key, driver.StateUnknown)
	reply, err := s.Claim(t.Context(), request("open"))
	must(t, err)
	if reply.Granted {
		t.Error("a claim was granted over one that the clock has ended")
	}
	late, err := s.Complete(t.Context(), running, completion(open, "r"))
	must(t, err)
	if !late {
		t.Error("the completion is not late")
	}
}

// A server that is full refuses new claims; what stands goes on to its end.
func TestTheServersMemoryIsFull(t *testing.T) {
	server := own(t, map[string]string{"appendonly": "no", "maxmemory": "0"})
	if server == nil {
		return
	}
	client := connect(t, server.DSN())
	s := newBed(t, client, small())
	open := map[string]driver.Ref{}
	for _, id := range []string{"renewed", "completed", "released", "abandoned", "resolved", "repeated", "lapsed"} {
		open[id] = grant(t, s, request(id))
	}
	do(t, client, "CONFIG", "SET", "maxmemory", "1mb")
	full := func() {
		t.Helper()
		_, err := s.Claim(t.Context(), request("new"))
		wantErr(t, err, driver.ErrFull, "Claim")
		wantErr(t, s.Ping(t.Context()), driver.ErrFull, "Ping")
		state(t, s, driver.KeyOf("scope", "new"), driver.StateAbsent)
	}
	full()
	must(t, s.Renew(t.Context(), open["renewed"], 2*time.Hour))
	complete(t, s, open["completed"], completion(request("completed"), "r"))
	must(t, s.Release(t.Context(), open["released"], driver.Release{Retention: time.Hour}))
	must(t, s.Abandon(t.Context(), open["abandoned"]))
	_, err := s.Resolve(t.Context(), open["resolved"].Key, driver.Resolution{
		Action: driver.ResolveRelease, Force: true, Retention: time.Hour, Tombstone: time.Hour,
	})
	must(t, err)
	if rec := state(t, s, open["completed"].Key, driver.StateCompleted); string(rec.Result.Body) != "r" {
		t.Errorf("the result is %q", rec.Result.Body)
	}
	state(t, s, open["abandoned"].Key, driver.StateUnknown)
	if rec := state(t, s, open["renewed"].Key, driver.StateInFlight); rec.Left < time.Hour {
		t.Errorf("left is %v", rec.Left)
	}
	full()
	// Sweeping gives memory back, and must not need any.
	advance(t, s, 2*time.Hour)
	if n, err := s.Sweep(t.Context(), 100); err != nil || n == 0 {
		t.Errorf("swept %d: %v", n, err)
	}
	st, err := s.Stats(t.Context())
	must(t, err)
	if st.Forgotten != 1 {
		t.Errorf("counted %+v", st)
	}
	do(t, client, "CONFIG", "SET", "maxmemory", "0")
	grant(t, s, request("new"))
}

// A record that has vanished is not taken for absent while its index knows it.
func TestTrap36ARecordVanishes(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	client := connect(t, server.DSN())
	s := newBed(t, client, small())
	for _, completed := range []bool{false, true} {
		req := request(fmt.Sprint(completed))
		ref := grant(t, s, req)
		if completed {
			complete(t, s, ref, completion(req, "r"))
		}
		do(t, client, "DEL", recordKey(s, req.Key))
		var bad *driver.UnreadableError
		if _, err := s.Claim(t.Context(), request(req.ID)); !errors.As(err, &bad) {
			t.Errorf("Claim: %v", err)
		}
		if _, err := s.Lookup(t.Context(), req.Key); !errors.As(err, &bad) {
			t.Errorf("Lookup: %v", err)
		}
		if _, err := s.Resolve(t.Context(), req.Key, driver.Resolution{Action: driver.ResolveRelease, Force: true, Retention: 1, Tombstone: 1}); !errors.As(err, &bad) {
			t.Errorf("Resolve: %v", err)
		}
		if n := do(t, client, "EXISTS", recordKey(s, req.Key)); n.String() == "1" {
			t.Error("the refused claim has left a record behind")
		}
		wantErr(t, s.Renew(t.Context(), ref, time.Hour), driver.ErrLost, "Renew")
	}
	// Once it would have been over it is absent.
	advance(t, s, 2*time.Hour)
	grant(t, s, request("true"))
	if _, err := s.Sweep(t.Context(), 100); err != nil {
		t.Error(err)
	}
	grant(t, s, request("false"))
}
