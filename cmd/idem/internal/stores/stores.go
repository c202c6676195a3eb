// Package stores opens the store that a DSN names.
package stores

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/filestore"
	"github.com/idem-go/idem/memstore"
)

// known is what an operator may write, for the texts of errors.
const known = "memory: and file:DIR"

// ErrDSN is found in every error of [Parse].
var ErrDSN = errors.New("stores: the store is not named by a DSN that is known")

// DSN names a store. It comes from [Parse].
type DSN struct {
	scheme string
	dir    string
}

// Options are the bounds that a store is opened with. Nil, and the zero value
// of each field, take the store's own defaults.
type Options struct {
	// MaxUnknown is the most unknown outcomes that are kept; past it new
	// claims are refused.
	MaxUnknown int
	// MaxResult is the largest result, in bytes, that the store must take.
	MaxResult int
	// Logger takes what the store has to say.
	Logger *slog.Logger
}

// Parse reads a DSN and touches nothing. Its errors wrap [ErrDSN] and hold no
// more of the DSN than its scheme: the rest may be a password.
func Parse(dsn string) (DSN, error) {
	scheme, rest, found := strings.Cut(dsn, ":")
	if !found || !isScheme(scheme) {
		return DSN{}, fmt.Errorf("%w: it has no scheme; the ones known are %s", ErrDSN, known)
	}
	switch scheme = strings.ToLower(scheme); scheme {
	case "memory":
		if strings.Trim(rest, "/") != "" {
			return DSN{}, fmt.Errorf("%w: memory: has no name, path or settings", ErrDSN)
		}
		return DSN{scheme: scheme}, nil
	case "file":
		// file:///var/lib/idem is the form of a URL; file://DIR would name a host.
		if after, url := strings.CutPrefix(rest, "//"); url {
			if !strings.HasPrefix(after, "/") {
				return DSN{}, fmt.Errorf("%w: file:// is followed by an absolute path; write file:DIR for a relative one", ErrDSN)
			}
			rest = after
		}
		if rest == "" {
			return DSN{}, fmt.Errorf("%w: file: names no directory; write file:DIR", ErrDSN)
		}
		if strings.ContainsRune(rest, 0) {
			return DSN{}, fmt.Errorf("%w: the directory's name holds a NUL byte", ErrDSN)
		}
		return DSN{scheme: scheme, dir: rest}, nil
	}
	return DSN{}, fmt.Errorf("%w: nothing is known of %s:; the ones known are %s", ErrDSN, scheme, known)
}

// isScheme keeps what is not a scheme (a user's name, a whole DSN without one)
// out of texts that quote the scheme.
func isScheme(s string) bool {
	if s == "" || len(s) > 20 {
		return false
	}
	for i, c := range []byte(s) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || !strings.ContainsRune("0123456789+.-", rune(c))) {
			return false
		}
	}
	return true
}

// String returns the DSN as it may be shown.
func (d DSN) String() string { return d.scheme + ":" + d.dir }

// Dir returns the directory of a file store, and "" of any other.
func (d DSN) Dir() string { return d.dir }

// Open opens the store and returns it with the function that closes it. What
// Open has opened when it fails, it closes again.
func (d DSN) Open(opts *Options) (driver.Store, func() error, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	switch d.scheme {
	case "memory":
		s := memstore.New(&memstore.Options{MaxUnknown: o.MaxUnknown, MaxResult: o.MaxResult})
		return s, s.Close, nil
	case "file":
		s, err := filestore.Open(d.dir, &filestore.Options{MaxUnknown: o.MaxUnknown, MaxResult: o.MaxResult, Logger: o.Logger})
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	}
	return nil, nil, ErrDSN
}
