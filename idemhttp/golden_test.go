package idemhttp_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var updateGolden = flag.Bool("update-golden", false, "write what is new into the golden files; what is there stays")

// checkGolden compares lines of "name value" with a golden file. What the file
// has may never change, since records in the world were made by it.
func checkGolden(t *testing.T, file string, names []string, values map[string]string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	old, err := os.ReadFile(path)
	if err != nil && !*updateGolden {
		t.Fatal(err)
	}
	have := map[string]string{}
	for line := range strings.Lines(string(old)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		have[name] = value
	}
	grown := string(old)
	for _, name := range names {
		switch want, ok := have[name]; {
		case ok && want != values[name]:
			t.Errorf("%s: %s is now %s, was %s", path, name, values[name], want)
		case !ok && *updateGolden:
			grown += name + " " + values[name] + "\n"
		case !ok:
			t.Errorf("%s: %s is missing", path, name)
		}
		delete(have, name)
	}
	for name := range have {
		t.Errorf("%s: %s is no longer made", path, name)
	}
	if *updateGolden {
		if err := os.WriteFile(path, []byte(grown), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
