package driver

import (
	"errors"
	"fmt"
)

// The errors of a store. They are found with errors.Is, whatever wraps them.
// An error that is none of these, of [UnreadableError] and of the context's
// means that the store did not answer: nothing is known of the call.
var (
	// ErrLost: the claim is no longer the caller's. Another was granted since,
	// or it was released, or nothing is known of it any more.
	ErrLost = errors.New("driver: claim lost")
	// ErrLapsed: the claim's lease is over, or it was abandoned, and nobody was
	// granted the key since. Only Complete is still taken.
	ErrLapsed = errors.New("driver: lease is over")
	// ErrCompleted: this claim has already been completed, with another result
	// where the call was Complete.
	ErrCompleted = errors.New("driver: already completed")
	// ErrTooLarge: the result is larger than the store keeps.
	ErrTooLarge = errors.New("driver: result too large for the store")
	// ErrFull: the store's bounds leave no room for another claim.
	ErrFull = errors.New("driver: store is full")
	// ErrInvalid: an argument is out of bounds; nothing was changed.
	ErrInvalid = errors.New("driver: invalid argument")
	// ErrState: the record is not in a state that allows what Resolve asked.
	ErrState = errors.New("driver: record is in another state")
	// ErrClosed: the store has been closed.
	ErrClosed = errors.New("driver: store is closed")
)

// UnreadableError says that the record of a key is there and cannot be read:
// it is corrupt, from a newer version, or in a state nobody knows. Its key is
// refused until an operator has looked; it is never taken for absent.
type UnreadableError struct {
	Key    Key
	Reason string
}

// Error gives the reason, and the key by its short hash.
func (e *UnreadableError) Error() string {
	return fmt.Sprintf("driver: record %s cannot be read: %s", e.Key.Short(), e.Reason)
}
