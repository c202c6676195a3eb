package filestore_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/filestore"
)

// The keys of a store that is damaged then: half of them are in tables, half in
// the log.
const damageKeys = 40

// toDamage returns what a crash leaves of a store.
func toDamage(t testing.TB) *bed {
	b := newBed(t, small())
	fill(t, b, "s", 0, damageKeys/2, 300)
	b = b.closed(t) // the engine makes a table of what its log holds
	for i := damageKeys / 2; i < damageKeys; i++ {
		fill(t, b, "s", i, 1, 300)
	}
	crashed := &bed{fs: b.fs.CrashClone(vfs.CrashCloneCfg{}), clock: b.clock, opts: b.opts}
	// The mark is in the page cache then, which only a power cut takes away.
	copyFile(t, b.fs, crashed.fs, "/data/mark")
	closeStore(t, b.Store)
	return crashed
}

func copyFile(t testing.TB, from, to vfs.FS, path string) {
	t.Helper()
	if err := vfs.CopyAcrossFS(from, path, to, path); err != nil {
		t.Fatal(err)
	}
	f, err := to.OpenDir(to.PathDir(path))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// files are the files of a store, those of who has it open apart.
func files(t testing.TB, fs vfs.FS) []string {
	t.Helper()
	var all []string
	for _, dir := range []string{"/data", "/data/db"} {
		names, err := fs.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			path := fs.PathJoin(dir, name)
			if info, err := fs.Stat(path); err != nil {
				t.Fatal(err)
			} else if !info.IsDir() && name != "pid" && name != "LOCK" {
				all = append(all, path)
			}
		}
	}
	slices.Sort(all)
	return all
}

// contents are the names and bytes of all files.
func contents(t testing.TB, fs vfs.FS) string {
	t.Helper()
	var all strings.Builder
	for _, path := range files(t, fs) {
		f, err := fs.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s %x\n", path, sha256.Sum256(b))
	}
	return all.String()
}

// honest opens a damaged store: it refuses, or every key is there, or is
// refused. It returns what was seen.
func honest(t testing.TB, b *bed, what string) (refused bool, unreadable int) {
	t.Helper()
	before := contents(t, b.fs)
	s, err := filestore.Open("/data", b.opts.WithClock(b.clock).WithFS(b.fs))
	if err != nil {
		oneSentence(t, err, "/data", filestore.ErrDamaged)
		if contents(t, b.fs) != before {
			t.Errorf("%s: it was refused, and is no longer as it was found", what)
		}
		return true, 0
	}
	defer s.Close()
	for i := range damageKeys {
		key := driver.KeyOf("s", fmt.Sprint(i))
		var u *driver.UnreadableError
		rec, err := s.Lookup(t.Context(), key)
		switch {
		case errors.As(err, &u):
			if u.Key != key {
				t.Errorf("%s: the error of a key names another", what)
			}
			unreadable++
		case err != nil:
			t.Errorf("%s: Lookup: %v", what, err)
		case rec.State != driver.StateCompleted || len(rec.Result.Body) != 300:
			t.Errorf("%s: key %d is %v with %d bytes", what, i, rec.State, len(rec.Result.Body))
		}
		reply, err := s.Claim(t.Context(), driver.ClaimRequest{
			Key: key, Scope: "s", ID: fmt.Sprint(i), Nonce: driver.NewNonce(), Lease: time.Minute, Tombstone: time.Hour,
		})
		if reply.Granted {
			t.Errorf("%s: the completed key %d was granted again", what, i)
		}
		if err != nil && !errors.As(err, &u) {
			t.Errorf("%s: Claim: %v", what, err)
		}
	}
	// A list leaves out what cannot be read, and does not fail for it.
	page, err := s.List(t.Context(), driver.Query{Limit: 1000})
	if err == nil && len(page.Records) < damageKeys-unreadable {
		t.Errorf("%s: %d of %d records are listed, %d cannot be read", what, len(page.Records), damageKeys, unreadable)
	}
	return false, unreadable
}

// Trap 66: whatever is damaged, nothing that was completed reads as absent.
func TestTrap66AnyFileDamaged(t *testing.T) {
	seed := drivertest.Seed(t)
	t.Logf("%s=%d", drivertest.SeedVariable, seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	kinds := []struct {
		name   string
		rounds int
		damage func(b []byte) []byte
	}{
		{"cut in half", 1, func(b []byte) []byte { return b[:len(b)/2] }},
		{"emptied", 1, func([]byte) []byte { return nil }},
		{"all zeroes", 1, func(b []byte) []byte { clear(b); return b }},
		{"a bit flipped", 8, func(b []byte) []byte {
			if len(b) > 0 {
				b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
			}
			return b
		}},
		{"a page zeroed", 2, func(b []byte) []byte {
			if len(b) > 0 {
				at := rng.IntN(len(b)) &^ 4095
				clear(b[at:min(at+4096, len(b))])
			}
			return b
		}},
		{"its end torn off", 2, func(b []byte) []byte { return b[:rng.IntN(len(b)+1)] }},
	}
	refused, unreadable, fine := 0, 0, 0
	tally := func(r bool, u int) {
		switch {
		case r:
			refused++
		case u > 0:
			unreadable++
		default:
			fine++
		}
	}
	base := toDamage(t)
	clone := func() *bed {
		return &bed{fs: base.fs.CrashClone(vfs.CrashCloneCfg{}), clock: base.clock, opts: base.opts}
	}
	for _, path := range files(t, base.fs) {
		b := clone()
		if err := b.fs.Remove(path); err != nil {
			t.Fatal(err)
		}
		tally(honest(t, b, path+" removed"))
		for _, k := range kinds {
			for range k.rounds {
				b := clone()
				rewrite(t, b.fs, path, k.damage)
				tally(honest(t, b, path+" "+k.name))
			}
		}
	}
	t.Logf("refused %d times, %d times some records, nothing was amiss %d times", refused, unreadable, fine)
	if refused == 0 || unreadable+fine == 0 {
		t.Errorf("the damage was all of one kind: %d, %d, %d", refused, unreadable, fine)
	}
}

// Trap 66: one flipped byte anywhere in the log is noticed, although the engine
// takes what follows for the end.
func TestTrap66AFlippedByteInTheLog(t *testing.T) {
	base := toDamage(t)
	// The last log is the one in use; those before it may be there although the
	// engine has made tables of them.
	path, size := "", 0
	for _, name := range files(t, base.fs) {
		if strings.HasSuffix(name, ".log") {
			rewrite(t, base.fs, name, func(b []byte) []byte {
				if len(b) > 0 {
					path, size = name, len(b)
				}
				return b
			})
		}
	}
	for at := 0; at < size; at += 97 {
		b := &bed{fs: base.fs.CrashClone(vfs.CrashCloneCfg{}), clock: base.clock, opts: base.opts}
		rewrite(t, b.fs, path, func(b []byte) []byte { b[at] ^= 0x40; return b })
		if refused, _ := honest(t, b, fmt.Sprint(path, " at ", at)); !refused {
			t.Errorf("%s: the byte at %d of %d was flipped, and the store opened", path, at, size)
		}
	}
	if size < 97 {
		t.Fatalf("the log has %d bytes", size)
	}
}

// Trap 66: all files damaged at once is no empty store.
func TestTrap66AllFilesDamaged(t *testing.T) {
	base := toDamage(t)
	for name, damage := range map[string]func(b *bed, path string){
		"removed": func(b *bed, path string) {
			if err := b.fs.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
		"zeroed":  func(b *bed, path string) { rewrite(t, b.fs, path, func(b []byte) []byte { clear(b); return b }) },
		"emptied": func(b *bed, path string) { rewrite(t, b.fs, path, func([]byte) []byte { return nil }) },
		"flipped": func(b *bed, path string) {
			rewrite(t, b.fs, path, func(b []byte) []byte {
				for i := range b {
					b[i] ^= 0xff
				}
				return b
			})
		},
	} {
		for _, but := range []string{"", "IDEM", "mark", "/db/"} {
			b := &bed{fs: base.fs.CrashClone(vfs.CrashCloneCfg{}), clock: base.clock, opts: base.opts}
			for _, path := range files(t, b.fs) {
				if but == "" || !strings.Contains(path, but) {
					damage(b, path)
				}
			}
			_, err := filestore.Open("/data", b.opts.WithClock(b.clock).WithFS(b.fs))
			if err == nil {
				t.Errorf("all files but %q %s, and the store opened", but, name)
				continue
			}
			oneSentence(t, err, "/data", filestore.ErrDamaged)
		}
	}
}

// What was refused can be opened by who accepts the loss, and only then.
func TestAcceptLoss(t *testing.T) {
	b := toDamage(t)
	var logs []string
	for _, path := range files(t, b.fs) {
		if strings.HasSuffix(path, ".log") {
			logs = append(logs, path)
			if err := b.fs.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(logs) == 0 {
		t.Fatal("there was no log to lose")
	}
	for range 2 {
		_, err := filestore.Open("/data", b.opts.WithClock(b.clock).WithFS(b.fs))
		oneSentence(t, err, "/data", filestore.ErrDamaged, "acknowledged", "backup")
	}
	o := b.opts
	o.AcceptLoss = true
	s, err := filestore.Open("/data", o.WithClock(b.clock).WithFS(b.fs))
	if err != nil {
		t.Fatal(err)
	}
	stateOf(t, s, "s", "0", driver.StateCompleted)
	stateOf(t, s, "s", fmt.Sprint(damageKeys-1), driver.StateAbsent)
	fill(t, s, "s", 100, 5, 10)
	closeStore(t, s)
	b.open(t)
	stateOf(t, b, "s", "101", driver.StateCompleted)
}

// Trap 66: a log that is missing between others is noticed too, although what
// came last is there.
func TestTrap66ALogInTheMiddleIsMissing(t *testing.T) {
	mem := vfs.NewCrashableMem()
	release := make(chan struct{})
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
			<-release // no table is made, so the logs stay
		}
		return nil
	}))
	b := &bed{fs: mem, clock: filestore.NewTestClock(), opts: small()}
	s, err := filestore.Open("/data", b.opts.WithClock(b.clock).WithFS(fs))
	if err != nil {
		t.Fatal(err)
	}
	// One after the other, so that the engine does not wait for its tables.
	for i := range 130 {
		fill(t, s, "s", i, 1, 9000)
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	copyFile(t, mem, crashed, "/data/mark")
	close(release)
	closeStore(t, s)
	var logs []string
	for _, path := range files(t, crashed) {
		if strings.HasSuffix(path, ".log") {
			logs = append(logs, path)
		}
	}
	if len(logs) < 3 {
		t.Fatalf("there are %d logs", len(logs))
	}
	for i, path := range logs {
		left := crashed.CrashClone(vfs.CrashCloneCfg{})
		if err := left.Remove(path); err != nil {
			t.Fatal(err)
		}
		_, err := filestore.Open("/data", b.opts.WithClock(b.clock).WithFS(left))
		if err == nil {
			t.Errorf("log %d of %d is missing, and the store opened", i+1, len(logs))
			continue
		}
		oneSentence(t, err, "/data", filestore.ErrDamaged)
	}
}

// A record that cannot be read refuses its key in every call, also after the
// store was opened again, and nothing else.
func TestUnreadableRecords(t *testing.T) {
	for _, space := range []string{"claim", "record", "result"} {
		b := newBed(t, small())
		req := driver.ClaimRequest{
			Key: driver.KeyOf("s", "bad"), Scope: "s", ID: "bad", Nonce: driver.NewNonce(), Lease: time.Minute, Tombstone: time.Hour,
		}
		reply, err := b.Claim(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		ref := driver.Ref{Key: req.Key, Token: reply.Record.Token}
		completion := driver.Completion{Result: driver.Result{Body: []byte("r")}, Retention: time.Hour, Tombstone: time.Hour}
		if space != "claim" {
			if _, err := b.Complete(t.Context(), ref, completion); err != nil {
				t.Fatal(err)
			}
		}
		fill(t, b, "s", 0, 3, 10)
		if err := b.Spoil(space, req.Key); err != nil {
			t.Fatal(err)
		}
		b = b.closed(t)
		refused := func(call string, err error) {
			t.Helper()
			var u *driver.UnreadableError
			if !errors.As(err, &u) || u.Key != req.Key {
				t.Errorf("%s of a spoilt %s: %v; it should be unreadable", call, space, err)
			}
		}
		_, err = b.Lookup(t.Context(), req.Key)
		refused("Lookup", err)
		req.Nonce, req.Retry = driver.NewNonce(), true
		_, err = b.Claim(t.Context(), req)
		refused("Claim", err)
		_, err = b.Complete(t.Context(), ref, completion)
		refused("Complete", err)
		if space != "result" {
			refused("Renew", b.Renew(t.Context(), ref, time.Minute))
			refused("Release", b.Release(t.Context(), ref, driver.Release{Retention: time.Hour}))
			refused("Abandon", b.Abandon(t.Context(), ref))
			_, err = b.Resolve(t.Context(), req.Key, driver.Resolution{Action: driver.ResolveRelease, Retention: time.Hour, Tombstone: time.Hour})
			refused("Resolve", err)
			page, err := b.List(t.Context(), driver.Query{Limit: 10})
			if err != nil || len(page.Records) != 3 {
				t.Errorf("%d records are listed beside a spoilt %s: %v", len(page.Records), space, err)
			}
		}
		stateOf(t, b, "s", "1", driver.StateCompleted)
		b.clock.Advance(time.Hour)
		sweepAll(t, b)
		stateOf(t, b, "s", "1", driver.StateForgotten)
	}
}
