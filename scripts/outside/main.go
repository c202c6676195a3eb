// Command outside shows that each module of go.work works for an outsider: it
// packs what git tracks into a module proxy in a temporary folder, and there,
// without a workspace, gets, builds and tests each module, installs the
// programs, and runs a small application that uses idem.
//
// Other modules come from the local module cache, or else from the usual
// proxy; nothing is written to that cache.
package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

//go:embed app.go.txt
var app []byte

func main() {
	version := flag.String("version", "v0.1.0", "version to publish the modules as; what they require of each other")
	keep := flag.Bool("keep", false, "leave the temporary folder there")
	flag.Parse()
	if err := run(*version, *keep); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(version string, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "idem-outside-")
	if err != nil {
		return err
	}
	if keep {
		fmt.Println("outside:", dir)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	modules, err := publish(filepath.Join(dir, "proxy"), version)
	if err != nil {
		return err
	}
	o, err := newOutsider(dir, modules[0].path)
	if err != nil {
		return err
	}
	var failed []error
	for _, m := range modules {
		began := time.Now()
		result := "works"
		if err := o.try(m, version); err != nil {
			failed = append(failed, fmt.Errorf("outside: %s: %w", m.path, err))
			result = "FAILED"
		}
		fmt.Printf("outside: %s: %s, %.0fs\n", m.path, result, time.Since(began).Seconds())
	}
	if err := o.application(modules[0].path, version); err != nil {
		failed = append(failed, fmt.Errorf("outside: the application: %w", err))
	}
	if len(failed) > 0 {
		return errors.Join(failed...)
	}
	fmt.Printf("outside: %d modules and an application work at %s\n", len(modules), version)
	return nil
}

// outsider is somebody with a folder of their own, and our proxy.
type outsider struct {
	dir string
	env []string
}

func newOutsider(dir, modulePath string) (*outsider, error) {
	out, err := exec.Command("go", "env", "-json", "GOPROXY", "GOMODCACHE").Output()
	if err != nil {
		return nil, fmt.Errorf("outside: go env: %w", err)
	}
	var goenv struct{ GOPROXY, GOMODCACHE string }
	if err := json.Unmarshal(out, &goenv); err != nil {
		return nil, fmt.Errorf("outside: go env: %w", err)
	}
	cached := filepath.Join(goenv.GOMODCACHE, "cache", "download")
	return &outsider{dir: dir, env: append(os.Environ(),
		"GOWORK=off",
		"GOFLAGS=-modcacherw",
		"GOMODCACHE="+filepath.Join(dir, "modcache"),
		"GOPROXY=file://"+filepath.ToSlash(filepath.Join(dir, "proxy"))+",file://"+filepath.ToSlash(cached)+","+goenv.GOPROXY,
		"GONOSUMDB="+path.Dir(modulePath),
		"GOBIN="+filepath.Join(dir, "bin"),
	)}, nil
}

// try makes a module that requires m and builds and tests it from there. What
// drives the commands of the tree by their folders is only compiled.
func (o *outsider) try(m module, version string) error {
	home := filepath.Join(o.dir, "try", filepath.FromSlash(m.dir))
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	all := m.path + "/..."
	if slices.Contains(m.packages, "main") {
		if err := o.goTool(home, "install", m.path+"@"+version); err != nil {
			return err
		}
	}
	steps := [][]string{
		{"mod", "init", "example.com/outsider"},
		{"get", "-t", all + "@" + version},
		{"build", "-o", os.DevNull, all},
		{"vet", all},
	}
	if top, _, _ := strings.Cut(m.dir, "/"); top != "bench" && top != "e2e" {
		steps = append(steps, []string{"test", "-short", all})
	}
	for _, s := range steps {
		if err := o.goTool(home, s...); err != nil {
			return err
		}
	}
	return nil
}

// application builds and runs a program as the README's reader would.
func (o *outsider) application(modulePath, version string) error {
	home := filepath.Join(o.dir, "app")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(home, "main.go"), app, 0o644); err != nil {
		return err
	}
	for _, s := range [][]string{
		{"mod", "init", "example.com/app"},
		{"get", modulePath + "@" + version, modulePath + "/filestore@" + version},
		{"mod", "tidy"},
		{"run", "."},
	} {
		if err := o.goTool(home, s...); err != nil {
			return err
		}
	}
	return nil
}

func (o *outsider) goTool(dir string, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(slices.Clone(o.env), "PWD="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
