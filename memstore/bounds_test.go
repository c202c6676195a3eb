package memstore_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

func request(id string) driver.ClaimRequest {
	return driver.ClaimRequest{
		Key: driver.KeyOf("scope", id), Scope: "scope", ID: id, Nonce: driver.NewNonce(),
		Lease: time.Minute, Tombstone: time.Hour,
	}
}

func completion(id, body string) driver.Completion {
	return driver.Completion{
		Result: driver.Result{Body: []byte(body)}, Scope: "scope", ID: id,
		Retention: time.Hour, Tombstone: time.Hour,
	}
}

func grant(t *testing.T, s *memstore.Store, req driver.ClaimRequest) driver.Ref {
	t.Helper()
	reply, err := s.Claim(t.Context(), req)
	if err != nil || !reply.Granted {
		t.Fatalf("Claim: granted %v, %v", reply.Granted, err)
	}
	return driver.Ref{Key: req.Key, Token: reply.Record.Token}
}

func complete(t *testing.T, s *memstore.Store, ref driver.Ref, c driver.Completion) {
	t.Helper()
	if _, err := s.Complete(t.Context(), ref, c); err != nil {
		t.Fatalf("Complete: %v", err)
	}
}

func full(t *testing.T, s *memstore.Store, req driver.ClaimRequest) {
	t.Helper()
	if _, err := s.Claim(t.Context(), req); !errors.Is(err, driver.ErrFull) {
		t.Fatalf("Claim: %v, want %v", err, driver.ErrFull)
	}
	if err := s.Ping(t.Context()); !errors.Is(err, driver.ErrFull) {
		t.Fatalf("Ping: %v, want %v", err, driver.ErrFull)
	}
}

func TestRecordsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(&memstore.Options{MaxRecords: 100})
		var refs []driver.Ref
		for i := range 100 {
			refs = append(refs, grant(t, s, request(fmt.Sprint(i))))
		}
		full(t, s, request("one more"))
		// Owners go on, their results are replayed, and a key that was released is
		// claimed again: no record is added.
		complete(t, s, refs[0], completion("0", "kept"))
		if rec, err := s.Lookup(t.Context(), refs[0].Key); err != nil || string(rec.Result.Body) != "kept" {
			t.Errorf("Lookup: %q, %v", rec.Result.Body, err)
		}
		if err := s.Release(t.Context(), refs[1], driver.Release{Retention: time.Minute}); err != nil {
			t.Fatal(err)
		}
		grant(t, s, request("1"))
		full(t, s, request("one more"))
		// What is over makes room at once, in whichever shard it is.
		if err := s.Release(t.Context(), refs[2], driver.Release{Retention: time.Minute}); err != nil {
			t.Fatal(err)
		}
		full(t, s, request("one more"))
		time.Sleep(time.Minute)
		grant(t, s, request("one more"))
		full(t, s, request("and another"))
		time.Sleep(3 * time.Hour)
		for i := range 100 {
			grant(t, s, request(fmt.Sprint("later ", i)))
		}
		full(t, s, request("and another"))
	})
}

func TestBytesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bound = 1 << 20
		s := memstore.New(&memstore.Options{MaxBytes: bound})
		large := string(make([]byte, 64<<10))
		var refs []driver.Ref
		for i := range 20 {
			refs = append(refs, grant(t, s, request(fmt.Sprint(i))))
		}
		// Results are promised: those in flight go over the bound.
		for i, ref := range refs {
			complete(t, s, ref, completion(fmt.Sprint(i), large))
		}
		st, err := s.Stats(t.Context())
		if err != nil || st.Bytes <= bound {
			t.Fatalf("Stats: %d bytes, %v; want more than %d", st.Bytes, err, bound)
		}
		full(t, s, request("one more"))
		if _, err := s.Resolve(t.Context(), refs[0].Key, driver.Resolution{
			Action: driver.ResolveErase, Retention: time.Hour, Tombstone: time.Hour,
		}); err != nil {
			t.Fatal(err)
		}
		full(t, s, request("one more"))
		// Tombstones are small.
		time.Sleep(time.Hour)
		grant(t, s, request("one more"))
		st, err = s.Stats(t.Context())
		if err != nil || st.Forgotten != 19 || st.Bytes > 20*300 {
			t.Errorf("Stats: %+v, %v; want 19 tombstones of tens of bytes each", st, err)
		}
	})
}

func TestNoBound(t *testing.T) {
	s := memstore.New(&memstore.Options{MaxRecords: -1, MaxBytes: -1, MaxUnknown: -1, MaxResult: -1})
	for i := range 1000 {
		ref := grant(t, s, request(fmt.Sprint(i)))
		if err := s.Abandon(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Describe().MaxResult; n != 1<<31-1 {
		t.Errorf("MaxResult is %d", n)
	}
	if n := memstore.New(nil).Describe().MaxResult; n != 16<<20 {
		t.Errorf("MaxResult is %d by default", n)
	}
}

// Leases that end while nobody looks count, however many.
func TestLapsesAreCountedAllAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(&memstore.Options{MaxUnknown: 10_000})
		for i := range 10_000 {
			grant(t, s, request(fmt.Sprint(i)))
		}
		time.Sleep(time.Minute)
		full(t, s, request("one more"))
		time.Sleep(time.Hour)
		grant(t, s, request("one more"))
	})
}

// Many claims at once at the bound: it holds, and nobody waits for another.
func TestBoundsHoldForManyAtOnce(t *testing.T) {
	s := memstore.New(&memstore.Options{MaxUnknown: 10})
	for i := range 10 {
		ref := grant(t, s, request(fmt.Sprint(i)))
		if err := s.Abandon(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, 64)
	for i := range errs {
		wg.Go(func() { _, errs[i] = s.Claim(context.Background(), request(fmt.Sprint("more ", i))) })
	}
	wg.Wait()
	for _, err := range errs {
		if !errors.Is(err, driver.ErrFull) {
			t.Fatalf("Claim: %v, want %v", err, driver.ErrFull)
		}
	}
}

// What the store says that it takes is about what it takes.
func TestBytesAreAboutRight(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	const n = 50_000
	requests := make([]driver.ClaimRequest, n)
	for i := range requests {
		requests[i] = request("an id of a usual length, " + fmt.Sprint(i))
	}
	before := heap()
	s := memstore.New(nil)
	for i := range requests {
		complete(t, s, grant(t, s, requests[i]), completion(requests[i].ID, "a result of a usual length"))
	}
	took := heap() - before
	st, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d records took %d bytes each; the store says %d", n, took/n, st.Bytes/n)
	if st.Bytes < took*2/3 || st.Bytes > took*2 {
		t.Errorf("the store says that it takes %d bytes; it takes %d", st.Bytes, took)
	}
	runtime.KeepAlive(s)
	runtime.KeepAlive(requests)
}

// What the benchmarks rest on.
func TestAllocations(t *testing.T) {
	ctx := t.Context()
	s := memstore.New(nil)
	const runs = 1000
	// AllocsPerRun makes one run more than it is told to.
	requests := make([]driver.ClaimRequest, runs+1)
	refs := make([]driver.Ref, runs+1)
	for i := range requests {
		requests[i] = request(fmt.Sprint(i))
	}
	n := 0
	if got := testing.AllocsPerRun(runs, func() {
		reply, err := s.Claim(ctx, requests[n])
		if err != nil || !reply.Granted {
			t.Errorf("Claim: granted %v, %v", reply.Granted, err)
		}
		refs[n] = driver.Ref{Key: requests[n].Key, Token: reply.Record.Token}
		n++
	}); got > 2 {
		t.Errorf("Claim allocates %v times", got)
	}
	n = 0
	c := completion("id", "a result")
	if got := testing.AllocsPerRun(runs, func() {
		if _, err := s.Complete(ctx, refs[n], c); err != nil {
			t.Error(err)
		}
		n++
	}); got > 1 {
		t.Errorf("Complete allocates %v times", got)
	}
	again := request("0")
	if got := testing.AllocsPerRun(runs, func() {
		if reply, err := s.Claim(ctx, again); err != nil || reply.Record.State != driver.StateCompleted {
			t.Error(err)
		}
	}); got != 0 {
		t.Errorf("a replay allocates %v times", got)
	}
}

// 1,000 waiters on one key: all are told, and other keys do not wait for them.
func TestTrap34ManyWaitersOnOneKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(nil)
		ref := grant(t, s, request("k"))
		var wg sync.WaitGroup
		errs := make([]error, 1000)
		for i := range errs {
			wg.Go(func() { errs[i] = s.Wait(t.Context(), ref) })
		}
		synctest.Wait()
		began := time.Now()
		complete(t, s, grant(t, s, request("another")), completion("another", "r"))
		complete(t, s, ref, completion("k", "r"))
		wg.Wait()
		if d := time.Since(began); d != 0 {
			t.Errorf("it took %v", d)
		}
		for _, err := range errs {
			if err != nil {
				t.Fatalf("Wait: %v", err)
			}
		}
	})
}

// A wait for a claim whose lease is made shorter does not outlast it.
func TestWaitForAShorterLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(nil)
		req := request("k")
		req.Lease = time.Hour
		ref := grant(t, s, req)
		began := time.Now()
		ended := make(chan time.Duration, 1)
		go func() {
			for {
				if err := s.Wait(t.Context(), ref); err != nil {
					t.Errorf("Wait: %v", err)
				}
				if rec, err := s.Lookup(t.Context(), ref.Key); err != nil || rec.State != driver.StateInFlight {
					ended <- time.Since(began)
					return
				}
			}
		}()
		synctest.Wait()
		if err := s.Renew(t.Context(), ref, time.Minute); err != nil {
			t.Fatal(err)
		}
		if d := <-ended; d != time.Minute {
			t.Errorf("the wait took %v, want 1m", d)
		}
	})
}
