// Package pgstore keeps the records of idem in PostgreSQL, from version 13 on,
// for as many machines as share a database. A [Store] works over a pool of
// pgx's, a [DBStore] over one of database/sql's, on the same tables; [Migrate]
// makes them.
//
//	pool, err := pgstore.Connect(ctx, "postgres://service@db.example/service")
//	…
//	if err := pgstore.Migrate(ctx, pool, nil); err != nil { … }
//	store, err := pgstore.New(ctx, pool, nil)
//	…
//	defer store.Close()
//
// # What it promises
//
// A claim is granted to one owner at a time, whatever process asks, and what was
// acknowledged survives a crash of the processes and of the server, as long as
// the server commits durably: fsync, full_page_writes and synchronous_commit are
// on, as they are by default. [Check] reads them and says what each means. A
// failover to a standby may forget what was acknowledged last, unless commits
// wait for it (synchronous_standby_names).
//
// Leases go by the server's clock alone, read once the row is held. If the clock
// is set, leases end earlier or later by as much. Tokens come from a sequence, so
// that they grow for each key whatever becomes of its row and of the clock; a
// database that is moved by logical replication, which leaves sequences behind,
// needs its own set ahead, which Check finds.
//
// [Store.DoTx] makes a record and the rows of an application commit together:
// there is exactly one effect, whatever crashes. [Store.CompleteTx] ends a claim
// in a transaction of the application's, which fails as a whole when the claim
// was lost.
//
// # What it costs
//
// A claim, a replay, a refusal and a completion are one round trip each; what a
// refused write of an owner was refused for takes a second one, and so do the
// repeat of a claim whose answer was lost and a claim that lost a race. While as
// many statements are under way as Options.MaxGroups allows, claims and
// completions wait for the next one and go together. A transaction of DoTx takes
// as many round trips as the transaction alone.
//
// The table has two indexes, one by key and one by what a record is and when that
// ends; no statement's cost grows with the number of keys that are kept but by
// the depth of an index. Past one table's size, or one disk's pace of cleaning,
// Options.Partitions parts it by hash of the key.
//
// Each store sweeps every minute, in statements of at most 500 rows that leave out
// what somebody holds.
//
// # Waiting
//
// Who waits for a claim is told by LISTEN and NOTIFY, over one connection for the
// store beside its pool; only the ends of claims that somebody waits for are
// notified. Polling makes up for what is lost. Behind a pooler such as PgBouncer
// there is polling alone, as there is in a DBStore: the store finds the pooler by
// itself. In the transaction mode of one that does not keep prepared statements
// (PgBouncer before 1.21) the pool's configuration should say
// default_query_exec_mode=exec.
//
// # What has been tried
//
// PostgreSQL 15, PgBouncer 1.18 in transaction mode, the drivers pgx and lib/pq.
// CockroachDB, YugabyteDB and other engines of the same protocol have not been:
// the statements use writable common table expressions, advisory locks,
// TABLESAMPLE and NOTIFY, which they have in part.
package pgstore
