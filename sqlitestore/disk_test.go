package sqlitestore_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ncruces/go-sqlite3"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/sqlitestore"
)

const durable = "_pragma=busy_timeout(500)&_pragma=journal_mode(wal)&_pragma=synchronous(full)"

// Trap 52: a sync that fails is final: the store answers nothing any more, also
// when syncs succeed again. Opened anew, it tells what there is, and no work has
// two effects.
func TestTrap52ASyncFails(t *testing.T) {
	for _, call := range []string{"Claim", "Complete", "Renew", "DoTx"} {
		t.Run(call, func(t *testing.T) {
			d, name := newDisk(t)
			file := filepath.Join(t.TempDir(), "app.db")
			db := migrated(t, open(t, file, durable+"&vfs="+name), nil)
			must(t, execute(db, `CREATE TABLE effects (name TEXT NOT NULL)`))
			s := newStore(t, db, &sqlitestore.Options{SweepEvery: -1})
			ref := grant(t, s, request("before"))
			req := request("k")
			waits := make(chan error, 1)
			go func() { waits <- s.Wait(t.Context(), ref) }()
			eventually(t, "waiter", func() bool { return s.Watching() == 1 })

			bad := error(sqlite3.IOERR_FSYNC)
			d.sync.Store(&bad)
			var err error
			switch call {
			case "Claim":
				_, err = s.Claim(t.Context(), req)
			case "Complete":
				_, err = s.Complete(t.Context(), ref, completion("x"))
			case "Renew":
				err = s.Renew(t.Context(), ref, 2*lease)
			case "DoTx":
				var reply driver.TxReply
				reply, err = s.DoTx(t.Context(), txRequest("k"), effect("k"))
				if reply.Ran {
					t.Error("DoTx says that it ran")
				}
			}
			want(t, err, sqlitestore.ErrStopped, call)
			want(t, <-waits, sqlitestore.ErrStopped, "Wait")
			d.sync.Store(nil)
			_, err = s.Claim(t.Context(), req)
			want(t, err, sqlitestore.ErrStopped, "Claim after it")
			_, err = s.Lookup(t.Context(), req.Key)
			want(t, err, sqlitestore.ErrStopped, "Lookup after it")
			want(t, s.Renew(t.Context(), ref, lease), sqlitestore.ErrStopped, "Renew after it")
			_, err = s.DoTx(t.Context(), txRequest("k"), never(t))
			want(t, err, sqlitestore.ErrStopped, "DoTx after it")
			want(t, s.Ping(t.Context()), sqlitestore.ErrStopped, "Ping after it")
			must(t, s.Close())
			must(t, db.Close())

			again := newStore(t, open(t, file, durable), &sqlitestore.Options{SweepEvery: -1})
			if rec, err := again.Lookup(t.Context(), ref.Key); err != nil || rec.Token != ref.Token {
				t.Errorf("what was acknowledged is %v, %v", rec.State, err)
			}
			if call != "DoTx" {
				return
			}
			reply, err := again.DoTx(t.Context(), txRequest("k"), effect("k"))
			if err != nil || reply.Record.State != driver.StateCompleted {
				t.Errorf("DoTx: %v, %v", reply.Record.State, err)
			}
			if n := effects(t, again.DB(), "k"); n != 1 {
				t.Errorf("%d effects", n)
			}
		})
	}
}

// The disk is full: claims are refused with an error that says so, nothing of the
// call is there, what there was stays, and with room again all goes on.
func TestTheDiskIsFull(t *testing.T) {
	for _, full := range []struct {
		name string
		make func(t *testing.T, d *disk, db *sql.DB) (room func())
	}{
		{"by the disk", func(_ *testing.T, d *disk, _ *sql.DB) func() {
			bad := error(sqlite3.FULL)
			d.write.Store(&bad)
			return func() { d.write.Store(nil) }
		}},
		{"by max_page_count", func(t *testing.T, _ *disk, db *sql.DB) func() {
			limit := func(n int) {
				_, err := db.ExecContext(context.Background(), fmt.Sprintf("PRAGMA max_page_count = %d", n))
				must(t, err)
			}
			limit(1) // no less than there are
			return func() { limit(1 << 30) }
		}},
	} {
		t.Run(full.name, func(t *testing.T) {
			d, name := newDisk(t)
			db := migrated(t, open(t, filepath.Join(t.TempDir(), "app.db"), durable+"&vfs="+name), nil)
			db.SetMaxOpenConns(1) // max_page_count is a connection's
			must(t, execute(db, `CREATE TABLE effects (name TEXT NOT NULL)`))
			s := newStore(t, db, &sqlitestore.Options{SweepEvery: -1})
			done, held := request("done"), request("held")
			complete(t, s, grant(t, s, done), "result")
			ref := grant(t, s, held)

			room := full.make(t, d, db)
			large := completion(string(bytes.Repeat([]byte("x"), 1<<20)))
			_, err := s.Complete(t.Context(), ref, large)
			isFull(t, "Complete", err)
			if full.name == "by the disk" {
				_, err = s.Claim(t.Context(), request("new"))
				isFull(t, "Claim", err)
			}
			reply, err := s.DoTx(t.Context(), txRequest("tx"), func(ctx context.Context, tx *sql.Tx, rec driver.Record) (driver.Completion, error) {
				if _, err := effect("tx")(ctx, tx, rec); err != nil {
					return driver.Completion{}, err
				}
				return large, nil
			})
			if reply.Ran {
				t.Error("DoTx says that it ran")
			}
			isFull(t, "DoTx", err)
			if rec := state(t, s, "done", driver.StateCompleted); string(rec.Result.Body) != "result" {
				t.Errorf("the result is %q", rec.Result.Body)
			}
			state(t, s, "held", driver.StateInFlight)
			state(t, s, "tx", driver.StateAbsent)

			room()
			if n := effects(t, db, "tx"); n != 0 {
				t.Errorf("%d effects of what was rolled back", n)
			}
			complete(t, s, ref, "later")
			if reply, err := s.DoTx(t.Context(), txRequest("tx"), effect("tx")); err != nil || !reply.Ran {
				t.Errorf("DoTx: ran %v, %v", reply.Ran, err)
			}
			if n := effects(t, db, "tx"); n != 1 {
				t.Errorf("%d effects", n)
			}
		})
	}
}

// isFull checks that an error says that there is no room; some drivers say of a full
// disk only that a write failed.
func isFull(t testing.TB, call string, err error) {
	t.Helper()
	const full, failedWrite = 13, 10 | 3<<8
	c := sqlitestore.Code(err)
	switch {
	case c != full && c != failedWrite, errors.Is(err, sqlitestore.ErrStopped):
	case strings.Contains(err.Error(), "make room"), strings.Contains(err.Error(), "whether the disk is full"):
		return
	}
	t.Errorf("%s: %v (code %d); it should say that the disk is full", call, err, c)
}

// A write that fails without a word about room changes nothing either.
func TestAWriteFails(t *testing.T) {
	d, name := newDisk(t)
	db := migrated(t, open(t, filepath.Join(t.TempDir(), "app.db"), durable+"&vfs="+name), nil)
	must(t, execute(db, `CREATE TABLE effects (name TEXT NOT NULL)`))
	s := newStore(t, db, &sqlitestore.Options{SweepEvery: -1})
	req := request("k")
	bad := error(sqlite3.IOERR_WRITE)
	d.write.Store(&bad)
	if _, err := s.Claim(t.Context(), req); err == nil {
		t.Error("Claim succeeded")
	}
	if reply, err := s.DoTx(t.Context(), txRequest("tx"), effect("tx")); err == nil || reply.Ran {
		t.Errorf("DoTx: ran %v, %v", reply.Ran, err)
	}
	d.write.Store(nil)
	state(t, s, "k", driver.StateAbsent)
	grant(t, s, req)
	if reply, err := s.DoTx(t.Context(), txRequest("tx"), effect("tx")); err != nil || !reply.Ran {
		t.Errorf("DoTx: ran %v, %v", reply.Ran, err)
	}
	if n := effects(t, db, "tx"); n != 1 {
		t.Errorf("%d effects", n)
	}
}
