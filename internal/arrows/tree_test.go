package arrows

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// idem is the path of the root module, and what every other path begins with.
const idem = "github.com/idem-go/idem"

// module is a go.mod of the tree.
type module struct {
	dir  string // relative to the root, with slashes; "." for the root
	path string
	mod  []string // the lines of its go.mod, without comments
}

// file is a Go file of the tree.
type file struct {
	name    string // relative to the root, with slashes
	pkg     string // the import path of its package
	module  string // the path of its module
	test    bool
	imports []string
	fset    *token.FileSet
	syntax  *ast.File
}

func (f *file) line(pos token.Pos) string {
	return fmt.Sprintf("%s:%d", f.name, f.fset.Position(pos).Line)
}

func (f *file) uses(imported string) bool { return slices.Contains(f.imports, imported) }

// root is the folder of the root module, two above this package.
const root = "../.."

// readTree returns the modules, the root's first, and their Go files.
func readTree(t *testing.T) ([]module, []*file) {
	t.Helper()
	var modules []module
	var names []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		switch base := d.Name(); {
		case d.IsDir() && name != "." && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") ||
			base == "testdata" || base == "vendor" || base == "node_modules" || name == "bin"):
			return fs.SkipDir
		case base == "go.mod":
			m, err := readModule(p, path.Dir(name))
			if err != nil {
				return err
			}
			modules = append(modules, m)
		case !d.IsDir() && strings.HasSuffix(base, ".go"):
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(modules, func(a, b module) int { return strings.Compare(a.path, b.path) })
	if len(modules) == 0 || modules[0].path != idem || modules[0].dir != "." {
		t.Fatalf("no root module at %s: %v", root, modules)
	}
	var files []*file
	for _, name := range names {
		f, err := readFile(name, modules)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return modules, files
}

func readModule(name, dir string) (module, error) {
	lines, err := readLines(name)
	if err != nil {
		return module{}, err
	}
	m := module{dir: dir, mod: lines}
	for _, l := range lines {
		if p, ok := strings.CutPrefix(l, "module "); ok {
			m.path = p
		}
	}
	return m, nil
}

// readLines returns the lines of a go.mod, go.work or Makefile without
// comments and the space around them.
func readLines(name string) ([]string, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var lines []string
	for l := range strings.Lines(string(b)) {
		l, _, _ = strings.Cut(l, "//")
		if l = strings.TrimSpace(l); l != "" {
			lines = append(lines, l)
		}
	}
	return lines, nil
}

func readFile(name string, modules []module) (*file, error) {
	f := &file{name: name, test: strings.HasSuffix(name, "_test.go"), fset: token.NewFileSet()}
	var err error
	f.syntax, err = parser.ParseFile(f.fset, filepath.Join(root, name), nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, i := range f.syntax.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return nil, err
		}
		f.imports = append(f.imports, p)
	}
	f.pkg = path.Join(idem, path.Dir(name))
	f.module = owner(f.pkg, modules)
	return f, nil
}

// owner returns the path of the module that a package of the tree belongs to.
func owner(pkg string, modules []module) string {
	best := ""
	for _, m := range modules {
		if under(pkg, m.path) && len(m.path) > len(best) {
			best = m.path
		}
	}
	return best
}

// under reports that a path is another one, or lies below it.
func under(p, top string) bool { return p == top || strings.HasPrefix(p, top+"/") }
