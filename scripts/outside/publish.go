package main

import (
	"archive/zip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unicode"
)

// module is a module of go.work.
type module struct {
	dir, path string   // relative to the root, with slashes; the module's path
	files     []string // tracked by git, relative to the root
	packages  []string // "main" when the module's own folder is a program
}

// publish writes the modules of go.work into a folder as a module proxy serves
// them, all in one version, and returns them, the root's first.
func publish(proxy, version string) ([]module, error) {
	modules, err := workspace()
	if err != nil {
		return nil, err
	}
	tracked, err := lines(exec.Command("git", "ls-files"))
	if err != nil {
		return nil, err
	}
	for _, name := range tracked {
		if m := ownerOf(name, modules); m != nil {
			m.files = append(m.files, name)
		}
	}
	for _, m := range modules {
		if err := m.publish(proxy, version); err != nil {
			return nil, fmt.Errorf("outside: packing %s: %w", m.path, err)
		}
	}
	return modules, nil
}

func workspace() ([]module, error) {
	out, err := exec.Command("go", "work", "edit", "-json").Output()
	if err != nil {
		return nil, fmt.Errorf("outside: go work edit: %w", err)
	}
	var work struct{ Use []struct{ DiskPath string } }
	if err := json.Unmarshal(out, &work); err != nil {
		return nil, fmt.Errorf("outside: go work edit: %w", err)
	}
	var modules []module
	for _, u := range work.Use {
		dir := filepath.ToSlash(filepath.Clean(u.DiskPath))
		list := exec.Command("go", "list", "-f", "{{.Module.Path}} {{.Name}}", ".")
		list.Dir = dir
		found, err := lines(list)
		if err != nil {
			list = exec.Command("go", "list", "-m") // no package in the module's own folder
			list.Dir, list.Env = dir, append(os.Environ(), "GOWORK=off")
			if found, err = lines(list); err != nil {
				return nil, err
			}
		}
		fields := strings.Fields(found[0])
		modules = append(modules, module{dir: dir, path: fields[0], packages: fields[1:]})
	}
	return modules, nil
}

// ownerOf returns the module in whose folder, and no nested one's, a file is.
func ownerOf(name string, modules []module) *module {
	var best *module
	for i := range modules {
		m := &modules[i]
		if (m.dir == "." || strings.HasPrefix(name, m.dir+"/")) && (best == nil || len(m.path) > len(best.path)) {
			best = m
		}
	}
	return best
}

// publish writes the four files that a proxy has for a version.
func (m module) publish(proxy, version string) error {
	at := filepath.Join(proxy, filepath.FromSlash(escape(m.path)), "@v")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	gomod, err := os.ReadFile(filepath.Join(m.dir, "go.mod"))
	if err != nil {
		return err
	}
	info, err := json.Marshal(map[string]any{"Version": version, "Time": time.Now().UTC()})
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"list": []byte(version + "\n"), version + ".mod": gomod, version + ".info": info,
	} {
		if err := os.WriteFile(filepath.Join(at, name), content, 0o644); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(at, version+".zip"))
	if err != nil {
		return err
	}
	return errors.Join(m.pack(f, version), f.Close())
}

func (m module) pack(w io.Writer, version string) error {
	z := zip.NewWriter(w)
	for _, name := range m.files {
		content, err := os.ReadFile(filepath.FromSlash(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed, but not yet from the index
		}
		if err != nil {
			return err
		}
		e, err := z.Create(m.path + "@" + version + "/" + strings.TrimPrefix(name, m.dir+"/"))
		if err != nil {
			return err
		}
		if _, err := e.Write(content); err != nil {
			return err
		}
	}
	return z.Close()
}

// escape writes a path as proxies do: an exclamation mark and the small letter
// for a capital one.
func escape(p string) string {
	var b strings.Builder
	for _, r := range p {
		if unicode.IsUpper(r) {
			b.WriteByte('!')
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}

func lines(cmd *exec.Cmd) ([]string, error) {
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, exit.Stderr)
		}
		return nil, err
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), nil
}
