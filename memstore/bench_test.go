package memstore_test

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

// generation is how many keys a store takes in a benchmark before a fresh one
// takes its place.
const generation = 1 << 16

// benchKey is a key as a hash would make it, without the price of the hash.
func benchKey(n uint64) driver.Key {
	var k driver.Key
	for i := 0; i < len(k); i += 8 {
		n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
		n = (n ^ n>>27) * 0x94d049bb133111eb
		n ^= n >> 31
		binary.LittleEndian.PutUint64(k[i:], n)
	}
	return k
}

func benchRequest(n uint64) driver.ClaimRequest {
	r := driver.ClaimRequest{
		Key: benchKey(n), Scope: "host/tenant", ID: "8e03978e-40d5-43e8-bc93-6894a57f9324",
		Fingerprint: driver.Fingerprint{Rule: 1}, Lease: 30 * time.Second, Tombstone: 720 * time.Hour,
	}
	binary.LittleEndian.PutUint64(r.Nonce[:], n+1)
	return r
}

func benchCompletion() driver.Completion {
	return driver.Completion{
		Result: driver.Result{Meta: make([]byte, 64), Body: make([]byte, 1024-64)},
		Scope:  "host/tenant", ID: "8e03978e-40d5-43e8-bc93-6894a57f9324",
		Fingerprint: driver.Fingerprint{Rule: 1}, Retention: 24 * time.Hour, Tombstone: 720 * time.Hour,
	}
}

// cycler does what a request and its retry do: claim, complete, replay.
type cycler interface {
	cycle(b *testing.B, req driver.ClaimRequest, again driver.Nonce, c driver.Completion)
}

type storeCycler struct{ s *memstore.Store }

func (s storeCycler) cycle(b *testing.B, req driver.ClaimRequest, again driver.Nonce, c driver.Completion) {
	ctx := context.Background()
	reply, err := s.s.Claim(ctx, req)
	if err != nil || !reply.Granted {
		b.Fatalf("Claim: granted %v, %v", reply.Granted, err)
	}
	if _, err := s.s.Complete(ctx, driver.Ref{Key: req.Key, Token: reply.Record.Token}, c); err != nil {
		b.Fatalf("Complete: %v", err)
	}
	req.Nonce = again
	reply, err = s.s.Claim(ctx, req)
	if err != nil || len(reply.Record.Result.Body) != len(c.Result.Body) {
		b.Fatalf("replay: %v", err)
	}
}

// plainMap keeps results in a map of as many shards, with no rule about who may
// do what and when: what a store would cost that did nothing.
type plainMap struct {
	start  time.Time // zero: entries do not end, and no clock is read
	shards [64]plainShard
}

type plainShard struct {
	mu sync.Mutex
	m  map[driver.Key]*plainRecord
	_  [48]byte
}

type plainRecord struct {
	scope, id   string
	fingerprint driver.Fingerprint
	meta, body  []byte
	end         time.Duration
}

func newPlainMap(start time.Time) *plainMap {
	p := &plainMap{start: start}
	for i := range p.shards {
		p.shards[i].m = map[driver.Key]*plainRecord{}
	}
	return p
}

func (p *plainMap) claim(req driver.ClaimRequest) (*plainRecord, bool) {
	s := &p.shards[req.Key[0]>>2]
	s.mu.Lock()
	defer s.mu.Unlock()
	now := p.now()
	if r, ok := s.m[req.Key]; ok && now < r.end {
		return r, false
	}
	r := &plainRecord{scope: req.Scope, id: req.ID, fingerprint: req.Fingerprint, end: now + req.Lease}
	s.m[req.Key] = r
	return r, true
}

func (p *plainMap) complete(key driver.Key, c driver.Completion) {
	data := append(append(make([]byte, 0, c.Result.Size()), c.Result.Meta...), c.Result.Body...)
	s := &p.shards[key[0]>>2]
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.m[key]
	n := len(c.Result.Meta)
	r.meta, r.body = data[:n:n], data[n:]
	r.end = p.now() + c.Retention
}

func (p *plainMap) now() time.Duration {
	if p.start.IsZero() {
		return 0
	}
	return time.Since(p.start)
}

func (p *plainMap) cycle(b *testing.B, req driver.ClaimRequest, _ driver.Nonce, c driver.Completion) {
	if _, fresh := p.claim(req); !fresh {
		b.Fatal("the key was there")
	}
	p.complete(req.Key, c)
	if r, fresh := p.claim(req); fresh || len(r.body) != len(c.Result.Body) {
		b.Fatal("replay: nothing there")
	}
}

type cyclerMaker struct {
	name string
	make func() cycler
}

func cyclers() []cyclerMaker {
	return []cyclerMaker{
		{"memstore", func() cycler { return storeCycler{memstore.New(nil)} }},
		{"plainmap", func() cycler { return newPlainMap(time.Time{}) }},
		{"timedmap", func() cycler { return newPlainMap(time.Now()) }},
	}
}

// BenchmarkClaimCompleteReplay is a claim, its completion with 1 KiB, and a
// claim that is answered with it, beside the same on a plain map, and on one
// whose entries end.
func BenchmarkClaimCompleteReplay(b *testing.B) {
	for _, m := range cyclers() {
		b.Run(m.name, func(b *testing.B) {
			b.ReportAllocs()
			var n atomic.Uint64
			var current atomic.Pointer[cycler]
			s := m.make()
			current.Store(&s)
			b.RunParallel(func(pb *testing.PB) {
				c := benchCompletion()
				for pb.Next() {
					i := n.Add(1)
					if i%generation == 0 {
						s := m.make()
						current.Store(&s)
					}
					(*current.Load()).cycle(b, benchRequest(i), driver.Nonce{1}, c)
				}
			})
		})
	}
}

// BenchmarkAgainstPlainMap is the same in one goroutine, the three in turns of
// some milliseconds, so that a noisy machine is as noisy for each: it reports
// the medians' ratios.
func BenchmarkAgainstPlainMap(b *testing.B) {
	const turn = 4096
	c := benchCompletion()
	took := make([][]float64, len(cyclers()))
	stores := make([]cycler, len(cyclers()))
	for i := 0; i < b.N; i += turn {
		for j, m := range cyclers() {
			if i%generation == 0 {
				stores[j] = m.make()
			}
			began := time.Now()
			for k := range turn {
				stores[j].cycle(b, benchRequest(uint64(i+k)), driver.Nonce{1}, c)
			}
			took[j] = append(took[j], float64(time.Since(began))/turn)
		}
	}
	for _, t := range took {
		slices.Sort(t)
	}
	median := func(j int) float64 { return took[j][len(took[j])/2] }
	for j, m := range cyclers() {
		b.ReportMetric(median(j), m.name+"-ns/op")
	}
	b.ReportMetric(median(0)/median(1), "x-plainmap")
	b.ReportMetric(median(0)/median(2), "x-timedmap")
}

// BenchmarkReplay is a claim that is answered with 1 KiB.
func BenchmarkReplay(b *testing.B) {
	b.ReportAllocs()
	ctx := context.Background()
	s := memstore.New(nil)
	const keys = 1024
	for i := range uint64(keys) {
		storeCycler{s}.cycle(b, benchRequest(i), driver.Nonce{1}, benchCompletion())
	}
	b.ResetTimer()
	for i := range b.N {
		req := benchRequest(uint64(i % keys))
		reply, err := s.Claim(ctx, req)
		if err != nil || reply.Record.State != driver.StateCompleted {
			b.Fatalf("Claim: %v", err)
		}
	}
}

// BenchmarkClaimRelease is a claim that is released, over and over on one key.
func BenchmarkClaimRelease(b *testing.B) {
	b.ReportAllocs()
	ctx := context.Background()
	s := memstore.New(nil)
	for i := range b.N {
		req := benchRequest(1)
		binary.LittleEndian.PutUint64(req.Nonce[:], uint64(i)+1)
		reply, err := s.Claim(ctx, req)
		if err != nil || !reply.Granted {
			b.Fatalf("Claim: granted %v, %v", reply.Granted, err)
		}
		ref := driver.Ref{Key: req.Key, Token: reply.Record.Token}
		if err := s.Release(ctx, ref, driver.Release{Retention: time.Hour}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFlood is fresh keys that are forgotten soon: what it costs to drop
// as much as comes in.
func BenchmarkFlood(b *testing.B) {
	b.ReportAllocs()
	s := memstore.New(nil)
	c := benchCompletion()
	c.Retention, c.Tombstone = 200*time.Millisecond, 100*time.Millisecond
	var bytes int64
	for i := range b.N {
		storeCycler{s}.cycle(b, benchRequest(uint64(i)), driver.Nonce{1}, c)
		if i%1024 == 0 {
			st, err := s.Stats(context.Background())
			if err != nil {
				b.Fatal(err)
			}
			bytes = max(bytes, st.Bytes)
		}
	}
	b.ReportMetric(float64(bytes)/1e6, "MB-kept")
}
