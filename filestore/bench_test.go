package filestore_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/filestore"
)

// callers are the numbers of callers at once; with -callers, one other.
var callers = flag.Int("callers", 0, "how many callers the benchmarks have, instead of 1, 64 and 256")

// BenchmarkPairs measures a fresh claim and its completion with 1 KiB, on the
// disk of the temporary directory, synced each. Its figure is pairs/s.
func BenchmarkPairs(b *testing.B) {
	counts := []int{1, 64, 256}
	if *callers > 0 {
		counts = []int{*callers}
	}
	for _, n := range counts {
		b.Run(fmt.Sprintf("callers=%d", n), func(b *testing.B) { benchPairs(b, n) })
	}
}

func benchPairs(b *testing.B, callers int) {
	s, err := filestore.Open(b.TempDir(), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	body := make([]byte, 1024)
	for i := range body {
		body[i] = byte(rand.Uint32())
	}
	run := fmt.Sprint(rand.Uint64())
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	start := time.Now()
	for range callers {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				if err := pair(ctx, s, run, fmt.Sprint(i), body); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "pairs/s")
	b.StopTimer()
}

func pair(ctx context.Context, s driver.Store, scope, id string, body []byte) error {
	key := driver.KeyOf(scope, id)
	reply, err := s.Claim(ctx, driver.ClaimRequest{
		Key: key, Scope: scope, ID: id, Nonce: driver.NewNonce(),
		Lease: time.Minute, Tombstone: time.Hour,
	})
	if err != nil {
		return err
	}
	if !reply.Granted {
		return fmt.Errorf("claim %s was not granted", id)
	}
	_, err = s.Complete(ctx, driver.Ref{Key: key, Token: reply.Record.Token}, driver.Completion{
		Result: driver.Result{Body: body}, Scope: scope, ID: id,
		Retention: time.Hour, Tombstone: time.Hour,
	})
	return err
}

// BenchmarkReplay measures a claim of a key that is completed, with 1 KiB.
func BenchmarkReplay(b *testing.B) {
	s, err := filestore.Open(b.TempDir(), nil)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	const keys = 1000
	all(64, keys, func(i int) {
		if err := pair(ctx, s, "s", fmt.Sprint(i), make([]byte, 1024)); err != nil {
			b.Error(err)
		}
	})
	reqs := make([]driver.ClaimRequest, keys)
	for i := range reqs {
		id := fmt.Sprint(i)
		reqs[i] = driver.ClaimRequest{
			Key: driver.KeyOf("s", id), Scope: "s", ID: id, Nonce: driver.NewNonce(),
			Lease: time.Minute, Tombstone: time.Hour,
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := rand.IntN(keys); pb.Next(); i++ {
			reply, err := s.Claim(ctx, reqs[i%keys])
			if err != nil || reply.Granted || len(reply.Record.Result.Body) != 1024 {
				b.Errorf("replay: %v", err)
				return
			}
		}
	})
}

// all calls f(0) to f(n-1) from so many goroutines.
func all(goroutines, n int, f func(i int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range goroutines {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				f(i)
			}
		})
	}
	wg.Wait()
}
