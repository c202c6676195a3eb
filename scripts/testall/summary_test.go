package main

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	const events = `{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: seed 42\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:8: quiet\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    a_test.go:9: broken here\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"skip","Package":"p","Test":"TestC"}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"fail","Package":"p","Elapsed":0.1}
{"Action":"build-output","ImportPath":"q","Output":"q.go:1: no such thing\n"}
{"Action":"fail","Package":"q","FailedBuild":"q"}
{"Action":"skip","Package":"r"}
`
	var out strings.Builder
	s := &summary{out: &out}
	if err := s.read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	if got, want := s.String(), "1 passed, 2 failed, 1 skipped"; got != want || s.ok() {
		t.Errorf("%q (ok %v), want %q", got, s.ok(), want)
	}
	for _, want := range []string{"seed 42", "broken here", "no such thing", "FAIL  p", "FAIL  q", "?     r"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not shown", want)
		}
	}
	if strings.Contains(out.String(), "quiet") {
		t.Error("what a passing test logs is shown")
	}

	strict := &summary{out: &out, skipsFail: true}
	if err := strict.read(strings.NewReader(`{"Action":"pass","Package":"p","Test":"TestA"}{"Action":"skip","Package":"p","Test":"TestC"}`)); err != nil {
		t.Fatal(err)
	}
	if strict.ok() {
		t.Error("a skipped test is no failure where all is required")
	}
	if (&summary{}).ok() {
		t.Error("no test at all is a success")
	}
}

// What was not tested is told once, and is a failure where all is required.
func TestSummaryTellsWhatWasNotTested(t *testing.T) {
	const events = `{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: NOT TESTED: redis: not installed\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:7: NOT TESTED: redis: not installed\n"}
{"Action":"pass","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestC","Output":"    c_test.go:7: NOT TESTED: mysql8: no DSN\n"}
{"Action":"pass","Package":"p","Test":"TestC"}
{"Action":"output","Package":"p","Test":"TestD","Output":"    d_test.go:7: NOT TESTED: postgres: not installed\n"}
{"Action":"fail","Package":"p","Test":"TestD"}
{"Action":"pass","Package":"p","Test":"TestE"}
`
	for _, tt := range []struct {
		all  bool
		want string
	}{{false, "4 passed, 1 failed"}, {true, "2 passed, 3 failed"}} {
		var out strings.Builder
		s := &summary{out: &out, skipsFail: tt.all}
		if err := s.read(strings.NewReader(events)); err != nil {
			t.Fatal(err)
		}
		if got := s.String(); got != tt.want {
			t.Errorf("all %v: %q, want %q", tt.all, got, tt.want)
		}
		if got, want := s.left(), "NOT TESTED: redis: not installed\nNOT TESTED: mysql8: no DSN\nNOT TESTED: postgres: not installed\n"; got != want {
			t.Errorf("all %v: %q, want %q", tt.all, got, want)
		}
		if strings.Contains(out.String(), "a_test.go") != tt.all {
			t.Errorf("all %v: it shows %q", tt.all, out.String())
		}
	}
}
