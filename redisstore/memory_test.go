package redisstore_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/redisstore"
)

// What a record costs in the server's memory, all told: its key, its place in the
// index, what the allocator adds. The documentation's numbers come from here:
//
//	go test -run TestMemoryPerRecord -v .
func TestMemoryPerRecord(t *testing.T) {
	server := own(t, map[string]string{"appendonly": "no"})
	if server == nil {
		return
	}
	const callers = 64
	n := int64(40_000)
	if testing.Short() {
		n = 10_000
	}
	client := connect(t, server.DSN())
	s := newBed(t, client, redisstore.Options{SweepEvery: -1, MaxUnknown: -1})
	used := func() int64 {
		t.Helper()
		info, err := do(t, client, "INFO", "memory").ToString()
		must(t, err)
		for line := range strings.Lines(info) {
			var used int64
			if _, err := fmt.Sscanf(line, "used_memory:%d", &used); err == nil {
				return used
			}
		}
		t.Fatal("the server does not say what it uses")
		return 0
	}
	var next atomic.Int64
	each := func(f func(req driver.ClaimRequest, ref driver.Ref) error) {
		t.Helper()
		var wg sync.WaitGroup
		end := next.Load() + n
		for range callers {
			wg.Go(func() {
				for i := next.Add(1); i <= end; i = next.Add(1) {
					req := request(fmt.Sprintf("8e03978e-40d5-43e8-bc93-%012d", i))
					reply, err := s.Claim(t.Context(), req)
					if err == nil {
						err = f(req, driver.Ref{Key: req.Key, Token: reply.Record.Token})
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		next.Store(end)
	}
	check := func(what string, before, least, most int64) {
		t.Helper()
		per := (used() - before) / n
		t.Logf("%s: %d bytes", what, per)
		if per < least || per > most {
			t.Errorf("%s: %d bytes a record; it should be %d to %d", what, per, least, most)
		}
	}
	sweep := func(want int64) {
		t.Helper()
		if swept, err := s.Sweep(t.Context(), 1<<30); err != nil || int64(swept) != want {
			t.Errorf("%d were swept, of %d: %v", swept, want, err)
		}
	}
	before := used()
	each(func(req driver.ClaimRequest, ref driver.Ref) error {
		c := completion(req, "")
		c.Result = driver.Result{Meta: make([]byte, 64), Body: make([]byte, 960)}
		_, err := s.Complete(t.Context(), ref, c)
		return err
	})
	check("completed, with a result of 1 KiB", before, 1200, 1800)
	advance(t, s, 61*time.Minute)
	sweep(n)
	check("forgotten", before, 150, 450)
	advance(t, s, 24*time.Hour)
	sweep(n)
	check("nothing", before, 0, 20)

	before = used()
	each(func(driver.ClaimRequest, driver.Ref) error { return nil })
	check("in flight", before, 200, 600)
	advance(t, s, 61*time.Minute)
	st, err := s.Stats(t.Context())
	must(t, err)
	if st.Unknown != n {
		t.Errorf("counted %+v", st)
	}
	check("unknown", before, 300, 900)
}
