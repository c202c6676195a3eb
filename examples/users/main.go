// Command users is a small HTTP service on SQLite, with the requests by which
// idempotency is taught: its README shows which of them may be sent twice and
// which may not, without idem and behind it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// drain is how long requests in flight may take once the service is told to stop.
const drain = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and then until the requests in flight have their
// answers. It says on out where it listens, once it does.
func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("users", flag.ContinueOnError)
	flags.SetOutput(out)
	addr := flags.String("addr", "127.0.0.1:8081", "`address` to listen on")
	file := flags.String("db", "users.db", "SQLite `file` with the users, or a postgres:// URL")
	delay := flags.Duration("delay", 0, "how long POST takes after it has written its user")
	dsn := flags.String("idem", "", "idem's store: memory:, file:`DIR`, or tx for records in the users' own database; without it, nothing is protected")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("users: unexpected argument %q", flags.Arg(0))
	}

	t, err := openTable(ctx, *file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()

	h, closeIdem, err := protect(ctx, newHandler(t, *delay), t, *dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeIdem()) }()

	l, err := net.Listen("tcp", *addr)
	if err != nil {
		return fmt.Errorf("users: %w", err)
	}
	fmt.Fprintf(out, "users: listening on http://%s\n", l.Addr())
	return serve(ctx, l, h)
}

func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("users: %w", err)
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		return fmt.Errorf("users: stopping: %w", err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("users: %w", err)
	}
	return nil
}
