package sqlitestore_test

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sqlite3driver "github.com/ncruces/go-sqlite3/driver"
	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/idem-go/idem/driver"
)

const (
	lease     = time.Minute
	retention = time.Hour
	tombstone = 24 * time.Hour
)

func request(id string) driver.ClaimRequest {
	return driver.ClaimRequest{
		Key: driver.KeyOf("scope", id), Scope: "scope", ID: id, Nonce: driver.NewNonce(),
		Fingerprint: driver.Fingerprint{Rule: 1, Sum: driver.KeyOf("asked", "for")},
		Lease:       lease, Tombstone: tombstone,
	}
}

func completion(body string) driver.Completion {
	return driver.Completion{Result: driver.Result{Body: []byte(body)}, Retention: retention, Tombstone: tombstone}
}

func txRequest(id string) driver.TxRequest {
	r := request(id)
	return driver.TxRequest{Key: r.Key, Scope: r.Scope, ID: r.ID, Fingerprint: r.Fingerprint, Wait: time.Minute, Retention: retention}
}

// effect is work that adds a row of the key's name.
func effect(id string) driver.TxWork[*sql.Tx] {
	return func(ctx context.Context, tx *sql.Tx, _ driver.Record) (driver.Completion, error) {
		_, err := tx.ExecContext(ctx, `INSERT INTO effects (name) VALUES (?)`, id)
		return completion("done"), err
	}
}

// never is work that must not be called.
func never(t testing.TB) driver.TxWork[*sql.Tx] {
	return func(context.Context, *sql.Tx, driver.Record) (driver.Completion, error) {
		t.Error("work was called")
		return driver.Completion{}, errors.New("not to be called")
	}
}

func grant(t testing.TB, s driver.Store, req driver.ClaimRequest) driver.Ref {
	t.Helper()
	reply, err := s.Claim(t.Context(), req)
	if err != nil || !reply.Granted {
		t.Fatalf("Claim: granted %v, the record is %v, %v", reply.Granted, reply.Record.State, err)
	}
	return driver.Ref{Key: req.Key, Token: reply.Record.Token}
}

func complete(t testing.TB, s driver.Store, ref driver.Ref, body string) {
	t.Helper()
	if _, err := s.Complete(t.Context(), ref, completion(body)); err != nil {
		t.Fatalf("Complete: %v", err)
	}
}

func state(t testing.TB, s driver.Store, id string, want driver.State) driver.Record {
	t.Helper()
	rec, err := s.Lookup(t.Context(), driver.KeyOf("scope", id))
	if err != nil || rec.State != want {
		t.Fatalf("%s is %v, %v; it should be %v", id, rec.State, err, want)
	}
	return rec
}

func want(t testing.TB, got, want error, call string) {
	t.Helper()
	if want == nil && got != nil || !errors.Is(got, want) {
		t.Fatalf("%s: %v; it should be: %v", call, got, want)
	}
}

// eventually waits for an event that others bring about.
func eventually(t testing.TB, what string, happened func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("in 30 s there was no %s", what)
		}
	}
}

// soon is a context that ends in a while.
func soon(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// holdLock opens a writing transaction as another process would, and returns what
// ends it.
func holdLock(t testing.TB, file string) (release func()) {
	t.Helper()
	db := open(t, file, quick)
	conn, err := db.Conn(context.Background())
	must(t, err)
	_, err = conn.ExecContext(context.Background(), "BEGIN IMMEDIATE")
	must(t, err)
	var once sync.Once
	release = func() {
		once.Do(func() {
			_, err := conn.ExecContext(context.Background(), "ROLLBACK")
			must(t, err)
			must(t, conn.Close())
		})
	}
	t.Cleanup(release)
	return release
}

// faults spoil the commits of a pool.
type faults struct {
	// lose is how many commits take effect and give errLost.
	lose atomic.Int64
	// fail is how many commits are rolled back and give what failWith says.
	fail     atomic.Int64
	failWith error
	commits  atomic.Int64
	// refuse counts down: the transaction at which it comes to 0 does not begin, and
	// gives what failWith says.
	refuse atomic.Int64
}

var errLost = errors.New("the answer was lost")

// spoiled opens a file through a driver with faults.
func spoiled(t testing.TB, file string, f *faults) *sql.DB {
	t.Helper()
	inner, err := (&sqlite3driver.SQLite{}).OpenConnector("file:" + url.PathEscape(file) + "?" + quick)
	must(t, err)
	db := sql.OpenDB(&spoiler{inner, f})
	t.Cleanup(func() { _ = db.Close() })
	return db
}

type spoiler struct {
	sqldriver.Connector
	faults *faults
}

func (s *spoiler) Connect(ctx context.Context) (sqldriver.Conn, error) {
	c, err := s.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &spoiledConn{c.(sqlite3driver.Conn), c.(sqldriver.ExecerContext), s.faults}, nil
}

type spoiledConn struct {
	sqlite3driver.Conn
	sqldriver.ExecerContext
	faults *faults
}

func (c *spoiledConn) BeginTx(ctx context.Context, o sqldriver.TxOptions) (sqldriver.Tx, error) {
	if c.faults.refuse.Add(-1) == 0 {
		return nil, c.faults.failWith
	}
	tx, err := c.Conn.BeginTx(ctx, o)
	return &spoiledTx{tx, c.faults}, err
}

type spoiledTx struct {
	sqldriver.Tx
	faults *faults
}

func (x *spoiledTx) Commit() error {
	f := x.faults
	switch {
	case f.fail.Add(-1) >= 0:
		return errors.Join(f.failWith, x.Rollback())
	case f.lose.Add(-1) >= 0:
		return errors.Join(errLost, x.Tx.Commit())
	}
	f.commits.Add(1)
	return x.Tx.Commit()
}

// disk is a file system of SQLite's that fails when it is told to.
type disk struct {
	vfs.VFSFilename
	// sync is what syncs return, and write what writes do; nil for no fault.
	sync, write atomic.Pointer[error]
	syncs       atomic.Int64
}

// newDisk returns a disk, and its name for a DSN.
func newDisk(t testing.TB) (*disk, string) {
	d := &disk{VFSFilename: vfs.Find("").(vfs.VFSFilename)}
	name := "disk-" + fmt.Sprintf("%x", driver.NewNonce())
	vfs.Register(name, d)
	t.Cleanup(func() { vfs.Unregister(name) })
	return d, name
}

func (d *disk) OpenFilename(name *vfs.Filename, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	f, flags, err := d.VFSFilename.OpenFilename(name, flags)
	if err != nil {
		return nil, flags, err
	}
	return &diskFile{f, d}, flags, nil
}

type diskFile struct {
	vfs.File
	disk *disk
}

func (f *diskFile) SharedMemory() vfs.SharedMemory {
	return f.File.(vfs.FileSharedMemory).SharedMemory()
}

func (f *diskFile) Sync(flags vfs.SyncFlag) error {
	f.disk.syncs.Add(1)
	if err := f.disk.sync.Load(); err != nil {
		return *err
	}
	return f.File.Sync(flags)
}

func (f *diskFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.disk.write.Load(); err != nil {
		return 0, *err
	}
	return f.File.WriteAt(b, at)
}
