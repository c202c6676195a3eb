package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const guarantees = "docs/guarantees.md"

// Every row of every table that says what shows it names a test, and each test
// that is named exists.
func TestGuaranteesNameTests(t *testing.T) {
	if published() {
		return // the root module alone: most of the tests are in other modules
	}
	packages := readTests(t)
	for i, line := range strings.Split(read(t, guarantees), "\n") {
		refs := references(line)
		if row(line) && len(refs) == 0 {
			t.Errorf("%s:%d: no test is named", guarantees, i+1)
		}
		for _, ref := range refs {
			if why := packages.missing(ref); why != "" {
				t.Errorf("%s:%d: %s: %s: %s", guarantees, i+1, ref.pkg, ref.name, why)
			}
		}
	}
}

// Traps 1 to 36, those of the others that are about stores, and 51 to 66 each have
// one row.
func TestTrapsAreListed(t *testing.T) {
	seen := map[int]int{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([0-9]+) \|`).FindAllStringSubmatch(read(t, guarantees), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		seen[n]++
	}
	for n := 1; n <= 66; n++ {
		if n > 36 && n < 51 && !slices.Contains([]int{38, 43, 44, 45, 50}, n) {
			continue // about brokers alone
		}
		if seen[n] != 1 {
			t.Errorf("%s: trap %d has %d rows, want 1", guarantees, n, seen[n])
		}
		delete(seen, n)
	}
	for n := range seen {
		t.Errorf("%s: there is no trap %d in this stage", guarantees, n)
	}
}

// What the tests above look for is noticed where it is missing.
func TestMissingTestsAreSeen(t *testing.T) {
	const src = `package p

func TestA(t *testing.T) { t.Run("a sub", nil) }
func FuzzB(f *testing.F) {}
func groups() []group { return []group{{"Key", keyRules()}} }
func keyRules() []rule { return []rule{{"Rule", nil}} }
func other() { _ = "Other" }
`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", src, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	p := tests{"p": {}}
	p["p"].add(f)
	for text, found := range map[string]bool{
		"`p: TestA`": true, "`p: TestA/a sub`": true, "`p: FuzzB`": true, "`p: Key/Rule`": true,
		"`p: TestC`": false, "`p: TestA/another`": false, "`p: Key/Other`": false, "`p: Keys/Rule`": false, "`p: Rule`": false, "`q: TestA`": false,
	} {
		refs := references(text)
		if len(refs) != 1 || (p.missing(refs[0]) == "") != found {
			t.Errorf("%s: found %v, want %v", text, refs, found)
		}
	}
	for line, want := range map[string]bool{"| a | b |": true, "| what | shown by |": false, "|---|---|": false, "text": false, "| | |": false} {
		if row(line) != want {
			t.Errorf("%q: a row %v, want %v", line, !want, want)
		}
	}
}

// row reports that a line is a table's, and neither its head nor the line below.
func row(line string) bool {
	return strings.HasPrefix(line, "| ") && strings.Trim(line, "|- ") != "" && !strings.HasSuffix(line, "| shown by |")
}

// reference is a test as a page names it: `package: TestName`, a subtest
// `package: TestName/its name`, or a rule of the suite `drivertest: Group/Rule`.
type reference struct{ pkg, name string }

var referenceForm = regexp.MustCompile("`([a-z][a-z0-9]*): ([A-Z][^`]*)`")

func references(line string) []reference {
	var refs []reference
	for _, m := range referenceForm.FindAllStringSubmatch(line, -1) {
		refs = append(refs, reference{m[1], m[2]})
	}
	return refs
}

// tests are the packages of the tree, by the last element of their paths.
type tests map[string]*testPackage

// testPackage is what a package's files declare.
type testPackage struct {
	dirs     []string
	funcs    []string
	literals map[string][]string // the strings in each function
	groups   map[string]string   // of the suite: the function that returns a group's rules
}

func (p *testPackage) add(f *ast.File) {
	for _, decl := range f.Decls {
		d, ok := decl.(*ast.FuncDecl)
		if !ok || d.Body == nil || d.Recv != nil {
			continue
		}
		name := d.Name.Name
		p.funcs = append(p.funcs, name)
		ast.Inspect(d.Body, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.BasicLit:
				if s, err := strconv.Unquote(x.Value); err == nil && x.Kind == token.STRING {
					if p.literals == nil {
						p.literals = map[string][]string{}
					}
					p.literals[name] = append(p.literals[name], s)
				}
			case *ast.CompositeLit:
				p.addGroup(name, x)
			}
			return true
		})
	}
}

// addGroup notes {"Group", groupRules()} in the function groups, and with a type
// argument in txGroups.
func (p *testPackage) addGroup(function string, x *ast.CompositeLit) {
	if function != "groups" && function != "txGroups" || len(x.Elts) != 2 {
		return
	}
	name, ok := x.Elts[0].(*ast.BasicLit)
	call, isCall := x.Elts[1].(*ast.CallExpr)
	if !ok || !isCall {
		return
	}
	fun := call.Fun
	if x, generic := fun.(*ast.IndexExpr); generic {
		fun = x.X
	}
	rules, ok := fun.(*ast.Ident)
	group, err := strconv.Unquote(name.Value)
	if !ok || err != nil {
		return
	}
	if p.groups == nil {
		p.groups = map[string]string{}
	}
	p.groups[group] = rules.Name
}

// missing says why a reference leads nowhere, or nothing.
func (all tests) missing(ref reference) string {
	p := all[ref.pkg]
	if p == nil {
		return "there is no such package"
	}
	if len(p.dirs) > 1 {
		return "several packages have that name: " + strings.Join(p.dirs, ", ")
	}
	name, sub, hasSub := strings.Cut(ref.name, "/")
	if rules, ok := p.groups[name]; ok && hasSub {
		if !slices.Contains(p.literals[rules], sub) {
			return "the group has no such rule"
		}
		return ""
	}
	if !strings.HasPrefix(name, "Test") && !strings.HasPrefix(name, "Fuzz") && !strings.HasPrefix(name, "Example") || !slices.Contains(p.funcs, name) {
		return "there is no such test"
	}
	if hasSub && !slices.Contains(p.literals[name], sub) {
		return "the test has no such subtest"
	}
	return ""
}

// readTests reads the Go files of the tree: tests, and those of the suite, which
// is no test file.
func readTests(t *testing.T) tests {
	t.Helper()
	all := tests{}
	fset := token.NewFileSet()
	walk(t, func(name string, _ fs.DirEntry) {
		dir := filepath.ToSlash(filepath.Dir(name))
		if !strings.HasSuffix(name, "_test.go") && (dir != "drivertest" || !strings.HasSuffix(name, ".go")) {
			return
		}
		f, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		pkg := filepath.Base(dir)
		if dir == "." {
			pkg = "idem"
		}
		if dir == "cmd/idem" {
			return // its name is the root's
		}
		p := all[pkg]
		if p == nil {
			p = &testPackage{}
			all[pkg] = p
		}
		if !slices.Contains(p.dirs, dir) {
			p.dirs = append(p.dirs, dir)
		}
		p.add(f)
	})
	return all
}

// root is the folder of the root module, two above this package.
const root = "../.."

// published reports that the root module is here alone, as it is published.
func published() bool {
	_, err := os.Stat(filepath.Join(root, "e2e", "go.mod"))
	return err != nil
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// walk calls f for each file of the tree, with its name relative to the root.
func walk(t *testing.T, f func(name string, d fs.DirEntry)) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		switch base := d.Name(); {
		case d.IsDir() && name != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "node_modules" || name == "bin"):
			return fs.SkipDir
		case !d.IsDir():
			f(filepath.ToSlash(name), d)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
