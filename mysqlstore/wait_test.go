package mysqlstore_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/mysqlstore"
)

// Trap 65: nobody notifies who waits for a claim that ends in another process,
// and polling finds it.
func TestTrap65APollTells(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{})
	other := b.reopen(t, s.opts)
	ends := map[string]func(ref driver.Ref, req driver.ClaimRequest) error{
		"complete": func(ref driver.Ref, req driver.ClaimRequest) error {
			_, err := other.Complete(t.Context(), ref, completionOf(req, "", "r"))
			return err
		},
		"release": func(ref driver.Ref, _ driver.ClaimRequest) error {
			return other.Release(t.Context(), ref, driver.Release{Retention: time.Hour})
		},
		"abandon": func(ref driver.Ref, _ driver.ClaimRequest) error { return other.Abandon(t.Context(), ref) },
		"the end of its lease": func(ref driver.Ref, _ driver.ClaimRequest) error {
			return other.Renew(t.Context(), ref, time.Millisecond)
		},
		"its row is gone": func(driver.Ref, driver.ClaimRequest) error {
			_, err := b.db.ExecContext(t.Context(), "DELETE FROM "+s.prefix+"records")
			return err
		},
		"a row that cannot be read": func(driver.Ref, driver.ClaimRequest) error {
			_, err := b.db.ExecContext(t.Context(), "UPDATE "+s.prefix+"records SET format = 7")
			return err
		},
	}
	for name, end := range ends {
		req := claimOf("s", name)
		ref := grant(t, s, req)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		told := make(chan error, 1)
		go func() { told <- s.Wait(ctx, ref) }()
		eventually(t, "waiting", func() bool { return s.Waiting() == 1 })
		if err := end(ref, req); err != nil {
			t.Fatal(err)
		}
		if err := <-told; err != nil {
			t.Errorf("%s: Wait: %v", name, err)
		}
		cancel()
	}
}

// Trap 34: a thousand who wait cost one query at a time, and no connection each;
// the store's other calls are not slowed.
func TestTrap34AThousandWait(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	few := b.with(t, "max-conns=3")
	s := few.open(t, mysqlstore.Options{PollEvery: 20 * time.Millisecond})
	const n, keys = 1000, 700 // more keys than one query asks for
	refs := make([]driver.Ref, keys)
	reqs := make([]driver.ClaimRequest, keys)
	for i := range refs {
		reqs[i] = claimOf("s", fmt.Sprint(i))
		refs[i] = grant(t, s, reqs[i])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := s.Wait(ctx, refs[i%keys]); err != nil {
				t.Errorf("Wait: %v", err)
			}
		})
	}
	eventually(t, "waiting", func() bool { return s.Waiting() == n })
	queries := counted(t, b.db, func() {
		began := time.Now()
		for i := range 20 {
			lookup(t, s, refs[i].Key, driver.StateInFlight)
		}
		eventually(t, "half a second", func() bool { return time.Since(began) > 500*time.Millisecond })
	})
	// 20 look-ups, and two queries each time that is polled, 25 times at the most.
	if queries > 20+2*26+20 {
		t.Errorf("%d queries while %d waited", queries, n)
	}
	// All end elsewhere, at once.
	b.exec(t, "UPDATE "+s.prefix+"records SET due = since + 1")
	wg.Wait()
	if left := s.Waiting(); left != 0 {
		t.Errorf("%d are still waiting", left)
	}
}

// Who waits in this store is told at once, whatever the pauses between polls are.
func TestToldAtOnce(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	s := b.open(t, mysqlstore.Options{PollEvery: time.Hour})
	ends := map[string]func(ref driver.Ref, req driver.ClaimRequest) error{
		"complete": func(ref driver.Ref, req driver.ClaimRequest) error {
			_, err := s.Complete(t.Context(), ref, completionOf(req, "", "r"))
			return err
		},
		"release": func(ref driver.Ref, _ driver.ClaimRequest) error {
			return s.Release(t.Context(), ref, driver.Release{Retention: time.Hour})
		},
		"abandon": func(ref driver.Ref, _ driver.ClaimRequest) error { return s.Abandon(t.Context(), ref) },
		"resolve": func(ref driver.Ref, _ driver.ClaimRequest) error {
			_, err := s.Resolve(t.Context(), ref.Key, driver.Resolution{Action: driver.ResolveRelease, Force: true, Retention: time.Hour, Tombstone: time.Hour})
			return err
		},
	}
	for name, end := range ends {
		req := claimOf("s", name)
		ref := grant(t, s, req)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		told := make(chan error, 1)
		go func() { told <- s.Wait(ctx, ref) }()
		eventually(t, "waiting", func() bool { return s.Waiting() == 1 })
		if err := end(ref, req); err != nil {
			t.Fatal(err)
		}
		if err := <-told; err != nil {
			t.Errorf("%s: Wait: %v", name, err)
		}
		cancel()
	}
}

// While the server cannot be reached waiting goes on; afterwards it is told.
func TestAPollThatFails(t *testing.T) {
	b := mariadb(t)
	if b == nil {
		return
	}
	through, proxy := b.through(t, "max-conns=2")
	s := through.open(t, mysqlstore.Options{})
	direct := b.reopen(t, s.opts)
	req := claimOf("s", "k")
	ref := grant(t, s, req)
	told := make(chan error, 1)
	go func() { told <- s.Wait(t.Context(), ref) }()
	eventually(t, "waiting", func() bool { return s.Waiting() == 1 })
	if err := proxy.Refuse(true); err != nil {
		t.Fatal(err)
	}
	complete(t, direct, ref, completionOf(req, "", "r"))
	select {
	case err := <-told:
		t.Errorf("Wait: %v, without the server", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := proxy.Refuse(false); err != nil {
		t.Fatal(err)
	}
	if err := <-told; err != nil {
		t.Errorf("Wait: %v", err)
	}
}
