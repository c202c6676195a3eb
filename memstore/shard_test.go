package memstore

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
)

// random is seeded by the environment or the clock, and says with what.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := drivertest.Seed(t)
	t.Logf("%s=%d", drivertest.SeedVariable, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func TestQueueIsInOrder(t *testing.T) {
	rng := random(t)
	var q queue
	var in []*head
	take := func(h *head) {
		q.remove(h)
		in = slices.DeleteFunc(in, func(o *head) bool { return o == h })
	}
	for step := range 10_000 {
		switch n := rng.IntN(10); {
		case n < 5 || len(in) == 0:
			h := &head{due: int64(step) + rng.Int64N(1000)}
			q.push(h)
			in = append(in, h)
		case n < 7:
			take(in[rng.IntN(len(in))])
		case n < 9:
			h := in[rng.IntN(len(in))]
			h.due = int64(step) + rng.Int64N(2000)
			q.move(h)
		default:
			// From time to time the queue is all but emptied, in order.
			for last := int64(-1); len(in) > 10 && step%100 == 0; {
				h := q.first(1 << 40)
				if h.due < last {
					t.Fatalf("step %d: the queue gave %d after %d", step, h.due, last)
				}
				last = h.due
				take(h)
			}
		}
		for i, e := range q.entries {
			if parent := q.entries[max(0, i-1)/arity]; step%10 == 0 && parent.due > e.due {
				t.Fatalf("step %d: a head that is due at %d is below one at %d", step, e.due, parent.due)
			}
		}
		if q.len() != len(in) {
			t.Fatalf("step %d: the queue has %d heads, want %d", step, q.len(), len(in))
		}
		least := slices.MinFunc(append(in, &head{due: 1 << 41}), func(a, b *head) int { return int(a.due - b.due) })
		if h := q.first(1 << 40); len(in) > 0 && h.due != least.due {
			t.Fatalf("step %d: first is due at %d, want %d", step, h.due, least.due)
		}
		if h := q.first(least.due - 1); h != nil {
			t.Fatalf("step %d: first gave a head that is due at %d, at %d", step, h.due, least.due-1)
		}
	}
}

// check verifies that a store's counts and queues are those of its records.
func check(t *testing.T, s *Store) {
	t.Helper()
	var unknown int64
	for i := range s.shards {
		sh := &s.shards[i]
		var bytes int64
		counts := map[kind]int{}
		queued := 0
		for key, h := range sh.heads {
			if h.key != key || s.shardOf(key) != sh {
				t.Fatal("a head is under another key")
			}
			if h.full != nil && &h.full.head != h {
				t.Fatal("a record is not its head's")
			}
			bytes += h.bytes()
			counts[h.kind]++
			q := &sh.queues[h.kind.queue()]
			if e := q.entries[h.pos]; e.head != h || e.due != h.due {
				t.Fatalf("a head of kind %d is not where its queue has it", h.kind)
			}
			if parent := q.entries[max(0, int(h.pos)-1)/arity]; parent.due > h.due {
				t.Fatal("a queue is out of order")
			}
		}
		for j := range sh.queues {
			queued += sh.queues[j].len()
		}
		if queued != len(sh.heads) {
			t.Fatalf("%d heads are queued, of %d", queued, len(sh.heads))
		}
		if bytes != sh.bytes {
			t.Fatalf("a shard's bytes are %d, its records' are %d", sh.bytes, bytes)
		}
		if counts[completed] != sh.completed || counts[forgotten] != sh.forgotten {
			t.Fatalf("a shard counts %d completed and %d forgotten, its records are %v", sh.completed, sh.forgotten, counts)
		}
		unknown += int64(counts[lapsed] + counts[abandoned])
	}
	if n := s.bounds.unknown.Load(); n != unknown {
		t.Fatalf("the store counts %d unknowns, its records are %d", n, unknown)
	}
	var records, bytes int64
	for i := range s.shards {
		sh := &s.shards[i]
		records += sh.told.records
		bytes += sh.told.bytes
		if d := sh.bytes - sh.told.bytes; max(d, -d) > s.maxBytes/(100*shardCount) {
			t.Fatalf("a shard has not told of %d bytes", d)
		}
		if d := int64(len(sh.heads)) - sh.told.records; max(d, -d) > s.maxRecords/(100*shardCount) {
			t.Fatalf("a shard has not told of %d records", d)
		}
	}
	if r, b := s.bounds.records.Load(), s.bounds.bytes.Load(); r != records || b != bytes {
		t.Fatalf("the bounds know of %d records and %d bytes, they were told of %d and %d", r, b, records, bytes)
	}
}

func testRequest(n uint64) driver.ClaimRequest {
	req := driver.ClaimRequest{
		Scope: "scope", ID: "id", Fingerprint: driver.Fingerprint{Rule: 1},
		Nonce: driver.NewNonce(), Lease: time.Minute, Tombstone: 24 * time.Hour,
	}
	req.Key = driver.KeyOf("scope", string(binary.LittleEndian.AppendUint64(nil, n)))
	return req
}

func testCompletion() driver.Completion {
	return driver.Completion{
		Result: driver.Result{Meta: []byte("201"), Body: []byte("made")}, Scope: "scope", ID: "id",
		Fingerprint: driver.Fingerprint{Rule: 1}, Retention: time.Hour, Tombstone: time.Hour,
	}
}

// Whatever happens, in whatever order, counts and queues stay those of the
// records.
func TestCountsFollowTheRecords(t *testing.T) {
	rng := random(t)
	synctest.Test(t, func(t *testing.T) {
		s := New(&Options{MaxRecords: 4000, MaxBytes: 4 << 20, MaxUnknown: 50})
		ctx := t.Context()
		refs := make([]driver.Ref, 300)
		for step := range 15_000 {
			i := rng.IntN(len(refs))
			res := driver.Resolution{Action: driver.Action(1 + rng.IntN(3)), Retention: time.Hour, Tombstone: time.Hour, Force: true}
			if rng.IntN(2) == 0 {
				res.Note = "a note"[:rng.IntN(7)]
			}
			var err error
			switch rng.IntN(9) {
			case 0, 1, 2:
				req := testRequest(uint64(i))
				req.Retry = true
				var reply driver.ClaimReply
				reply, err = s.Claim(ctx, req)
				if reply.Granted {
					refs[i] = driver.Ref{Key: req.Key, Token: reply.Record.Token}
				}
			case 3:
				_, err = s.Complete(ctx, refs[i], testCompletion())
			case 4:
				err = s.Release(ctx, refs[i], driver.Release{Retention: time.Hour})
			case 5:
				err = s.Abandon(ctx, refs[i])
			case 6:
				err = s.Renew(ctx, refs[i], time.Duration(1+rng.IntN(5))*time.Minute)
			case 7:
				_, err = s.Resolve(ctx, refs[i].Key, res)
			case 8:
				time.Sleep(time.Duration(rng.IntN(3)) * time.Minute)
				_, err = s.Sweep(ctx, rng.IntN(5))
			}
			for _, expected := range []error{driver.ErrLost, driver.ErrLapsed, driver.ErrCompleted, driver.ErrState, driver.ErrFull} {
				if errors.Is(err, expected) {
					err = nil
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if step%500 == 0 {
				check(t, s)
			}
		}
		time.Sleep(1000 * time.Hour)
		if _, err := s.Sweep(ctx, 1<<20); err != nil {
			t.Fatal(err)
		}
		check(t, s)
		for i := range s.shards {
			if sh := &s.shards[i]; len(sh.heads) != 0 || sh.bytes != 0 {
				t.Errorf("after everything is over %d records with %d bytes are left", len(sh.heads), sh.bytes)
			}
		}
	})
}

// A flood of keys: what is over goes as fast as new keys come, without anybody
// sweeping, and the memory of its largest day is given back.
func TestTrap35FloodStaysBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(nil)
		ctx := t.Context()
		heads := func() (n, largest int) {
			for i := range s.shards {
				n += len(s.shards[i].heads)
				largest = max(largest, s.shards[i].peak)
			}
			return n, largest
		}
		c := testCompletion()
		c.Retention, c.Tombstone = time.Second, time.Second
		// A thousand keys a second live two seconds each; one in ten of them is
		// left to its lease, and is unknown for a second.
		most := 0
		for i := range uint64(20_000) {
			req := testRequest(i)
			req.Lease, req.Tombstone = time.Second, time.Second
			reply, err := s.Claim(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			if i%10 != 0 {
				if _, err := s.Complete(ctx, driver.Ref{Key: req.Key, Token: reply.Record.Token}, c); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Millisecond)
			if i%64 == 0 {
				n, _ := heads()
				most = max(most, n)
			}
		}
		if most > 2500 {
			t.Errorf("up to %d records were kept; 2000 were alive at a time", most)
		}
		// A burst, and then next to nothing.
		for i := range uint64(100_000) {
			req := testRequest(1<<32 + i)
			reply, err := s.Claim(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Complete(ctx, driver.Ref{Key: req.Key, Token: reply.Record.Token}, c); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		for i := range uint64(100_000) {
			req := testRequest(1<<33 + i%2000)
			reply, err := s.Claim(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Release(ctx, driver.Ref{Key: req.Key, Token: reply.Record.Token}, driver.Release{Retention: time.Second}); err != nil {
				t.Fatal(err)
			}
		}
		if n, largest := heads(); n > 2500 || largest > 1024 {
			t.Errorf("%d records are kept, and a map of %d; 2000 are alive", n, largest)
		}
		for i := range s.shards {
			for j := range s.shards[i].queues {
				if c := cap(s.shards[i].queues[j].entries); c > 1024 {
					t.Errorf("a queue has room for %d after a burst", c)
				}
			}
		}
	})
}
