package arrows

import (
	"path"
	"strings"
)

// Why an arrow is forbidden; what a test says when it finds one.
const (
	whyDriver     = "driver is what everybody else stands on: it knows nobody"
	whyCore       = "the core knows stores by the driver's interface only, and adapters not at all"
	whyStore      = "a store is written against driver alone, so that it can be used without idem and tested without the others"
	whyDrivertest = "drivertest judges a store by the driver's contract alone"
	whyAdapter    = "an adapter works with whatever store the application gives to idem"
	whyProgram    = "programs are the end of the arrows: nobody imports them"
	whyTestsOnly  = "drivertest brings package testing along: only tests import it"
	whyServers    = "testserver starts servers for tests and benchmarks: nothing that is released imports it"
	whyInternal   = "another module's internal packages change without notice, though Go's path rule would let them be imported here"
	whyForeign    = "the core requires nothing: the root module uses the standard library only, its tests included"
)

// forbidden returns why the file may not import a package, or "".
func forbidden(f *file, imported string, modules []module) string {
	if !under(imported, idem) {
		if f.module == idem && strings.Contains(strings.Split(imported, "/")[0], ".") {
			return whyForeign
		}
		return ""
	}
	to, from := place(imported), place(f.pkg)
	if to == from {
		return ""
	}
	switch {
	case isProgram(to):
		return whyProgram
	case isInternal(imported) && owner(imported, modules) != f.module:
		return whyInternal
	case to == "drivertest" && !f.test:
		return whyTestsOnly
	case to == "testserver":
		if !f.test && !isProgram(from) {
			return whyServers
		}
		return ""
	}
	switch {
	case isInternal(imported):
		return ""
	case from == "driver":
		return whyDriver
	case isStore(from):
		if to != "driver" && to != "drivertest" {
			return whyStore
		}
	case f.test:
		return ""
	case from == "drivertest":
		if to != "driver" {
			return whyDrivertest
		}
	case from == ".":
		if to != "driver" {
			return whyCore
		}
	case strings.HasPrefix(from, "idem"):
		// idemredis completes and acknowledges in one script of the store's.
		if isStore(to) && (from != "idemredis" || to != "redisstore") {
			return whyAdapter
		}
	}
	return ""
}

// place names the part of the tree that a package is in: the first element of
// its path below the root, "." for the root package. Packages of one place may
// import each other.
func place(pkg string) string {
	p := strings.TrimPrefix(strings.TrimPrefix(pkg, idem), "/")
	if p == "" {
		return "."
	}
	first, rest, _ := strings.Cut(p, "/")
	if first == "cmd" || first == "examples" {
		second, _, _ := strings.Cut(rest, "/")
		return path.Join(first, second)
	}
	return first
}

func isStore(place string) bool { return strings.HasSuffix(place, "store") }

func isProgram(place string) bool {
	first, _, _ := strings.Cut(place, "/")
	switch first {
	case "cmd", "examples", "bench", "e2e", "scripts":
		return true
	}
	return false
}

func isInternal(pkg string) bool {
	return strings.Contains(pkg+"/", "/internal/")
}
