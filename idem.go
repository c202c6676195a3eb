// Package idem makes an operation safe to try again: the second try returns
// the first answer, without a second effect, and where that cannot be known it
// says so.
//
// An operation is named by a [Key] that its client chooses. A [Guard] asks a
// store for the claim to run it. Who is granted the claim runs the work and
// completes it with a [Result]; whoever asks for the same key later, or at the
// same time, gets that result and does not run.
//
//	guard := idem.New(memstore.New(nil), nil)
//	receipt, err := idem.Do(ctx, guard, idem.Request{
//		Key: idem.Key{Scope: "charges", ID: orderID},
//	}, func(ctx context.Context) (Receipt, error) {
//		return charge(ctx, orderID)
//	})
//
// For HTTP see package idemhttp; for a store of one's own, package driver.
//
// # What is promised
//
// The work takes effect at most once for each key, whatever races, retries,
// crashes or pauses, for as long as the key is remembered (retention and
// tombstone together). When the owner of a claim dies between the claim and its
// completion nobody can know whether the work was done: the outcome is unknown,
// asking again gives [ErrUnknown], and [Policy.Unknown] says who decides.
// docs/contract.md in the repository numbers these rules.
package idem

import (
	"time"

	"github.com/idem-go/idem/driver"
)

// Key names an operation. Two keys are the same only if both parts are, byte
// for byte. Each part takes up to driver.MaxName bytes.
type Key struct {
	// Scope is who asks, and for what: a tenant, a route, a consumer group. Two
	// scopes never see each other's records. It is kept readable in the store,
	// for operators: put a hash of a credential here, never the credential.
	Scope string
	// ID is the client's name for the operation, such as the value of an
	// Idempotency-Key header or a message's id. It is not empty.
	ID string
}

// Result is what an operation gave: a body, and what describes it.
type Result = driver.Result

// Fingerprint is a hash of what was asked for, and the version of the rule that
// made it.
type Fingerprint = driver.Fingerprint

// Request asks for an operation.
type Request struct {
	Key Key
	// Fingerprint tells one request under a key from another: the same key with
	// another fingerprint is [ErrReused]. Zero compares nothing with records
	// that have none, and does not match those that have one.
	Fingerprint Fingerprint
	// Rules makes the fingerprint by an older rule, for records that were
	// written with one. Nil knows no other rule; a record made by an unknown
	// one cannot be read.
	Rules Fingerprinter
	// Route names the operation for the observer: few values, never data of the
	// client's.
	Route string
	// Policy overrides the guard's for this request; nil takes the guard's. It
	// comes from [Guard.Policy], so that its defaults are filled in, and may be
	// shared between requests.
	Policy *Policy
}

// Fingerprinter makes a request's fingerprint by a given rule.
type Fingerprinter interface {
	// Sum returns the fingerprint by that rule, and false when the rule is not
	// known.
	Sum(rule uint8) (Fingerprint, bool)
}

// Begun is what [Guard.Begin] gives: exactly one of Claim, Replayed and Shared
// is set.
type Begun struct {
	// Claim is the right to run the operation now. Its holder must end it.
	Claim *Claim

	// Replayed says that the operation was done before, and Result is what it
	// gave. The bytes of Result must not be changed.
	Replayed bool
	Result   Result
	// Expires is how long from now the result is kept.
	Expires time.Duration

	// Shared is the answer that the claim this caller waited for was released
	// with: the operation was not done, and the caller does not run it in turn.
	Shared any
}
