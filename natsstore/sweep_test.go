package natsstore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/natsstore"
)

func (b *bed) stream(t testing.TB) jetstream.Stream {
	t.Helper()
	js, err := jetstream.New(b.nc)
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(t.Context(), "KV_"+b.opts.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// messages is how many records the bucket holds.
func (b *bed) messages(t testing.TB) int {
	t.Helper()
	info, err := b.stream(t).Info(t.Context(), jetstream.WithSubjectFilter("$KV."+b.opts.Bucket+".r.>"))
	if err != nil {
		t.Fatal(err)
	}
	return len(info.State.Subjects)
}

// sweepOut sweeps until nothing is left to sweep.
func (b *bed) sweepOut(t testing.TB, limit int) (total int) {
	t.Helper()
	for {
		n, err := b.Sweep(t.Context(), limit)
		if err != nil {
			t.Fatal(err)
		}
		if total += n; n == 0 {
			return total
		}
	}
}

// in is how many messages have come from the server.
func (b *bed) in() uint64 { return b.nc.Stats().InMsgs }

// A flood of keys is swept away when it is over; what is not yet over is looked
// at once, and not at every sweep.
func TestTrap35SweepingKeepsUp(t *testing.T) {
	const keys = 3000
	b := newBed(t, quiet())
	for i := range keys {
		req := request(fmt.Sprint(i))
		c := completion(req, "r")
		c.Retention = time.Hour + time.Duration(i)*time.Millisecond
		complete(t, b, grant(t, b, req), c)
	}
	if n := b.sweepOut(t, 1000); n != 0 {
		t.Fatalf("%d were swept before their time", n)
	}
	if n := b.Chunks(); n < keys/1000-1 || n > keys/500 {
		t.Errorf("%d chunks for %d records", n, keys)
	}
	before := b.in()
	for range 5 {
		b.sweepOut(t, 1000)
	}
	if n := b.in() - before; n > 100 {
		t.Errorf("5 sweeps of nothing read %d messages", n)
	}
	b.advance(time.Hour + 10*time.Second)
	if n := b.sweepOut(t, 300); n != keys {
		t.Errorf("%d results were dropped, want %d", n, keys)
	}
	if n := b.messages(t); n != keys {
		t.Errorf("%d messages, want a tombstone for each of %d", n, keys)
	}
	b.advance(time.Hour)
	if n := b.sweepOut(t, 700); n != keys {
		t.Errorf("%d tombstones were dropped, want %d", n, keys)
	}
	if n := b.messages(t); n != 0 {
		t.Errorf("%d messages are left", n)
	}
	b.sweepOut(t, 1000)
	if n := b.Chunks(); n != 0 {
		t.Errorf("%d chunks are remembered of nothing", n)
	}
}

// What changes between the look and the sweep is left alone.
func TestSweepLosesNothing(t *testing.T) {
	b := newBed(t, quiet())
	other := b.another(t)
	for round := range 20 {
		req := request(fmt.Sprint(round))
		ref := grant(t, b, req)
		wantErr(t, b.Release(t.Context(), ref, driver.Release{Retention: time.Minute}), nil, "Release")
		b.advance(time.Minute)
		other.advance(time.Minute)
		done := make(chan error, 1)
		go func() {
			_, err := other.Sweep(context.Background(), 100)
			done <- err
		}()
		again := request(fmt.Sprint(round))
		second := grant(t, b, again)
		wantErr(t, <-done, nil, "Sweep")
		if rec := stateOf(t, other, req.Key, driver.StateInFlight); rec.Token != second.Token || second.Token <= ref.Token {
			t.Fatalf("token %d, after %d and %d", rec.Token, ref.Token, second.Token)
		}
		complete(t, b, second, completion(again, "r"))
	}
}

// One of the processes sweeps by itself, and writes down the leases of owners
// that vanished; when it ends another takes its turn.
func TestStoresSweepInTurn(t *testing.T) {
	b := newBed(t, quiet())
	o := b.opts
	o.SweepEvery = 40 * time.Millisecond
	first := opened(t, shared.DSN()+"/"+o.Bucket, &o)
	second := opened(t, shared.DSN()+"/"+o.Bucket, &o)
	vanish := func(id string) {
		t.Helper()
		req := request(id)
		req.Lease = 150 * time.Millisecond
		gone := b.another(t)
		grant(t, gone, req)
		gone.Close()
		eventually(t, "the lapse is written down", func(ctx context.Context) bool {
			m, err := b.stream(t).GetLastMsgForSubject(ctx, "$KV."+o.Bucket+".r."+req.Key.String())
			if err != nil {
				return false
			}
			_, s, err := natsstore.Decode(m.Header.Get("Idem"), m.Data, m.Sequence)
			return err == nil && s.Kind == 2
		})
		stateOf(t, b.another(t), req.Key, driver.StateUnknown)
	}
	vanish("one")
	first.Close()
	vanish("two")
	second.Close()
	m, err := b.stream(t).GetLastMsgForSubject(t.Context(), "$KV."+o.Bucket+".sweeper")
	if err != nil || len(m.Data) == 0 {
		t.Errorf("nobody took the turn: %v", err)
	}
}

// A bucket that was deleted and made again refuses everything: its tokens begin
// anew.
func TestABucketThatWasMadeAgain(t *testing.T) {
	b := newBed(t, quiet())
	req := request("k")
	grant(t, b, req)
	js, err := jetstream.New(b.nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), "KV_"+b.opts.Bucket); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	if _, err := b.Lookup(short, req.Key); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lookup without a bucket: %v", err)
	}
	cancel()
	if err := natsstore.Migrate(t.Context(), b.nc, &b.opts); err != nil {
		t.Fatal(err)
	}
	if err := b.Ping(t.Context()); err == nil {
		t.Error("Ping of another bucket succeeded")
	}
	if _, err := b.Claim(t.Context(), request("k")); err == nil {
		t.Error("a claim in another bucket was granted")
	}
}

// A bucket that is nearly full takes no new claims; those that stand go on to
// their ends.
func TestABucketThatIsFull(t *testing.T) {
	o := quiet()
	o.MaxBytes = 100 << 10
	b := newBed(t, o)
	body := string(make([]byte, 900))
	running := request("running")
	ref := grant(t, b, running)
	var last error
	n := 0
	for ; n < 1000 && last == nil; n++ {
		req := request(fmt.Sprint(n))
		var reply driver.ClaimReply
		if reply, last = b.Claim(t.Context(), req); last == nil {
			complete(t, b, driver.Ref{Key: req.Key, Token: reply.Record.Token}, completion(req, body))
		}
		if n%5 == 0 {
			b.sweepOut(t, 10)
		}
	}
	wantErr(t, last, driver.ErrFull, "Claim")
	if n < 50 {
		t.Errorf("it was full after %d records", n)
	}
	wantErr(t, b.Ping(t.Context()), driver.ErrFull, "Ping")
	if reply, err := b.Claim(t.Context(), request("0")); err != nil || reply.Record.State != driver.StateCompleted {
		t.Errorf("a replay: %v, %v", reply.Record.State, err)
	}
	wantErr(t, b.Renew(t.Context(), ref, time.Hour), nil, "Renew")
	complete(t, b, ref, completion(running, body))
	b.advance(3 * time.Hour)
	b.sweepOut(t, 1000)
	b.sweepOut(t, 1000)
	grant(t, b, request("again"))
}

// The server's own word that it is full is the same error for a claim; the owner
// of one that stands is told that its write was not done.
func TestTheServerSaysThatItIsFull(t *testing.T) {
	o := quiet()
	o.MaxBytes = 10 << 10
	b := newBed(t, o)
	var err error
	var ref driver.Ref
	for n := 0; n < 1000 && err == nil; n++ {
		var reply driver.ClaimReply
		if reply, err = b.Claim(t.Context(), request(fmt.Sprint(n))); err == nil {
			ref = driver.Ref{Key: reply.Record.Key, Token: reply.Record.Token}
		}
	}
	wantErr(t, err, driver.ErrFull, "a claim in a full bucket")
	_, err = b.Complete(t.Context(), ref, completion(request("x"), string(make([]byte, 9000))))
	if err == nil || errors.Is(err, driver.ErrFull) || errors.Is(err, driver.ErrLost) {
		t.Errorf("a completion in a full bucket: %v", err)
	}
	stateOf(t, b, ref.Key, driver.StateInFlight)
}
