// Package redisstore keeps idem's records in Redis 6.2 or newer, or in Valkey:
// one server, a master with its sentinels, or a cluster.
//
// # What it promises
//
// All processes that use the records see the same: one of them is granted a
// claim, whatever races. Leases are judged by the server's clock alone. Each step
// is one script, which the server runs with nothing in between, and one round
// trip: a claim, granted or refused, a completion, a replay with its result. Any
// of them may be repeated when its answer was lost.
//
// # What it does not
//
// Redis answers when a write is in its memory. What survives is what its settings
// say, which [Check] reads and explains:
//
//   - With appendonly yes and appendfsync always an answer is on the server's
//     disk: a crash or a power cut takes nothing back. With everysec the last
//     second may be forgotten, with snapshots alone minutes; and then work that
//     was done runs again.
//   - Replicas follow after the answer. A failover, by sentinels or in a cluster,
//     can forget the claims and results that were acknowledged last.
//     Options.WaitReplicas narrows that; it does not end it.
//   - A server that evicts keys forgets at any time. New refuses every
//     maxmemory-policy but noeviction, and a record that has vanished is reported
//     as unreadable where its index still knows it.
//   - The server's clock must not be set back or forth by hand while claims are
//     open: a step forward ends leases early, a step back makes them longer.
//     Tokens are that clock's microseconds, or one more than the last, and so
//     grow for a key that was forgotten in between unless the clock was set back.
//
// Where that is not enough, keep the records in a store that commits to disk, and
// to several machines, before it answers.
//
// # What it keeps
//
// All keys begin with Options.Prefix. Records are spread over partitions by their
// hash; the partition's number stands in braces, so that a record and its
// partition's index are on one node of a cluster. A record is one string, which
// begins with a version; the index is a sorted set that has, for each record, its
// state and when it is over. Nothing has a time to live: what is over reads as
// over from that instant, and [Store.Sweep] gives its memory back, which a
// goroutine of every store does in small steps.
package redisstore
