package arrows

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

// Everything that is exported is documented, in packages that can be imported.
func TestExportedIsDocumented(t *testing.T) {
	_, files := readTree(t)
	documented := map[string]bool{}
	first := map[string]string{}
	for _, f := range files {
		if f.test || f.syntax.Name.Name == "main" {
			continue
		}
		if first[f.pkg] == "" {
			first[f.pkg] = f.name
		}
		documented[f.pkg] = documented[f.pkg] || f.syntax.Doc != nil
		for _, id := range undocumented(f.syntax) {
			t.Errorf("%s: %s has no doc comment", f.line(id.Pos()), id.Name)
		}
	}
	for pkg, name := range first {
		if !documented[pkg] {
			t.Errorf("%s: no file of package %s has a package comment", name, pkg)
		}
	}
}

// undocumented returns the exported identifiers of a file's top level, and
// methods of exported types, that no comment describes. The comment of a group
// of constants or variables describes all of it.
func undocumented(f *ast.File) []*ast.Ident {
	var ids []*ast.Ident
	missing := func(id *ast.Ident, docs ...*ast.CommentGroup) {
		for _, d := range docs {
			if strings.TrimSpace(d.Text()) != "" {
				return
			}
		}
		if id.IsExported() {
			ids = append(ids, id)
		}
	}
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil || ast.IsExported(receiver(d.Recv.List[0].Type)) {
				missing(d.Name, d.Doc)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					missing(s.Name, d.Doc, s.Doc, s.Comment)
				case *ast.ValueSpec:
					for _, id := range s.Names {
						missing(id, d.Doc, s.Doc, s.Comment)
					}
				}
			}
		}
	}
	return ids
}

// receiver returns the name of a method's type.
func receiver(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.StarExpr:
		return receiver(x.X)
	case *ast.IndexExpr:
		return receiver(x.X)
	case *ast.IndexListExpr:
		return receiver(x.X)
	case *ast.Ident:
		return x.Name
	}
	return ""
}

// No test waits by sleeping, and none leaves itself out. In a file that uses
// testing/synctest, by itself or through a helper of its package, a sleep takes
// no time.
func TestNoSleepAndNoSkip(t *testing.T) {
	_, files := readTree(t)
	bubbles := map[string]map[string]bool{} // by package, the helpers
	for _, f := range files {
		if bubbles[f.pkg] == nil {
			bubbles[f.pkg] = map[string]bool{}
		}
		for _, name := range startsBubble(f.syntax) {
			bubbles[f.pkg][name] = true
		}
	}
	for _, f := range files {
		if !f.test && !under(f.pkg, idem+"/drivertest") {
			continue
		}
		for _, sel := range sleepsAndSkips(f.syntax, f.uses("testing/synctest") || calls(f.syntax, bubbles[f.pkg])) {
			t.Errorf("%s: %s: wait for what happens (a channel, a polling helper with a deadline, testing/synctest); say what is missing and return, or fail, rather than skip",
				f.line(sel.Pos()), sel.Sel.Name)
		}
	}
}

// startsBubble returns the functions of a file that call synctest.Test.
func startsBubble(f *ast.File) []string {
	var names []string
	for _, decl := range f.Decls {
		d, ok := decl.(*ast.FuncDecl)
		if !ok || d.Recv != nil || d.Body == nil {
			continue
		}
		ast.Inspect(d.Body, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Test" {
				if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "synctest" {
					names = append(names, d.Name.Name)
				}
			}
			return true
		})
	}
	return names
}

// calls reports that a file calls one of the functions.
func calls(f *ast.File, names map[string]bool) bool {
	found := false
	ast.Inspect(f, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if id, ok := call.Fun.(*ast.Ident); ok && names[id.Name] {
				found = true
			}
		}
		return !found
	})
	return found
}

func sleepsAndSkips(f *ast.File, bubble bool) []*ast.SelectorExpr {
	var found []*ast.SelectorExpr
	ast.Inspect(f, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, _ := sel.X.(*ast.Ident)
		switch sel.Sel.Name {
		case "Sleep":
			if !bubble && pkg != nil && pkg.Name == "time" {
				found = append(found, sel)
			}
		case "Skip", "Skipf", "SkipNow":
			found = append(found, sel)
		}
		return true
	})
	return found
}

// Trap 33: leases are decided by the monotonic clock, which nobody can set. In
// Go a time loses it on the way through the calendar, so the core and the memory
// store take no time that way. The file store, which must know how long it was
// closed, has a test of its own.
func TestTrap33LeasesGoByTheMonotonicClock(t *testing.T) {
	_, files := readTree(t)
	for _, f := range files {
		if f.test || f.pkg != idem && f.pkg != idem+"/driver" && f.pkg != idem+"/memstore" {
			continue
		}
		for _, sel := range calendar(f.syntax) {
			t.Errorf("%s: %s takes a time's monotonic reading away, and a wall clock that is set would decide about leases", f.line(sel.Pos()), sel.Sel.Name)
		}
	}
}

// calendar returns the calls by which a time becomes that of the wall clock.
func calendar(f *ast.File) []*ast.SelectorExpr {
	var found []*ast.SelectorExpr
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
			switch sel.Sel.Name {
			case "Unix", "UnixMilli", "UnixMicro", "UnixNano", "UTC", "Local", "In":
				found = append(found, sel)
			}
		}
		return true
	})
	return found
}

// What the tests above look for is found where it is.
func TestHouseRulesAreSeen(t *testing.T) {
	const src = `package p

import "time"

type A struct{}

// B is documented.
type B struct{}

func (B) M()  {}
func (b) N()  {}
func (*A) O() {}
func F[T any]() {}

// Group.
const (
	C = 1
	D = 2
)

const E = 1 // E is documented.

var G, h = 1, 2

//nolint:all
func I() {}

func test(t *testing.T) {
	time.Sleep(1)
	t.Skipf("")
	clock.Sleep(1)
}

func wall() int64 { return time.Now().UTC().UnixNano() + time.Since(start).Nanoseconds() }

func bubble(t *testing.T) {
	synctest.Test(t, nil)
}

func inBubble(t *testing.T) {
	bubble(t)
}
`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, id := range undocumented(f) {
		got = append(got, id.Name)
	}
	if n := len(calendar(f)); n != 2 {
		t.Errorf("%d times of the wall clock, want 2", n)
	}
	if want := "A M O F G I"; strings.Join(got, " ") != want {
		t.Errorf("undocumented: %q, want %q", got, want)
	}
	if got := startsBubble(f); len(got) != 1 || got[0] != "bubble" {
		t.Errorf("helpers that start a bubble: %q", got)
	}
	if !calls(f, map[string]bool{"bubble": true}) || calls(f, map[string]bool{"inBubble": true}) {
		t.Error("who calls such a helper is not told from who does not")
	}
	if n := len(sleepsAndSkips(f, false)); n != 2 {
		t.Errorf("%d sleeps and skips, want 2", n)
	}
	if n := len(sleepsAndSkips(f, true)); n != 1 {
		t.Errorf("%d sleeps and skips in a bubble, want 1", n)
	}
}
