package pgstore

import (
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"
)

// Options say how a store works; nil and the zero value are ready for use. All
// processes that share the records give the same Schema and Prefix.
type Options struct {
	// Schema is the PostgreSQL schema that the tables are in. By default it is
	// the first one of the connection's search_path, mostly "public".
	Schema string
	// Prefix begins the names of the store's tables: lower-case letters, digits
	// and underscores, at most 32. By default "idem_".
	Prefix string
	// MaxResult is the largest result kept, in bytes. By default 16 MiB; at most,
	// and with a negative number, 256 MiB.
	MaxResult int
	// MaxUnknown is the most records whose outcome may be unknown, leases that
	// have ended included; past it new keys are refused with driver.ErrFull. It is
	// counted once a second, and at each claim when the bound is near. By default
	// 100,000; a negative number is no bound.
	MaxUnknown int
	// SweepEvery is how often a goroutine of the store drops what is over. By
	// default each minute; a negative duration is never, for a process that
	// leaves it to others.
	SweepEvery time.Duration
	// PollEvery is how often a claim that is waited for is looked at where its
	// end is not notified. Where it is, the store looks ten times more rarely,
	// and only in case that a notification was lost. By default 250 ms.
	PollEvery time.Duration
	// NoListen waits by polling alone. The store finds out by itself that it is
	// behind a pooler which does not pass notifications on, such as PgBouncer in
	// its transaction mode.
	NoListen bool
	// ClaimWait is how long a claim waits for a transaction of somebody's that
	// holds the key (Tx mode) before it is answered that the key is in flight.
	// By default one second.
	ClaimWait time.Duration
	// MaxGroups is how many groups of calls are under way at once. Calls that
	// come while so many statements are under way wait for the next one and
	// share it. By default 2.
	MaxGroups int
	// Partitions is for Migrate: the table is made with so many hash partitions
	// by key; 0 is one plain table. A table that exists stays as it is.
	Partitions int
	// Logger is told of what an operator should know. By default slog.Default.
	Logger *slog.Logger

	// grace is how much longer a row is kept once it is over, see dropText.
	grace *time.Duration
	// quick is how long a count may take that is made at each claim once the bound
	// on unknowns is near; 0 is boundQuick.
	quick time.Duration
}

const (
	defaultPrefix     = "idem_"
	defaultMaxResult  = 16 << 20
	largestMaxResult  = 256 << 20
	defaultMaxUnknown = 100_000
	defaultSweepEvery = time.Minute
	defaultPollEvery  = 250 * time.Millisecond
	defaultClaimWait  = time.Second
	defaultMaxGroups  = 2
	defaultGrace      = time.Minute
)

// withDefaults returns a copy in which every field is set.
func (o *Options) withDefaults() (Options, error) {
	var set Options
	if o != nil {
		set = *o
	}
	set.Prefix = or(set.Prefix, defaultPrefix)
	if !regexp.MustCompile(`^[a-z_][a-z0-9_]{0,31}$`).MatchString(set.Prefix) {
		return set, fmt.Errorf("pgstore: the prefix of the tables is %q; it takes up to 32 lower-case letters, digits and underscores", set.Prefix)
	}
	if strings.ContainsRune(set.Schema, 0) || len(set.Schema) > 63 {
		return set, fmt.Errorf("pgstore: the schema's name takes up to 63 bytes, and no NUL")
	}
	if set.Partitions < 0 || set.Partitions > 1024 {
		return set, fmt.Errorf("pgstore: %d partitions are not in 0 to 1024", set.Partitions)
	}
	set.MaxResult = or(set.MaxResult, defaultMaxResult)
	if set.MaxResult < 0 || set.MaxResult > largestMaxResult {
		set.MaxResult = largestMaxResult
	}
	set.MaxUnknown = or(set.MaxUnknown, defaultMaxUnknown)
	set.SweepEvery = or(set.SweepEvery, defaultSweepEvery)
	set.PollEvery = max(or(set.PollEvery, defaultPollEvery), time.Millisecond)
	set.ClaimWait = max(or(set.ClaimWait, defaultClaimWait), time.Millisecond)
	set.MaxGroups = max(or(set.MaxGroups, defaultMaxGroups), 1)
	if set.Logger == nil {
		set.Logger = slog.Default()
	}
	if set.quick == 0 {
		set.quick = boundQuick
	}
	if set.grace == nil {
		grace := defaultGrace
		set.grace = &grace
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

// names are those of the store's tables, quoted and with their schema, so that
// no search_path leads elsewhere.
type names struct {
	// schema is the schema's own name, unquoted.
	schema, prefix                       string
	records, tokens, attempts, migration string
	// channel is the one of LISTEN and NOTIFY.
	channel string
}

func namesIn(schema, prefix string) names {
	in := func(name string) string { return quote(schema) + "." + quote(prefix+name) }
	n := names{
		schema: schema, prefix: prefix,
		records: in("records"), tokens: in("tokens"), attempts: in("attempts"), migration: in("schema"),
	}
	// A channel belongs to the database, and takes 63 bytes.
	n.channel = schema + "." + prefix
	if len(n.channel) > 63 {
		n.channel = n.channel[len(n.channel)-63:]
	}
	return n
}

// quote makes an identifier of any text without NUL.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// literal makes a string constant of any text without NUL.
func literal(text string) string {
	text = strings.ReplaceAll(text, `'`, `''`)
	if strings.Contains(text, `\`) {
		return `E'` + strings.ReplaceAll(text, `\`, `\\`) + `'`
	}
	return `'` + text + `'`
}
