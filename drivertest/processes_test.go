//go:build unix

package drivertest

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

func TestMain(m *testing.M) {
	ServeChild(func(arg string) (driver.Store, func(), error) {
		if arg == "none" {
			return nil, nil, errors.New("no such store")
		}
		s := memstore.New(&memstore.Options{MaxResult: 10})
		return s, func() { _ = s.Close() }, nil
	})
	os.Exit(m.Run())
}

// A call means the same in another process as here: its answers, its errors,
// and the end of its context.
func TestProcessesKeepTheContract(t *testing.T) {
	s := Processes(t, 1, "")
	ctx := t.Context()
	req := request("k")
	reply, err := s.Claim(ctx, req)
	if err != nil || !reply.Granted || reply.Record.Fingerprint != req.Fingerprint || reply.Record.Left != lease {
		t.Fatalf("Claim: %+v %v", reply, err)
	}
	ref := driver.Ref{Key: req.Key, Token: reply.Record.Token}
	if err := s.Renew(ctx, ref, lease); err != nil {
		t.Error(err)
	}
	if err := s.Renew(ctx, driver.Ref{Key: req.Key, Token: ref.Token + 1}, lease); !errors.Is(err, driver.ErrLost) {
		t.Errorf("Renew with another token: %v", err)
	}
	if _, err := s.Complete(ctx, ref, completion(req, "meta", "far too much")); !errors.Is(err, driver.ErrTooLarge) {
		t.Errorf("Complete over the limit: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if err := s.Wait(short, ref); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v", err)
	}
	if _, err := s.Lookup(short, req.Key); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lookup with a context that has ended: %v", err)
	}
	if err := s.Release(ctx, ref, driver.Release{Answered: true, Retention: retention}); err != nil {
		t.Error(err)
	}
	if err := s.Abandon(ctx, ref); !errors.Is(err, driver.ErrLost) {
		t.Errorf("Abandon of what was released: %v", err)
	}
	if rec, err := s.Lookup(ctx, req.Key); err != nil || rec.State != driver.StateAbsent || !rec.Answered || rec.Attempt != 1 {
		t.Errorf("Lookup: %+v %v", rec, err)
	}
}

// Each process has what is its own, so calls do go to several; one that is
// killed gives errors and can be replaced.
func TestProcessesAreSeveral(t *testing.T) {
	s := Processes(t, 2, "")
	ctx := t.Context()
	for range 2 {
		if reply, err := s.Claim(ctx, request("k")); err != nil || !reply.Granted {
			t.Errorf("each process has a store in its own memory: %+v %v", reply, err)
		}
	}
	if reply, err := s.Claim(ctx, request("k")); err != nil || reply.Granted {
		t.Errorf("the first process again: %+v %v", reply, err)
	}
	p := s.Process(0)
	p.Pause()
	answered := make(chan error, 1)
	go func() {
		_, err := p.Lookup(ctx, driver.KeyOf("scope", "k"))
		answered <- err
	}()
	p.Resume()
	if err := <-answered; err != nil {
		t.Errorf("after a pause: %v", err)
	}
	p.Kill()
	if _, err := p.Lookup(ctx, driver.KeyOf("scope", "k")); !errors.Is(err, errProcess) {
		t.Errorf("a killed process answers: %v", err)
	}
	if rec, err := s.Restart(0).Lookup(ctx, driver.KeyOf("scope", "k")); err != nil || rec.State != driver.StateAbsent {
		t.Errorf("a new process: %+v %v", rec, err)
	}
}
