package drivertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
)

// The durations of the tests. Each is far longer than any slack, and each is
// another, so that a store that takes one for another is noticed.
const (
	lease     = time.Minute
	retention = time.Hour
	tombstone = 24 * time.Hour
)

// env is what a rule works with: a fresh store, and calls that must succeed.
type env struct {
	testing.TB
	h   Harness
	s   driver.Store
	ctx context.Context
}

// tick is the least time by which a test stays before a boundary.
func (e *env) tick() time.Duration { return max(1, e.h.Slack) }

func (e *env) advance(d time.Duration) {
	e.Helper()
	e.h.Advance(e.TB, e.s, d)
}

// request is a claim for an id, with a nonce and a fingerprint of its own.
func request(id string) driver.ClaimRequest {
	return driver.ClaimRequest{
		Key: driver.KeyOf("scope", id), Scope: "scope", ID: id,
		Fingerprint: fingerprint("what was asked for"),
		Nonce:       driver.NewNonce(),
		Lease:       lease,
		Tombstone:   tombstone,
	}
}

func fingerprint(what string) driver.Fingerprint {
	return driver.Fingerprint{Rule: 1, Sum: driver.KeyOf("fingerprint", what)}
}

// completion is one for a request.
func completion(req driver.ClaimRequest, meta, body string) driver.Completion {
	return driver.Completion{
		Result: driver.Result{Meta: []byte(meta), Body: []byte(body)},
		Scope:  req.Scope, ID: req.ID, Fingerprint: req.Fingerprint,
		Retention: retention, Tombstone: tombstone,
	}
}

func resolution(a driver.Action) driver.Resolution {
	return driver.Resolution{Action: a, Retention: retention, Tombstone: tombstone}
}

// claim makes a claim whose call must succeed, granted or not.
func (e *env) claim(req driver.ClaimRequest) driver.ClaimReply {
	e.Helper()
	reply, err := e.s.Claim(e.ctx, req)
	if err != nil {
		e.Fatalf("Claim: %v", err)
	}
	return reply
}

// grant makes a claim that must be granted.
func (e *env) grant(req driver.ClaimRequest) driver.Ref {
	e.Helper()
	reply := e.claim(req)
	if !reply.Granted {
		e.Fatalf("Claim was not granted, the record is %s; it should be", show(reply.Record))
	}
	return driver.Ref{Key: req.Key, Token: reply.Record.Token}
}

// refuse makes a claim that must not be granted, and returns the record.
func (e *env) refuse(req driver.ClaimRequest) driver.Record {
	e.Helper()
	reply := e.claim(req)
	if reply.Granted {
		e.Fatalf("Claim was granted, with token %d; it should not be", reply.Record.Token)
	}
	return reply.Record
}

func (e *env) renew(ref driver.Ref, d time.Duration) {
	e.Helper()
	e.want(e.s.Renew(e.ctx, ref, d), nil, "Renew")
}

// complete completes a claim in time.
func (e *env) complete(ref driver.Ref, c driver.Completion) {
	e.Helper()
	late, err := e.s.Complete(e.ctx, ref, c)
	e.want(err, nil, "Complete")
	if late {
		e.Fatalf("Complete says that it was late; it was not")
	}
}

// completeLate completes a claim that is over.
func (e *env) completeLate(ref driver.Ref, c driver.Completion) {
	e.Helper()
	late, err := e.s.Complete(e.ctx, ref, c)
	e.want(err, nil, "late Complete")
	if !late {
		e.Fatalf("Complete does not say that it was late; it was")
	}
}

// completeErr completes a claim, which must give the error.
func (e *env) completeErr(ref driver.Ref, c driver.Completion, want error) {
	e.Helper()
	_, err := e.s.Complete(e.ctx, ref, c)
	e.want(err, want, "Complete")
}

func (e *env) release(ref driver.Ref, answered bool) {
	e.Helper()
	r := driver.Release{Answered: answered, Retention: retention}
	e.want(e.s.Release(e.ctx, ref, r), nil, "Release")
}

func (e *env) releaseErr(ref driver.Ref, want error) {
	e.Helper()
	e.want(e.s.Release(e.ctx, ref, driver.Release{Retention: retention}), want, "Release")
}

func (e *env) abandon(ref driver.Ref) {
	e.Helper()
	e.want(e.s.Abandon(e.ctx, ref), nil, "Abandon")
}

func (e *env) lookup(key driver.Key) driver.Record {
	e.Helper()
	rec, err := e.s.Lookup(e.ctx, key)
	if err != nil {
		e.Fatalf("Lookup: %v", err)
	}
	if rec.Key != key {
		e.Fatalf("Lookup returned the record of the key %s, not of %s", rec.Key.Short(), key.Short())
	}
	return rec
}

// state looks a key up, and it must be in the state given.
func (e *env) state(key driver.Key, want driver.State) driver.Record {
	e.Helper()
	rec := e.lookup(key)
	if rec.State != want {
		e.Fatalf("the record is %s; it should be %v", show(rec), want)
	}
	if live := want != driver.StateAbsent; live != (rec.Left > 0) {
		e.Fatalf("the record is %s; what is left of it should be more than zero in every state but absent", show(rec))
	}
	return rec
}

// resolver returns the store's, or nil where it has none.
func (e *env) resolver() driver.Resolver {
	r, _ := driver.As[driver.Resolver](e.s)
	return r
}

func (e *env) resolve(key driver.Key, r driver.Resolution) driver.Record {
	e.Helper()
	rec, err := e.resolver().Resolve(e.ctx, key, r)
	e.want(err, nil, "Resolve")
	return rec
}

// want compares errors as errors.Is does; nil wants none.
func (e *env) want(got, want error, call string) {
	e.Helper()
	switch {
	case want == nil && got != nil:
		e.Fatalf("%s: %v; it should succeed", call, got)
	case want != nil && got == nil:
		e.Fatalf("%s succeeded; it should give: %v", call, want)
	case !errors.Is(got, want):
		e.Fatalf("%s: %v; it should give: %v", call, got, want)
	}
}

// left checks what remains of a record.
func (e *env) left(rec driver.Record, want time.Duration) {
	e.Helper()
	if rec.Left > want || rec.Left < want-e.h.Slack {
		e.Fatalf("what is left of the record is %v; it should be %v", rec.Left, want)
	}
}

// age checks how old a record is.
func (e *env) age(rec driver.Record, want time.Duration) {
	e.Helper()
	if rec.Age < want || rec.Age > want+e.h.Slack {
		e.Fatalf("the age of the record is %v; it should be %v", rec.Age, want)
	}
}

// unchanged runs f, which must leave the record of a key as it is.
func (e *env) unchanged(key driver.Key, what string, f func()) {
	e.Helper()
	before := e.lookup(key)
	f()
	after := e.lookup(key)
	if d := e.differ(before, after); d != "" {
		e.Fatalf("%s changed the record: %s", what, d)
	}
}

// all runs f n times at once and waits for all to end. f must not use e to
// fail; it keeps what it got, for the test to judge.
func all(n int, f func(i int)) {
	var start, end sync.WaitGroup
	start.Add(1)
	for i := range n {
		end.Go(func() {
			start.Wait()
			f(i)
		})
	}
	start.Done()
	end.Wait()
}
