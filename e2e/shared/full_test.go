package shared

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/sqlitestore"
)

// fullBed is a SQLite store whose room a test takes away and gives back.
type fullBed struct {
	t           *testing.T
	play        func(task) answer
	took        func(op) effects
	fill, empty func()
}

// refused does operations when there is no room: they are refused by an error, and
// nothing of them is half done. When there is room they run, or have run.
func (b *fullBed) refused(name string) {
	t := b.t
	t.Helper()
	ops := []op{opDo, opTx, opCompleteTx}
	before := map[op]answer{}
	for _, o := range ops {
		if before[o] = b.play(task{Op: o, Key: name + "before-" + string(o)}); before[o].What != ran {
			t.Fatalf("%s, with room: %+v", o, before[o])
		}
	}
	b.fill()
	told := map[op]what{}
	for _, o := range ops {
		a := b.play(task{Op: o, Key: name + string(o)})
		if a.What == ran || a.What == replayed || a.What == gone || a.Error == "" {
			t.Errorf("%s, without room: %+v", o, a)
		}
		told[o] = a.What
		t.Logf("%s, without room: %s: %s", o, a.What, a.Error)
		// What is completed is told also now.
		if again := b.play(task{Op: o, Key: name + "before-" + string(o)}); again.What != replayed || again.Value != before[o].Value {
			t.Errorf("%s of before, without room: %+v; it was %+v", o, again, before[o])
		}
	}
	for _, o := range ops {
		// It may be that there was room for a claim and none for its result.
		if n := len(b.took(o)[name+string(o)]); n > 1 || n == 1 && told[o] != unsaved {
			t.Errorf("%s took effect %d times without room, and its caller was told %s", o, n, told[o])
		}
	}
	b.empty()
	for _, o := range ops {
		b.done(o, name+string(o), "")
		b.done(o, name+"before-"+string(o), before[o].Value)
	}
}

// done asks until the answer is final; there is one effect, with that value.
func (b *fullBed) done(o op, key, value string) {
	t := b.t
	t.Helper()
	var a answer
	eventually(t, "a final answer", func(context.Context) bool {
		a = b.play(task{Op: o, Key: key})
		return slices.Contains([]what{ran, replayed, unknown, gone}, a.What)
	})
	if a.What != ran && a.What != replayed || value != "" && a.Value != value || !slices.Equal(b.took(o)[key], []string{a.Value}) {
		t.Errorf("%s, with room: %+v; the effects are %v, and %q was told before", key, a, b.took(o)[key], value)
	}
}

// limitedLab is a SQLite file that can be kept from growing.
func limitedLab(t *testing.T) (p *player, db *sql.DB) {
	t.Helper()
	l := newLab(t, sqlite(), nil)
	c := &config{Store: "sqlite", DSN: l.dsn, Scope: scopeOf(t), Ledger: filepath.Join(t.TempDir(), "ledger"),
		Lease: time.Minute, Wait: time.Second, StoreTimeout: time.Second, SaveWait: 2 * time.Second}
	// One connection, since the bound is the connection's.
	db, err := sql.Open("sqlite3", "file:"+url.PathEscape(strings.TrimPrefix(l.dsn, "sqlite:"))+
		"?_txlock=immediate&_pragma=journal_mode(wal)&_pragma=synchronous(full)&_pragma=busy_timeout(1000)")
	must(t, err)
	db.SetMaxOpenConns(1)
	s, err := sqlitestore.New(t.Context(), db, &sqlitestore.Options{SweepEvery: -1})
	must(t, err)
	p = playerOf(t, *c)
	must(t, p.end(t.Context()))
	p.opened = sqlStore(s, db, c, false, func() error { return errors.Join(s.Close(), db.Close()) })
	return p, db
}

// bound lets the file not grow any more, and unbound lets it again.
func bound(t *testing.T, db *sql.DB) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), "PRAGMA max_page_count = 1") // no less than there are
	must(t, err)
	// What room there is within the pages is taken too.
	for err == nil {
		_, err = db.ExecContext(t.Context(), "INSERT INTO filler (b) VALUES (zeroblob(500))")
	}
	if !strings.Contains(err.Error(), "full") {
		t.Fatalf("filling the database: %v", err)
	}
}

func unbound(t *testing.T, db *sql.DB) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), "PRAGMA max_page_count = 1000000")
	must(t, err)
}

// The database may not grow any more (max_page_count): what needs room is refused,
// nothing is half done, and with room again all goes on.
func TestTrap35SQLiteDatabaseFull(t *testing.T) {
	p, db := limitedLab(t)
	_, err := db.ExecContext(t.Context(), "CREATE TABLE filler (b BLOB)")
	must(t, err)
	b := &fullBed{
		t:    t,
		play: func(tk task) answer { return p.play(t.Context(), tk) },
		took: func(o op) effects {
			if o == opDo {
				return ledgerOf(t, p.config.Ledger)
			}
			return rowsOf(t, p.opened, p.config.Scope)
		},
		fill: func() { bound(t, db) }, empty: func() { unbound(t, db) },
	}
	// Names that no page with some room left in it takes.
	b.refused(strings.Repeat("n", 4000))

	// The room ends while the work of a claim that was granted runs.
	value := ""
	big := strings.Repeat("x", 100_000) // too large for a row that is there
	_, err = idem.Do(t.Context(), p.guard, idem.Request{Key: idem.Key{Scope: p.config.Scope, ID: "late"}}, func(context.Context) (string, error) {
		v, err := p.effect(task{Key: "late"})
		value = v
		bound(t, db)
		return big, err
	})
	if !errors.Is(err, idem.ErrUnsaved) {
		t.Errorf("its result has no room: %v", err)
	}
	unbound(t, db)
	eventually(t, "the result is saved when there is room", func(ctx context.Context) bool {
		r, err := p.store.Lookup(ctx, driver.KeyOf(p.config.Scope, "late"))
		return err == nil && r.State == driver.StateCompleted && len(r.Result.Body) > len(big)
	})
	if took := ledgerOf(t, p.config.Ledger)["late"]; !slices.Equal(took, []string{value}) {
		t.Errorf("the effects are %v", took)
	}
}

// The disk is full: a file system of a few megabytes, which nothing but the worker sees.
func TestTrap52DiskFull(t *testing.T) {
	dir := t.TempDir()
	c := &config{
		Store: "sqlite", DSN: "sqlite:" + dir + "/app.db", Scope: scopeOf(t), Ledger: filepath.Join(t.TempDir(), "ledger"),
		Lease: time.Minute, Wait: time.Second, StoreTimeout: time.Second, SaveWait: 2 * time.Second,
		Disk: dir, DiskSize: 4 << 20, Migrate: true,
	}
	if err := smallDisk(t, c); err != nil {
		t.Logf("NOT TESTED: a disk that is full: %v", err)
		return
	}
	k := newCrew(t, 1, c)
	do := func(tk task) answer { return k.ask(0, tk) }
	b := &fullBed{
		t: t, play: do,
		took: func(o op) effects {
			if o == opDo {
				return ledgerOf(t, c.Ledger)
			}
			return do(task{Op: opRows}).Rows
		},
		fill: func() {
			if a := do(task{Op: opFill}); a.What != ran {
				t.Fatalf("filling the disk: %+v", a)
			}
		},
		empty: func() {
			if a := do(task{Op: opEmpty}); a.What != ran {
				t.Fatalf("emptying the disk: %+v", a)
			}
		},
	}
	b.refused("")
	// And once more: a disk may be full for the second time.
	b.refused("again-")
	k.end()
}
