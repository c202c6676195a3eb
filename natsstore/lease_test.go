package natsstore_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
)

// another is the store of another process on the bucket of b, with a monotonic
// clock of its own.
func (b *bed) another(t testing.TB) *bed {
	t.Helper()
	other := &bed{nc: b.nc, opts: b.opts, shift: new(atomic.Int64)}
	other.open(t)
	return other
}

func (b *bed) advance(d time.Duration) { b.shift.Add(int64(d)) }

// A process counts a lease from when it first saw the claim, whatever its clock
// says then: one that comes late, and one whose clock runs ahead, sees it end
// later and not earlier.
func TestTrap33ALeaseEndsByWhatWasObserved(t *testing.T) {
	owner := newBed(t, quiet())
	req := request("k")
	grant(t, owner, req)
	ahead, behind := owner.another(t), owner.another(t)
	ahead.advance(10 * time.Minute)
	behind.advance(-10 * time.Minute)
	for _, s := range []*bed{ahead, behind} {
		stateOf(t, s, req.Key, driver.StateInFlight)
		s.advance(req.Lease - 20*time.Second)
		stateOf(t, s, req.Key, driver.StateInFlight)
	}
	retry := request("k")
	retry.Retry = true
	if reply, err := ahead.Claim(t.Context(), retry); err != nil || reply.Granted {
		t.Fatalf("it was taken over early: %v", err)
	}
	// Whoever says first that it is over says it for all.
	ahead.advance(20 * time.Second)
	stateOf(t, ahead, req.Key, driver.StateUnknown)
	stateOf(t, behind, req.Key, driver.StateUnknown)
	stateOf(t, owner, req.Key, driver.StateUnknown)
	late := owner.another(t)
	rec := stateOf(t, late, req.Key, driver.StateUnknown)
	if rec.Token == 0 || rec.Attempt != 1 {
		t.Errorf("%+v", rec)
	}
}

// What is observed is a revision: a claim that is renewed is another one.
func TestTrap3ARenewedLeaseIsObservedAnew(t *testing.T) {
	owner := newBed(t, quiet())
	req := request("k")
	ref := grant(t, owner, req)
	watcher := owner.another(t)
	for range 5 {
		stateOf(t, watcher, req.Key, driver.StateInFlight)
		wantErr(t, owner.Renew(t.Context(), ref, req.Lease), nil, "Renew")
		watcher.advance(req.Lease)
		stateOf(t, watcher, req.Key, driver.StateInFlight)
	}
	// A retry that remembers an old revision is not granted by memory either.
	wantErr(t, owner.Renew(t.Context(), ref, req.Lease), nil, "Renew")
	watcher.advance(2 * req.Lease)
	retry := request("k")
	retry.Retry = true
	if reply, err := watcher.Claim(t.Context(), retry); err != nil || reply.Granted || reply.Record.State != driver.StateInFlight {
		t.Fatalf("a renewed claim was taken over: %v, %v", reply.Record.State, err)
	}
	complete(t, owner, ref, completion(req, "r"))
}

// Renewals race observers who think that the lease has ended: either the owner
// is told that it lapsed, or nobody was granted the key.
func TestTrap5RenewalsRaceTakeovers(t *testing.T) {
	owner := newBed(t, quiet())
	watcher := owner.another(t)
	for round := range 50 {
		req := request(fmt.Sprint(round))
		ref := grant(t, owner, req)
		stateOf(t, watcher, req.Key, driver.StateInFlight)
		watcher.advance(req.Lease)
		var renewed error
		var reply driver.ClaimReply
		var claimed error
		var wg sync.WaitGroup
		wg.Go(func() { renewed = owner.Renew(context.Background(), ref, req.Lease) })
		wg.Go(func() {
			retry := request(fmt.Sprint(round))
			retry.Retry = true
			reply, claimed = watcher.Claim(context.Background(), retry)
		})
		wg.Wait()
		switch {
		case claimed != nil:
			t.Fatal(claimed)
		case renewed == nil && reply.Granted:
			t.Fatalf("round %d: a claim was renewed, and taken over in the same lease", round)
		case renewed != nil && !reply.Granted:
			t.Fatalf("round %d: neither went on: %v", round, renewed)
		case renewed != nil && !errors.Is(renewed, driver.ErrLost) && !errors.Is(renewed, driver.ErrLapsed):
			t.Fatal(renewed)
		}
	}
}

// An owner whose process has forgotten all it remembered goes on as before.
func TestForgettingIsSafe(t *testing.T) {
	b := newBed(t, quiet())
	req := request("k")
	ref := grant(t, b, req)
	b.Forget()
	wantErr(t, b.Renew(t.Context(), ref, req.Lease), nil, "Renew")
	b.Forget()
	b.advance(req.Lease / 2)
	stateOf(t, b, req.Key, driver.StateInFlight)
	b.Forget()
	b.advance(req.Lease / 2)
	stateOf(t, b, req.Key, driver.StateInFlight)
	complete(t, b, ref, completion(req, "r"))
	b.Forget()
	complete(t, b, ref, completion(req, "r"))
	again := request("k")
	if reply, err := b.Claim(t.Context(), again); err != nil || reply.Granted || string(reply.Record.Result.Body) != "r" {
		t.Errorf("%+v %v", reply, err)
	}
}

// What is remembered is bounded, whatever comes.
func TestTrap35WhatIsRememberedIsBounded(t *testing.T) {
	b := newBed(t, quiet())
	scope := strings.Repeat("x", 4000)
	n := b.Fill(60_000, func(i int) (driver.Key, string) { return driver.KeyOf("", fmt.Sprint(i)), scope })
	if n < 1000 || n*4000 > 40<<20 {
		t.Errorf("%d keys are remembered", n)
	}
}

// Trap 33: no wall clock decides about a lease. The package takes no time through
// the calendar but the server's own, in one place, and reads the clock of the
// machine in two, for a beginning from which the monotonic clock counts.
func TestTrap33NoWallClock(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]int{"clock.go Now": 1, "clock.go UnixNano": 1, "link.go Now": 2}
	set := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file := name
		if mutant := os.Getenv(mutantVariable); filepath.Base(mutant) == name {
			file = mutant
		}
		f, err := parser.ParseFile(set, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			switch sel.Sel.Name {
			case "Now", "Unix", "UnixMilli", "UnixMicro", "UnixNano", "UTC", "Local", "In", "Round", "Truncate":
				what := name + " " + sel.Sel.Name
				if allowed[what]--; allowed[what] < 0 {
					t.Errorf("%s: %s", set.Position(sel.Pos()), sel.Sel.Name)
				}
			}
			return true
		})
	}
}

// A claim that is granted, its renewal, its completion and its replay in the same
// process are one message each; so is a claim after a release.
func TestOneRoundTrip(t *testing.T) {
	b := newBed(t, quiet())
	trips := func(what string, want uint64, f func()) {
		t.Helper()
		before := b.nc.Stats().OutMsgs
		f()
		if n := b.nc.Stats().OutMsgs - before; n != want {
			t.Errorf("%s took %d messages, want %d", what, n, want)
		}
	}
	req := request("k")
	var ref driver.Ref
	trips("a claim", 1, func() { ref = grant(t, b, req) })
	trips("a renewal", 1, func() { wantErr(t, b.Renew(t.Context(), ref, time.Minute), nil, "Renew") })
	trips("a release", 1, func() { wantErr(t, b.Release(t.Context(), ref, driver.Release{Retention: time.Hour}), nil, "Release") })
	again := request("k")
	trips("a claim of what was released", 1, func() { ref = grant(t, b, again) })
	trips("a completion", 1, func() { complete(t, b, ref, completion(again, "r")) })
	trips("a replay", 1, func() {
		if reply, err := b.Claim(t.Context(), request("k")); err != nil || string(reply.Record.Result.Body) != "r" {
			t.Errorf("%+v %v", reply, err)
		}
	})
	other := b.another(t)
	trips("a replay elsewhere", 2, func() {
		if reply, err := other.Claim(t.Context(), request("k")); err != nil || string(reply.Record.Result.Body) != "r" {
			t.Errorf("%+v %v", reply, err)
		}
	})
	trips("a second replay elsewhere", 1, func() {
		if _, err := other.Claim(t.Context(), request("k")); err != nil {
			t.Error(err)
		}
	})
	lost := request("abandoned")
	ref = grant(t, b, lost)
	trips("an abandonment", 1, func() { wantErr(t, b.Abandon(t.Context(), ref), nil, "Abandon") })
	retry := request("abandoned")
	retry.Retry = true
	trips("a retry", 1, func() { grant(t, b, retry) })
}

// An answer that was overtaken by a newer one does not take its place in what is
// remembered.
func TestAnOvertakenAnswer(t *testing.T) {
	b := newBed(t, quiet())
	key := driver.KeyOf("", "k")
	b.Saw(key, 7)
	b.Saw(key, 5)
	if rev := b.Remembered(key); rev != 7 {
		t.Errorf("revision %d is remembered; 7 is newer", rev)
	}
}

// An answer from before what is known, as of a leader that was deposed and has not
// heard of it, is no answer.
func TestAStaleReadIsNoAnswer(t *testing.T) {
	b := newBed(t, quiet())
	req := request("k")
	ref := grant(t, b, req)
	b.Saw(req.Key, ref.Token+1000)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if rec, err := b.Lookup(ctx, req.Key); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lookup: %v, %v", rec.State, err)
	}
	b.Forget()
	stateOf(t, b, req.Key, driver.StateInFlight)
}

// A result that ends where another's meta ended is another result.
func TestMetaAndBodyAreKeptApart(t *testing.T) {
	b := newBed(t, quiet())
	req := request("k")
	ref := grant(t, b, req)
	c := completion(req, "")
	c.Result = driver.Result{Meta: []byte("ab"), Body: []byte("c")}
	complete(t, b, ref, c)
	c.Result = driver.Result{Meta: []byte("a"), Body: []byte("bc")}
	_, err := b.Complete(t.Context(), ref, c)
	wantErr(t, err, driver.ErrCompleted, "Complete with other parts")
}
