// Package stores opens the store that a DSN names, makes its schema, and checks
// its server.
package stores

import (
	"errors"
	"log/slog"

	"github.com/idem-go/idem/driver"
)

// ErrDSN is found in every error of [Parse].
var ErrDSN = errors.New("stores: the store is not named by a DSN that is known")

// Options are the bounds that a store is opened with. Nil, and the zero value
// of each field, take the store's own defaults.
type Options struct {
	// MaxUnknown is the most unknown outcomes that are kept; past it new
	// claims are refused. NATS has no such bound.
	MaxUnknown int
	// MaxResult is the largest result, in bytes, that the store should take. One
	// that cannot take as much takes what it can, as its Describe says.
	MaxResult int
	// Logger takes what the store has to say. Default slog.Default.
	Logger *slog.Logger
}

func (o *Options) filled() Options {
	var f Options
	if o != nil {
		f = *o
	}
	if f.Logger == nil {
		f.Logger = slog.Default()
	}
	return f
}

// closer is a store that must be closed.
type closer interface {
	driver.Store
	Close() error
}
