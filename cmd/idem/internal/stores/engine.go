package stores

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/idem-go/idem/driver"
)

// Patience is how long opening, making and checking a store may take together
// before its server counts as one that does not answer.
const Patience = 10 * time.Second

// engine is what can be done with one kind of store, whose DSN is given as the
// store takes it.
type engine struct {
	open func(ctx context.Context, dsn string, o Options) (closer, error)
	// migrate makes or upgrades what open needs; nil where that needs nothing.
	migrate func(ctx context.Context, dsn string, o Options) error
	check   func(ctx context.Context, dsn string, o Options) ([]driver.Finding, error)
}

// engineOf makes an engine of the functions that each store has: H is the handle
// that connect makes, and O the store's options, which options makes of a DSN
// and ours.
func engineOf[S closer, H, O any](
	open func(ctx context.Context, dsn string, o *O) (S, error),
	connect func(ctx context.Context, dsn string) (H, error),
	disconnect func(H) error,
	migrate func(ctx context.Context, handle H, o *O) error,
	check func(ctx context.Context, handle H, o *O) ([]driver.Finding, error),
	options func(dsn string, o Options) (*O, error),
) engine {
	// with calls f with a handle and options.
	with := func(ctx context.Context, dsn string, o Options, f func(H, *O) error) (err error) {
		set, err := options(dsn, o)
		if err != nil {
			return err
		}
		handle, err := connect(ctx, dsn)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, disconnect(handle)) }()
		return f(handle, set)
	}
	return engine{
		open: func(ctx context.Context, dsn string, o Options) (closer, error) {
			set, err := options(dsn, o)
			if err != nil {
				return nil, err
			}
			return opened(open(ctx, dsn, set))
		},
		migrate: func(ctx context.Context, dsn string, o Options) error {
			return with(ctx, dsn, o, func(h H, set *O) error { return migrate(ctx, h, set) })
		},
		check: func(ctx context.Context, dsn string, o Options) (found []driver.Finding, err error) {
			err = with(ctx, dsn, o, func(h H, set *O) error {
				found, err = check(ctx, h, set)
				return err
			})
			return found, err
		},
	}
}

// opened keeps a nil pointer from becoming a store.
func opened[S closer](s S, err error) (closer, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// bounded calls f with a context that ends after [Patience], and gives up on it a
// moment later, should it not heed the context. What comes too late is discarded.
func bounded[T any](ctx context.Context, f func(ctx context.Context) (T, error), discard func(T)) (T, error) {
	type outcome struct {
		value T
		err   error
		late  bool
	}
	limited, cancel := context.WithTimeout(ctx, Patience)
	done := make(chan outcome)
	given := make(chan struct{})
	go func() {
		defer cancel()
		v, err := f(limited)
		select {
		case done <- outcome{v, err, limited.Err() != nil}:
		case <-given:
			if err == nil {
				discard(v)
			}
		}
	}()
	late := time.NewTimer(Patience + time.Second)
	defer late.Stop()
	var none T
	select {
	case o := <-done:
		if o.err != nil && o.late && ctx.Err() == nil {
			return none, silent(o.err)
		}
		return o.value, o.err
	case <-late.C:
		close(given)
		return none, silent(nil)
	case <-ctx.Done():
		close(given)
		return none, ctx.Err()
	}
}

// silent is the error of a server that did not answer in time.
func silent(cause error) error {
	if cause == nil || errors.Is(cause, context.DeadlineExceeded) && cause.Error() == context.DeadlineExceeded.Error() {
		return fmt.Errorf("stores: there was no answer within %v", Patience)
	}
	return fmt.Errorf("stores: there was no answer within %v: %w", Patience, cause)
}

// Open opens the store and returns it with the function that closes it. What
// Open has opened when it fails, it closes again. A server is waited for until
// ctx ends, or for [Patience].
func (d DSN) Open(ctx context.Context, opts *Options) (driver.Store, func() error, error) {
	k := kindOf(d.scheme)
	if k == nil {
		return nil, nil, ErrDSN
	}
	s, err := k.start(ctx, d, opts.filled())
	if err != nil {
		return nil, nil, d.discreet(err)
	}
	return s, s.Close, nil
}

// start opens the store, in time.
func (k *kind) start(ctx context.Context, d DSN, o Options) (closer, error) {
	if k.migrate == nil {
		return k.open(ctx, d.secret().text, o)
	}
	return bounded(ctx, func(ctx context.Context) (closer, error) { return k.open(ctx, d.secret().text, o) },
		func(s closer) { _ = s.Close() }) // nobody waits for it any more
}

// Migration is what [DSN.Migrate] did.
type Migration struct {
	// Needless says that such a store needs nothing to be made.
	Needless bool
	// Was says why the store could not be used before; empty where it could.
	Was string
}

// Migrate makes what the store needs before it can be opened, or upgrades it;
// where all is there it changes nothing. A store that cannot be used afterwards
// either gives an [*UnusableError].
func (d DSN) Migrate(ctx context.Context, opts *Options) (Migration, error) {
	k := kindOf(d.scheme)
	if k == nil {
		return Migration{}, ErrDSN
	}
	if k.migrate == nil {
		return Migration{Needless: true}, nil
	}
	o := opts.filled()
	before := d.usable(ctx, k, o)
	_, err := bounded(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, k.migrate(ctx, d.secret().text, o)
	}, func(struct{}) {})
	if err != nil {
		return Migration{}, d.discreet(err)
	}
	if before == nil {
		return Migration{}, nil
	}
	m := Migration{Was: before.Error()}
	if err := d.usable(ctx, k, o); err != nil {
		return m, &UnusableError{Cause: err}
	}
	return m, nil
}

// UnusableError says that a store whose schema is as it must be cannot be
// opened all the same.
type UnusableError struct {
	// Cause is what opening it gave.
	Cause error
}

// Error gives the cause's text.
func (e *UnusableError) Error() string { return e.Cause.Error() }

// Unwrap returns the cause.
func (e *UnusableError) Unwrap() error { return e.Cause }

// usable opens the store and closes it again.
func (d DSN) usable(ctx context.Context, k *kind, o Options) error {
	o.Logger = slog.New(slog.DiscardHandler) // whoever asks for more calls Check
	s, err := k.start(ctx, d, o)
	if err == nil {
		err = s.Close()
	}
	return d.discreet(err)
}

// Check looks at the store's server, its schema and its settings, and changes
// nothing. An error says that nothing could be looked at.
func (d DSN) Check(ctx context.Context, opts *Options) ([]driver.Finding, error) {
	k := kindOf(d.scheme)
	if k == nil {
		return nil, ErrDSN
	}
	found, err := bounded(ctx, func(ctx context.Context) ([]driver.Finding, error) {
		return k.check(ctx, d.secret().text, opts.filled())
	}, func([]driver.Finding) {})
	if err != nil && NeedsMigration(err) {
		return append(found, driver.Finding{
			Severity: driver.SeverityError, Subject: "schema", Found: d.discreet(err).Error(),
			Means: "The store cannot be used.", Remedy: "Run idem store migrate.",
		}), nil
	}
	return found, d.discreet(err)
}

// NeedsMigration reports that an error of [DSN.Open] asks for [DSN.Migrate]. The
// stores have no error for that in common; they all name the command.
func NeedsMigration(err error) bool {
	return err != nil && strings.Contains(err.Error(), "idem store migrate")
}
