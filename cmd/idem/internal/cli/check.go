package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/idem-go/idem/cmd/idem/internal/stores"
	"github.com/idem-go/idem/driver"
)

// checkFlags are the flags of idem store check.
type checkFlags struct {
	store  storeFlags
	json   bool
	failOn choice[driver.Severity]
}

func newCheck() *cobra.Command {
	f := &checkFlags{failOn: choice[driver.Severity]{value: driver.SeverityWarning, words: []word[driver.Severity]{
		{driver.SeverityUnknown.String(), driver.SeverityUnknown},
		{driver.SeverityWarning.String(), driver.SeverityWarning},
		{driver.SeverityError.String(), driver.SeverityError},
	}}}
	cmd := &cobra.Command{
		Use:   "check --store DSN",
		Short: "Say whether a store can be used, and whether its server keeps the promise",
		Long: `check connects to a store, looks at its schema, and reads every setting of its
server that keeps or breaks the promise. For each it prints what was found, and
where something is wrong what that means and what to do about it:

  ok        it is as it should be
  unknown   it cannot be read from here
  warning   an acknowledged record may be forgotten, after a power cut or a
            failover: what was done may then be done again
  error     the store cannot be used, or the promise does not hold

It changes nothing, but that it opens the directory of file:, unless a proxy has
it open: whatever was in flight when that proxy died is unknown from then on.

It exits with 0 when nothing is as bad as --fail-on says; with 1 when something
is; with 2 when the store could not be looked at. A warning fails by default. Who has
decided to live with those of a server gives --fail-on error.`,
		Example: `  idem store check --store-file /etc/idem/store
  idem store check --store redis://10.0.0.5:6379/0 --fail-on error --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := f.store.dsn()
			if err != nil {
				return err
			}
			return f.check(cmd.Context(), d, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f.store.define(cmd.Flags(), "")
	cmd.Flags().BoolVar(&f.json, "json", false, "print one JSON object instead of a table")
	cmd.Flags().Var(&f.failOn, "fail-on", "the least that makes the exit code 1")
	return cmd
}

// check prints what is found out about the store.
func (f *checkFlags) check(ctx context.Context, d stores.DSN, stdout, stderr io.Writer) error {
	found, err := d.Check(ctx, &stores.Options{Logger: warnings(stderr)})
	if err != nil {
		return &usageError{what: "the store " + d.String() + " cannot be checked: " + err.Error(), hint: "check again once that is mended", cause: err}
	}
	show := printTable
	if f.json {
		show = printJSON
	}
	if err := show(stdout, d, found); err != nil {
		return &failure{err}
	}
	bad := 0
	for _, each := range found {
		if each.Severity >= f.failOn.value {
			bad++
		}
	}
	if bad > 0 {
		return &failure{fmt.Errorf("%s in the store %s", tally(found), d)}
	}
	return nil
}

// tally counts what was found and is not ok, the worst first.
func tally(found []driver.Finding) string {
	var parts []string
	for s := driver.SeverityError; s > driver.SeverityOK; s-- {
		n := 0
		for _, f := range found {
			if f.Severity == s {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, s))
		}
	}
	return strings.Join(parts, ", ")
}

// printTable prints a line for each finding, with what it means and what to do
// in lines of their own below.
func printTable(w io.Writer, _ stores.DSN, found []driver.Finding) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(cells ...string) {
		for i, c := range cells {
			cells[i] = printable(c)
		}
		_, _ = fmt.Fprintln(t, strings.TrimRight(strings.Join(cells, "\t"), "\t")) // Flush tells of it
	}
	line("SEVERITY", "SUBJECT", "FOUND")
	for _, f := range found {
		line(f.Severity.String(), f.Subject, f.Found)
		if f.Means != "" {
			line("", "means:", f.Means)
		}
		if f.Remedy != "" {
			line("", "remedy:", f.Remedy)
		}
	}
	return t.Flush()
}

// finding is a finding as JSON.
type finding struct {
	Severity string `json:"severity"`
	Subject  string `json:"subject"`
	Found    string `json:"found"`
	Means    string `json:"means"`
	Remedy   string `json:"remedy"`
}

func printJSON(w io.Writer, d stores.DSN, found []driver.Finding) error {
	out := struct {
		Store    string    `json:"store"`
		Findings []finding `json:"findings"`
	}{d.String(), make([]finding, 0, len(found))}
	for _, f := range found {
		out.Findings = append(out.Findings, finding{f.Severity.String(), f.Subject, f.Found, f.Means, f.Remedy})
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(out)
}

// printable keeps what a server says to one line, and from being a command to
// the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, oneLine(s))
}
