package natsstore_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/natsstore"
)

// waits starts n who wait as callers do, and returns what they got.
func waits(ctx context.Context, s *natsstore.Store, ref driver.Ref, n int) <-chan error {
	ended := make(chan error, n)
	for range n {
		go func() {
			for {
				err := s.Wait(ctx, ref)
				if err != nil {
					ended <- err
					return
				}
				if rec, err := s.Lookup(ctx, ref.Key); err != nil || rec.State != driver.StateInFlight || rec.Token != ref.Token {
					ended <- err
					return
				}
			}
		}()
	}
	return ended
}

// Whoever waits in another process hears of the end from the server, long
// before it would have looked by itself.
func TestWaitersAreToldByTheServer(t *testing.T) {
	b := newBed(t, quiet())
	o := b.opts
	o.PollEvery = time.Hour
	other := opened(t, shared.DSN()+"/"+b.opts.Bucket, &o)
	ends := map[string]func(req driver.ClaimRequest, ref driver.Ref) error{
		"complete": func(req driver.ClaimRequest, ref driver.Ref) error {
			_, err := b.Complete(t.Context(), ref, completion(req, "r"))
			return err
		},
		"release": func(_ driver.ClaimRequest, ref driver.Ref) error {
			return b.Release(t.Context(), ref, driver.Release{Retention: time.Hour})
		},
		"abandon": func(_ driver.ClaimRequest, ref driver.Ref) error { return b.Abandon(t.Context(), ref) },
	}
	for name, end := range ends {
		req := request(name)
		ref := grant(t, b, req)
		ended := waits(t.Context(), other, ref, 3)
		eventually(t, "the wait has begun", func(context.Context) bool { return other.Watches() == 1 })
		wantErr(t, b.Renew(t.Context(), ref, time.Minute), nil, "Renew")
		select {
		case err := <-ended:
			t.Fatalf("a renewal ended the wait: %v", err)
		default:
		}
		if err := end(req, ref); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			select {
			case err := <-ended:
				wantErr(t, err, nil, "Wait")
			case <-time.After(20 * time.Second):
				t.Fatalf("nobody was told of: %s", name)
			}
		}
		eventually(t, "nobody watches any more", func(context.Context) bool { return other.Watches() == 0 })
	}
	if n := other.Watches(); n != 0 {
		t.Errorf("%d keys are still watched", n)
	}
}

// A notification that is lost costs a moment: here the server sends none.
func TestTrap65NothingIsHeard(t *testing.T) {
	b := newBed(t, quiet())
	js, err := jetstream.New(b.nc)
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(t.Context(), "KV_"+b.opts.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	c := st.CachedInfo().Config
	c.RePublish = nil
	if _, err := js.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	o := b.opts
	o.PollEvery = 50 * time.Millisecond
	other := opened(t, shared.DSN()+"/"+b.opts.Bucket, &o)
	req := request("k")
	ref := grant(t, b, req)
	ended := waits(t.Context(), other, ref, 1)
	eventually(t, "the wait has begun", func(context.Context) bool { return other.Watches() == 1 })
	complete(t, b, ref, completion(req, "r"))
	select {
	case err := <-ended:
		wantErr(t, err, nil, "Wait")
	case <-time.After(20 * time.Second):
		t.Fatal("whoever waits never looks by itself")
	}
}

// A waiter whose claim was granted after the last look is not told of the end of
// the one before, over and over.
func TestAWaiterTrustsNoOlderLook(t *testing.T) {
	b := newBed(t, quiet())
	o := b.opts
	o.PollEvery = time.Hour
	other := opened(t, shared.DSN()+"/"+b.opts.Bucket, &o)
	first := grant(t, b, request("k"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := waits(ctx, other, first, 1)
	eventually(t, "the wait has begun", func(context.Context) bool { return other.Watches() == 1 })
	wantErr(t, b.Release(t.Context(), first, driver.Release{Retention: time.Hour}), nil, "Release")
	second := grant(t, b, request("k"))
	short, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stop()
	early := 0
	var err error
	for err == nil && early < 1000 {
		err = other.Wait(short, second)
		early++
	}
	if !errors.Is(err, context.DeadlineExceeded) || early > 5 {
		t.Errorf("Wait returned early %d times: %v", early, err)
	}
	<-ended
}

// Trap 34: a thousand who wait for one key are one to the server, and others are
// not slowed.
func TestTrap34AThousandWait(t *testing.T) {
	b := newBed(t, quiet())
	req := request("k")
	ref := grant(t, b, req)
	before := runtime.NumGoroutine()
	ended := waits(t.Context(), b.Store, ref, 1000)
	eventually(t, "the wait has begun", func(context.Context) bool { return b.Watches() == 1 && runtime.NumGoroutine() > before+1000 })
	sent := b.nc.Stats().OutMsgs
	for i := range 100 {
		other := request(fmt.Sprint(i))
		complete(t, b, grant(t, b, other), completion(other, "r"))
	}
	if n := b.nc.Stats().OutMsgs - sent; n > 230 {
		t.Errorf("100 claims and completions beside a thousand who wait took %d messages", n)
	}
	complete(t, b, ref, completion(req, "r"))
	for range 1000 {
		wantErr(t, <-ended, nil, "Wait")
	}
}

// Close ends whatever waits, and leaves no goroutine.
func TestCloseLeavesNothing(t *testing.T) {
	b := newBed(t, quiet())
	o := b.opts
	o.SweepEvery = 10 * time.Millisecond
	eventually(t, "all is quiet", func(context.Context) bool { return runtime.NumGoroutine() < 1<<20 })
	before := runtime.NumGoroutine()
	for range 20 {
		s, err := natsstore.New(t.Context(), b.nc, &o)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 5 {
			ref := grant(t, s, request(fmt.Sprint(time.Now(), i)))
			wg.Go(func() {
				for {
					if err := s.Wait(context.Background(), ref); err != nil {
						if !errors.Is(err, driver.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "the goroutines have ended", func(context.Context) bool { return runtime.NumGoroutine() <= before+5 })
}
