package sqlitestore_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
)

// Trap 65: what another process ends, or a transaction of the application's, nobody
// tells of; it is found by looking, for each who waits.
func TestTrap65WhatNobodyTellsOf(t *testing.T) {
	b := newBed(t, small())
	other := b.again(t)
	ends := map[string]func(ref driver.Ref){
		"complete": func(ref driver.Ref) { complete(t, other, ref, "x") },
		"release": func(ref driver.Ref) {
			must(t, other.Release(t.Context(), ref, driver.Release{Retention: retention}))
		},
		"abandon": func(ref driver.Ref) { must(t, other.Abandon(t.Context(), ref)) },
		"CompleteTx": func(ref driver.Ref) {
			tx, err := b.DB().Begin()
			must(t, err)
			_, err = b.CompleteTx(t.Context(), tx, ref, completion("x"))
			must(t, err)
			must(t, tx.Commit())
		},
		"takeover": func(ref driver.Ref) {
			must(t, other.Abandon(t.Context(), ref))
			next := request("takeover0")
			next.Retry = true
			grant(t, other, next)
		},
		"lapse": func(driver.Ref) { b.clock.Advance(lease) },
	}
	for name, end := range ends {
		const n = 5
		var refs []driver.Ref
		for i := range n {
			refs = append(refs, grant(t, b, request(fmt.Sprint(name, i))))
		}
		woken := make(chan error, n)
		for range n {
			go func() { woken <- b.Wait(soon(t, 30*time.Second), refs[0]) }()
		}
		still := make(chan error, 1)
		ctx, stop := context.WithCancel(t.Context())
		held := request(name + "still")
		held.Lease = 1000 * lease
		go func() { still <- b.Wait(ctx, grant(t, other, held)) }()
		eventually(t, "waiters", func() bool { return b.Watching() == n+1 })
		end(refs[0])
		for range n {
			want(t, <-woken, nil, "Wait for "+name)
		}
		select {
		case err := <-still:
			t.Errorf("%s: Wait for a claim that goes on: %v", name, err)
		default:
		}
		stop()
		want(t, <-still, context.Canceled, "Wait that was given up")
	}
}

// However many wait, one goroutine looks, and none once nobody waits; a thousand who
// wait do not hold up others. Trap 34.
func TestTrap34OneLooksForAll(t *testing.T) {
	b := newBed(t, small())
	const n = 1000
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, n)
	for i := range n {
		ref := grant(t, b, request(fmt.Sprint(i%200)+"-"+fmt.Sprint(i)))
		go func() { ended <- b.Wait(ctx, ref) }()
	}
	eventually(t, "waiters", func() bool { return b.Watching() == n })
	began := time.Now()
	complete(t, b, grant(t, b, request("another")), "x")
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("with %d who wait a claim and its completion took %v", n, d)
	}
	if got := pollers(); got != 1 {
		t.Errorf("%d goroutines look", got)
	}
	stop()
	for range n {
		want(t, <-ended, context.Canceled, "Wait")
	}
	eventually(t, "end of the poller", func() bool { return pollers() == 0 })
	// It begins again with the next.
	ref := grant(t, b, request("again"))
	go func() { ended <- b.Wait(t.Context(), ref) }()
	eventually(t, "waiter", func() bool { return b.Watching() == 1 })
	complete(t, b.again(t), ref, "x")
	want(t, <-ended, nil, "Wait")
}

func pollers() int {
	buf := make([]byte, 16<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "sqlitestore.(*waits).poll(")
}

// Who waits is told at once of what this store ends, without the poller.
func TestWhoWaitsIsToldAtOnce(t *testing.T) {
	o := small()
	o.PollEvery = time.Hour
	b := newBed(t, o)
	told := make(chan error, 1)
	for name, end := range map[string]func(ref driver.Ref){
		"complete": func(ref driver.Ref) { complete(t, b, ref, "x") },
		"release": func(ref driver.Ref) {
			must(t, b.Release(t.Context(), ref, driver.Release{Retention: retention}))
		},
		"abandon": func(ref driver.Ref) { must(t, b.Abandon(t.Context(), ref)) },
		"resolve": func(ref driver.Ref) {
			_, err := b.Resolve(t.Context(), ref.Key, driver.Resolution{Action: driver.ResolveRelease, Force: true, Retention: retention, Tombstone: tombstone})
			must(t, err)
		},
	} {
		ref := grant(t, b, request(name))
		go func() { told <- b.Wait(soon(t, 30*time.Second), ref) }()
		eventually(t, "waiter", func() bool { return b.Watching() == 1 })
		end(ref)
		want(t, <-told, nil, "Wait for "+name)
		eventually(t, "end of the waiting", func() bool { return b.Watching() == 0 })
	}
}
