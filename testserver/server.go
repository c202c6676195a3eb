package testserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"
)

var (
	// ErrMissing says that a program that the tests need is not on this machine.
	ErrMissing = errors.New("testserver: not installed")
	// ErrExternal says that a server was given by a variable, and is not the
	// tests' to kill, pause or start.
	ErrExternal = errors.New("testserver: the server is not ours to kill or pause")
	// ErrRunning is what starting a server gives that runs.
	ErrRunning = errors.New("testserver: the server is running")
	// ErrEnded is what pausing a server gives that does not run, and starting
	// one that was stopped.
	ErrEnded = errors.New("testserver: the server has ended")
)

// Options say how a server is started. Nil options are ready for use.
type Options struct {
	// Settings are the server's own, by its own names, such as "fsync": "off" for
	// PostgreSQL or "maxmemory-policy": "allkeys-lru" for Redis. They win
	// over those that this package chooses.
	Settings map[string]string

	// ClockOffset moves the server's wall clock, by libfaketime. Starting gives
	// ErrMissing where that is not installed.
	ClockOffset time.Duration

	// MovableClock makes [Server.SetClock] possible, also with a ClockOffset of 0.
	MovableClock bool
}

// private reports that only a server of our own can be as the options say.
func (o *Options) private() bool {
	return o != nil && (len(o.Settings) > 0 || o.ClockOffset != 0 || o.MovableClock)
}

func (o *Options) settings(defaults map[string]string) map[string]string {
	all := map[string]string{}
	for k, v := range defaults {
		all[k] = v
	}
	if o != nil {
		for k, v := range o.Settings {
			all[k] = v
		}
	}
	return all
}

// A Server is one server, or several that belong together ([Server.Nodes]).
// Its methods may be called by several goroutines; each waits for the one before.
type Server struct {
	name     string
	dsn      string
	addrs    []string
	external bool
	nodes    []*Server // none for a single server
	p        *process  // of a single server of our own
	// ready, when there is one, asks whether several servers work together.
	ready func(ctx context.Context) error
}

// External returns the server that a variable of the environment names, or nil
// where it is not set.
func External(name, variable string) *Server { return external(name, variable, nil) }

// external returns the server that the variable names, or nil.
func external(name, variable string, o *Options) *Server {
	dsn := os.Getenv(variable)
	if dsn == "" || o.private() {
		return nil
	}
	s := &Server{name: name, dsn: dsn, external: true}
	if u, err := url.Parse(dsn); err == nil {
		s.addrs = strings.Split(u.Host, ",")
	}
	return s
}

// DSN returns what idem's --store takes: postgres://…, mysql://…, redis://… or nats://….
func (s *Server) DSN() string { return s.dsn }

// Addr returns the host:port of the server, or of the first of several.
func (s *Server) Addr() string {
	if len(s.addrs) == 0 {
		return ""
	}
	return s.addrs[0]
}

// Addrs returns the host:port of each server that a client is told. Those of a
// sentinel set-up are the sentinels'.
func (s *Server) Addrs() []string { return s.addrs }

// Port returns the port of Addr.
func (s *Server) Port() string {
	_, port, err := net.SplitHostPort(s.Addr())
	if err != nil {
		return ""
	}
	return port
}

// External reports that a variable named the server, and that it is not this
// process's.
func (s *Server) External() bool { return s.external }

// Nodes returns the single servers of a cluster, each of which can be killed
// and paused by itself, or the server itself.
func (s *Server) Nodes() []*Server {
	if len(s.nodes) == 0 {
		return []*Server{s}
	}
	return s.nodes
}

// leaves returns the single servers, those of servers inside included.
func (s *Server) leaves() []*Server {
	if len(s.nodes) == 0 {
		return []*Server{s}
	}
	var all []*Server
	for _, n := range s.nodes {
		all = append(all, n.leaves()...)
	}
	return all
}

// each calls do for each single server.
func (s *Server) each(what string, do func(*process) error) error {
	if s.external {
		return fmt.Errorf("%w: %s %s", ErrExternal, what, s.name)
	}
	var errs []error
	for _, n := range s.leaves() {
		if err := do(n.p); err != nil {
			errs = append(errs, fmt.Errorf("testserver: %s %s: %w", what, n.name, err))
		}
	}
	return errors.Join(errs...)
}

// Kill ends all processes of the server by SIGKILL, and waits until they have
// ended. The data stay. A server that has ended already is no error.
func (s *Server) Kill() error { return s.each("killing", (*process).kill) }

// Shutdown tells the server to end as it should, and waits until it has. The
// data stay. A server that does not end in 20 seconds is killed, which is an error.
func (s *Server) Shutdown() error { return s.each("ending", (*process).shutdown) }

// Start starts a server that was killed or shut down, on the same data and port,
// and waits until it answers. It gives ErrRunning where one runs, which of several
// that belong together is no error, and ErrEnded after Stop.
func (s *Server) Start() error {
	if s.external {
		return fmt.Errorf("%w: starting %s", ErrExternal, s.name)
	}
	var begun []*process
	var errs []error
	for _, n := range s.leaves() {
		switch err := n.p.begin(); {
		case err == nil:
			begun = append(begun, n.p)
		case errors.Is(err, ErrRunning) && len(s.nodes) > 0:
		default:
			errs = append(errs, fmt.Errorf("testserver: starting %s: %w", n.name, err))
		}
	}
	if len(begun) == 0 && len(errs) == 0 {
		return fmt.Errorf("%w: %s", ErrRunning, s.name)
	}
	for _, p := range begun {
		if err := p.await(); err != nil {
			errs = append(errs, fmt.Errorf("testserver: starting %s: %w", s.name, err))
		}
	}
	if len(errs) == 0 {
		errs = append(errs, s.Await())
	}
	return errors.Join(errs...)
}

// Await waits until servers that belong together are ready, as Start does. A
// single server has answered when it has started.
func (s *Server) Await() error {
	if s.ready == nil {
		return nil
	}
	return until(s.name+" is ready", s.ready)
}

// Pause stops all processes of the server where they are (SIGSTOP): connections
// stay, and nothing answers. Resume lets them go on.
func (s *Server) Pause() error { return s.each("pausing", (*process).pause) }

// Resume lets a paused server go on. One that is not paused is no error.
func (s *Server) Resume() error { return s.each("resuming", (*process).resume) }

// Stop ends the server and removes its data. A second call does nothing, and so
// does one for a server that a variable named.
func (s *Server) Stop() error {
	if s.external {
		return nil
	}
	return s.each("stopping", (*process).stop)
}

// SetClock moves the wall clock of a server that runs, or will run, to offset
// from this machine's. The server must have been started with a MovableClock or
// a ClockOffset; the connections that are open see it too.
func (s *Server) SetClock(offset time.Duration) error {
	return s.each("moving the clock of", func(p *process) error { return p.setClock(offset) })
}

// Log returns the last lines, at most 64 KiB, of what the server's processes
// have said.
func (s *Server) Log() string {
	var b strings.Builder
	for _, n := range s.leaves() {
		if n.p == nil {
			continue
		}
		if len(s.nodes) > 0 {
			fmt.Fprintf(&b, "-- %s %s\n", n.name, n.Addr())
		}
		b.WriteString(n.p.tail(64 << 10))
	}
	return b.String()
}
