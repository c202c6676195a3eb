package driver

import (
	"context"
	"fmt"
	"time"
)

// TxStore is a store whose records commit together with rows of the
// application's, in transactions of the type Tx (a pgx.Tx, a *sql.Tx).
type TxStore[Tx any] interface {
	Store
	// DoTx begins a transaction on the store's own database, claims the key in
	// it, runs work, completes the record with what work returned, and commits:
	// claim, rows and result become visible together or not at all. A crash at
	// any moment leaves the key as it was before.
	//
	// What is granted is what [Store.Claim] grants: an absent key, or an unknown
	// one where Retry is set and the fingerprints are equal. Otherwise work is not called,
	// nothing is changed, and the reply holds the record as it is. Another's
	// open transaction on the key is waited for, at most req.Wait; past it the
	// reply's record is StateInFlight, with a Left of more than zero and little
	// else.
	//
	// A transaction that fails for a reason of the database's alone (a deadlock,
	// a serialization failure, a busy database), in a statement of work's too
	// if work returns that error, is rolled back and tried again as a whole, a
	// bounded number of times with a pause between, and work is called again.
	// When the answer of a commit is lost, the key is claimed anew: a
	// commit that is still under way is waited for, one that took effect is
	// recognised by its token and reported as Ran, and otherwise work runs again.
	// Where even that cannot be asked, the error says that the store does not answer:
	// then the transaction took effect or did not, and whoever asks again is told.
	//
	// Any other error of work rolls everything back and is returned as it is. A
	// panic of work rolls back and goes on. A result over the store's limit rolls
	// back and gives ErrTooLarge. The context given to work is ctx, or one made from
	// it; when ctx ends the transaction is rolled back, unless it is being
	// committed.
	//
	// Work must use tx for all that is to be undone with the transaction, must
	// neither commit it nor roll it back, and must not keep it.
	DoTx(ctx context.Context, req TxRequest, work TxWork[Tx]) (TxReply, error)

	// CompleteTx is [Store.Complete] in a transaction of the application's on
	// the same database: the claim was made outside of it, and the record is
	// completed when the transaction commits. A claim that was lost gives the error
	// of Complete, and the whole transaction fails: it is rolled back before
	// CompleteTx returns, so that a commit of it is an error. So it is, with
	// ErrCompleted, when the record is completed already or forgotten, with the
	// same result too: the rows of this transaction would be a second effect of
	// one whose commit took effect and lost its answer. Nobody who waits is told
	// before the commit.
	CompleteTx(ctx context.Context, tx Tx, ref Ref, c Completion) (late bool, err error)
}

// TxWork is the work of [TxStore.DoTx]. The claim's Key, Token and Attempt are
// set in granted; the claim is part of the transaction.
type TxWork[Tx any] func(ctx context.Context, tx Tx, granted Record) (Completion, error)

// TxRequest asks for work in a transaction.
type TxRequest struct {
	Key Key
	// Scope, ID and Fingerprint are as in [ClaimRequest].
	Scope, ID   string
	Fingerprint Fingerprint
	// Retry is as in [ClaimRequest]; records are unknown only where the same
	// store is used with leases as well.
	Retry bool
	// Wait is how long another's open transaction on the key is waited for; 0
	// does not wait.
	Wait time.Duration
	// CountAttempts counts the attempts outside of the transaction, where they
	// survive its end: Attempt of the record given to work then is how often
	// work was begun, crashes included. Otherwise an attempt that was rolled
	// back is forgotten with it. It costs a write of its own.
	CountAttempts bool
	// Retention is how long an attempt count is kept; more than zero.
	Retention time.Duration
}

// TxReply answers DoTx.
type TxReply struct {
	// Ran says that work ran and its transaction was committed; Record is then
	// completed, and its Result may be left out. Otherwise Record is the record as it is, with its result when
	// it is completed.
	Ran    bool
	Record Record
}

// Check is as for [ClaimRequest.Check].
func (r *TxRequest) Check() error {
	if len(r.Scope) > MaxName || len(r.ID) > MaxName {
		return fmt.Errorf("%w: scope and id take at most %d bytes each", ErrInvalid, MaxName)
	}
	if r.Wait < 0 {
		return fmt.Errorf("%w: wait must not be less than zero", ErrInvalid)
	}
	return positive("retention", r.Retention)
}
