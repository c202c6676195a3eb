// Package cli is the command line of idem: a file for each subcommand.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The exit codes of every subcommand.
const (
	exitOK = 0
	// exitFailed: it ran, and something went wrong.
	exitFailed = 1
	// exitUsage: it did not start; what stands on stderr says what to change.
	exitUsage = 2
)

// Main runs idem with the arguments after the program's name and returns its
// exit code: 0; 1 when something went wrong while it ran; 2 when it could not
// start, for a reason that one line on stderr gives together with what to do.
// When ctx ends, what serves ends as it does at SIGTERM.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	_, _ = fmt.Fprintln(stderr, "idem: "+oneLine(err.Error())) // nobody is left to be told
	var failed *failure
	if errors.As(err, &failed) {
		return exitFailed
	}
	return exitUsage
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "idem",
		Short: "Make requests that are sent again take effect once",
		Long: `idem makes HTTP requests safe to send again: a request that is retried, raced or
cut off takes effect once, and every retry gets the first answer.`,
		Args:          noArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usage("no command was given", "see idem --help")
		},
	}
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(newProxy(), newStore(), newVersion())
	return root
}

// noArgs refuses arguments that are not flags.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		return usage(fmt.Sprintf("there is no command %q", args[0]), "see "+cmd.CommandPath()+" --help")
	}
	return usage(fmt.Sprintf("%s takes flags only, not %q", cmd.CommandPath(), args[0]), "see "+cmd.CommandPath()+" --help")
}

// usageError is a mistake of the operator's, or of the machine's: nothing was
// started.
type usageError struct {
	what, hint string
	cause      error
}

func usage(what, hint string) error { return &usageError{what: what, hint: hint} }

func (e *usageError) Error() string { return oneLine(e.what) + "; " + e.hint }

func (e *usageError) Unwrap() error { return e.cause }

// failure is what went wrong after the start.
type failure struct{ error }

func (e *failure) Unwrap() error { return e.error }

// flagError turns an error of the flags' parser into a sentence. The value that
// was given is only in it where the flag's own type puts it there: the value of
// --store may hold a password.
func flagError(cmd *cobra.Command, err error) error {
	hint := "see " + cmd.CommandPath() + " --help"
	var invalid *pflag.InvalidValueError
	var missing *pflag.ValueRequiredError
	var unknown *pflag.NotExistError
	switch {
	case errors.As(err, &invalid):
		return &usageError{what: "--" + invalid.GetFlag().Name + ": " + invalid.Unwrap().Error(), hint: hint, cause: err}
	case errors.As(err, &missing):
		return &usageError{what: "--" + missing.GetFlag().Name + " needs a value", hint: hint, cause: err}
	case errors.As(err, &unknown):
		return &usageError{what: fmt.Sprintf("there is no flag --%s", unknown.GetSpecifiedName()), hint: hint, cause: err}
	case errors.Is(err, pflag.ErrHelp):
		return err
	}
	return &usageError{what: err.Error(), hint: hint, cause: err}
}

// oneLine keeps an error's text to one line, whatever a system put into it. What
// it says of each of several tries alike is said once.
func oneLine(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		if line = strings.Join(strings.Fields(line), " "); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	for i, line := range lines[:max(0, len(lines)-1)] {
		if !strings.HasSuffix(line, ":") {
			lines[i] += ";"
		}
	}
	return strings.Join(lines, " ")
}
