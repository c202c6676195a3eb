// Package natsstore keeps idem's records in NATS JetStream, in a key-value
// bucket, for services that run on many machines and have NATS already.
//
//	nc, err := natsstore.Connect(ctx, "nats://localhost/idem")
//	…
//	store, err := natsstore.New(ctx, nc, &natsstore.Options{Bucket: "idem"})
//
// The bucket is made by [Migrate] (`idem store migrate`); [Check] says what of
// the server's settings keeps or breaks the promise.
//
// # What is promised
//
// A claim is granted by one write that the server takes only if the key's
// revision is still the one that was expected, and each later write of its owner
// is one too: of two claims one is granted, whatever process they come from. The
// token of a claim is the revision of the write that granted it, which grows over
// the whole bucket. With three replicas a write is acknowledged once two of them
// have it.
//
// Reads go to the leader of the stream, never to a replica that may be behind. A
// leader that has been cut off from the others, and does not know it yet (some
// seconds), may still answer a read: somebody may then be refused who would be
// granted, or be told an older state. Nothing is granted or written that way.
//
// # Leases
//
// The server tells no time to a write, and no clock of a client decides about a
// lease. What is observed decides: a process that sees a claim in flight at
// some revision notes the time on its monotonic clock, and when that same
// revision is still the last one after the lease's whole duration, the lease is
// over. That is then written down, on condition that the revision is still the
// last, before anybody is told: whoever renewed in the meantime wins.
//
// So a lease ends exactly in the process that granted it, and later in others:
// they count from when they first saw the claim, which is when they were asked
// for the key, or when their sweep came by. One process at a time sweeps, every
// [Options.SweepEvery], and writes down the leases that have ended: a claim whose
// owner vanished is unknown to all after its lease and at most three of these
// intervals. A lease never ends early.
//
// Retentions and tombstones are kept by the server's clock, as the server tells
// it: a clock that is set wrong moves by that much when a result is forgotten,
// and no lease.
//
// # What is not promised
//
// A NATS server writes to its files at once and syncs them every two minutes,
// unless its sync_interval is "always": a power cut, or a kernel that dies, takes
// back what was acknowledged since, also with three replicas when most lose power
// together. A client cannot read that setting. [Options.SyncAlways] says that it
// is so set.
//
// Never delete the bucket and make it again while processes use it: revisions
// start anew, and with them the tokens. A store that notices refuses everything.
//
// The number of unknowns is not bounded by the store, and records are not
// counted: JetStream has no count by anything but subject. The bucket's own bound
// on its bytes ([Options.MaxBytes]) is, and claims of new keys are refused with
// [driver.ErrFull] from nine tenths of it on, so that the claims that stand can
// go on to their ends.
//
// # Permissions
//
// A user of NATS for this needs to publish to "$KV.BUCKET.>",
// "$JS.API.STREAM.INFO.KV_BUCKET", "$JS.API.STREAM.MSG.GET.KV_BUCKET",
// "$JS.API.STREAM.MSG.DELETE.KV_BUCKET", "$JS.API.CONSUMER.CREATE.KV_BUCKET.>",
// "$JS.API.CONSUMER.INFO.KV_BUCKET.>", "$JS.API.CONSUMER.MSG.NEXT.KV_BUCKET.>",
// "$JS.API.CONSUMER.DELETE.KV_BUCKET.>", and to subscribe to "_INBOX.>" and "idem.BUCKET.>"; for [Migrate] also to publish
// to "$JS.API.STREAM.CREATE.KV_BUCKET" and "$JS.API.STREAM.UPDATE.KV_BUCKET".
package natsstore
