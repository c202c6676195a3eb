package idem

import (
	"context"
	"errors"
	"time"

	"github.com/idem-go/idem/driver"
)

// Event is something that happened to an operation.
type Event struct {
	// Kind is what happened.
	Kind EventKind
	// Route is the request's.
	Route string
	// Attempt is the claim's, 0 where there is none.
	Attempt int
	// Waited says that the caller waited for another's claim first.
	Waited bool
	// Duration is how long the caller was with Begin, or how long the claim
	// was held, for the kinds that end a claim.
	Duration time.Duration
	// Err is the error given to the caller, where there is one.
	Err error

	key driver.Key
}

// KeyHash returns a short hash of the key, fit for logs; never the key.
func (e Event) KeyHash() string { return e.key.Short() }

// EventKind is a word for what happened; metrics use it as a label.
type EventKind string

const (
	// EventClaimed: a claim was granted.
	EventClaimed EventKind = "claimed"
	// EventRan: the work ran and its result was recorded.
	EventRan EventKind = "ran"
	// EventLate: as EventRan, after the claim was no longer in-flight.
	EventLate EventKind = "late"
	// EventReplayed: a recorded result was given again.
	EventReplayed EventKind = "replayed"
	// EventShared: a waiter was given the answer of the release it waited for.
	EventShared EventKind = "shared"
	// EventInFlight: refused, another caller runs the operation.
	EventInFlight EventKind = "conflicted"
	// EventReused: refused, the key was used for another request.
	EventReused EventKind = "reused"
	// EventUnknown: refused, the outcome is unknown.
	EventUnknown EventKind = "unknown"
	// EventAbandoned: a claim ended with its outcome unknown.
	EventAbandoned EventKind = "abandoned"
	// EventReleased: a claim was released.
	EventReleased EventKind = "released"
	// EventLost: a claim was lost.
	EventLost EventKind = "lost"
	// EventUnsaved: a result could not be saved within save-wait.
	EventUnsaved EventKind = "unsaved"
	// EventForgotten: refused, the result is forgotten.
	EventForgotten EventKind = "forgotten"
	// EventNotStored: refused, the result was not stored.
	EventNotStored EventKind = "not-stored"
	// EventUnreadable: refused, the record cannot be read.
	EventUnreadable EventKind = "unreadable"
	// EventOverloaded: refused, too much at once.
	EventOverloaded EventKind = "overloaded"
	// EventStore: refused, the store does not answer.
	EventStore EventKind = "store-unavailable"
	// EventResolved: an unknown outcome was resolved by Policy.Resolver.
	EventResolved EventKind = "resolved"
)

// Observer is told what happens. Observe is called on the caller's way, from
// many goroutines at once: it must be quick. A panic in it is dropped.
type Observer interface {
	Observe(ctx context.Context, e Event)
}

func (g *Guard) observe(ctx context.Context, c *Claim, kind EventKind, since time.Time, waited bool, err error) {
	if g.opts.Observer == nil {
		return
	}
	e := Event{Kind: kind, Route: c.route, key: c.key, Attempt: c.attempt, Waited: waited, Duration: time.Since(since), Err: err}
	defer func() {
		if p := recover(); p != nil {
			g.opts.Logger.ErrorContext(ctx, "idem: the observer panicked", "panic", p)
		}
	}()
	g.opts.Observer.Observe(ctx, e)
}

func (g *Guard) observeBegin(ctx context.Context, key driver.Key, req *Request, b Begun, err error, w *waiting) {
	kind := EventStore
	switch {
	case b.Claim != nil:
		kind = EventClaimed
	case b.Replayed:
		kind = EventReplayed
	case b.Shared != nil:
		kind = EventShared
	case errors.Is(err, ErrInFlight):
		kind = EventInFlight
	case errors.Is(err, ErrUnsaved):
		kind = EventUnsaved
	case errors.Is(err, ErrUnknown):
		kind = EventUnknown
	case errors.Is(err, ErrReused):
		kind = EventReused
	case errors.Is(err, ErrForgotten):
		kind = EventForgotten
	case errors.Is(err, ErrNotStored):
		kind = EventNotStored
	case errors.Is(err, ErrUnreadable):
		kind = EventUnreadable
	case errors.Is(err, ErrOverloaded):
		kind = EventOverloaded
	case !errors.Is(err, ErrStore):
		return // the caller left, or asked for nothing
	}
	at := Claim{key: key, route: req.Route}
	if b.Claim != nil {
		at.attempt = b.Claim.attempt
	}
	g.observe(ctx, &at, kind, w.since, w.waited, err)
}
