package filestore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/filestore"
)

// worker makes calls about keys of its own, one after the other, and knows what
// each of them makes of its key.
type worker struct {
	s    driver.Store
	name string
	rng  *rand.Rand
	most int // the largest result

	mu    sync.Mutex
	known map[string]*knownKey
	next  int
}

// knownKey is what a worker knows of a key: what it was after each call that was
// made, and how many of the calls were acknowledged.
type knownKey struct {
	states []known
	acked  int
}

type known struct {
	state   driver.State
	token   uint64
	attempt int
	body    []byte
}

// step makes one call. It returns the error of the store.
func (w *worker) step(ctx context.Context) error {
	id := fmt.Sprint(w.name, w.next)
	w.mu.Lock()
	k := w.known[id]
	if k == nil {
		k = &knownKey{states: []known{{}}, acked: 1}
		w.known[id] = k
	}
	now := k.states[len(k.states)-1]
	w.mu.Unlock()

	scope := "power"
	ref := driver.Ref{Key: driver.KeyOf(scope, id), Token: now.token}
	will := now
	var call func() (token uint64, err error)
	switch p := w.rng.IntN(10); {
	case now.state == driver.StateAbsent || now.state == driver.StateUnknown && p < 4:
		will = known{state: driver.StateInFlight, attempt: now.attempt + 1}
		call = func() (uint64, error) {
			reply, err := w.s.Claim(ctx, driver.ClaimRequest{
				Key: ref.Key, Scope: scope, ID: id, Nonce: driver.NewNonce(), Retry: true,
				Lease: time.Hour, Tombstone: 24 * time.Hour,
			})
			if err == nil && !reply.Granted {
				err = fmt.Errorf("the claim of %s was refused; it is %v", id, reply.Record.State)
			}
			return reply.Record.Token, err
		}
	case p < 7:
		will.state = driver.StateCompleted
		will.body = randomBytes(w.rng, w.rng.IntN(w.most))
		call = func() (uint64, error) {
			_, err := w.s.Complete(ctx, ref, driver.Completion{
				Result: driver.Result{Meta: will.body[:len(will.body)/3], Body: will.body[len(will.body)/3:]},
				Scope:  scope, ID: id, Retention: time.Hour, Tombstone: time.Hour,
			})
			return now.token, err
		}
	case p < 8 && now.state == driver.StateInFlight:
		will.state = driver.StateAbsent
		call = func() (uint64, error) {
			return now.token, w.s.Release(ctx, ref, driver.Release{Retention: time.Hour})
		}
	case p < 9:
		will.state = driver.StateUnknown
		call = func() (uint64, error) { return now.token, w.s.Abandon(ctx, ref) }
	default:
		w.next++ // it stays as it is
		return nil
	}
	w.mu.Lock()
	k.states = append(k.states, will)
	w.mu.Unlock()
	token, err := call()
	if err != nil {
		return err
	}
	w.mu.Lock()
	k.states[len(k.states)-1].token = token
	k.acked = len(k.states)
	w.mu.Unlock()
	if will.state == driver.StateCompleted {
		w.next++
	}
	return nil
}

// randomBytes are n bytes that no compression makes fewer.
func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, rng.Uint64())
	}
	return b[:n:n]
}

// acked is how many calls of each key have been acknowledged.
func (w *worker) acked() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := make(map[string]int, len(w.known))
	for id, k := range w.known {
		m[id] = k.acked
	}
	return m
}

// check compares what came back with what was acknowledged before the cut: each
// key is as its last acknowledged call left it, or as a later one did. It makes
// what it finds what is known from now on, and returns the largest token.
func (w *worker) check(t testing.TB, s driver.Store, acked map[string]int, crashed bool) uint64 {
	t.Helper()
	highest := uint64(0)
	for id, k := range w.known {
		rec, err := s.Lookup(t.Context(), driver.KeyOf("power", id))
		if err != nil {
			t.Errorf("Lookup of %s: %v", id, err)
			continue
		}
		found := false
		for i := max(acked[id], 1) - 1; i < len(k.states) && !found; i++ {
			want := k.states[i]
			if crashed && want.state == driver.StateInFlight {
				want.state = driver.StateUnknown
			}
			// The token of a call that was not acknowledged is not known.
			if want.token == 0 {
				want.token = rec.Token
			}
			body := append(bytes.Clone(rec.Result.Meta), rec.Result.Body...)
			found = rec.State == want.state && rec.Attempt == want.attempt && rec.Token == want.token && bytes.Equal(body, want.body)
			if found {
				highest = max(highest, want.token)
				k.states, k.acked = []known{want}, 1
			}
		}
		if !found {
			t.Errorf("%s is %v, token %d, attempt %d, %d bytes; acknowledged was %+v and then came %+v", id, rec.State, rec.Token, rec.Attempt,
				len(rec.Result.Meta)+len(rec.Result.Body), k.states[max(acked[id], 1)-1].state, k.states[acked[id]:])
		}
	}
	return highest
}

// The power fails at random moments, under load: what was not synced is thrown
// away, wholly or in part. Whatever was acknowledged is there, what was in flight
// is unknown, and the mark raises no false alarm.
func TestPowerCut(t *testing.T) {
	cuts := 1200
	if testing.Short() || raceEnabled {
		cuts = 100
	}
	const rounds = 4
	seed := drivertest.Seed(t)
	t.Logf("%d power cuts from %s=%d", cuts, drivertest.SeedVariable, seed)
	for i := range cuts / rounds {
		if !t.Run(fmt.Sprint("seed=", seed+uint64(i)), func(t *testing.T) { powerCuts(t, seed+uint64(i), rounds) }) {
			return
		}
	}
}

func powerCuts(t *testing.T, seed uint64, rounds int) {
	rng := rand.New(rand.NewPCG(seed, 1))
	opts := small()
	most := 200
	if rng.IntN(4) == 0 {
		most, opts.MaxResult = 60_000, 60_000 // the engine's tables become full meanwhile
	}
	clock := filestore.NewTestClock()
	mem := vfs.NewCrashableMem()
	workers := make([]*worker, 1+rng.IntN(6))
	for i := range workers {
		workers[i] = &worker{
			name: fmt.Sprintf("w%d-", i), rng: rand.New(rand.NewPCG(seed, uint64(i)+2)), most: most,
			known: map[string]*knownKey{},
		}
	}
	for range rounds {
		s, err := filestore.Open("/data", opts.WithClock(clock).WithFS(mem))
		if err != nil {
			t.Fatal(err)
		}
		var budget atomic.Int64
		budget.Store(int64(rng.IntN(300)))
		cut := make(chan struct{})
		var once sync.Once
		var stop atomic.Bool
		var wg sync.WaitGroup
		for _, w := range workers {
			w.s = s
			wg.Go(func() {
				for !stop.Load() {
					if budget.Add(-1) < 0 {
						once.Do(func() { close(cut) })
					}
					if err := w.step(t.Context()); err != nil {
						t.Errorf("before the cut: %v", err)
						return
					}
				}
			})
		}
		<-cut
		acked := make([]map[string]int, len(workers))
		for i, w := range workers {
			acked[i] = w.acked()
		}
		mem2 := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 10, 50, 90}[rng.IntN(4)], RNG: rng})
		stop.Store(true)
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		mem = mem2
		after, err := filestore.Open("/data", opts.WithClock(clock).WithFS(mem))
		if err != nil {
			t.Fatalf("after the cut: %v", err)
		}
		highest := uint64(0)
		for i, w := range workers {
			highest = max(highest, w.check(t, after, acked[i], true))
		}
		req := driver.ClaimRequest{
			Key: driver.KeyOf("fresh", "k"), Nonce: driver.NewNonce(), Retry: true, Lease: time.Hour, Tombstone: time.Hour,
		}
		reply, err := after.Claim(t.Context(), req)
		if err != nil || !reply.Granted || reply.Record.Token <= highest {
			t.Errorf("a claim after the cut: token %d, %v; %d had been granted before", reply.Record.Token, err, highest)
		}
		// The list and the counts agree with what is there.
		st, err := after.Stats(t.Context())
		if err != nil {
			t.Error(err)
		}
		var listed driver.Stats
		page, err := after.List(t.Context(), driver.Query{Limit: 1000})
		for _, rec := range page.Records {
			switch rec.State {
			case driver.StateCompleted:
				listed.Completed++
			case driver.StateUnknown:
				listed.Unknown++
			}
		}
		if err != nil || page.Next == "" && (listed.Completed != st.Completed || listed.Unknown != st.Unknown) {
			t.Errorf("listed %d completed and %d unknown, counted %d and %d: %v", listed.Completed, listed.Unknown, st.Completed, st.Unknown, err)
		}
		if err := after.Close(); err != nil {
			t.Errorf("Close after the cut: %v", err)
		}
		if t.Failed() {
			return
		}
	}
}

// The power fails while what is over is swept: time alone decides what a key is.
func TestPowerCutWhileSweeping(t *testing.T) {
	cuts := 100
	if testing.Short() || raceEnabled {
		cuts = 20
	}
	seed := drivertest.Seed(t)
	t.Logf("%d power cuts from %s=%d", cuts, drivertest.SeedVariable, seed)
	for i := range cuts {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		b := newBed(t, small())
		const keys = 150
		for id := range keys {
			req := driver.ClaimRequest{
				Key: driver.KeyOf("s", fmt.Sprint(id)), Scope: "s", ID: fmt.Sprint(id), Nonce: driver.NewNonce(),
				Lease: time.Minute, Tombstone: time.Minute,
			}
			reply, err := b.Claim(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			_, err = b.Complete(t.Context(), driver.Ref{Key: req.Key, Token: reply.Record.Token}, driver.Completion{
				Result:    driver.Result{Body: make([]byte, 100)},
				Retention: time.Duration(1+id) * time.Second, Tombstone: keys * time.Second,
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		var cut *vfs.MemFS
		done := make(chan struct{})
		at := rng.IntN(2 * keys)
		go func() {
			defer close(done)
			for sec := range 2*keys + 1 {
				b.clock.Advance(time.Second)
				if sec%40 == 39 {
					if _, err := b.Sweep(t.Context(), 1000); err != nil {
						t.Errorf("Sweep: %v", err)
					}
				}
				if sec == at {
					cut = b.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(100), RNG: rng})
				}
			}
		}()
		<-done
		closeStore(t, b.Store)
		after := &bed{fs: cut, clock: b.clock, opts: b.opts}
		b.clock.Advance(-time.Duration(2*keys-at) * time.Second)
		after.open(t)
		for id := range keys {
			want := driver.StateAbsent
			switch sec := at + 1; {
			case sec < 1+id:
				want = driver.StateCompleted
			case sec < 1+id+keys:
				want = driver.StateForgotten
			}
			stateOf(t, after, "s", fmt.Sprint(id), want)
		}
		for range 10 {
			if _, err := after.Sweep(t.Context(), 1000); err != nil {
				t.Fatal(err)
			}
		}
		st, err := after.Stats(t.Context())
		if err != nil || st.Completed != int64(max(0, keys-at-1)) {
			t.Errorf("%d are counted as completed after sweeping; %d should be: %v", st.Completed, max(0, keys-at-1), err)
		}
		closeStore(t, after.Store)
	}
}
