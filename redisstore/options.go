package redisstore

import (
	"fmt"
	"log/slog"
	"regexp"
	"time"
)

// Options say how a store works; nil and the zero value are ready for use. All
// processes that share the records give the same Prefix.
type Options struct {
	// Prefix begins the names of all keys and channels of the store: letters,
	// digits and any of "._:-", at most 32. By default "idem:".
	Prefix string
	// MaxResult is the largest result kept, in bytes. By default 16 MiB; at most,
	// and with a negative number, 256 MiB. A server is busy for about a
	// millisecond with each half MiB, and answers nobody else meanwhile.
	MaxResult int
	// MaxUnknown is the most records whose outcome may be unknown, leases that
	// have ended included; past it new keys are refused with driver.ErrFull. The
	// store counts them each few seconds, and at each claim when the bound is
	// near, so that what other processes bring in a few seconds may go over it.
	// By default 100,000; a negative number is no bound.
	MaxUnknown int
	// SweepEvery is how often a goroutine of the store drops what is over. By
	// default each 15 seconds; a negative duration is never, for a process that
	// leaves it to others. Nothing but a sweep gives memory back.
	SweepEvery time.Duration
	// PollEvery is how often a claim that is waited for is looked at, in case that
	// the notification of its end was lost. By default each second.
	PollEvery time.Duration
	// WaitReplicas is how many replicas must have a claim, a completion or a
	// resolution before it is answered (the command WAIT). By default 0: the
	// server answers before it replicates, and a failover can forget what it has
	// answered. With 1 a failover can still forget it, but only to a replica that
	// was behind. Each such call takes a connection of its own for a round trip to
	// the replicas, so that calls are no longer sent together: expect a fraction
	// of the throughput.
	WaitReplicas int
	// WaitTimeout is how long replicas are waited for. When it has passed the
	// write has been made all the same, and the call gives an error; its caller
	// repeats it. By default one second.
	WaitTimeout time.Duration
	// Partitions is for Migrate: into how many parts the records are put, each of
	// which has its own slot in a cluster; a power of two up to 4096. What a
	// server has been made for stays, and New takes that. By default 256, enough
	// for a cluster of some 30 masters.
	Partitions int
	// Logger is told of what an operator should know. By default slog.Default.
	Logger *slog.Logger
}

const (
	defaultPrefix      = "idem:"
	defaultMaxResult   = 16 << 20
	largestMaxResult   = 256 << 20
	defaultMaxUnknown  = 100_000
	defaultSweepEvery  = 15 * time.Second
	defaultPollEvery   = time.Second
	defaultWaitTimeout = time.Second
	defaultPartitions  = 256
	largestPartitions  = 4096
)

// withDefaults returns a copy in which every field is set.
func (o *Options) withDefaults() (Options, error) {
	var set Options
	if o != nil {
		set = *o
	}
	set.Prefix = or(set.Prefix, defaultPrefix)
	if !regexp.MustCompile(`^[A-Za-z0-9._:-]{1,32}$`).MatchString(set.Prefix) {
		return set, fmt.Errorf("redisstore: the prefix of the keys is %q; it takes up to 32 letters, digits and any of ._:-", set.Prefix)
	}
	set.Partitions = or(set.Partitions, defaultPartitions)
	if p := set.Partitions; p < 1 || p > largestPartitions || p&(p-1) != 0 {
		return set, fmt.Errorf("redisstore: %d partitions are not a power of two up to %d", p, largestPartitions)
	}
	if set.WaitReplicas < 0 {
		return set, fmt.Errorf("redisstore: %d replicas cannot be waited for", set.WaitReplicas)
	}
	set.MaxResult = or(set.MaxResult, defaultMaxResult)
	if set.MaxResult < 0 || set.MaxResult > largestMaxResult {
		set.MaxResult = largestMaxResult
	}
	set.MaxUnknown = or(set.MaxUnknown, defaultMaxUnknown)
	set.SweepEvery = or(set.SweepEvery, defaultSweepEvery)
	set.PollEvery = max(or(set.PollEvery, defaultPollEvery), time.Millisecond)
	set.WaitTimeout = max(or(set.WaitTimeout, defaultWaitTimeout), time.Millisecond)
	if set.Logger == nil {
		set.Logger = slog.Default()
	}
	return set, nil
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
