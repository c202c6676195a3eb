package driver

import (
	"context"
	"time"
)

// The interfaces below are optional. [As] finds them, through wrappers too.

// Waiter is a store that can tell when a claim has ended.
type Waiter interface {
	// Wait returns nil when the claim of ref may have ended (completed,
	// released, abandoned, lapsed, or another was granted), at once when it
	// has ended already, and the context's error when the context ends first.
	// It may return early, and a notification may be lost: callers look again
	// after it, and also after a while without it.
	Wait(ctx context.Context, ref Ref) error
}

// Resolver is a store whose records an operator, or a function of the
// application's that knows the truth, can set right.
type Resolver interface {
	// Resolve carries out r and returns the record as it stands afterwards.
	// ErrState when the record's state does not allow it, ErrLost when r names
	// a token and the record has another. Repeating a resolution that has been
	// carried out returns the record again, or ErrState.
	Resolve(ctx context.Context, key Key, r Resolution) (Record, error)
}

// Action is what a resolution does.
type Action uint8

const (
	// ResolveComplete: the operation was done; an unknown record becomes
	// completed with the resolution's result.
	ResolveComplete Action = 1
	// ResolveRelease: the operation was not done; an unknown record becomes
	// absent, and an in-flight one too when Force is set. The attempt count
	// stays.
	ResolveRelease Action = 2
	// ResolveErase: the result of a completed record is dropped at once; its
	// tombstone stays.
	ResolveErase Action = 3
)

// Resolution ends an outcome that is unknown, or drops a result.
type Resolution struct {
	Action Action
	// Token, unless 0, is the token that the record must have.
	Token uint64
	// Force releases an in-flight record as well.
	Force bool
	// Result and Dropped are for ResolveComplete, as in Completion.
	Result  Result
	Dropped bool
	// Retention and Tombstone are as in Completion; Retention also says how
	// long a released record's attempt count is kept. Both more than zero.
	Retention, Tombstone time.Duration
	// Note is kept with the record: who did it, and why.
	Note string
}

// Lister is a store that can list its records.
type Lister interface {
	// List returns up to q.Limit records in an order of the store's own, each
	// without its result. Pages may miss or repeat records that change while
	// they are read.
	List(ctx context.Context, q Query) (Page, error)
}

// Query selects records.
type Query struct {
	// After is the Next of the page before; empty for the first.
	After string
	// Limit is the most records returned; 1 to 1000.
	Limit int
	// States are the states wanted; none means all but absent.
	States []State
	// Scope, unless empty, is the scope wanted.
	Scope string
}

// Page is a part of a list.
type Page struct {
	Records []Record
	// Next continues the list; empty when it is at its end.
	Next string
}

// Sweeper is a store that must be told to drop what is over. A store that
// does so by itself may implement it too, so that tests need not wait.
type Sweeper interface {
	// Sweep drops what is over, at most limit records of it, and returns how
	// many it dropped or turned into tombstones. It never blocks other calls
	// for longer than a few records take.
	Sweep(ctx context.Context, limit int) (int, error)
}

// Stats counts a store's records.
type Stats struct {
	InFlight, Completed, Unknown, Forgotten int64
	// Bytes is what the records take, in memory or on disk; 0 when not known.
	Bytes int64
	// OldestUnknown is the age of the oldest unknown, 0 for none.
	OldestUnknown time.Duration
}

// Counter is a store that can count its records without reading them all.
type Counter interface {
	// Stats counts the records as they are now, leases that have ended among
	// the unknown.
	Stats(ctx context.Context) (Stats, error)
}

// Describer is a store that says what it is.
type Describer interface {
	// Describe gives the same answer at every call.
	Describe() Info
}

// Pinger is a store that can say whether it answers.
type Pinger interface {
	// Ping returns nil when a claim could be made now.
	Ping(ctx context.Context) error
}

// Wrapper is a store around another store.
type Wrapper interface {
	// Unwrap returns the store that is wrapped; never nil.
	Unwrap() Store
}

// As returns the first store that implements T, looking at s and then through
// Unwrap at what it wraps.
func As[T any](s Store) (T, bool) {
	for s != nil {
		if t, ok := s.(T); ok {
			return t, true
		}
		w, ok := s.(Wrapper)
		if !ok {
			break
		}
		s = w.Unwrap()
	}
	var zero T
	return zero, false
}
