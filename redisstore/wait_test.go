package redisstore_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/redisstore"
)

func unpolled() redisstore.Options {
	o := small()
	o.PollEvery = time.Hour
	return o
}

func polled() redisstore.Options {
	o := small()
	o.PollEvery = 50 * time.Millisecond
	return o
}

// waiting starts Wait, and returns when the server knows that somebody waits.
func waiting(t *testing.T, s *bed, ref driver.Ref) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- s.Wait(t.Context(), ref) }()
	eventually(t, 10*time.Second, func() error {
		head, err := do(t, s.client, "GETRANGE", recordKey(s, ref.Key), "2", "2").ToString()
		must(t, err)
		if head[0]&8 == 0 {
			return fmt.Errorf("the record's flags are %d", head[0])
		}
		return nil
	})
	return ended
}

func subscribed(t *testing.T, s *bed, want int64) {
	t.Helper()
	channel := s.opts.Prefix + "ended"
	eventually(t, 10*time.Second, func() error {
		a, err := do(t, s.client, "PUBSUB", "NUMSUB", channel).ToArray()
		must(t, err)
		if n, err := a[1].AsInt64(); err != nil || n != want {
			return fmt.Errorf("%d subscriptions, %w", n, err)
		}
		return nil
	})
}

func within(t *testing.T, d time.Duration, ended <-chan error, what string) {
	t.Helper()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Wait for %s: %v", what, err)
		}
	case <-time.After(d):
		t.Fatalf("Wait for %s did not end", what)
	}
}

// The end of a claim is notified: nobody polls here.
func TestWaitersAreNotified(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	owner := newBed(t, connect(t, server.DSN()), unpolled())
	waiter := openBed(t, connect(t, server.DSN()), owner.opts)
	ends := map[string]func(driver.ClaimRequest, driver.Ref) error{
		"complete": func(req driver.ClaimRequest, ref driver.Ref) error {
			_, err := owner.Complete(t.Context(), ref, completion(req, "r"))
			return err
		},
		"release": func(_ driver.ClaimRequest, ref driver.Ref) error {
			return owner.Release(t.Context(), ref, driver.Release{Answered: true, Retention: time.Hour})
		},
		"abandon": func(_ driver.ClaimRequest, ref driver.Ref) error { return owner.Abandon(t.Context(), ref) },
		"resolve": func(_ driver.ClaimRequest, ref driver.Ref) error {
			_, err := owner.Resolve(t.Context(), ref.Key, driver.Resolution{
				Action: driver.ResolveRelease, Force: true, Retention: time.Hour, Tombstone: time.Hour,
			})
			return err
		},
	}
	for name, end := range ends {
		req := request(name)
		ref := grant(t, owner, req)
		ended := waiting(t, waiter, ref)
		subscribed(t, waiter, 1)
		select {
		case err := <-ended:
			t.Fatalf("%s: Wait ended early: %v", name, err)
		default:
		}
		must(t, end(req, ref))
		within(t, 10*time.Second, ended, name)
	}
	// The end of a lease needs no notification.
	short := request("short")
	short.Lease = 200 * time.Millisecond
	within(t, 10*time.Second, waiting(t, waiter, grant(t, owner, short)), "the end of the lease")
}

// Trap 65: the notification is lost, because the subscription is, or because the
// user may neither publish nor subscribe: the waiter still gets there, by polling.
func TestTrap65TheNotificationIsLost(t *testing.T) {
	server := own(t, nil)
	if server == nil {
		return
	}
	admin := connect(t, server.DSN())
	do(t, admin, "ACL", "SETUSER", "mute", "on", ">hunter2", "~*", "resetchannels", "+@all")
	dsn := "redis://mute:hunter2@" + server.Addr()
	b := newBed(t, admin, polled())
	s := openBed(t, connect(t, dsn), b.opts)
	for i := range 3 {
		req := request(fmt.Sprint(i))
		ref := grant(t, s, req)
		ended := waiting(t, s, ref)
		complete(t, s, ref, completion(req, "r"))
		within(t, 10*time.Second, ended, "what is polled")
	}
	subscribed(t, b, 0)
}

// A subscription that was cut is made again, and everybody looks.
func TestTheSubscriptionIsMadeAgain(t *testing.T) {
	server := own(t, nil)
	if server == nil {
		return
	}
	s := newBed(t, connect(t, server.DSN()), unpolled())
	quiet := openBed(t, connect(t, server.DSN()), s.opts)
	req := request("k")
	ref := grant(t, quiet, req)
	ended := waiting(t, s, ref)
	subscribed(t, s, 1)
	for round := range 5 {
		for _, kind := range []string{"pubsub", "normal"} {
			do(t, quiet.client, "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
		}
		subscribed(t, s, 1)
		// While a claim is open Wait goes on.
		select {
		case err := <-ended:
			t.Fatalf("round %d: Wait ended: %v", round, err)
		default:
		}
	}
	complete(t, quiet, ref, completion(req, "r"))
	within(t, 10*time.Second, ended, "the end")
}

// Many who wait share one subscription, and few connections.
func TestManyWaitOnOneSubscription(t *testing.T) {
	server := own(t, nil)
	if server == nil {
		return
	}
	s := newBed(t, connect(t, server.DSN()), unpolled())
	var refs []driver.Ref
	for i := range 20 {
		refs = append(refs, grant(t, s, request(fmt.Sprint(i))))
	}
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			if err := s.Wait(t.Context(), refs[i%len(refs)]); err != nil {
				t.Error(err)
			}
		})
	}
	subscribed(t, s, 1)
	clients, err := do(t, s.client, "CLIENT", "LIST").ToString()
	must(t, err)
	n := 0
	for _, c := range clients {
		if c == '\n' {
			n++
		}
	}
	if n > 10 {
		t.Errorf("%d connections", n)
	}
	for i, ref := range refs {
		// What ends before it is watched is seen at the first look.
		complete(t, s, ref, completion(request(fmt.Sprint(i)), "r"))
	}
	wg.Wait()
}

// RESP2, for what knows no other, has its notifications too.
func TestRESP2(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	s := newBed(t, connect(t, with(t, server.DSN(), "protocol", "2")), unpolled())
	req := request("k")
	ref := grant(t, s, req)
	ended := waiting(t, s, ref)
	subscribed(t, s, 1)
	complete(t, s, ref, completion(req, "r"))
	within(t, 10*time.Second, ended, "the end")
	if rec := state(t, s, req.Key, driver.StateCompleted); string(rec.Result.Body) != "r" {
		t.Errorf("the result is %q", rec.Result.Body)
	}
	st, err := s.Stats(t.Context())
	must(t, err)
	page, err := s.List(t.Context(), driver.Query{Limit: 10})
	must(t, err)
	if st.Completed != 1 || len(page.Records) != 1 {
		t.Errorf("counted %+v, listed %d", st, len(page.Records))
	}
}

// Close ends everything that the store has begun, whatever the server does.
func TestCloseEndsEverything(t *testing.T) {
	server := own(t, nil)
	if server == nil {
		return
	}
	client := connect(t, with(t, server.DSN(), "timeout", "2s"))
	o := unpolled()
	o.SweepEvery = time.Millisecond
	s := newBed(t, client, o)
	ref := grant(t, s, request("k"))
	ended := waiting(t, s, ref)
	must(t, server.Pause())
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for range 10 {
		if _, err := s.Lookup(ctx, ref.Key); err == nil {
			t.Error("a server that is stopped answers")
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	within(t, 15*time.Second, closed, "Close")
	wantErr(t, <-ended, driver.ErrClosed, "Wait")
	must(t, server.Resume())
	if err := client.Do(t.Context(), client.B().Ping().Build()).Error(); err != nil && !rueidis.IsRedisNil(err) {
		t.Errorf("the client is the caller's, and still open: %v", err)
	}
}

// An end that is published while the subscription is broken is seen once it is
// made again.
func TestAnEndWhileNobodyListens(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	s, p, direct := throughCut(t, server, unpolled())
	req := request("k")
	ref := grant(t, direct, req)
	ended := make(chan error, 1)
	go func() { ended <- s.Wait(t.Context(), ref) }()
	subscribed(t, direct, 1)
	must(t, p.Refuse(true))
	subscribed(t, direct, 0)
	complete(t, direct, ref, completion(req, "r"))
	select {
	case err := <-ended:
		t.Fatalf("Wait ended with nobody to tell it: %v", err)
	default:
	}
	must(t, p.Refuse(false))
	within(t, 20*time.Second, ended, "the end")
}
