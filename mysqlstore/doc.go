// Package mysqlstore keeps the records of idem in MySQL 8.0 or later and in
// MariaDB 10.6 or later: in the database that an application already has, for
// as many processes and machines as use it.
//
// # What it promises
//
// What was acknowledged is committed, and as durable as the server makes its
// commits: [Check] says which of the server's settings take that back.
// [Store.DoTx] commits the record of an operation together with the rows that
// the operation writes, so that there is one effect whatever crashes. A server
// that is replicated asynchronously forgets in a failover what the replica had
// not received: that is the server's promise, and the store's is no better.
//
// InnoDB shows a commit to others before it is on the disk. So whoever is told
// of a result that another process has recorded within the last minute is told after
// a commit that this store makes for the purpose, one for all who ask at the same
// time: that replay takes two round trips.
//
// # Time
//
// The server's clock decides, as it is when a statement begins. A statement
// that then waits for another transaction on the same key judges a lease by the
// time before its wait. That is the safe side: a lease that was granted ends
// earlier than it might, and one that has ended meanwhile is refused to whoever
// asks for it, who asks again. A renewal that had to wait may bring back a lease
// that others have seen end, if nobody else was granted the key. Time zones do not
// matter. A connection on which
// somebody has SET timestamp lies about the time; do not share such a pool.
//
// # Servers
//
// A claim that is granted is one statement on both. On MariaDB, which has INSERT
// ... RETURNING, so is a claim that is refused, and a replay with it; MySQL needs
// a second statement to read the record. So does a claim that is granted over what
// another left: a released key, an unknown outcome under retry, a record whose time
// is over. Statements are prepared, once for each connection of the pool.
//
// All connections must be to one server, the one that takes writes: a proxy that
// sends reads to replicas would answer with what was. The nodes of a Galera
// cluster have a clock each, so that one node must be written to as well.
package mysqlstore
