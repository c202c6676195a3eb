package redisstore_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
)

// What a sweep finds due may have been written again before it comes to it: the
// record decides, and the index follows.
func TestTheSweepIsOvertaken(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	s := newBed(t, connect(t, server.DSN()), small())
	states := map[driver.Key]driver.State{}
	for i, want := range []driver.State{driver.StateInFlight, driver.StateCompleted, driver.StateUnknown, driver.StateForgotten} {
		req := request(fmt.Sprint(i))
		ref := grant(t, s, req)
		switch want {
		case driver.StateCompleted:
			complete(t, s, ref, completion(req, "r"))
		case driver.StateUnknown:
			must(t, s.Abandon(t.Context(), ref))
		case driver.StateForgotten:
			complete(t, s, ref, completion(req, "r"))
			_, err := s.Resolve(t.Context(), req.Key, driver.Resolution{Action: driver.ResolveErase, Retention: time.Hour, Tombstone: time.Hour})
			must(t, err)
		}
		states[req.Key] = want
		do(t, s.client, "ZADD", indexKey(s, req.Key), []string{"60000000000001", "20000000000001", "40000000000001", "10000000000001"}[i], string(req.Key[:]))
	}
	n, err := s.Sweep(t.Context(), 100)
	must(t, err)
	if n != 0 {
		t.Errorf("%d records were swept", n)
	}
	for key, want := range states {
		state(t, s, key, want)
	}
	st, err := s.Stats(t.Context())
	must(t, err)
	if st.InFlight != 1 || st.Completed != 1 || st.Unknown != 1 || st.Forgotten != 1 {
		t.Errorf("counted %+v", st)
	}
}

// Trap 35: many processes sweep at once, while keys come and go: nothing that is
// alive is touched, and nothing that is over stays.
func TestTrap35SweepsKeepUp(t *testing.T) {
	server := own(t, map[string]string{"appendonly": "no"})
	if server == nil {
		return
	}
	client := connect(t, server.DSN())
	o := small()
	s := newBed(t, client, o)
	o = s.opts
	o.SweepEvery = 5 * time.Millisecond
	for range 3 {
		openBed(t, client, o)
	}
	const n = 3000
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for i := range n / 8 {
				req := request(fmt.Sprint(c, "-", i))
				reply, err := s.Claim(t.Context(), req)
				if err != nil || !reply.Granted {
					t.Errorf("Claim: granted %v, %v", reply.Granted, err)
					return
				}
				done := completion(req, "r")
				if i%10 > 0 {
					done.Retention, done.Tombstone = 20*time.Millisecond, 20*time.Millisecond
				}
				if _, err := s.Complete(t.Context(), driver.Ref{Key: req.Key, Token: reply.Record.Token}, done); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	eventually(t, 20*time.Second, func() error {
		size, err := do(t, client, "DBSIZE").ToInt64()
		must(t, err)
		// What is kept, an index for each partition, the format and the probe.
		if size > 8*38+4+2 {
			return fmt.Errorf("%d keys are left", size)
		}
		return nil
	})
	st, err := s.Stats(context.WithoutCancel(t.Context()))
	must(t, err)
	if st.Completed != 8*38 || st.Forgotten+st.InFlight+st.Unknown != 0 {
		t.Errorf("counted %+v", st)
	}
}

// A lease that ends is noticed by a sweep, and is no record swept.
func TestEndsOfLeasesAreNotSwept(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	s := newBed(t, connect(t, server.DSN()), small())
	for i := range 10 {
		grant(t, s, request(fmt.Sprint(i)))
	}
	advance(t, s, time.Hour)
	if n, err := s.Sweep(t.Context(), 100); n != 0 || err != nil {
		t.Errorf("%d were swept: %v", n, err)
	}
	st, err := s.Stats(t.Context())
	must(t, err)
	if st.Unknown != 10 {
		t.Errorf("counted %+v", st)
	}
	advance(t, s, 24*time.Hour)
	if n, err := s.Sweep(t.Context(), 100); n != 10 || err != nil {
		t.Errorf("%d were swept: %v", n, err)
	}
}
