package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// Every relative link of a page leads to a file that is there, and to a heading
// of it where it names one.
func TestLinksLead(t *testing.T) {
	for _, page := range pages(t) {
		for _, link := range links(read(t, page)) {
			if why := broken(t, page, link); why != "" {
				t.Errorf("%s: %s: %s", page, link, why)
			}
		}
	}
}

var linkForm = regexp.MustCompile(`\]\(([^()\s]+)\)`)

// links returns the targets of a page's links but for those to other sites.
func links(text string) []string {
	var all []string
	for _, m := range linkForm.FindAllStringSubmatch(text, -1) {
		if !strings.Contains(m[1], "://") && !strings.HasPrefix(m[1], "mailto:") {
			all = append(all, m[1])
		}
	}
	return all
}

// broken says why a link leads nowhere, or nothing.
func broken(t *testing.T, page, link string) string {
	t.Helper()
	file, anchor, named := strings.Cut(link, "#")
	target := page
	if file != "" {
		target = path.Join(path.Dir(page), file)
	}
	if _, err := os.Stat(filepath.Join(root, target)); err != nil {
		if published() && !strings.HasSuffix(target, ".md") {
			return "" // of another module
		}
		return "there is no such file"
	}
	if !named {
		return ""
	}
	for line := range strings.Lines(read(t, target)) {
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && line[0] == '#' && slug(heading) == anchor {
			return ""
		}
	}
	return "there is no such heading"
}

// slug is what a heading is called in a link.
func slug(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, strings.TrimSpace(heading))
}

func TestBrokenLinksAreSeen(t *testing.T) {
	const text = "[a](docs/http.md) [b](docs/none.md) [c](https://example.com) [d](docs/problems.md#key-missing) [e](docs/problems.md#none) [f](#twenty-lines-of-go)"
	var got []string
	for _, link := range links(text) {
		if broken(t, "README.md", link) != "" {
			got = append(got, link)
		}
	}
	if want := "docs/none.md docs/problems.md#none"; strings.Join(got, " ") != want {
		t.Errorf("broken: %q, want %q", got, want)
	}
}

// The programs of the README compile as they stand there.
func TestReadmePrograms(t *testing.T) {
	if published() {
		return // the file store is another module
	}
	blocks := goBlocks(section(t, read(t, "README.md"), "## Twenty lines of Go"))
	if len(blocks) != 2 {
		t.Fatalf("%d Go programs under the heading, want 2", len(blocks))
	}
	programs := map[string]string{
		"serve": blocks[0] + "\nfunc charge(w http.ResponseWriter, r *http.Request) {}\n",
		"do": `package main

import (
	"context"

	"github.com/idem-go/idem"
)

type Receipt struct{}

type provider interface {
	Charge(ctx context.Context, orderID, key string) (Receipt, error)
}

func main() {}

func do(ctx context.Context, guard *idem.Guard, provider provider, orderID string) (Receipt, error) {
` + blocks[1] + `
	return receipt, err
}
`,
	}
	for name, program := range programs {
		compile(t, name, program)
	}
}

// compile type-checks a program in the workspace.
func compile(t *testing.T, name, program string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name+".go")
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "vet", file)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", name, err, out)
	}
}

// The pages' Go is Go, and what it takes from idem's packages is there.
func TestGoOfThePages(t *testing.T) {
	exported := map[string]map[string]bool{"idem": declared(t, "."), "driver": declared(t, "driver"), "drivertest": declared(t, "drivertest"),
		"memstore": declared(t, "memstore"), "idemhttp": declared(t, "idemhttp")}
	if !published() {
		exported["filestore"] = declared(t, "filestore")
	}
	for _, page := range pages(t) {
		for _, block := range goBlocks(read(t, page)) {
			f := parseBlock(block)
			if f == nil {
				t.Errorf("%s: this is no Go:\n%s", page, block)
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					if pkg, ok := sel.X.(*ast.Ident); ok && exported[pkg.Name] != nil && !exported[pkg.Name][sel.Sel.Name] {
						t.Errorf("%s: there is no %s.%s", page, pkg.Name, sel.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

// parseBlock parses a file, declarations, statements, or the members of a
// composite literal.
func parseBlock(block string) ast.Node {
	for _, around := range [][2]string{{"", ""}, {"package p\n", ""}, {"package p\nfunc _() {\n", "\n}"}, {"package p\nvar _ = T{\n", "\n}"}} {
		src := around[0] + block + around[1]
		if f, err := parser.ParseFile(token.NewFileSet(), "block.go", src, parser.SkipObjectResolution); err == nil {
			return f
		}
	}
	return nil
}

// declared returns the exported names of a package.
func declared(t *testing.T, dir string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no Go files in %s: %v", dir, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					names[d.Name.Name] = true
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						names[s.Name.Name] = true
					case *ast.ValueSpec:
						for _, id := range s.Names {
							names[id.Name] = true
						}
					}
				}
			}
		}
	}
	return names
}

// Every flag of the proxy is explained on a page.
func TestFlagsAreOnAPage(t *testing.T) {
	if published() {
		return // the command is another module
	}
	cmd := exec.CommandContext(t.Context(), "go", "run", "./cmd/idem", "proxy", "--help")
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("idem proxy --help: %v\n%s", err, out)
	}
	var flags []string
	for _, m := range regexp.MustCompile(`(?m)^\s+(?:-\w, )?(--[a-z-]+)`).FindAllStringSubmatch(string(out), -1) {
		flags = append(flags, m[1])
	}
	if len(flags) < 20 {
		t.Fatalf("only %d flags: %q", len(flags), flags)
	}
	page := read(t, "docs/operations.md")
	for _, flag := range flags {
		if flag != "--help" && !regexp.MustCompile("`"+flag+"[ `]").MatchString(page) {
			t.Errorf("docs/operations.md does not mention %s", flag)
		}
	}
}

// pages returns the names of the Markdown files.
func pages(t *testing.T) []string {
	t.Helper()
	var names []string
	walk(t, func(name string, _ fs.DirEntry) {
		if strings.HasSuffix(name, ".md") {
			names = append(names, name)
		}
	})
	if len(names) < 5 {
		t.Fatalf("only these pages: %q", names)
	}
	return names
}

// section returns what stands below a heading, up to the next of its kind.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, below, ok := strings.Cut(text, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("there is no heading %q", heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	below, _, _ = strings.Cut(below, "\n"+level+" ")
	return below
}

// goBlocks returns the Go programs of a page.
func goBlocks(text string) []string {
	var blocks []string
	for _, part := range strings.Split(text, "\n```go\n")[1:] {
		block, _, _ := strings.Cut(part, "\n```")
		blocks = append(blocks, block)
	}
	return blocks
}
