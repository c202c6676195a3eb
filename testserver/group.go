package testserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/idem-go/idem/testserver/internal/free"
)

// Group makes servers that belong together one, whose methods act on each of them.
// Addrs are those of the servers, in their order. Start waits for ready, too,
// which asks whether they work together; nil asks nothing.
func Group(name, dsn string, ready func(ctx context.Context) error, servers ...*Server) *Server {
	g := &Server{name: name, dsn: dsn, nodes: servers, ready: ready}
	for _, s := range servers {
		g.addrs = append(g.addrs, s.Addr())
	}
	return g
}

// FreePort returns a port of 127.0.0.1 on which nobody listens, nor on the
// ports that lie at the distances above it. The kernel gives it to no
// connection of its own accord, but another test may find it at the same time.
func FreePort(distances ...int) (int, error) { return free.Port(distances...) }

// TempDir makes a folder that is removed by StopAll, and by the watchdog when
// this process ends without it.
func TempDir(name string) (string, error) { return everything.folder(name) }

// startAll starts several servers at once. When one fails, all are stopped.
func startAll(starts ...func() (*Server, error)) ([]*Server, error) {
	servers := make([]*Server, len(starts))
	errs := make([]error, len(starts))
	var wg sync.WaitGroup
	for i, start := range starts {
		wg.Go(func() { servers[i], errs[i] = start() })
	}
	wg.Wait()
	err := errors.Join(errs...)
	if err == nil {
		return servers, nil
	}
	for _, s := range servers {
		if s != nil {
			err = errors.Join(err, s.Stop())
		}
	}
	return nil, err
}

// until polls ask until it returns nil, for as long as a start may take.
func until(what string, ask func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if !pause(ctx, pollPause) {
			return fmt.Errorf("testserver: %s: not in %v: %w", what, startTimeout, err)
		}
	}
}

// reachable gives an error for a folder that the user whom a server runs as
// can't enter.
func reachable(dir string, o *owner) error {
	if o == nil {
		return nil
	}
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if st.Mode().Perm()&0o001 == 0 {
		return fmt.Errorf("testserver: %s is closed to the user that a server runs as, since root's tests may not run it; TMPDIR can name another folder", dir)
	}
	return nil
}
