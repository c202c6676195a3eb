// Package rig runs the real proxy for tests: it builds the command, starts it
// on free ports of the loopback, kills it, starts it again, and gives it an
// upstream that does what a test says and counts what reached it.
package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Patience is how long anything here waits for what must happen.
const Patience = 30 * time.Second

// binaryVariable tells the tests of one binary where Main has put the command.
const binaryVariable = "IDEM_E2E_BINARY"

// Main builds the command once, runs the tests, and returns the exit code. The
// command is gone afterwards.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "idem-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	binary := filepath.Join(dir, "idem")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/idem-go/idem/cmd/idem").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "rig: build the command: %v\n%s", err, out)
		return 1
	}
	if err := os.Setenv(binaryVariable, binary); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// Eventually polls until done reports true; the test ends when it does not
// within [Patience]. It is for what has no event of its own.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("it did not happen in %v: %s", Patience, what)
		}
	}
}

// Receive waits for a value on c.
func Receive[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	select {
	case v := <-c:
		return v
	case <-deadline.C:
		t.Fatalf("it did not happen in %v: %s", Patience, what)
	}
	panic("unreachable")
}
