//go:build unix

package sqlitestore_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/sqlitestore"
)

// jobVariable tells this binary that it is a process which does a job of a test's,
// and which file, DSN and job.
const jobVariable = "IDEM_SQLITESTORE_JOB"

// jobKeys is how many keys the jobs are about.
const jobKeys = 400

// process is a process that does a job.
type process struct {
	*exec.Cmd
	in  io.Closer
	out *bufio.Reader
}

func startJob(t testing.TB, name, file, query string) *process {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	p := &process{Cmd: exec.Command(exe)}
	p.Env = append(os.Environ(), jobVariable+"="+strings.Join([]string{name, query, file}, " "))
	p.Stderr = os.Stderr
	in, err := p.StdinPipe()
	must(t, err)
	out, err := p.StdoutPipe()
	must(t, err)
	p.in, p.out = in, bufio.NewReader(out)
	must(t, p.Start())
	t.Cleanup(p.kill)
	return p
}

// says waits for a line of the process's.
func (p *process) says(t testing.TB, want string) {
	t.Helper()
	line, err := p.out.ReadString('\n')
	if strings.TrimSpace(line) != want {
		t.Fatalf("the process said %q, %v; it should say %q", line, err, want)
	}
}

func (p *process) kill() {
	if p.ProcessState == nil {
		_ = p.Process.Kill() // it may have ended
		_ = p.Wait()
	}
}

// runJob is the other side: what a process does.
func runJob(job string) int {
	name, rest, _ := strings.Cut(job, " ")
	query, file, _ := strings.Cut(rest, " ")
	err := func() error {
		db, err := sql.Open("sqlite3", "file:"+url.PathEscape(file)+"?"+query)
		if err != nil {
			return err
		}
		defer db.Close()
		s, err := sqlitestore.New(context.Background(), db, &sqlitestore.Options{SweepEvery: -1})
		if err != nil {
			return err
		}
		defer s.Close()
		switch name {
		case "hold":
			return hold(db)
		case "work":
			return workAll(s)
		case "lease":
			return leaseAll(s)
		case "fill":
			return fill(s)
		}
		return errors.New("no such job")
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "job", name+":", err)
		return 1
	}
	return 0
}

// hold opens a writing transaction, and waits with it.
func hold(db *sql.DB) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	// More than the page cache holds, so that some of it is in the file already.
	for range 2000 {
		if _, err := tx.Exec(`INSERT INTO effects (name) VALUES (?)`, "held"+strings.Repeat("x", 4000)); err != nil {
			return err
		}
	}
	fmt.Println("held")
	_, err = os.Stdin.Read(make([]byte, 1))
	return errors.Join(err, tx.Rollback())
}

// workAll does every key's work in a transaction.
func workAll(s *sqlitestore.Store) error {
	for _, n := range rand.Perm(jobKeys) {
		id := fmt.Sprint(n)
		req := txRequest(id)
		req.CountAttempts = n%2 == 0
		if _, err := s.DoTx(context.Background(), req, effect(id)); err != nil {
			return err
		}
	}
	fmt.Println("done")
	return nil
}

// leaseAll does every key's work under a lease; its effect is a commit of its own.
func leaseAll(s *sqlitestore.Store) error {
	ctx := context.Background()
	for _, n := range rand.Perm(jobKeys) {
		id := fmt.Sprint(n)
		reply, err := s.Claim(ctx, request(id))
		if err != nil || !reply.Granted {
			if err != nil {
				return err
			}
			continue
		}
		if _, err := s.DB().Exec(`INSERT INTO effects (name) VALUES (?)`, id); err != nil {
			return err
		}
		if _, err := s.Complete(ctx, driver.Ref{Key: driver.KeyOf("scope", id), Token: reply.Record.Token}, completion("done")); err != nil {
			return err
		}
	}
	fmt.Println("done")
	return nil
}

// fill works until the system lets the file grow no more, and then, with more room,
// goes on.
func fill(s *sqlitestore.Store) error {
	signal.Ignore(syscall.SIGXFSZ)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	was := limit.Cur
	limit.Cur = 3<<20 + 1234
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	failed := 0
	for n := range 200 {
		id := fmt.Sprint(n)
		work := func(ctx context.Context, tx *sql.Tx, rec driver.Record) (driver.Completion, error) {
			_, err := effect(id)(ctx, tx, rec)
			return completion(strings.Repeat("x", 100_000)), err
		}
		reply, err := s.DoTx(context.Background(), txRequest(id), work)
		if err == nil {
			continue
		}
		if reply.Ran {
			return errors.New("DoTx ran and gave an error")
		}
		failed++
		limit.Cur = was
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
			return err
		}
		if reply, err := s.DoTx(context.Background(), txRequest(id), work); err != nil || !reply.Ran {
			return fmt.Errorf("with room: ran %v, %w", reply.Ran, err)
		}
	}
	if failed == 0 {
		return errors.New("the file was never full")
	}
	fmt.Println("done")
	return nil
}

// Trap 7: processes that write the file at the same time are killed all the time. In
// a transaction the count of effects is exactly one for every key.
func TestTrap7KilledInDoTx(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			b := underKill(t, "work", mode)
			for n := range jobKeys {
				id := fmt.Sprint(n)
				if reply, err := b.DoTx(t.Context(), txRequest(id), effect(id)); err != nil || !reply.Ran && reply.Record.State != driver.StateCompleted {
					t.Fatalf("DoTx: ran %v, %v, %v", reply.Ran, reply.Record.State, err)
				}
				if got := effects(t, b.DB(), id); got != 1 {
					t.Errorf("key %s: %d effects", id, got)
				}
			}
			st, err := b.Stats(t.Context())
			if err != nil || st != (driver.Stats{Completed: jobKeys}) {
				t.Errorf("counted %+v, %v", st, err)
			}
		})
	}
}

// With leases it is at most one, and every key whose owner was killed is held until
// its lease ends, and unknown after that.
func TestTrap7KilledUnderALease(t *testing.T) {
	b := underKill(t, "lease", "wal")
	unknown := 0
	for n := range jobKeys {
		id := fmt.Sprint(n)
		rec, err := b.Lookup(t.Context(), driver.KeyOf("scope", id))
		must(t, err)
		got := effects(t, b.DB(), id)
		switch {
		case rec.State == driver.StateCompleted && got == 1, rec.State == driver.StateAbsent && got == 0:
		case rec.State == driver.StateInFlight && got <= 1:
			unknown++
		default:
			t.Errorf("key %s is %v with %d effects", id, rec.State, got)
		}
	}
	t.Logf("%d of %d keys were in flight when their process was killed", unknown, jobKeys)
	st, err := b.Stats(t.Context())
	if err != nil || st.InFlight != int64(unknown) {
		t.Errorf("counted %+v, %v", st, err)
	}
}

// underKill lets processes do a job and kills them at random, and returns a store
// on what is left.
func underKill(t *testing.T, job, mode string) *bed {
	seed := drivertest.Seed(t)
	t.Logf("%s=%d", drivertest.SeedVariable, seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	file := filepath.Join(t.TempDir(), "app.db")
	query := strings.Replace(quick, "journal_mode(wal)", "journal_mode("+mode+")", 1)
	db := migrated(t, open(t, file, query), nil)
	must(t, execute(db, `CREATE TABLE effects (name TEXT NOT NULL)`))
	must(t, db.Close())
	var jobs [3]*process
	for i := range jobs {
		jobs[i] = startJob(t, job, file, query)
	}
	kills := 25
	if testing.Short() {
		kills = 8
	}
	for range kills {
		i := rng.IntN(len(jobs))
		next := time.NewTimer(time.Duration(20+rng.IntN(80)) * time.Millisecond)
		<-next.C
		jobs[i].kill()
		jobs[i] = startJob(t, job, file, query)
	}
	for _, p := range jobs {
		p.kill()
	}
	b := &bed{Store: newStore(t, open(t, file, query), &sqlitestore.Options{SweepEvery: -1}), file: file}
	var ok string
	must(t, b.DB().QueryRow(`PRAGMA integrity_check`).Scan(&ok))
	if ok != "ok" {
		t.Errorf("the file is damaged: %s", ok)
	}
	return b
}

// A process that is stopped in a transaction holds all others up, each no longer
// than its context; killed, it lets them go, and its transaction is rolled back.
func TestTrap9AProcessIsStopped(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "app.db")
			query := strings.Replace(quick, "journal_mode(wal)", "journal_mode("+mode+")", 1)
			db := migrated(t, open(t, file, query), nil)
			must(t, execute(db, `CREATE TABLE effects (name TEXT NOT NULL)`))
			o := small()
			s := newStore(t, db, &o)
			p := startJob(t, "hold", file, query)
			p.says(t, "held")
			must(t, p.Process.Signal(syscall.SIGSTOP))
			_, err := s.Claim(soon(t, 100*time.Millisecond), request("k"))
			want(t, err, context.DeadlineExceeded, "Claim")
			_, err = s.DoTx(soon(t, 100*time.Millisecond), txRequest("k"), never(t))
			want(t, err, context.DeadlineExceeded, "DoTx")
			p.kill()
			if rec := grant(t, s, request("k")); rec.Token == 0 {
				t.Error("no token")
			}
			n := -1
			must(t, db.QueryRow(`SELECT count(*) FROM effects`).Scan(&n))
			if n != 0 {
				t.Errorf("%d rows of the transaction of who was killed", n)
			}
		})
	}
}

// The system lets the file grow no more, in the middle of a write.
func TestTheFileMayNotGrow(t *testing.T) {
	file := filepath.Join(t.TempDir(), "app.db")
	db := migrated(t, open(t, file, durable), nil)
	must(t, execute(db, `CREATE TABLE effects (name TEXT NOT NULL)`))
	p := startJob(t, "fill", file, durable)
	p.says(t, "done")
	must(t, p.in.Close())
	must(t, p.Wait())
	s := newStore(t, db, &sqlitestore.Options{SweepEvery: -1})
	for n := range 200 {
		id := fmt.Sprint(n)
		if got := effects(t, db, id); got != 1 {
			t.Errorf("key %s: %d effects", id, got)
		}
		state(t, s, id, driver.StateCompleted)
	}
}

// A disk that really is full, where this process may make a small one.
func TestADiskThatReallyIsFull(t *testing.T) {
	dir := t.TempDir()
	if err := mountSmall(dir); err != nil {
		t.Logf("NOT TESTED: a small disk cannot be made here: %v", err)
		return
	}
	t.Cleanup(func() { must(t, unmount(dir)) })
	file := filepath.Join(dir, "app.db")
	db := migrated(t, open(t, file, durable), nil)
	must(t, execute(db, `CREATE TABLE effects (name TEXT NOT NULL)`))
	s := newStore(t, db, &sqlitestore.Options{SweepEvery: -1})
	ballast := filepath.Join(dir, "ballast")
	must(t, os.WriteFile(ballast, make([]byte, 1<<20), 0o600))
	ran := 0
	work := func(id string) (driver.TxReply, error) {
		return s.DoTx(t.Context(), txRequest(id), func(ctx context.Context, tx *sql.Tx, rec driver.Record) (driver.Completion, error) {
			_, err := effect(id)(ctx, tx, rec)
			return completion(strings.Repeat("x", 100_000)), err
		})
	}
	for ; ran < 1000; ran++ {
		reply, err := work(fmt.Sprint(ran))
		if err != nil {
			isFull(t, "DoTx", err)
			break
		}
		if !reply.Ran {
			t.Fatalf("the record is %v", reply.Record.State)
		}
	}
	if ran == 1000 {
		t.Fatal("the disk was never full")
	}
	must(t, os.Remove(ballast))
	if reply, err := work(fmt.Sprint(ran)); err != nil || !reply.Ran {
		t.Errorf("with room: ran %v, %v", reply.Ran, err)
	}
	for n := range ran + 1 {
		if got := effects(t, db, fmt.Sprint(n)); got != 1 {
			t.Errorf("key %d: %d effects", n, got)
		}
		state(t, s, fmt.Sprint(n), driver.StateCompleted)
	}
}
