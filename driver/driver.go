// Package driver is the contract between idem and a store.
//
// Applications do not use it directly: they open a store and give it to
// [github.com/idem-go/idem.New]. It is for those who write a store. A store
// is right when the suite in package drivertest passes on it.
//
// # What a store keeps
//
// A store keeps one [Record] for each [Key]. Six methods change or read it,
// and each of them is atomic for its key: two calls on one key behave as if
// one had ended before the other began, whatever process they come from.
//
// # Time
//
// Durations go in and durations come out. A store decides about leases by a
// clock of its own (its process's monotonic clock, its server's clock) and
// never by a time that a caller sent. A lease is over exactly when its
// duration has passed, not later: a record whose lease has ended reads as
// [StateUnknown] from that instant on, whether or not anything has swept it.
//
// # Calls that are repeated
//
// Any call may be repeated because its answer was lost. [Store.Claim] is
// recognised by its [Nonce], the other writes by their token: the repeat
// changes nothing and gives the first answer again.
//
// # Contexts
//
// A call whose context is already cancelled changes nothing and returns the
// context's error. A call whose context ends while it runs may or may not have
// taken effect; its caller repeats it.
//
// # Who owns the bytes
//
// A store does not keep a reference to the slices of a [Completion] after
// Complete has returned, nor does it change them. The slices of a [Record] that a store
// returns belong to nobody: neither the caller nor the store may change them
// afterwards, so a store may return the same bytes to many callers.
package driver

import (
	"context"
	"time"
)

// Store keeps records. All methods may be called from many goroutines at once.
//
// What the writes of an owner do, by the state of the record. "Newest" says
// that the token of the call is the one of the last claim granted for the key;
// every write with another token returns [ErrLost] and changes nothing.
//
//	state, token newest            Renew         Complete            Release       Abandon
//	in-flight                      ok            ok                  ok            ok, unknown
//	unknown, the lease ended       ErrLapsed     ok, late            ErrLapsed     ok, stays unknown
//	unknown, abandoned             ErrLapsed     ok, late            ErrLapsed     ok, a repeat
//	completed                      ErrCompleted  repeat, or          ErrCompleted  ErrCompleted
//	                                             ErrCompleted
//	forgotten                      ErrCompleted  ok, a repeat        ErrCompleted  ErrCompleted
//	absent, released by its owner  ErrLost       ErrLost             ok, a repeat  ErrLost
//	absent, released by Resolve    ErrLost       ok, late            ok, a repeat  ErrLost
//	absent, nothing known          ErrLost       ErrLost             ErrLost       ErrLost
//
// Completing a completed record again is a repeat when the result (its bytes
// and whether it was dropped) is the same, and ErrCompleted otherwise.
type Store interface {
	// Claim asks for the right to run the operation. The claim is granted, with
	// a token larger than any granted for the key before, when the record is
	//
	//   - absent, unless Waited says otherwise (see [ClaimRequest.Waited]), or
	//   - unknown, when Retry is set and the request's fingerprint equals the
	//     record's, or
	//   - in-flight, or unknown because the lease ended, by the very nonce of
	//     this request: the claim was granted before and its answer was lost.
	//     Token and attempt are those granted then; the lease begins anew.
	//
	// Otherwise nothing is changed and the reply holds the record as it is,
	// with its result when it is completed. The record's fingerprint is returned
	// and not compared: the comparison is the caller's.
	//
	// A grant is durable, as far as the store is, before Claim returns.
	// A nonce whose claim has been released by its owner is not granted again:
	// ErrLost. ErrFull says that the store's bounds (unknowns, records, bytes)
	// leave no room for another claim.
	Claim(ctx context.Context, req ClaimRequest) (ClaimReply, error)

	// Renew makes the lease of an in-flight claim last for the given duration
	// from now.
	Renew(ctx context.Context, ref Ref, lease time.Duration) error

	// Complete ends a claim with its result. The result is durable, as far as
	// the store is, before Complete returns. Late reports that the claim was
	// no longer in-flight: its lease had ended, it had been abandoned, or an
	// operator had released the key, and nobody else was granted it since.
	//
	// A result larger than the store takes is refused with ErrTooLarge before
	// anything is changed; the caller completes again with Dropped set.
	Complete(ctx context.Context, ref Ref, c Completion) (late bool, err error)

	// Release ends an in-flight claim without a result: the operation was not
	// done. The record becomes absent; the attempt count and what r says of
	// the release are kept for r.Retention.
	Release(ctx context.Context, ref Ref, r Release) error

	// Abandon ends a claim whose owner cannot know the outcome: the record
	// becomes unknown at once, without waiting for the lease.
	Abandon(ctx context.Context, ref Ref) error

	// Lookup returns the record of a key as it is now, with its result when it
	// is completed. A key that nothing is known of gives a Record in
	// StateAbsent, and no error.
	Lookup(ctx context.Context, key Key) (Record, error)
}

// ClaimRequest asks for a claim.
type ClaimRequest struct {
	Key Key
	// Scope and ID are the readable parts of the key, kept for operators.
	Scope, ID string
	// Fingerprint is kept with the record; a release forgets it.
	Fingerprint Fingerprint
	// Nonce names this claim: its maker chooses it at random, and repeats it
	// only to ask again for a claim whose answer was lost.
	Nonce Nonce
	// Lease is how long the claim lasts unless it is renewed; more than zero.
	Lease time.Duration
	// Tombstone is how long the record is kept once its outcome is unknown;
	// more than zero. What remains is absent afterwards.
	Tombstone time.Duration
	// Retry grants a claim over an unknown outcome, with the attempt counted.
	Retry bool
	// Waited is the token of a claim that the caller has waited for, 0 for
	// none. If the record is absent because that claim, or a later one, was
	// released with an answer, the claim is not granted: the reply is an absent
	// record with Answered set.
	Waited uint64
}

// ClaimReply answers a claim.
type ClaimReply struct {
	// Granted says that the claim is the caller's. Token and Attempt of the
	// record are then those of the claim.
	Granted bool
	// Record is the record as it stands after the call.
	Record Record
}

// Ref names a granted claim in the writes of its owner.
type Ref struct {
	Key   Key
	Token uint64
}

// Completion is what Complete writes.
type Completion struct {
	// Result is what the operation gave.
	Result Result
	// Dropped says that the result could not be kept (too large, or it could
	// not be encoded): the record is completed without it. Result is empty then.
	Dropped bool
	// Scope, ID and Fingerprint are those of the claim. They are written anew
	// when an operator has released the key in between.
	Scope, ID   string
	Fingerprint Fingerprint
	// Retention is how long the result is kept from now on; Tombstone, how long
	// the key is remembered after that. Both more than zero.
	Retention, Tombstone time.Duration
}

// Release says how a claim was released.
type Release struct {
	// Answered says that the owner had an answer to give (a 503 of the service,
	// say): whoever waited for this claim does not run in its turn.
	Answered bool
	// Unused says that the work was never begun under this claim, because its
	// owner did not learn in time that it was granted: it is not counted as an
	// attempt.
	Unused bool
	// Retention is how long the attempt count is kept; more than zero.
	Retention time.Duration
}

// State is the state of a record.
type State uint8

// The states of a record. Their numbers are stored; they do not change.
const (
	// StateAbsent: the operation may be claimed.
	StateAbsent State = 0
	// StateInFlight: one live owner has claimed it.
	StateInFlight State = 1
	// StateCompleted: it was done, and its result is here.
	StateCompleted State = 2
	// StateUnknown: its owner vanished, or said that it cannot know.
	StateUnknown State = 3
	// StateForgotten: it was done, and its result has been dropped.
	StateForgotten State = 4
)

// String returns the state's name as logs, metrics and the admin interface
// show it.
func (s State) String() string {
	switch s {
	case StateAbsent:
		return "absent"
	case StateInFlight:
		return "in-flight"
	case StateCompleted:
		return "completed"
	case StateUnknown:
		return "unknown"
	case StateForgotten:
		return "forgotten"
	}
	return "invalid"
}

// Record is what a store knows of a key.
type Record struct {
	Key Key
	// Scope and ID are the key's readable parts. A tombstone, and an absent
	// record, may have lost them.
	Scope, ID string
	State     State
	// Token is that of the last claim granted, 0 if none is known.
	Token uint64
	// Attempt counts the claims granted, those released included but for unused
	// ones; 0 for none.
	Attempt int
	// Fingerprint is that of the last claim; zero for absent records and
	// tombstones.
	Fingerprint Fingerprint
	// Age is how long ago the claim was granted; for a completed record, how
	// long ago it was completed; for a tombstone, how long ago its result was
	// dropped, or 0 where that is not known.
	Age time.Duration
	// Left is what remains: of the lease, when in-flight; until the result is
	// forgotten, when completed; until the key is absent, when unknown or
	// forgotten. It is more than zero in each of these states.
	Left time.Duration
	// Answered says, of an absent record, that its last claim was released
	// with an answer.
	Answered bool
	// Dropped says, of a completed record, that its result was not kept.
	Dropped bool
	// Result is set when the record is completed and its result was kept.
	Result Result
	// Note is what was said at the last Resolve, for operators; may be empty.
	Note string
}

// Result is what an operation gave. A store does not look into it.
type Result struct {
	// Meta describes the body: a status and headers, the type of a value.
	Meta []byte
	// Body is the payload.
	Body []byte
}

// Size is the number of bytes that count against a store's limit.
func (r Result) Size() int { return len(r.Meta) + len(r.Body) }

// Info says what a store is.
type Info struct {
	// Name is the store's short name, such as "memory" or "file".
	Name string
	// Durable says that what was acknowledged survives a crash of the process
	// and of the machine.
	Durable bool
	// Shared says that many processes may use the records at once.
	Shared bool
	// Transactional says that a record can commit together with the
	// application's own rows.
	Transactional bool
	// MaxResult is the largest Result.Size that is kept, in bytes; 0 for no
	// limit of the store's own.
	MaxResult int
}
