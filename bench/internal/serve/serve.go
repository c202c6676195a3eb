// Package serve runs the small servers of the measurements: a handler on a
// port of its own, and what it counts on another, both announced on stderr in
// the form in which the idem command announces its own.
package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// Run serves the handler on a free port of the loopback, and its counts (those
// of the Go runtime, and what more writes) at /metrics on another, until
// SIGTERM or until its stdin, which its parent holds, is closed.
func Run(name string, handler http.Handler, more func(io.Writer)) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // whatever ends it, the parent is gone
		stop()
	}()

	public, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		_, _ = fmt.Fprintf(w, "go_memstats_mallocs_total %d\n", m.Mallocs)
		if more != nil {
			more(w)
		}
	})
	servers := []*http.Server{
		{Handler: handler, ReadHeaderTimeout: 10 * time.Second},
		{Handler: mux, ReadHeaderTimeout: 10 * time.Second},
	}
	failed := make(chan error, len(servers))
	for i, l := range []net.Listener{public, admin} {
		go func() { failed <- servers[i].Serve(l) }()
	}
	slog.New(slog.NewJSONHandler(os.Stderr, nil)).Info(name+": serving", "listen", public.Addr().String(), "admin", admin.Addr().String())
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	for _, s := range servers {
		err = errors.Join(err, s.Close())
	}
	return err
}
