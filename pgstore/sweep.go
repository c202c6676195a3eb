package pgstore

import (
	"context"
	"time"
)

// The statements of a sweep take a few rows each, by an index, and leave out
// those that somebody holds.
const (
	// lapseText notes that leases have ended, so that they are not found again
	// and again. What a record reads as stays the same.
	lapseText = `WITH done AS (
	UPDATE {records} SET kind = {lapsed}, due = due + tombstone
	WHERE key = ANY (ARRAY(
		SELECT key FROM {records} WHERE kind = {inFlight} AND due <= {started} AND format = {format}
		ORDER BY due LIMIT $1 FOR UPDATE SKIP LOCKED
	)) RETURNING 1
)
SELECT count(*) FROM done`
	forgetText = `WITH done AS (
	UPDATE {records} r SET kind = {forgotten}, since = due, due = due + tombstone, nonce = NULL, ` + stripped + `
	WHERE key = ANY (ARRAY(
		SELECT key FROM {records} WHERE kind = {completed} AND due <= {started} AND format = {format}
		ORDER BY due LIMIT $1 FOR UPDATE SKIP LOCKED
	)) RETURNING 1
)
SELECT count(*) FROM done`
	// dropText drops what has been over for a while. A claim that is inserted has
	// taken its token from the sequence a moment before. If all that was known of
	// its key were granted, ended and dropped in that moment, its token would be
	// smaller than that other claim's, although it is granted later. So a row is
	// kept for a minute once it is over, and a claim's statement that takes half
	// that long changes nothing ("promptly"): a claim that finds nothing took its
	// token after the last grant before it did.
	dropText = `WITH done AS (
	DELETE FROM {records}
	WHERE key = ANY (ARRAY(
		SELECT key FROM {records} WHERE kind IN ({lapsed}, {abandoned}, {forgotten}, {releasedByOwner}, {releasedByResolve})
			AND due <= {started} - {grace} AND format = {format}
		LIMIT $1 FOR UPDATE SKIP LOCKED
	)) RETURNING 1
)
SELECT count(*) FROM done`
	dropAttemptsText = `WITH done AS (
	DELETE FROM {attempts}
	WHERE key = ANY (ARRAY(SELECT key FROM {attempts} WHERE due <= {started} LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING 1
)
SELECT count(*) FROM done`
)

// sweepBatch is how many rows a statement of a sweep takes.
const sweepBatch = 500

// Sweep is described at [driver.Sweeper]. A tombstone, and whatever else is
// over, is dropped a minute after its time. Several sweeps at once share the
// work.
func (r *records) Sweep(ctx context.Context, limit int) (int, error) {
	if err := r.enter(ctx); err != nil {
		return 0, err
	}
	if limit <= 0 {
		return 0, nil
	}
	if _, err := r.sweep(ctx, r.text.lapse, max(limit, sweepBatch)); err != nil {
		return 0, err
	}
	total := 0
	for _, text := range []string{r.text.forget, r.text.drop} {
		n, err := r.sweep(ctx, text, limit-total)
		total += n
		if err != nil {
			return total, err
		}
	}
	_, err := r.sweep(ctx, r.text.dropAttempts, max(limit, sweepBatch))
	return total, err
}

// sweep runs one of the statements until it finds little more, or limit rows.
func (r *records) sweep(ctx context.Context, text string, limit int) (total int, err error) {
	for total < limit {
		batch := min(limit-total, sweepBatch)
		n := 0
		err := r.insist(ctx, func() error { return r.one(ctx, statement{text, []any{int64(batch)}}, &n) })
		if err != nil {
			return total, err
		}
		total += n
		if n < batch {
			break
		}
	}
	return total, nil
}

// sweepPass is how much a sweep of the store's own takes at a time.
const sweepPass = 10 * sweepBatch

// sweeper drops what is over until the store is closed.
func (r *records) sweeper() {
	ticker := time.NewTicker(r.opts.SweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-r.closing:
			return
		case <-ticker.C:
		}
		for {
			n, err := r.Sweep(r.ctx, sweepPass)
			if err != nil && r.ctx.Err() == nil {
				r.opts.Logger.Warn("pgstore: sweep", "error", err)
			}
			if err != nil || n < sweepPass {
				break
			}
		}
	}
}
