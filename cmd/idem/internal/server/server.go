// Package server is the life of a process that serves: ready, draining, over.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/idem-go/idem"
)

// The limits of the public server. There is none for writing a response, which
// may stream for as long as its operation runs.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 120 * time.Second
	adminTimeout      = 30 * time.Second
	adminHeaderBytes  = 64 << 10
)

// saveGrace is what results that are still being saved are given when the time
// to drain has run out.
const saveGrace = time.Second

// SameSignal is how long after a signal another one counts as the same: some
// that end a process signal it and its group, which it is in.
const SameSignal = time.Second

// ErrInterrupted says that a second signal ended the process before it had
// drained.
var ErrInterrupted = errors.New("server: a second signal ended it while it drained; the outcome of what ran with a key is unknown")

// CutError says that the time to drain ran out.
type CutError struct {
	// Requests is how many were still running.
	Requests int64
	// Drain is the time they were given.
	Drain time.Duration
}

// Error says what that means for their keys.
func (e *CutError) Error() string {
	what := fmt.Sprintf("%d requests were", e.Requests)
	if e.Requests == 1 {
		what = "1 request was"
	}
	return fmt.Sprintf("server: %s cut off when the %v to drain were over; the outcome of those with a key is unknown until it is resolved", what, e.Drain)
}

// Config is what a server serves, and what it closes at its end.
type Config struct {
	// Public serves the listen address.
	Public http.Handler
	// Admin serves the admin address, and goes on while the server drains.
	Admin http.Handler
	// Guard is closed when the requests have ended.
	Guard *idem.Guard
	// CloseIdle closes unused connections to the upstream; may be nil.
	CloseIdle func()
	// CloseStore closes the store, last of all.
	CloseStore func() error
	// CloseWait is how long CloseStore may take before it is left to the end of
	// the process; 0 waits for as long as it takes.
	CloseWait time.Duration
}

// Options are the settings of a [Server]. Nil is ready for use.
type Options struct {
	// Drain is how long requests that run are given at the end; 0 gives them
	// nothing.
	Drain time.Duration
	// Logger takes what an operator should know. Default slog.Default.
	Logger *slog.Logger
}

// Server serves once. [Server.Ready] and [Server.Requests] may be called from
// many goroutines at any time.
type Server struct {
	drain    time.Duration
	logger   *slog.Logger
	ready    atomic.Bool
	requests atomic.Int64
	upgrades atomic.Int64
}

// New returns a server that serves nothing yet.
func New(opts *Options) *Server {
	s := &Server{logger: slog.Default()}
	if opts != nil {
		s.drain = opts.Drain
		if opts.Logger != nil {
			s.logger = opts.Logger
		}
	}
	return s
}

// Ready reports that requests are served, and not yet refused.
func (s *Server) Ready() bool { return s.ready.Load() }

// Requests returns how many requests of the public address run now, without
// those that became another protocol.
func (s *Server) Requests() int64 { return s.requests.Load() }

// Run serves on both listeners, which it closes, until ctx ends or something
// comes from signals. Then it is no longer ready, stops listening, lets the
// requests end for at most Options.Drain, and closes the guard and the store.
//
// Nil says that every request ended with its answer and its record. A
// [*CutError] counts those that did not; [ErrInterrupted] says that another
// signal came, more than [SameSignal] after the first, upon which Run returns at
// once and leaves the rest to the end of the process. A second call is not allowed.
func (s *Server) Run(ctx context.Context, public, admin net.Listener, signals <-chan os.Signal, cfg Config) error {
	errorLog := slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug)
	front := &http.Server{
		Handler:           s.count(cfg.Public),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          errorLog,
	}
	back := &http.Server{
		Handler:           cfg.Admin,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       adminTimeout,
		WriteTimeout:      adminTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    adminHeaderBytes,
		ErrorLog:          errorLog,
	}
	failed := make(chan error, 2)
	go func() { failed <- serve("public", front, public) }()
	go func() { failed <- serve("admin", back, admin) }()
	s.ready.Store(true)

	var cause error
	select {
	case <-ctx.Done():
	case sig := <-signals:
		s.logger.Info("server: draining", "signal", sig.String(), "at_most", s.drain, "requests", s.requests.Load())
	case cause = <-failed:
		s.logger.Error("server: an address cannot be served any more; draining", "error", cause)
	}
	s.ready.Store(false)
	asked := time.Now()

	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.drain)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.end(drain, front, back, cfg) }()
	for {
		select {
		case err := <-done:
			return errors.Join(cause, err)
		case <-signals:
			if time.Since(asked) >= SameSignal {
				return ErrInterrupted
			}
		}
	}
}

func serve(name string, s *http.Server, l net.Listener) error {
	err := s.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("server: the %s address: %w", name, err)
}

// end lets the requests end, then saves and closes, in this order: what runs
// needs the guard, and the guard the store.
func (s *Server) end(drain context.Context, front, back *http.Server, cfg Config) error {
	var errs []error
	if err := front.Shutdown(drain); err != nil {
		if n := s.requests.Load(); n > 0 {
			errs = append(errs, &CutError{Requests: n, Drain: s.drain})
		}
		_ = front.Close() // what can fail here is the closing of connections that are given up
	}
	saving := drain
	if deadline, ok := drain.Deadline(); !ok || time.Until(deadline) < saveGrace {
		var cancel context.CancelFunc
		saving, cancel = context.WithTimeout(context.WithoutCancel(drain), saveGrace)
		defer cancel()
	}
	if err := cfg.Guard.Close(saving); err != nil {
		errs = append(errs, err)
	}
	if cfg.CloseIdle != nil {
		cfg.CloseIdle()
	}
	_ = back.Close() // the admin address answers until here, whoever still asks can ask no more
	if err := closeStore(cfg); err != nil {
		errs = append(errs, fmt.Errorf("server: closing the store: %w", err))
	}
	return errors.Join(errs...)
}

// closeStore closes the store in time. The server of one that does not answer
// would be waited for otherwise, for nothing: all that was acknowledged is there.
func closeStore(cfg Config) error {
	if cfg.CloseWait <= 0 {
		return cfg.CloseStore()
	}
	done := make(chan error, 1)
	go func() { done <- cfg.CloseStore() }()
	late := time.NewTimer(cfg.CloseWait)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		return fmt.Errorf("its server did not answer for %v", cfg.CloseWait)
	}
}

// count counts the requests that run. A connection that becomes another
// protocol (a GET that asks for an upgrade) has no end to wait for.
func (s *Server) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := &s.requests
		if r.Method == http.MethodGet && len(r.Header["Upgrade"]) > 0 {
			n = &s.upgrades
		}
		n.Add(1)
		defer n.Add(-1)
		next.ServeHTTP(w, r)
	})
}
