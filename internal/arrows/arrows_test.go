package arrows

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestArrows(t *testing.T) {
	modules, files := readTree(t)
	for _, f := range files {
		for _, imported := range f.imports {
			if why := forbidden(f, imported, modules); why != "" {
				t.Errorf("%s imports %s: %s", f.name, imported, why)
			}
		}
	}
}

// Each forbidden arrow is seen, and its allowed neighbour is let be.
func TestForbiddenArrowsAreSeen(t *testing.T) {
	modules := []module{{path: idem}, {path: idem + "/filestore"}, {path: idem + "/cmd/idem"}, {path: idem + "/redisstore"}, {path: idem + "/idemredis"}}
	tests := []struct {
		from, to string
		test     bool
		want     string
	}{
		{"driver", "", false, whyDriver},
		{"driver", "memstore", true, whyDriver},
		{"driver", "driver/sub", false, ""},
		{"", "driver", false, ""},
		{"", "memstore", false, whyCore},
		{"", "memstore", true, ""},
		{"", "idemhttp", false, whyCore},
		{"", "internal/wheel", false, ""},
		{"memstore", "driver", false, ""},
		{"memstore", "", false, whyStore},
		{"memstore", "", true, whyStore},
		{"memstore", "drivertest", true, ""},
		{"memstore", "drivertest", false, whyTestsOnly},
		{"filestore", "memstore", false, whyStore},
		{"filestore", "memstore", true, whyStore},
		{"filestore", "internal/wheel", false, whyInternal},
		{"filestore", "filestore/internal/disk", false, ""},
		{"filestore", "drivertest/linearize", true, ""},
		{"filestore", "testserver", true, ""},
		{"filestore", "testserver", false, whyServers},
		{"testserver/nats", "testserver", false, ""},
		{"idemredis", "testserver/nats", true, ""},
		{"bench", "testserver", false, ""},
		{"cmd/idem", "testserver", true, ""},
		{"memstore", "internal/wheel", false, ""},
		{"drivertest", "driver", false, ""},
		{"drivertest", "memstore", false, whyDrivertest},
		{"drivertest", "memstore", true, ""},
		{"drivertest/linearize", "drivertest", false, ""},
		{"idemhttp", "", false, ""},
		{"idemhttp", "driver", false, ""},
		{"idemhttp", "memstore", false, whyAdapter},
		{"idemhttp", "memstore", true, ""},
		{"idemhttp", "cmd/idem/internal/proxy", true, whyProgram},
		{"idemredis", "redisstore", false, ""},
		{"idemredis", "memstore", false, whyAdapter},
		{"idemredis", "redisstore/internal/script", false, whyInternal},
		{"cmd/idem", "filestore", false, ""},
		{"cmd/idem", "cmd/idem/internal/proxy", false, ""},
		{"cmd/idem", "filestore/internal/disk", false, whyInternal},
		{"cmd/idem", "drivertest", false, whyTestsOnly},
		{"e2e", "cmd/idem/internal/proxy", true, whyProgram},
		{"examples/users", "examples/payments", false, whyProgram},
		{"examples/users", "idemhttp", false, ""},
	}
	for _, tt := range tests {
		f := &file{pkg: path.Join(idem, tt.from), test: tt.test}
		f.module = owner(f.pkg, modules)
		if got := forbidden(f, path.Join(idem, tt.to), modules); got != tt.want {
			t.Errorf("%q imports %q (test %v): %q, want %q", tt.from, tt.to, tt.test, got, tt.want)
		}
	}
	inRoot := &file{pkg: idem + "/memstore", module: idem, test: true}
	inFile := &file{pkg: idem + "/filestore", module: idem + "/filestore"}
	if got := forbidden(inRoot, "golang.org/x/sync/errgroup", modules); got != whyForeign {
		t.Errorf("a foreign import in the root module: %q", got)
	}
	if got := forbidden(inRoot, "net/http", modules); got != "" {
		t.Errorf("the standard library in the root module: %q", got)
	}
	if got := forbidden(inFile, "github.com/cockroachdb/pebble/v2", modules); got != "" {
		t.Errorf("a foreign import in a store's module: %q", got)
	}
}

// The core requires nothing, and a test holds that.
func TestCoreRequiresNothing(t *testing.T) {
	modules, _ := readTree(t)
	for _, l := range modules[0].mod {
		if verb, _, _ := strings.Cut(l, " "); verb != "module" && verb != "go" {
			t.Errorf("go.mod: %q: the module graph of everybody who imports idem would pay for it", l)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "go.sum")); err == nil {
		t.Error("there is a go.sum beside the root's go.mod: it requires something")
	}
}

func TestNoModuleReplaces(t *testing.T) {
	modules, _ := readTree(t)
	for _, m := range modules {
		for _, l := range m.mod {
			if strings.HasPrefix(l, "replace ") || strings.HasPrefix(l, "exclude ") || strings.Contains(l, "=>") {
				t.Errorf("%s/go.mod: %q: whoever requires the module would not see it, and go install refuses it; what the tree needs stands in go.work", m.dir, l)
			}
		}
	}
}

// A module that go.work leaves out is neither built nor tested.
func TestWorkspaceHasEveryModule(t *testing.T) {
	modules, _ := readTree(t)
	if len(modules) == 1 {
		return // the root module alone, as it is published
	}
	work, err := readLines(filepath.Join(root, "go.work"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range modules {
		use := "./" + m.dir
		if m.dir == "." {
			use = "."
		}
		if !slices.Contains(work, use) {
			t.Errorf("go.work does not use %s", use)
		}
	}
}

// Trap 53: the toolchain before it leaves a pooled connection of the proxy's
// out of step, and what builds the proxy must not be older.
func TestTrap53ToolchainIsTheSameEverywhere(t *testing.T) {
	pin := regexp.MustCompile(`^(?:toolchain |export GOTOOLCHAIN *:?= *)(go[0-9.]+)$`)
	found := map[string]string{}
	for _, name := range []string{"Makefile", "go.work", "cmd/idem/go.mod"} {
		lines, err := readLines(filepath.Join(root, name))
		if os.IsNotExist(err) && name == "cmd/idem/go.mod" {
			continue // a module of its own, not part of what is published as the root
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			if m := pin.FindStringSubmatch(l); m != nil {
				found[name] = m[1]
			}
		}
		if found[name] == "" || found[name] != found["Makefile"] {
			t.Errorf("%s names toolchain %q, the Makefile %q", name, found[name], found["Makefile"])
		}
	}
}
