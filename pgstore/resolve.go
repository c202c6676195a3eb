package pgstore

import (
	"context"

	"github.com/idem-go/idem/driver"
)

// resolveText changes a row that has been read and is still as it was. Whatever
// ends a claim gives its row another kind or due.
const resolveText = `WITH held AS MATERIALIZED (
	SELECT l.*, {clock} AS n FROM (
		SELECT {columns} FROM {records} WHERE key = $1 AND token = $2 AND kind = $3 AND due = $4 AND format = {format} FOR UPDATE
	) l
),
done AS (
	UPDATE {records} r SET kind = $5, since = h.n, due = h.n + $6::bigint, tombstone = $7,
		answered = false, late = $5 = {completed} OR $5 = {forgotten} AND h.late,
		dropped = $8, meta = $9, body = $10, note = $11::bytea,
		rule = CASE WHEN $5 = {completed} THEN r.rule ELSE 0 END,
		sum = CASE WHEN $5 = {completed} THEN r.sum END,
		scope = CASE WHEN $5 = {completed} OR $11::bytea IS NOT NULL THEN r.scope END,
		id = CASE WHEN $5 = {completed} OR $11::bytea IS NOT NULL THEN r.id END
	FROM held h WHERE r.key = h.key AND NOT {gone h h.n} AND ($5 <> {forgotten} OR h.due > h.n)
	RETURNING r.*, h.n
)
SELECT {columns}, n, ` + notify + ` FROM done`

// Resolve is described at [driver.Resolver]. It reads the record and then
// changes it, if nobody else did in between. A resolution that is repeated
// returns the record again when it is just what the resolution would make it.
func (r *records) Resolve(ctx context.Context, key driver.Key, res driver.Resolution) (rec driver.Record, err error) {
	if err := r.enter(ctx); err != nil {
		return driver.Record{}, err
	}
	if err := res.Check(r.opts.MaxResult); err != nil {
		return driver.Record{}, err
	}
	err = r.insist(ctx, func() error {
		rec, err = r.resolve(ctx, key, &res)
		return err
	})
	return rec, err
}

func (r *records) resolve(ctx context.Context, key driver.Key, res *driver.Resolution) (driver.Record, error) {
	found, err := r.read(ctx, r.db, key)
	if err != nil {
		return driver.Record{}, err
	}
	known := false
	var seen row
	if found != nil {
		if err := found.check(key); err != nil {
			return driver.Record{}, err
		}
		seen = *found
		known = found.settle()
	}
	if res.Token != 0 && (!known || uint64(found.token) != res.Token) {
		return driver.Record{}, driver.ErrLost
	}
	if !known {
		return driver.Record{}, driver.ErrState
	}
	unknown := found.kind == lapsed || found.kind == abandoned
	args := []any{key[:], seen.token, int64(seen.kind), seen.due}
	end := func(k kind, keep, tombstone int64, c driver.Result, dropped bool) []any {
		return append(args, int64(k), keep, tombstone, dropped, orNull(c.Meta), orNull(c.Body), orNull([]byte(res.Note)))
	}
	retention, tombstone := microseconds(res.Retention), microseconds(res.Tombstone)
	switch {
	case res.Action == driver.ResolveComplete && unknown:
		args = end(completed, retention, tombstone, res.Result, res.Dropped)
	case res.Action == driver.ResolveRelease && (unknown || found.kind == inFlight && res.Force):
		args = end(releasedByResolve, retention, 0, driver.Result{}, false)
	case res.Action == driver.ResolveErase && found.kind == completed:
		args = end(forgotten, tombstone, 0, driver.Result{}, false)
	case res.Action == driver.ResolveComplete && found.kind == completed && found.holds(res),
		res.Action == driver.ResolveRelease && found.kind == releasedByResolve,
		res.Action == driver.ResolveErase && found.kind == forgotten:
		return found.record(key), nil
	default:
		return driver.Record{}, driver.ErrState
	}
	changed := &row{}
	done := false
	err = r.db.query(ctx, statement{r.text.resolve, args}, func(scan scanner) error {
		done = true
		var notified *string
		return scan(append(changed.fields(), &notified)...)
	})
	switch {
	case err != nil:
		return driver.Record{}, err
	case !done:
		return driver.Record{}, errRaced
	}
	return changed.record(key), nil
}

// holds reports that a completed row has this result.
func (r *row) holds(res *driver.Resolution) bool {
	return r.dropped == res.Dropped && string(r.meta) == string(res.Result.Meta) && string(r.body) == string(res.Result.Body)
}
