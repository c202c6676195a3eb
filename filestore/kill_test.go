package filestore_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/filestore"
)

// childDir, in the environment, makes the test's program a process to be killed.
const childDir = "FILESTORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// event is a line of a child: before a call it says what the call is, after it
// that it was acknowledged.
type event struct {
	Acked bool
	ID    string
	State driver.State
	Token uint64
}

// child opens the store and claims and completes keys until it is killed.
func child(dir string, in io.Reader, out io.Writer) error {
	s, err := filestore.Open(dir, &filestore.Options{SweepEvery: 10 * time.Millisecond})
	if err != nil {
		return err
	}
	run, err := bufio.NewReader(in).ReadString('\n')
	if err != nil {
		return err
	}
	var mu sync.Mutex
	enc := json.NewEncoder(out)
	say := func(e event) error {
		mu.Lock()
		defer mu.Unlock()
		return enc.Encode(e)
	}
	ctx := context.Background()
	errs := make(chan error)
	for g := range 8 {
		go func() {
			errs <- func() error {
				for i := 0; ; i++ {
					id := fmt.Sprintf("%s-%d-%d", run[:len(run)-1], g, i)
					key := driver.KeyOf("s", id)
					err := say(event{ID: id, State: driver.StateInFlight})
					if err != nil {
						return err
					}
					reply, err := s.Claim(ctx, driver.ClaimRequest{
						Key: key, Scope: "s", ID: id, Nonce: driver.NewNonce(), Lease: time.Minute, Tombstone: time.Hour,
					})
					if err != nil || !reply.Granted {
						return fmt.Errorf("claim of %s: %v, %w", id, reply.Granted, err)
					}
					e := event{Acked: true, ID: id, State: driver.StateInFlight, Token: reply.Record.Token}
					if err := say(e); err != nil {
						return err
					}
					if i%5 == 4 {
						continue // it stays in flight
					}
					e.Acked, e.State = false, driver.StateCompleted
					if err := say(e); err != nil {
						return err
					}
					if _, err := s.Complete(ctx, driver.Ref{Key: key, Token: e.Token}, driver.Completion{
						Result: driver.Result{Body: []byte(id)}, Retention: time.Hour, Tombstone: time.Hour,
					}); err != nil {
						return err
					}
					e.Acked = true
					if err := say(e); err != nil {
						return err
					}
				}
			}()
		}()
	}
	return <-errs
}

// Trap 7: the process is killed by SIGKILL under load, on real files, again and
// again. What it acknowledged is there, what was in flight is unknown at once,
// and nothing completed is granted again.
func TestTrap7KillNine(t *testing.T) {
	rounds := 10
	if testing.Short() || raceEnabled {
		rounds = 4
	}
	seed := drivertest.Seed(t)
	t.Logf("%s=%d", drivertest.SeedVariable, seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	// What is known of a key, and what it may have become without our hearing of
	// it; a key that was acknowledged is nothing else any more.
	type fact struct{ acked, maybe event }
	facts := map[string]*fact{}
	for round := range rounds {
		cmd := exec.Command(os.Args[0], "-test.run=none")
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(in, round)
		left := 50 + rng.IntN(1500)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var e event
			if json.Unmarshal(lines.Bytes(), &e) != nil {
				continue // cut off by the kill
			}
			f := facts[e.ID]
			if f == nil {
				f = new(fact)
				facts[e.ID] = f
			}
			if f.maybe = e; e.Acked {
				f.acked = e
			}
			if left--; left == 0 {
				_, err := filestore.Open(dir, nil)
				oneSentence(t, err, dir, filestore.ErrInUse, fmt.Sprint("process ", cmd.Process.Pid))
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.Exited() {
			t.Fatalf("the child was not killed: %v", err)
		}
		s := mustOpen(t, dir, nil)
		for id, f := range facts {
			rec, err := s.Lookup(t.Context(), driver.KeyOf("s", id))
			if err != nil {
				t.Fatal(err)
			}
			want := f.acked
			if rec.State == driver.StateCompleted && f.maybe.State == driver.StateCompleted ||
				rec.State == driver.StateUnknown && f.acked.State == driver.StateAbsent {
				want = f.maybe // it was done, and the kill cut off the answer
			}
			if want.State == driver.StateInFlight {
				want.State = driver.StateUnknown
			}
			if rec.State != want.State || want.Token != 0 && rec.Token != want.Token {
				t.Errorf("round %d: %s is %v with token %d; acknowledged was %+v", round, id, rec.State, rec.Token, f.acked)
			}
			if rec.State == driver.StateCompleted && string(rec.Result.Body) != id {
				t.Errorf("round %d: %s has the result %q", round, id, rec.Result.Body)
			}
			if rec.State == driver.StateUnknown || rec.State == driver.StateCompleted {
				reply, err := s.Claim(t.Context(), driver.ClaimRequest{
					Key: driver.KeyOf("s", id), Nonce: driver.NewNonce(), Lease: time.Minute, Tombstone: time.Hour,
				})
				if err != nil || reply.Granted {
					t.Errorf("round %d: %s was granted again: %v", round, id, err)
				}
			}
		}
		closeStore(t, s)
	}
	t.Logf("%d keys in %d rounds", len(facts), rounds)
}
