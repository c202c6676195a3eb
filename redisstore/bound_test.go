package redisstore_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
)

// Many who claim at once do not go far over the bound, and the count costs little
// where the bound is far.
func TestTheBoundUnderLoad(t *testing.T) {
	server := own(t, map[string]string{"appendonly": "no"})
	if server == nil {
		return
	}
	o := small()
	o.MaxUnknown = 200
	s := newBed(t, connect(t, server.DSN()), o)
	var granted atomic.Int64
	var wg sync.WaitGroup
	for c := range 16 {
		wg.Go(func() {
			for i := range 100 {
				req := request(fmt.Sprint(c, "-", i))
				reply, err := s.Claim(t.Context(), req)
				switch {
				case errors.Is(err, driver.ErrFull):
					return
				case err != nil:
					t.Error(err)
					return
				}
				granted.Add(1)
				must(t, s.Abandon(t.Context(), driver.Ref{Key: req.Key, Token: reply.Record.Token}))
			}
		})
	}
	wg.Wait()
	if n := granted.Load(); n < 200 || n > 216 {
		t.Errorf("%d claims were granted; the bound is 200, and 16 claim at once", n)
	}
	wantErr(t, s.Ping(t.Context()), driver.ErrFull, "Ping")
	// What is known goes on past the bound.
	page, err := s.List(t.Context(), driver.Query{Limit: 1, States: []driver.State{driver.StateUnknown}})
	must(t, err)
	rec := page.Records[0]
	_, err = s.Resolve(t.Context(), rec.Key, driver.Resolution{Action: driver.ResolveRelease, Retention: time.Hour, Tombstone: time.Hour})
	must(t, err)
}

// Far from the bound, claims are one command each.
func TestAClaimIsOneRoundTrip(t *testing.T) {
	server := own(t, map[string]string{"appendonly": "no"})
	if server == nil {
		return
	}
	o := small()
	o.MaxUnknown = -1 // the count is not the claim's
	s := newBed(t, connect(t, server.DSN()), o)
	commands := func() (n int64) {
		t.Helper()
		info, err := do(t, s.client, "INFO", "commandstats").ToString()
		must(t, err)
		return callsOf(info, "evalsha") + callsOf(info, "eval")
	}
	for _, id := range []string{"first", "second", "third", "fourth"} {
		// The server learns the scripts.
		req := request(id)
		ref := grant(t, s, req)
		must(t, s.Renew(t.Context(), ref, time.Hour))
		switch id {
		case "first":
			complete(t, s, ref, completion(req, "r"))
		case "second":
			must(t, s.Release(t.Context(), ref, driver.Release{Retention: time.Hour}))
		case "third":
			must(t, s.Abandon(t.Context(), ref))
		}
		state(t, s, req.Key, map[string]driver.State{"first": 2, "second": 0, "third": 3, "fourth": 1}[id])
	}
	before := commands()
	const n = 100
	for i := range n {
		req := request(fmt.Sprint(i))
		ref := grant(t, s, req)
		must(t, s.Renew(t.Context(), ref, time.Hour))
		complete(t, s, ref, completion(req, "r"))
		if reply, err := s.Claim(t.Context(), request(req.ID)); err != nil || string(reply.Record.Result.Body) != "r" {
			t.Fatalf("a replay: %+v, %v", reply.Record, err)
		}
		again := request("second")
		ref = grant(t, s, again)
		must(t, s.Release(t.Context(), ref, driver.Release{Retention: time.Hour}))
		retry := request("third")
		retry.Retry = true
		must(t, s.Abandon(t.Context(), grant(t, s, retry)))
		state(t, s, req.Key, driver.StateCompleted)
	}
	if got := commands() - before; got != 9*n {
		t.Errorf("%d scripts were run for %d calls", got, 9*n)
	}
}
