package sqlitestore

import (
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Options bound what a store keeps and say where. The zero value of each field
// is its default.
type Options struct {
	// Prefix begins the names of the store's tables, indexes and triggers: a
	// letter, and then up to 40 letters, digits and underscores. By default
	// "idem_".
	Prefix string
	// MaxResult is the largest result kept, in bytes. By default 16 MiB; at most,
	// and with a negative number, 512 MiB.
	MaxResult int
	// MaxUnknown is the most records whose outcome is unknown, leases that have
	// ended included; past it claims of absent keys are refused with
	// [driver.ErrFull]. By default 100,000; a negative number is no bound.
	MaxUnknown int
	// SweepEvery is how often what is over is dropped. What is over reads as over
	// from that very instant in any case. By default every 10 s; a negative
	// duration leaves it to [Store.Sweep].
	SweepEvery time.Duration
	// PollEvery is how often those who wait for a claim look whether another
	// process, or a transaction of the application's, has ended it. What this
	// store ends they are told at once. By default every 50 ms.
	PollEvery time.Duration
	// Logger takes what there is to say. By default nothing is said.
	Logger *slog.Logger

	sources *sources
	// gap, in tests, is called at points between two steps of a call.
	gap func(where string)
}

const (
	defaultPrefix     = "idem_"
	defaultMaxResult  = 16 << 20
	defaultMaxUnknown = 100_000
	defaultSweepEvery = 10 * time.Second
	defaultPollEvery  = 50 * time.Millisecond

	// largestResult leaves room for the rest of a row: SQLite takes rows of up to
	// a billion bytes.
	largestResult = 512 << 20
	noBound       = int64(1) << 62
	longestPrefix = 41
)

// settings are the options with every field filled in.
type settings struct {
	Options
	maxUnknown int64
}

func (o *Options) settings() (settings, error) {
	var f settings
	if o != nil {
		f.Options = *o
	}
	if f.Prefix == "" {
		f.Prefix = defaultPrefix
	}
	if !isPrefix(f.Prefix) {
		return f, fmt.Errorf("sqlitestore: the prefix of the tables is a letter and then up to %d letters, digits and underscores", longestPrefix-1)
	}
	switch {
	case f.MaxResult == 0:
		f.MaxResult = defaultMaxResult
	case f.MaxResult < 0 || f.MaxResult > largestResult:
		f.MaxResult = largestResult
	}
	switch f.maxUnknown = int64(f.MaxUnknown); {
	case f.maxUnknown == 0:
		f.maxUnknown = defaultMaxUnknown
	case f.maxUnknown < 0:
		f.maxUnknown = noBound
	}
	if f.SweepEvery == 0 {
		f.SweepEvery = defaultSweepEvery
	}
	if f.PollEvery <= 0 {
		f.PollEvery = defaultPollEvery
	}
	if f.Logger == nil {
		f.Logger = slog.New(slog.DiscardHandler)
	}
	if f.sources == nil {
		f.sources = processClocks()
	}
	if f.gap == nil {
		f.gap = func(string) {}
	}
	return f, nil
}

// isPrefix says that p can begin a name without being quoted, in a text of SQL
// too.
func isPrefix(p string) bool {
	if len(p) > longestPrefix {
		return false
	}
	for i, c := range []byte(strings.ToLower(p)) {
		letter := c >= 'a' && c <= 'z'
		if !letter && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return !strings.HasPrefix(strings.ToLower(p), "sqlite_")
}

// sql puts the prefix into a text of SQL that is written with the default one.
func (f *settings) sql(text string) string { return strings.ReplaceAll(text, defaultPrefix, f.Prefix) }
