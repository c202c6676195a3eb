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
// testing/synctest a sleep takes no time.
func TestNoSleepAndNoSkip(t *testing.T) {
	_, files := readTree(t)
	for _, f := range files {
		if !f.test && !under(f.pkg, idem+"/drivertest") {
			continue
		}
		for _, sel := range sleepsAndSkips(f.syntax, f.uses("testing/synctest")) {
			t.Errorf("%s: %s: wait for what happens (a channel, a polling helper with a deadline, testing/synctest); say what is missing and return, or fail, rather than skip",
				f.line(sel.Pos()), sel.Sel.Name)
		}
	}
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

// What the two tests above look for is found where it is.
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
`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, id := range undocumented(f) {
		got = append(got, id.Name)
	}
	if want := "A M O F G I"; strings.Join(got, " ") != want {
		t.Errorf("undocumented: %q, want %q", got, want)
	}
	if n := len(sleepsAndSkips(f, false)); n != 2 {
		t.Errorf("%d sleeps and skips, want 2", n)
	}
	if n := len(sleepsAndSkips(f, true)); n != 1 {
		t.Errorf("%d sleeps and skips in a bubble, want 1", n)
	}
}
