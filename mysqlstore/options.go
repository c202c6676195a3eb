package mysqlstore

import (
	"errors"
	"log/slog"
	"time"
)

// Options are the settings of a store. The zero value of each field is its
// default.
type Options struct {
	// Prefix begins the names of the tables: letters, digits and underscores, 32
	// at most; "idem_" by default. Stores of one database with other prefixes
	// know nothing of each other.
	Prefix string
	// MaxResult is the largest result kept, in bytes; 16 MiB by default. A server
	// that takes less in one statement or in one transaction makes it smaller:
	// [Store.Describe] says what it is.
	MaxResult int
	// MaxUnknown is the most records whose outcome is unknown, leases that have
	// ended included, past which absent keys are refused with [driver.ErrFull];
	// 100,000 by default, and none with a negative number. They are counted every
	// few seconds, so that what becomes unknown in between may go over it.
	MaxUnknown int
	// SweepEvery is how often what is over is dropped; 5 s by default, and never
	// with a negative duration: somebody calls [Store.Sweep] then. Of many
	// processes on one database each sweeps, none waits for another.
	SweepEvery time.Duration
	// PollEvery is how often claims that somebody waits for are looked at, all in
	// one query; 25 ms by default. While nothing happens the pauses grow, to ten
	// times as much.
	PollEvery time.Duration
	// Logger is told of settings of the server that weaken the promise, and of
	// sweeps that fail; slog.Default by default.
	Logger *slog.Logger

	// plain makes the store do without what only MariaDB has; tests set it.
	plain bool
}

const (
	defaultPrefix     = "idem_"
	defaultMaxResult  = 16 << 20
	defaultMaxUnknown = 100_000
	defaultSweepEvery = 5 * time.Second
	defaultPollEvery  = 25 * time.Millisecond

	maxPrefix = 32
	// maxNote is the longest note of a resolution, in bytes.
	maxNote = 1<<16 - 1
)

// filled returns the options with their defaults.
func (o *Options) filled() (Options, error) {
	var f Options
	if o != nil {
		f = *o
	}
	if f.Prefix == "" {
		f.Prefix = defaultPrefix
	}
	if !validPrefix(f.Prefix) {
		return f, errors.New("mysqlstore: the prefix of the tables may have letters, digits and underscores, 32 at most")
	}
	if f.MaxResult == 0 {
		f.MaxResult = defaultMaxResult
	}
	if f.MaxResult < 0 {
		return f, errors.New("mysqlstore: MaxResult must not be less than zero")
	}
	if f.MaxUnknown == 0 {
		f.MaxUnknown = defaultMaxUnknown
	}
	if f.SweepEvery == 0 {
		f.SweepEvery = defaultSweepEvery
	}
	if f.PollEvery <= 0 {
		f.PollEvery = defaultPollEvery
	}
	if f.Logger == nil {
		f.Logger = slog.Default()
	}
	return f, nil
}

func validPrefix(p string) bool {
	for _, c := range []byte(p) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_') {
			return false
		}
	}
	return len(p) <= maxPrefix
}
