package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// The demo is a test of its own: it counts from outside.
func TestDemoKeepsItsPromises(t *testing.T) {
	var out bytes.Buffer
	if code := run(context.Background(), &out, true, false); code != 0 {
		t.Fatalf("exit code %d\n%s", code, &out)
	}
	for _, line := range []string{
		"the service now has 10 users named eve@example.com",
		"the service has 1 user named ada@example.com; 9 of the 10 answers are replays",
		"the service now has 2 users named mallory@example.com",
		"409 outcome-unknown",
		"the service has 1 user named grace@example.com",
		"Every promise held.",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("the demo does not say %q\n%s", line, &out)
		}
	}
}

// A demo that could not fail would show nothing.
func TestDemoNoticesABrokenPromise(t *testing.T) {
	var out bytes.Buffer
	if code := run(context.Background(), &out, true, true); code != 1 {
		t.Fatalf("exit code %d past the proxy, want 1\n%s", code, &out)
	}
	if !strings.Contains(out.String(), "BROKEN: ten requests with one key made 10 users") {
		t.Errorf("the demo does not say what broke\n%s", &out)
	}
}
