package pgstore

import (
	"context"
	"time"
)

// WithGrace sets how long a row is kept once it is over.
func (o Options) WithGrace(d time.Duration) *Options {
	o.grace = &d
	return &o
}

// Exact counts the unknowns at each claim near the bound, however slow the
// server is.
func (o Options) Exact() Options {
	o.quick = time.Hour
	return o
}

// Listening reports whether the store is told of the ends of claims.
func (r *records) Listening() bool {
	r.waits.mu.Lock()
	defer r.waits.mu.Unlock()
	return r.waits.listening
}

// Watched is how many claims are waited for.
func (r *records) Watched() int {
	r.waits.mu.Lock()
	defer r.waits.mu.Unlock()
	return len(r.waits.watches)
}

// Exec runs a statement beside the store's own.
func (r *records) Exec(ctx context.Context, text string, args ...any) error {
	return r.db.query(ctx, statement{text, args}, func(scanner) error { return nil })
}

// Tables are the names of the tables of records and of attempts.
func (r *records) Tables() (records, attempts string) { return r.name.records, r.name.attempts }

// Queued is how many calls wait for a group.
func (r *records) Queued() int {
	r.group.mu.Lock()
	defer r.group.mu.Unlock()
	return len(r.group.queue)
}

// Statements are those of one caller's claim and its completion.
func (r *records) Statements() (claim, complete string) {
	return r.text.claimQuick, r.text.completeQuick
}
