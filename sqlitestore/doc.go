// Package sqlitestore keeps idem's records in a SQLite database of the
// application's: beside its rows, so that a record can commit together with them.
//
//	import _ "github.com/ncruces/go-sqlite3/driver" // or another driver of SQLite
//
//	db, err := sql.Open("sqlite3", "file:app.db?_pragma=journal_mode(wal)&_pragma=busy_timeout(5000)")
//	…
//	if err := sqlitestore.Migrate(ctx, db, nil); err != nil {
//		return err
//	}
//	store, err := sqlitestore.New(ctx, db, nil)
//	if err != nil {
//		return err
//	}
//	defer store.Close()
//
// The package brings no driver of its own: two copies of SQLite in one process
// undo each other's file locks. It works over any database/sql driver of SQLite
// 3.37 or newer; it is tested with github.com/ncruces/go-sqlite3.
//
// # What it promises
//
// A claim, a result, a release is committed before its call returns, and as
// durable as the application's own commits: with synchronous=FULL (SQLite's
// default) it survives a power cut, with NORMAL or OFF the last commits may not.
// [Check] reads that and all else that matters. Any number of processes on one
// host may use the file at once. A file on a network file system is not
// supported, by SQLite neither.
//
// With [Store.DoTx] claim, rows and result are one transaction: exactly one
// effect, whatever crashes.
//
// An error of a sync is final for the file: the store stops, every call returns an
// error that wraps [ErrStopped], and nothing is answered any more. The process is
// started again when the disk has been seen to. A transaction whose sync failed
// took effect or did not; whoever asks again after that is told.
//
// # One writer
//
// SQLite has one writing transaction at a time, over all keys and processes.
// While work runs in [Store.DoTx], or the application has a writing transaction
// open, claims, renewals and completions wait, each until its context ends; what
// is completed is still replayed, in WAL mode. So transactions must be short, or at
// least far shorter than a lease that somebody renews meanwhile. Calls that come at
// the same time share one transaction and its sync.
//
// Work in DoTx must not call the store: it would wait for itself, until the
// context ends. On a pool of one connection (SetMaxOpenConns(1)) neither must it use
// the *sql.DB.
//
// Another's writing transaction is waited for by asking again, within the context.
// How long the database itself waits before it says that it is busy is the
// application's setting (busy_timeout), and with drivers that do not stop waiting
// when the context ends it should be short, such as 1 s.
//
// # Time
//
// SQLite has no clock but the host's, which anybody can set. Leases are judged by
// the time since the host was started, which is the same for all its processes,
// goes on while it sleeps, and cannot be set. After a restart of the host a lease
// that had not ended begins anew. Where there is no such clock (on any system but
// Linux) each process has its own, and processes that write in turn prolong each
// other's leases: use one process there. Retentions and tombstones go by the same
// clock; how long the host was off is told by the wall clock, and never less than no
// time at all. See the comment in clock.go.
package sqlitestore
