package idem

import (
	"errors"
	"fmt"
	"time"

	"github.com/idem-go/idem/driver"
)

// What Begin and Do refuse with. Each is found with errors.Is; those that
// carry data have a type of their own, found with errors.As.
var (
	// ErrInFlight: another caller runs the operation now; see [InFlightError].
	ErrInFlight = errors.New("idem: operation is in flight")
	// ErrUnknown: whether the operation was done is not known; see
	// [UnknownError].
	ErrUnknown = errors.New("idem: outcome is unknown")
	// ErrUnsaved: the operation was done, and its record could not be saved
	// within Policy.SaveWait. Saving goes on. It is an ErrUnknown to whoever
	// asks for the result.
	ErrUnsaved = fmt.Errorf("%w: the result is not saved yet", ErrUnknown)
	// ErrReused: the key was used for another request.
	ErrReused = errors.New("idem: key was used for another request")
	// ErrNotStored: the operation was done and its result was not kept.
	ErrNotStored = errors.New("idem: result was not stored")
	// ErrForgotten: the operation was done and its result is no longer kept.
	ErrForgotten = errors.New("idem: result is forgotten")
	// ErrUnreadable: the record of the key cannot be read.
	ErrUnreadable = errors.New("idem: record cannot be read")
	// ErrOverloaded: too many claims, waiters, or records in the store.
	ErrOverloaded = errors.New("idem: overloaded")
	// ErrStore: the store does not answer.
	ErrStore = errors.New("idem: store does not answer")
	// ErrTooLarge: the result of work in a transaction is larger than may be
	// kept; everything was rolled back.
	ErrTooLarge = errors.New("idem: result is too large")
	// ErrInvalid: the request itself cannot be taken; nothing was asked.
	ErrInvalid = errors.New("idem: invalid request")
)

// What the holder of a claim meets.
var (
	// ErrLost: the claim is no longer its holder's: another was granted, or
	// the lease ended without the store having been reached. It is the cause
	// of a work's context that was cancelled for it.
	ErrLost = errors.New("idem: claim lost")
	// ErrMaxRun: the work ran longer than Policy.MaxRun. It is the cause of a
	// work's context that was cancelled for it.
	ErrMaxRun = errors.New("idem: work ran longer than max-run")
	// ErrEnded: the claim was ended before.
	ErrEnded = errors.New("idem: claim has already ended")
	// ErrSuperseded: somebody else, an operator or a resolver, has completed
	// the record meanwhile with another result, which is the one that counts.
	ErrSuperseded = errors.New("idem: record was completed with another result")
	// ErrClosed: the guard was closed.
	ErrClosed = errors.New("idem: guard is closed")
)

// InFlightError says since when the operation runs.
type InFlightError struct {
	// Age is how long ago the claim was granted.
	Age time.Duration
}

// Error says what to do.
func (e *InFlightError) Error() string { return ErrInFlight.Error() + "; ask again later" }

// Is reports true for ErrInFlight.
func (e *InFlightError) Is(target error) bool { return target == ErrInFlight }

// UnknownError says what is known of an operation whose outcome is not.
type UnknownError struct {
	// Age is how long ago the claim was granted whose owner vanished; 0 where
	// the owner itself reports.
	Age time.Duration
	// Attempt is that claim's attempt.
	Attempt int
	// Cause is what the work ended with, where it is this caller's own.
	Cause error
	// RetryAfter is when a resolver wants to be asked again; 0 if it did not
	// say.
	RetryAfter time.Duration
}

// Error says that a person or a resolver must decide.
func (e *UnknownError) Error() string {
	if e.Cause != nil {
		return ErrUnknown.Error() + ": " + e.Cause.Error()
	}
	return ErrUnknown.Error() + ": its owner ended without a word; it must be resolved"
}

// Is reports true for ErrUnknown.
func (e *UnknownError) Is(target error) bool { return target == ErrUnknown }

// Unwrap returns the cause.
func (e *UnknownError) Unwrap() error { return e.Cause }

// storeError turns an error of the store into the package's own, keeping the
// store's in the chain.
func storeError(err error) error {
	if err == nil {
		return nil // before the target of errors.As costs an allocation
	}
	var unreadable *driver.UnreadableError
	switch {
	case errors.As(err, &unreadable):
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	case errors.Is(err, driver.ErrFull):
		return fmt.Errorf("%w: %w", ErrOverloaded, err)
	case errors.Is(err, driver.ErrInvalid):
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	case errors.Is(err, driver.ErrLost), errors.Is(err, driver.ErrLapsed):
		return fmt.Errorf("%w: %w", ErrLost, err)
	case errors.Is(err, driver.ErrCompleted):
		return fmt.Errorf("%w: %w", ErrSuperseded, err)
	}
	return fmt.Errorf("%w: %w", ErrStore, err)
}

// answered reports that the store gave an answer, if only a refusal: asking
// again would give the same.
func answered(err error) bool {
	if err == nil {
		return true
	}
	var unreadable *driver.UnreadableError
	return errors.As(err, &unreadable) ||
		errors.Is(err, driver.ErrFull) || errors.Is(err, driver.ErrInvalid) ||
		errors.Is(err, driver.ErrLost) || errors.Is(err, driver.ErrLapsed) ||
		errors.Is(err, driver.ErrCompleted) || errors.Is(err, driver.ErrTooLarge) ||
		errors.Is(err, driver.ErrState) || errors.Is(err, driver.ErrClosed)
}
