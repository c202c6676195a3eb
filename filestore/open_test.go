package filestore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/filestore"
)

// oneSentence checks an error that an operator reads: it begins with the
// package, names the directory, and has what to look for.
func oneSentence(t testing.TB, err error, dir string, kind error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("Open succeeded; it should refuse %s", dir)
	}
	text := err.Error()
	if kind != nil && !errors.Is(err, kind) {
		t.Errorf("%q is not %q", text, kind)
	}
	if !strings.HasPrefix(text, "filestore: ") || strings.Contains(text, "\n") {
		t.Errorf("%q is not one sentence of the package", text)
	}
	for _, part := range append(parts, dir) {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not say %q", text, part)
		}
	}
}

// mustOpen opens a store on the disk.
func mustOpen(t testing.TB, dir string, o *filestore.Options) *filestore.Store {
	t.Helper()
	if o == nil {
		o = &filestore.Options{SweepEvery: -1}
	}
	s, err := filestore.Open(dir, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func closeStore(t testing.TB, s *filestore.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// fill completes n keys, each with a result of so many bytes.
func fill(t testing.TB, s driver.Store, scope string, from, n, size int) {
	t.Helper()
	all(min(n, 64), n, func(i int) {
		body := randomBytes(rand.New(rand.NewPCG(uint64(from+i), 0)), size)
		if err := pair(t.Context(), s, scope, fmt.Sprint(from+i), body); err != nil {
			t.Errorf("pair: %v", err)
		}
	})
}

func TestASecondOpenerIsToldThePid(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, nil)
	for _, path := range []string{dir, dir + "/", filepath.Join(dir, "..", filepath.Base(dir))} {
		_, err := filestore.Open(path, nil)
		oneSentence(t, err, dir, filestore.ErrInUse, fmt.Sprint(os.Getpid()), "stop")
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	_, err := filestore.Open(link, nil)
	oneSentence(t, err, dir, filestore.ErrInUse)
	fill(t, s, "s", 0, 3, 10)
	closeStore(t, s)
	s = mustOpen(t, dir, nil)
	stateOf(t, s, "s", "1", driver.StateCompleted)
}

func stateOf(t testing.TB, s driver.Store, scope, id string, want driver.State) driver.Record {
	t.Helper()
	rec, err := s.Lookup(t.Context(), driver.KeyOf(scope, id))
	if err != nil {
		t.Fatalf("Lookup: %v", err)
	}
	if rec.State != want {
		t.Fatalf("%s is %v; it should be %v", id, rec.State, want)
	}
	return rec
}

func TestClosingTwice(t *testing.T) {
	s := mustOpen(t, t.TempDir(), nil)
	closeStore(t, s)
	closeStore(t, s)
}

func TestTrap64ADirectoryOfOtherFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := filestore.Open(dir, nil)
	oneSentence(t, err, dir, filestore.ErrFormat, "thesis.tex", "empty directory")
	if _, err := os.Stat(filepath.Join(dir, "db")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open made an engine in a directory that it refused: %v", err)
	}
}

func TestTrap64AFileIsNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := filestore.Open(file, nil)
	oneSentence(t, err, file, nil, "not a directory")
	if _, err := filestore.Open("", nil); err == nil {
		t.Error("Open took a directory without a name")
	}
}

func TestTrap64ANewerFormat(t *testing.T) {
	b := newBed(t, small())
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	rewrite(t, b.fs, "/data/IDEM", func([]byte) []byte {
		return []byte("idem file store\nformat 2\ncrc32c 93fe341a\n")
	})
	_, err := filestore.Open("/data", b.opts.WithClock(b.clock).WithFS(b.fs))
	oneSentence(t, err, "/data", filestore.ErrFormat, "format 2", "as new as")
}

// readOnly is a file system that takes no writes.
func readOnly(fs vfs.FS, why error) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return &os.PathError{Op: "open", Path: op.Path, Err: why}
		}
		return nil
	}))
}

func TestTrap64AReadOnlyDirectory(t *testing.T) {
	for why, hint := range map[error]string{
		syscall.EROFS: "read-only file system", syscall.EACCES: "writable", syscall.ENOSPC: "full",
	} {
		b := newBed(t, small())
		fill(t, b, "s", 0, 1, 10)
		closeStore(t, b.Store)
		_, err := filestore.Open("/data", b.opts.WithClock(b.clock).WithFS(readOnly(b.fs, why)))
		oneSentence(t, err, "/data", nil, hint)
		if !errors.Is(err, why) {
			t.Errorf("%v does not wrap %v", err, why)
		}
		b.open(t)
		stateOf(t, b, "s", "0", driver.StateCompleted)
	}
}

// What an opening has left that never came to its end is no store, and no
// damage.
func TestPowerFailsWhileAStoreIsMade(t *testing.T) {
	for n := range 400 {
		mem := vfs.NewCrashableMem()
		var ops int
		var crashed *vfs.MemFS
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				if ops++; ops == n {
					crashed = mem.CrashClone(vfs.CrashCloneCfg{})
				}
			}
			return nil
		}))
		o := small()
		s, err := filestore.Open("/data", o.WithFS(fs))
		if err != nil {
			t.Fatal(err)
		}
		closeStore(t, s)
		if crashed == nil {
			if n < 20 {
				continue
			}
			return
		}
		s, err = filestore.Open("/data", o.WithFS(crashed))
		if err != nil {
			t.Fatalf("after a power cut before write %d: %v", n, err)
		}
		fill(t, s, "s", 0, 1, 10)
		closeStore(t, s)
	}
	t.Fatal("making a store has more writes than were tried")
}

// rewrite changes a file of a file system in memory, synced.
func rewrite(t testing.TB, mem vfs.FS, path string, change func([]byte) []byte) {
	t.Helper()
	f, err := mem.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	b = change(b)
	f, err = mem.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A clock that is stepped while the store is closed, or while it is open, takes
// nothing from a retention but what passed in between.
func TestTheWallClockIsStepped(t *testing.T) {
	b := newBed(t, small())
	fill(t, b, "s", 0, 1, 10)
	b.clock.StepWall(50 * 24 * time.Hour)
	left := stateOf(t, b, "s", "0", driver.StateCompleted).Left
	if left != time.Hour {
		t.Fatalf("left %v after a step while the store was open; it should be an hour", left)
	}
	fill(t, b, "s", 1, 1, 10) // the time is written beside the wall clock's
	b = b.closed(t)
	if got := stateOf(t, b, "s", "0", driver.StateCompleted).Left; got != left {
		t.Fatalf("left %v after opening again; it should be %v", got, left)
	}
	closeStore(t, b.Store)
	b.clock.StepWall(-100 * 24 * time.Hour)
	b.open(t)
	if got := stateOf(t, b, "s", "0", driver.StateCompleted).Left; got != left {
		t.Fatalf("left %v after the wall clock went back; it should be %v", got, left)
	}
	closeStore(t, b.Store)
	b.clock.Advance(time.Hour)
	b.open(t)
	stateOf(t, b, "s", "0", driver.StateForgotten)
}

// A lease that has ended is written down by the sweeper: its tombstone's time
// does not begin anew at each opening.
func TestALapseIsWrittenDown(t *testing.T) {
	b := newBed(t, small())
	if _, err := b.Claim(t.Context(), claimOf("k", driver.NewNonce())); err != nil {
		t.Fatal(err)
	}
	b.clock.Advance(time.Minute)
	sweepAll(t, b)
	for range 3 {
		b.clock.Advance(10 * time.Minute)
		b = b.crash(t)
	}
	if left := stateOf(t, b, "s", "k", driver.StateUnknown).Left; left != 30*time.Minute {
		t.Errorf("left %v; it should be 30m", left)
	}
	b.clock.Advance(30 * time.Minute)
	stateOf(t, b, "s", "k", driver.StateAbsent)
	b = b.crash(t)
	stateOf(t, b, "s", "k", driver.StateAbsent)
	if n := sweepAll(t, b); n != 1 {
		t.Errorf("%d records were swept; 1 should be", n)
	}
	if b.InMemory() != 0 {
		t.Errorf("memory still knows of %d keys", b.InMemory())
	}
}

func claimOf(id string, nonce driver.Nonce) driver.ClaimRequest {
	return driver.ClaimRequest{
		Key: driver.KeyOf("s", id), Scope: "s", ID: id, Nonce: nonce, Lease: time.Minute, Tombstone: time.Hour,
	}
}

// A claim that lapsed, which was written down, and was then granted to its nonce
// again is in flight on disk too: a crash later it is unknown for its whole
// tombstone's time.
func TestAClaimThatCameBack(t *testing.T) {
	b := newBed(t, small())
	req := claimOf("k", driver.NewNonce())
	first, err := b.Claim(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	b.clock.Advance(30 * time.Minute)
	sweepAll(t, b)
	req.Lease = 2 * time.Hour
	again, err := b.Claim(t.Context(), req)
	if err != nil || !again.Granted || again.Record.Token != first.Record.Token {
		t.Fatalf("the claim asked for again: %+v, %v", again, err)
	}
	b.clock.Advance(90 * time.Minute)
	b = b.crash(t)
	if left := stateOf(t, b, "s", "k", driver.StateUnknown).Left; left != time.Hour {
		t.Errorf("left %v; it should be an hour", left)
	}
}

// Trap 2: one reads that nothing is there, and pauses; another runs, saves, and
// lets go; the first goes on, and must look again.
func TestTrap2LooksAgain(t *testing.T) {
	paused, on := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	o := small().WithLoaded(func(key driver.Key) {
		if key == driver.KeyOf("s", "k") && first.CompareAndSwap(false, true) {
			close(paused)
			<-on
		}
	})
	b := newBed(t, o)
	type answer struct {
		reply driver.ClaimReply
		err   error
	}
	answered := make(chan answer)
	go func() {
		reply, err := b.Claim(context.Background(), claimOf("k", driver.NewNonce()))
		answered <- answer{reply, err}
	}()
	<-paused
	fill(t, b, "s", 0, 1, 10)
	if err := pair(t.Context(), b, "s", "k", []byte("the other's")); err != nil {
		t.Fatal(err)
	}
	close(on)
	a := <-answered
	if a.err != nil || a.reply.Granted || string(a.reply.Record.Result.Body) != "the other's" {
		t.Errorf("the first was answered %+v, %v; it should get the other's result", a.reply, a.err)
	}
}
