package idem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// ErrorVerdict says what an error of the work means for its record.
type ErrorVerdict uint8

const (
	// ErrorUnknown: whether the work took effect is not known. The record
	// becomes unknown. It is what every error means that nothing is said of: a
	// time-out of a payment provider must not be taken for "not done".
	ErrorUnknown ErrorVerdict = iota
	// ErrorKeep: the error is the operation's outcome. It is recorded, and
	// asking again gives it again.
	ErrorKeep
	// ErrorRelease: nothing was done. The next caller runs the work.
	ErrorRelease
)

type verdictError struct {
	error
	verdict ErrorVerdict
}

func (e *verdictError) Unwrap() error { return e.error }

// KeepError marks err as the operation's outcome: [Do] records its text, and
// asking again gives a [*KeptError]. A nil err stays nil.
func KeepError(err error) error { return mark(err, ErrorKeep) }

// ReleaseError marks err as "nothing was done": [Do] releases the claim, and
// the next caller runs the work. A nil err stays nil.
func ReleaseError(err error) error { return mark(err, ErrorRelease) }

func mark(err error, v ErrorVerdict) error {
	if err == nil {
		return nil
	}
	return &verdictError{err, v}
}

// KeptError is an error that was kept as an operation's outcome, as it is given
// to those who ask again: its text is all that is left of it.
type KeptError struct{ Text string }

// Error returns the first error's text.
func (e *KeptError) Error() string { return e.Text }

// Outcome is a value, and how it was come by.
type Outcome[T any] struct {
	Value T
	// Replayed says that the work did not run now: the value is the one that
	// was recorded when it did.
	Replayed bool
}

// Do runs work once for the request's key and returns its value; asked again,
// it returns the recorded value without running work. Values are recorded as
// JSON, so what comes back is what JSON keeps of a T. A value that cannot be
// encoded, or is too large, completes the record without it: the first caller
// gets it, those who ask again get [ErrNotStored].
//
// The work's context is the claim's ([Claim.Context]): it does not end when ctx
// does. What becomes of the record when work does not return a value:
//
//   - an error marked by [KeepError] is recorded and returned;
//   - an error marked by [ReleaseError] releases the claim and is returned;
//   - any other error makes the outcome unknown, unless Policy.Errors says
//     otherwise: the caller gets an [*UnknownError] that wraps it, and
//     [ErrLost] or [ErrMaxRun] where the work's context was cancelled for that;
//   - a panic, or runtime.Goexit, makes the outcome unknown and goes on.
//
// Besides, Do returns the errors of [Guard.Begin] and [Claim.Complete].
func Do[T any](ctx context.Context, g *Guard, req Request, work func(context.Context) (T, error)) (T, error) {
	o, err := DoOutcome(ctx, g, req, work)
	return o.Value, err
}

// DoOutcome is [Do], telling besides whether the value was replayed.
func DoOutcome[T any](ctx context.Context, g *Guard, req Request, work func(context.Context) (T, error)) (Outcome[T], error) {
	b, err := g.Begin(ctx, &req)
	if err != nil {
		return Outcome[T]{}, err
	}
	if b.Replayed {
		return decode[T](b.Result)
	}
	if b.Shared != nil {
		// Only a released error is ever shared by Do.
		if err, ok := b.Shared.(error); ok {
			return Outcome[T]{}, err
		}
		return Outcome[T]{}, &InFlightError{}
	}
	return run(b.Claim, work)
}

func run[T any](c *Claim, work func(context.Context) (T, error)) (o Outcome[T], err error) {
	// For a panic, or Goexit, in the work or in what its value or error brings
	// along; a claim that has ended is not ended again. The observer reports it.
	defer func() { _ = c.Abandon() }()
	v, err := work(c.Context())
	if err == nil {
		body, jerr := encode(v)
		if jerr != nil {
			c.guard.opts.Logger.Warn("idem: a value cannot be encoded; it is not kept", "key", c.key.Short(), "route", c.route, "error", jerr)
			err = c.CompleteWithoutResult()
		} else {
			err = c.Complete(Result{Meta: []byte(metaValue), Body: body})
		}
		if err != nil {
			return o, err
		}
		return Outcome[T]{Value: v}, nil
	}
	verdict, err := verdictOf(c, err)
	switch verdict {
	case ErrorKeep:
		if serr := c.Complete(Result{Meta: []byte(metaError), Body: []byte(err.Error())}); serr != nil {
			return o, errors.Join(serr, err)
		}
	case ErrorRelease:
		_ = c.Release(err) // it goes on in the background where the store does not answer
	default:
		// Why the work was cancelled, if it was, says more than its own error.
		if cause := context.Cause(c.Context()); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		_ = c.Abandon()
		return o, &UnknownError{Attempt: c.attempt, Cause: err}
	}
	return o, err
}

// encode makes JSON of a value. The work is done by then: a panic of the
// value's own methods is no more than a value that cannot be encoded.
func encode(v any) (b []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("idem: encoding the value panicked: %v", p)
		}
	}()
	return json.Marshal(v)
}

// verdictOf returns what an error of the work means, and the error without its
// mark where that stands outermost.
func verdictOf(c *Claim, err error) (ErrorVerdict, error) {
	var marked *verdictError
	switch {
	case errors.As(err, &marked):
		if err == error(marked) { //nolint:errorlint // only a mark that stands outermost is taken off
			err = marked.error
		}
		return marked.verdict, err
	case c.policy.Errors != nil:
		return classify(c, err), err
	}
	return ErrorUnknown, err
}

func classify(c *Claim, err error) (v ErrorVerdict) {
	defer func() {
		if p := recover(); p != nil {
			c.guard.opts.Logger.Error("idem: Policy.Errors panicked", "panic", p)
			v = ErrorUnknown
		}
	}()
	return c.policy.Errors(err)
}

// The metadata of what Do records; stored, so it never changes.
const (
	metaValue = "idem/json/1"
	metaError = "idem/error/1"
)

func decode[T any](r Result) (Outcome[T], error) {
	o := Outcome[T]{Replayed: true}
	switch string(r.Meta) {
	case metaValue:
		if err := json.Unmarshal(r.Body, &o.Value); err != nil {
			return Outcome[T]{}, fmt.Errorf("%w: its value does not fit %T: %w", ErrUnreadable, o.Value, err)
		}
		return o, nil
	case metaError:
		return o, &KeptError{Text: string(r.Body)}
	}
	return Outcome[T]{}, fmt.Errorf("%w: it was not written by Do", ErrUnreadable)
}
