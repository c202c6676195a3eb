package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// summary counts what go test -json says, and shows what somebody wants to see
// of it: a line for each package, all of a test that failed, and seeds.
type summary struct {
	out       io.Writer
	skipsFail bool // and so does what was not tested, but for mysql8

	passed, failed, skipped int
	broken                  int      // packages that failed by themselves: they did not build, or timed out
	untested                []string // what tests said they did without, each once
}

// event is a line of go test -json; see go doc test2json.
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

// ok reports that everything passed, and that there was something.
func (s *summary) ok() bool { return s.failed+s.broken == 0 && s.passed > 0 }

// String is the closing line.
func (s *summary) String() string {
	line := fmt.Sprintf("%d passed, %d failed", s.passed, s.failed+s.broken)
	if s.skipped > 0 {
		line += fmt.Sprintf(", %d skipped", s.skipped)
	}
	return line
}

// left returns what was not tested, a line each.
func (s *summary) left() string {
	var b strings.Builder
	for _, u := range s.untested {
		b.WriteString(notTested + u + "\n")
	}
	return b.String()
}

// notTested is what a test logs, with a name and a reason, when something that it
// needs is missing; see testserver.Need.
const notTested = "NOT TESTED: "

// note keeps what a line says was not tested, and reports that this is a
// failure where all is required: no test of MySQL 8 is.
func (s *summary) note(line string) (fails bool) {
	_, said, found := strings.Cut(strings.TrimSpace(line), notTested)
	if !found {
		return false
	}
	if !slices.Contains(s.untested, said) {
		s.untested = append(s.untested, said)
	}
	return !strings.HasPrefix(said, "mysql8: ")
}

// read takes the events of one run of go test.
func (s *summary) read(r io.Reader) error {
	type name struct{ pkg, test string }
	output := map[name][]string{}
	without := map[name]bool{} // tests that were not tested as all of them should be
	failedIn := map[string]int{}
	passedIn := map[string]int{}
	d := json.NewDecoder(r)
	for {
		var e event
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		n := name{e.Package, e.Test}
		switch e.Action {
		case "build-output":
			fmt.Fprint(s.out, e.Output)
		case "output":
			output[n] = append(output[n], e.Output)
			if s.note(e.Output) {
				without[n] = true
			}
		case "pass", "fail", "skip":
			fails := e.Action == "fail" || s.skipsFail && e.Test != "" && (e.Action == "skip" || without[n])
			if e.Test == "" {
				s.pkg(e, passedIn[e.Package], failedIn[e.Package], output[n])
				delete(output, n)
				continue
			}
			switch {
			case fails:
				s.failed++
				failedIn[e.Package]++
			case e.Action == "skip":
				s.skipped++
			default:
				s.passed++
				passedIn[e.Package]++
			}
			for _, l := range output[n] {
				if fails || tellsSeed(l) {
					fmt.Fprint(s.out, l)
				}
			}
			delete(output, n)
		}
	}
}

// pkg takes the end of a package's tests. What a package printed outside of
// its tests is shown when it failed.
func (s *summary) pkg(e event, passed, failed int, output []string) {
	switch {
	case e.Action == "fail":
		if failed == 0 {
			s.broken++
		}
		for _, l := range output {
			fmt.Fprint(s.out, l)
		}
		fmt.Fprintf(s.out, "FAIL  %s  %.1fs (%d passed, %d failed)\n", e.Package, e.Elapsed, passed, failed)
	case passed+failed == 0:
		fmt.Fprintf(s.out, "?     %s  no tests\n", e.Package)
	default:
		fmt.Fprintf(s.out, "ok    %s  %.1fs (%d tests)\n", e.Package, e.Elapsed, passed)
	}
}

// tellsSeed reports that a test logs, in the line, what makes its run again.
func tellsSeed(line string) bool {
	return strings.Contains(line, "_test.go:") && strings.Contains(strings.ToLower(line), "seed")
}
