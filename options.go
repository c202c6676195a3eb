package idem

import (
	"context"
	"log/slog"
	"time"
)

// The defaults of [Policy] and [Options].
const (
	DefaultWait             = 10 * time.Second
	DefaultLease            = 30 * time.Second
	DefaultRetention        = 24 * time.Hour
	DefaultTombstone        = 720 * time.Hour
	DefaultMaxRun           = 15 * time.Minute
	DefaultSaveWait         = 10 * time.Second
	DefaultStoreTimeout     = 5 * time.Second
	DefaultMaxResult        = 1 << 20
	DefaultMaxClaims        = 10_000
	DefaultMaxWaiters       = 10_000
	DefaultMaxWaitersPerKey = 1_000
)

// UnknownPolicy says what becomes of an operation whose outcome is unknown.
type UnknownPolicy uint8

const (
	// RefuseUnknown answers [ErrUnknown] until somebody resolves the record.
	RefuseUnknown UnknownPolicy = iota
	// RetryUnknown grants the next caller a new claim. The work may then take
	// effect twice, unless what it calls is idempotent by [Claim.Derive]'s key.
	RetryUnknown
	// ResolveUnknown asks [Policy.Resolver].
	ResolveUnknown
)

// Policy says how one kind of operation is treated. The zero value of each
// field is its default.
type Policy struct {
	// Wait is how long a caller waits for a claim that another holds, before it
	// is told [ErrInFlight]. Default 10s; less than zero does not wait.
	Wait time.Duration
	// Lease is how long a claim outlives the last word of its owner. The guard
	// renews it three times in that while. Default 30s.
	Lease time.Duration
	// Retention is how long a result is kept, from its completion. Default 24h.
	Retention time.Duration
	// Tombstone is how long a key is remembered once its result is forgotten,
	// and how long an unknown outcome is kept. Default 720h.
	Tombstone time.Duration
	// MaxRun is how long the work may run: then its context is cancelled with
	// [ErrMaxRun] and its outcome is unknown. Default 15m.
	MaxRun time.Duration
	// SaveWait is how long the end of a claim waits for a store that does not
	// answer; saving goes on after that. Default 10s.
	SaveWait time.Duration
	// MaxResult is the largest result kept, in bytes. Default 1 MiB. The work
	// behind a larger one is not done again; asking for it is [ErrNotStored].
	MaxResult int
	// Unknown says what becomes of unknown outcomes. Default RefuseUnknown.
	Unknown UnknownPolicy
	// CountAttempts counts the attempts of work in transactions ([DoTx]) outside
	// of them, where the count survives a rollback and a crash. It costs a write.
	CountAttempts bool
	// Resolver finds out what became of an operation, for ResolveUnknown. It
	// is called once at a time for a key in this process. A panic or an error
	// leaves the outcome unknown.
	Resolver func(ctx context.Context, u Unknown) (Resolution, error)
	// Errors classifies an error of the work given to [Do] that is neither
	// [KeepError]'s nor [ReleaseError]'s. Nil takes each for ErrorUnknown.
	Errors func(err error) ErrorVerdict
}

// Options are the settings of a [Guard]. Nil, and the zero value of each
// field, take the defaults.
type Options struct {
	// Policy is for requests that bring none of their own.
	Policy Policy
	// StoreTimeout bounds each call to the store. Default 5s.
	StoreTimeout time.Duration
	// MaxClaims bounds the claims that this guard holds at once, those still
	// being saved included. Default 10,000; past it Begin gives ErrOverloaded.
	MaxClaims int
	// MaxWaiters bounds the callers that wait, MaxWaitersPerKey those that wait
	// for one key. Defaults 10,000 and 1,000; past them Begin gives
	// ErrOverloaded.
	MaxWaiters, MaxWaitersPerKey int
	// Observer is told what happens. Nil tells nobody.
	Observer Observer
	// Logger takes what an operator should know: claims lost, results that
	// cannot be saved. Keys appear as short hashes. Default slog.Default.
	Logger *slog.Logger
}

// Policy returns p with its defaults filled in from the guard's own policy: a
// field that is zero takes the guard's. The result may be shared.
func (g *Guard) Policy(p Policy) *Policy {
	p = p.orElse(&g.policy)
	return &p
}

func (p Policy) orElse(d *Policy) Policy {
	def(&p.Wait, d.Wait)
	def(&p.Lease, d.Lease)
	def(&p.Retention, d.Retention)
	def(&p.Tombstone, d.Tombstone)
	def(&p.MaxRun, d.MaxRun)
	def(&p.SaveWait, d.SaveWait)
	def(&p.MaxResult, d.MaxResult)
	def(&p.Unknown, d.Unknown)
	def(&p.CountAttempts, d.CountAttempts)
	if p.Resolver == nil {
		p.Resolver = d.Resolver
	}
	if p.Errors == nil {
		p.Errors = d.Errors
	}
	return p
}

func def[T comparable](p *T, d T) {
	var zero T
	if *p == zero {
		*p = d
	}
}

func defaultPolicy() Policy {
	return Policy{
		Wait: DefaultWait, Lease: DefaultLease, Retention: DefaultRetention, Tombstone: DefaultTombstone,
		MaxRun: DefaultMaxRun, SaveWait: DefaultSaveWait, MaxResult: DefaultMaxResult,
	}
}

func (o *Options) withDefaults() Options {
	var r Options
	if o != nil {
		r = *o
	}
	d := defaultPolicy()
	r.Policy = r.Policy.orElse(&d)
	def(&r.StoreTimeout, DefaultStoreTimeout)
	def(&r.MaxClaims, DefaultMaxClaims)
	def(&r.MaxWaiters, DefaultMaxWaiters)
	def(&r.MaxWaitersPerKey, DefaultMaxWaitersPerKey)
	if r.Logger == nil {
		r.Logger = slog.Default()
	}
	return r
}
