package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/idem-go/idem/cmd/idem/internal/stores"
)

func newMigrate() *cobra.Command {
	f := &storeFlags{}
	cmd := &cobra.Command{
		Use:   "migrate --store DSN",
		Short: "Make or upgrade what a store needs: tables, a bucket, a marker",
		Long: `migrate makes the tables, the bucket or the marker that a store needs before a
proxy can use it, or brings those of an older version up to date. Where all is
there it changes nothing. It may run while proxies use the store, and more than
once at the same time; it only goes forward.

It exits with 0; with 1 when the store cannot be used although its schema is as
it must be; with 2 when it could not be made, for the reason that stands on stderr.`,
		Example: `  idem store migrate --store-file /etc/idem/store
  idem store migrate --store sqlite:/var/lib/idem/records.db`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := f.dsn()
			if err != nil {
				return err
			}
			return migrate(cmd.Context(), d, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f.define(cmd.Flags(), "")
	return cmd
}

// migrate makes what the store needs and says what it did.
func migrate(ctx context.Context, d stores.DSN, stdout, stderr io.Writer) error {
	m, err := d.Migrate(ctx, &stores.Options{Logger: warnings(stderr)})
	var unusable *stores.UnusableError
	if err != nil && !errors.As(err, &unusable) {
		return &usageError{what: "the store " + d.String() + " could not be made ready: " + err.Error(), hint: "run it again once that is mended", cause: err}
	}
	var what string
	switch {
	case m.Needless:
		what = "needs no schema; nothing was done"
	case m.Was == "":
		what = "was ready already; nothing had to be made"
	case unusable != nil:
		return &failure{fmt.Errorf("the store %s has its schema, but it cannot be used: %w; idem store check says more", d, unusable)}
	default:
		what = "is ready now. Before: " + oneLine(m.Was)
	}
	if _, err := fmt.Fprintf(stdout, "%s %s\n", d, what); err != nil {
		return &failure{err}
	}
	return nil
}

// warnings is the log of the commands that say on stdout what they found.
func warnings(stderr io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}
