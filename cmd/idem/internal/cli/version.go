package cli

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version and what it was built with",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := buildVersion()
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "idem %s (%s)\n", v.version, v.goVersion)
			if err != nil {
				return &failure{err}
			}
			return nil
		},
	}
}

type version struct{ version, goVersion string }

// buildVersion returns the module's version, or the commit of a build from a
// working tree.
func buildVersion() version {
	v := version{version: "devel", goVersion: "unknown Go"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.goVersion = info.GoVersion
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.version = info.Main.Version
		return v
	}
	var revision, dirty string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			revision = "-" + s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	v.version += revision + dirty
	return v
}
