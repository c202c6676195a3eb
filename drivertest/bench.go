package drivertest

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
)

// RunBenchmarks measures a store with results of 1 KiB: pairs of a claim and its
// completion, and replays, each for 1, 64 and 256 callers at once. newStore is
// as Harness.New. Whatever is completed stays for a day, so that a fast store
// needs a bound on how much: -benchtime=200000x.
func RunBenchmarks(b *testing.B, newStore func(t testing.TB) driver.Store) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprint("ClaimComplete/callers=", callers), func(b *testing.B) {
			s := newStore(b)
			c := benchCompletion()
			benchmark(b, callers, func(ctx context.Context, n uint64) error {
				return claimComplete(ctx, s, benchRequest(n), c)
			})
		})
		b.Run(fmt.Sprint("Replay/callers=", callers), func(b *testing.B) {
			const keys = 1024
			s := newStore(b)
			for n := range uint64(keys) {
				if err := claimComplete(b.Context(), s, benchRequest(n), benchCompletion()); err != nil {
					b.Fatal(err)
				}
			}
			benchmark(b, callers, func(ctx context.Context, n uint64) error {
				reply, err := s.Claim(ctx, benchRequest(n%keys))
				if err == nil && reply.Record.State != driver.StateCompleted {
					return fmt.Errorf("the record is %s; it should be completed", show(reply.Record))
				}
				return err
			})
		})
	}
}

// benchmark runs f b.N times, with a number of its own each time, from as many
// callers at once.
func benchmark(b *testing.B, callers int, f func(ctx context.Context, n uint64) error) {
	b.Helper()
	b.ReportAllocs()
	var next atomic.Uint64
	var failed atomic.Pointer[error]
	ctx := b.Context()
	b.ResetTimer()
	all(callers, func(int) {
		for {
			n := next.Add(1) - 1
			if n >= uint64(b.N) || failed.Load() != nil {
				return
			}
			if err := f(ctx, n); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		}
	})
	b.StopTimer()
	if err := failed.Load(); err != nil {
		b.Fatal(*err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
}

func claimComplete(ctx context.Context, s driver.Store, req driver.ClaimRequest, c driver.Completion) error {
	reply, err := s.Claim(ctx, req)
	if err != nil {
		return err
	}
	if !reply.Granted {
		return fmt.Errorf("a fresh key was not granted: %s", show(reply.Record))
	}
	_, err = s.Complete(ctx, driver.Ref{Key: req.Key, Token: reply.Record.Token}, c)
	return err
}

func benchRequest(n uint64) driver.ClaimRequest {
	var id [8]byte
	binary.LittleEndian.PutUint64(id[:], n)
	return driver.ClaimRequest{
		Key: driver.KeyOf("bench", string(id[:])), Scope: "bench", ID: "8e03978e-40d5-43e8-bc93-6894a57f9324",
		Fingerprint: driver.Fingerprint{Rule: 1}, Nonce: driver.NewNonce(),
		Lease: 30 * time.Second, Tombstone: 720 * time.Hour,
	}
}

func benchCompletion() driver.Completion {
	return driver.Completion{
		Result: driver.Result{Meta: make([]byte, 64), Body: make([]byte, 1024-64)},
		Scope:  "bench", ID: "8e03978e-40d5-43e8-bc93-6894a57f9324",
		Fingerprint: driver.Fingerprint{Rule: 1}, Retention: 24 * time.Hour, Tombstone: 720 * time.Hour,
	}
}
