package idem_test

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
)

// BenchmarkGuard measures one operation and its replay: a claim, its completion
// with 1 KiB and one replay, through the core, next to the memory store alone
// and next to a plain sharded map that only keeps the bytes.
//
//	go test -run '^$' -bench Guard -benchmem .
func BenchmarkGuard(b *testing.B) {
	res := idem.Result{Body: bytes.Repeat([]byte("x"), 1024)}
	ctx := context.Background()
	b.Run("map", func(b *testing.B) {
		b.ReportAllocs()
		each(b, func() func(string) {
			m := new(shardedMap)
			return func(id string) {
				k := driver.KeyOf("s", id)
				m.put(k, res.Body)
				if len(m.get(k)) != len(res.Body) {
					b.Error("not there")
				}
			}
		})
	})
	b.Run("memstore", func(b *testing.B) {
		b.ReportAllocs()
		each(b, func() func(string) {
			s := newStore()
			return func(id string) {
				k := driver.KeyOf("s", id)
				req := driver.ClaimRequest{Key: k, Scope: "s", ID: id, Nonce: driver.NewNonce(), Lease: time.Minute, Tombstone: time.Hour}
				r, err := s.Claim(ctx, req)
				if err != nil || !r.Granted {
					b.Errorf("%+v, %v", r, err)
				}
				_, err = s.Complete(ctx, driver.Ref{Key: k, Token: r.Record.Token}, driver.Completion{Result: res, Scope: "s", ID: id, Retention: time.Hour, Tombstone: time.Hour})
				if err != nil {
					b.Error(err)
				}
				req.Nonce = driver.NewNonce()
				if r, err = s.Claim(ctx, req); err != nil || r.Record.State != driver.StateCompleted {
					b.Errorf("%+v, %v", r, err)
				}
			}
		})
	})
	b.Run("guard", func(b *testing.B) {
		b.ReportAllocs()
		each(b, func() func(string) {
			g := guard(b, newStore(), nil)
			return func(id string) {
				req := idem.Request{Key: idem.Key{Scope: "s", ID: id}}
				got, err := g.Begin(ctx, &req)
				if err != nil || got.Claim == nil {
					b.Errorf("%+v, %v", got, err)
					return
				}
				if err := got.Claim.Complete(res); err != nil {
					b.Error(err)
				}
				if got, err := g.Begin(ctx, &req); err != nil || !got.Replayed {
					b.Errorf("%+v, %v", got, err)
				}
			}
		})
	})
	b.Run("guard, replay only", func(b *testing.B) {
		g := guard(b, newStore(), nil)
		must(b, begin(b, g, request("k")).Complete(res))
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			req := request("k")
			for pb.Next() {
				if got, err := g.Begin(ctx, req); err != nil || !got.Replayed {
					b.Errorf("%+v, %v", got, err)
				}
			}
		})
	})
}

// each runs one operation after another on all processors, with a store that
// is made anew before it grows too large to be compared.
func each(b *testing.B, setup func() func(id string)) {
	const most = 1 << 17
	ids := ids(most)
	b.ResetTimer()
	for left := b.N; left > 0; left -= most {
		b.StopTimer()
		op := setup()
		b.StartTimer()
		var next atomic.Int64
		n := int64(min(left, most))
		together(2, func(int) {
			for i := next.Add(1); i <= n; i = next.Add(1) {
				op(ids[i-1])
			}
		})
	}
}

func ids(n int) []string {
	s := make([]string, n)
	for i := range s {
		s[i] = "order-" + itoa(i)
	}
	return s
}

type shardedMap [64]struct {
	mu sync.Mutex
	m  map[driver.Key][]byte
	_  [48]byte
}

func (m *shardedMap) put(k driver.Key, v []byte) {
	s := &m[k[0]%64]
	v = bytes.Clone(v)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[driver.Key][]byte{}
	}
	s.m[k] = v
}

func (m *shardedMap) get(k driver.Key) []byte {
	s := &m[k[0]%64]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[k]
}
