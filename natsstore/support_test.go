package natsstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
)

func request(id string) driver.ClaimRequest {
	return driver.ClaimRequest{
		Key: driver.KeyOf("scope", id), Scope: "scope", ID: id, Nonce: driver.NewNonce(),
		Fingerprint: driver.Fingerprint{Rule: 1}, Lease: time.Minute, Tombstone: time.Hour,
	}
}

func completion(req driver.ClaimRequest, body string) driver.Completion {
	return driver.Completion{
		Result: driver.Result{Meta: []byte("200"), Body: []byte(body)}, Scope: req.Scope, ID: req.ID,
		Fingerprint: req.Fingerprint, Retention: time.Hour, Tombstone: time.Hour,
	}
}

func grant(t testing.TB, s driver.Store, req driver.ClaimRequest) driver.Ref {
	t.Helper()
	reply, err := s.Claim(context.Background(), req)
	if err != nil || !reply.Granted {
		t.Fatalf("Claim: granted %v, %v, %v", reply.Granted, reply.Record.State, err)
	}
	return driver.Ref{Key: req.Key, Token: reply.Record.Token}
}

func complete(t testing.TB, s driver.Store, ref driver.Ref, c driver.Completion) {
	t.Helper()
	if late, err := s.Complete(context.Background(), ref, c); err != nil || late {
		t.Fatalf("Complete: late %v, %v", late, err)
	}
}

func stateOf(t testing.TB, s driver.Store, key driver.Key, want driver.State) driver.Record {
	t.Helper()
	rec, err := s.Lookup(context.Background(), key)
	if err != nil || rec.State != want {
		t.Fatalf("the record is %v (token %d, left %v), %v; it should be %v", rec.State, rec.Token, rec.Left, err, want)
	}
	return rec
}

func wantErr(t testing.TB, got, want error, what string) {
	t.Helper()
	if want == nil && got != nil || !errors.Is(got, want) {
		t.Fatalf("%s: %v; it should give %v", what, got, want)
	}
}
