package drivertest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
)

func equal[T comparable](t testing.TB, got, want T, what string) {
	t.Helper()
	if got != want {
		t.Fatalf("%s is %v; it should be %v", what, got, want)
	}
}

// result checks the result of a record byte for byte.
func result(t testing.TB, rec driver.Record, meta, body string) {
	t.Helper()
	if string(rec.Result.Meta) != meta || string(rec.Result.Body) != body {
		t.Fatalf("the result is %.40q, %.40q; it should be %.40q, %.40q", rec.Result.Meta, rec.Result.Body, meta, body)
	}
}

// differ says in what two records differ, their times within the slack apart.
func (e *env) differ(a, b driver.Record) string {
	return differ(a, b, e.h.Slack)
}

func differ(a, b driver.Record, slack time.Duration) string {
	var d []string
	note := func(name string, a, b any) { d = append(d, fmt.Sprintf("%s %v, %v", name, a, b)) }
	if a.Key != b.Key {
		note("key", a.Key.Short(), b.Key.Short())
	}
	if a.State != b.State {
		note("state", a.State, b.State)
	}
	if a.Token != b.Token {
		note("token", a.Token, b.Token)
	}
	if a.Attempt != b.Attempt {
		note("attempt", a.Attempt, b.Attempt)
	}
	if a.Fingerprint != b.Fingerprint {
		note("fingerprint", short(a.Fingerprint), short(b.Fingerprint))
	}
	if a.Scope != b.Scope || a.ID != b.ID {
		note("name", a.Scope+" "+a.ID, b.Scope+" "+b.ID)
	}
	if a.Answered != b.Answered {
		note("answered", a.Answered, b.Answered)
	}
	if a.Dropped != b.Dropped {
		note("dropped", a.Dropped, b.Dropped)
	}
	if !bytes.Equal(a.Result.Meta, b.Result.Meta) || !bytes.Equal(a.Result.Body, b.Result.Body) {
		note("result", clip(a.Result), clip(b.Result))
	}
	if (a.Left - b.Left).Abs() > slack {
		note("left", a.Left, b.Left)
	}
	// The age of what is absent means nothing, and that of a tombstone may be
	// unknown.
	aged := a.State != driver.StateAbsent && (a.State != driver.StateForgotten || a.Age > 0 && b.Age > 0)
	if aged && a.State == b.State && (a.Age-b.Age).Abs() > slack {
		note("age", a.Age, b.Age)
	}
	return strings.Join(d, "; ")
}

func short(f driver.Fingerprint) string {
	if f.IsZero() {
		return "none"
	}
	return fmt.Sprintf("%d:%x", f.Rule, f.Sum[:4])
}

func clip(r driver.Result) string {
	return fmt.Sprintf("(%d+%d bytes, %.20q, %.20q)", len(r.Meta), len(r.Body), r.Meta, r.Body)
}

func show(r driver.Record) string {
	s := fmt.Sprintf("%v (token %d, attempt %d, left %v", r.State, r.Token, r.Attempt, r.Left)
	if r.Answered {
		s += ", answered"
	}
	if r.Dropped {
		s += ", dropped"
	}
	return s + ")"
}
