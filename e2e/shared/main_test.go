// Package shared tests the shared stores from outside: real servers that are
// killed, hang, and have wrong clocks, connections that are cut, and owners that
// are killed or stopped in the midst of their work. What took effect is counted where
// idem does not see it.
//
// The operations run in processes of their own, each of which is this test
// binary again ([crew]); clients in the test ask them for keys and keep book of all
// that they were told ([book]).
package shared

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	natsserver "github.com/idem-go/idem/testserver/nats"
)

func TestMain(m *testing.M) {
	serveWorker()
	natsserver.ServeChild()
	code := m.Run()
	if err := natsserver.StopAll(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

// seedOf returns the seed of a random test, which the environment may give.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	if text := os.Getenv("IDEM_TEST_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("IDEM_TEST_SEED: %v", err)
		}
		return seed
	}
	return rand.Uint64()
}

// pause lets d pass.
func pause(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// eventually polls until done reports true; the test ends when it does not.
func eventually(t *testing.T, what string, done func(ctx context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for !done(ctx) {
		if ctx.Err() != nil {
			t.Fatalf("it did not happen in %v: %s", patience, what)
		}
		pause(10 * time.Millisecond)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
