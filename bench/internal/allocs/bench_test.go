package allocs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

func BenchmarkHandlerBare(b *testing.B) {
	c, err := newCalls(1, 1, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		c.call(http.HandlerFunc(noop))
	}
}

func BenchmarkMiddlewareFresh(b *testing.B) {
	c, err := newCalls(b.N, b.N, nil)
	if err != nil {
		b.Fatal(err)
	}
	m, guard := newMiddleware()
	h := m(http.HandlerFunc(noop))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		c.call(h)
	}
	b.StopTimer()
	closeGuard(b, guard)
}

func BenchmarkMiddlewareReplay(b *testing.B) {
	c, err := newCalls(1, 1, nil)
	if err != nil {
		b.Fatal(err)
	}
	m, guard := newMiddleware()
	h := m(http.HandlerFunc(noop))
	c.call(h)
	b.ReportAllocs()
	for b.Loop() {
		c.call(h)
	}
	closeGuard(b, guard)
}

func closeGuard(b *testing.B, g *idem.Guard) {
	if err := g.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// The three below do the same: a claim, its completion, and a replay, of which
// the map keeps no rules.

func BenchmarkPairMap(b *testing.B) {
	m := newPlainMap()
	result := make([]byte, 1<<10)
	var n uint64
	b.ReportAllocs()
	for b.Loop() {
		n++
		key := keyOf(n)
		if !m.claim(key) {
			b.Fatal("a fresh key is there already")
		}
		m.complete(key, result)
		if len(m.lookup(key)) != len(result) {
			b.Fatal("a result is gone")
		}
	}
}

func BenchmarkPairMemstore(b *testing.B) {
	s := memstore.New(&memstore.Options{MaxRecords: -1, MaxBytes: -1})
	ctx := context.Background()
	result := driver.Result{Body: make([]byte, 1<<10)}
	var n uint64
	b.ReportAllocs()
	for b.Loop() {
		n++
		req := driver.ClaimRequest{Key: keyOf(n), Scope: "bench", ID: "id", Nonce: nonceOf(n), Lease: time.Minute, Tombstone: time.Hour}
		reply, err := s.Claim(ctx, req)
		if err != nil || !reply.Granted {
			b.Fatal("a fresh key was not granted", err)
		}
		ref := driver.Ref{Key: req.Key, Token: reply.Record.Token}
		if _, err := s.Complete(ctx, ref, driver.Completion{Result: result, Retention: time.Hour, Tombstone: time.Hour}); err != nil {
			b.Fatal(err)
		}
		req.Nonce = nonceOf(n + 1<<62)
		if reply, err = s.Claim(ctx, req); err != nil || len(reply.Record.Result.Body) != len(result.Body) {
			b.Fatal("a result is gone", err)
		}
	}
}

func BenchmarkPairGuard(b *testing.B) {
	s := memstore.New(&memstore.Options{MaxRecords: -1, MaxBytes: -1})
	g := idem.New(s, &idem.Options{Logger: slog.New(slog.DiscardHandler)})
	ctx := context.Background()
	result := idem.Result{Body: make([]byte, 1<<10)}
	var n uint64
	var id [8]byte
	b.ReportAllocs()
	for b.Loop() {
		n++
		binary.BigEndian.PutUint64(id[:], n)
		req := idem.Request{Key: idem.Key{Scope: "bench", ID: string(id[:])}}
		begun, err := g.Begin(ctx, &req)
		if err != nil || begun.Claim == nil {
			b.Fatal("a fresh key was not granted", err)
		}
		if err := begun.Claim.Complete(result); err != nil {
			b.Fatal(err)
		}
		if begun, err = g.Begin(ctx, &req); err != nil || !begun.Replayed {
			b.Fatal("a result is gone", err)
		}
	}
	closeGuard(b, g)
}

func keyOf(n uint64) driver.Key {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	return sha256.Sum256(b[:])
}

func nonceOf(n uint64) (v driver.Nonce) {
	binary.BigEndian.PutUint64(v[:], n)
	return v
}

// plainMap is what a store would be without any rules.
type plainMap struct{ shards [64]plainShard }

type plainShard struct {
	mu      sync.Mutex
	results map[driver.Key][]byte
}

func newPlainMap() *plainMap {
	m := new(plainMap)
	for i := range m.shards {
		m.shards[i].results = make(map[driver.Key][]byte)
	}
	return m
}

func (m *plainMap) claim(k driver.Key) bool {
	s := &m.shards[k[0]%64]
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.results[k]; there {
		return false
	}
	s.results[k] = nil
	return true
}

func (m *plainMap) complete(k driver.Key, result []byte) {
	kept := append([]byte(nil), result...)
	s := &m.shards[k[0]%64]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results[k] = kept
}

func (m *plainMap) lookup(k driver.Key) []byte {
	s := &m.shards[k[0]%64]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.results[k]
}
