package pgstore

import (
	"context"
	"sync"
	"time"

	"github.com/idem-go/idem/driver"
)

// The counts go over an index on kind and due. What is in flight or unknown is
// counted exactly: it is few, since unknowns are bounded. Of what is completed
// or forgotten no more than $1 rows are counted.
const (
	unknownText = `(kind IN ({lapsed}, {abandoned}) AND due > {started})`
	overdueText = `(kind = {inFlight} AND due <= {started} AND due + tombstone > {started})`

	statsText = `SELECT
	(SELECT count(*) FROM {records} WHERE kind = {inFlight} AND due > {started}),
	u.n + o.n, coalesce({started} - least(u.oldest, o.oldest), 0),
	(SELECT count(*) FROM (SELECT FROM {records} WHERE kind = {completed} AND due > {started} LIMIT $1) c),
	(SELECT count(*) FROM (SELECT FROM {records} WHERE kind = {forgotten} AND due > {started} LIMIT $1) f)
		+ (SELECT count(*) FROM (SELECT FROM {records} WHERE kind = {completed} AND due <= {started} AND due + tombstone > {started} LIMIT $1) f)
FROM (SELECT count(*) AS n, min(since) AS oldest FROM {records} WHERE ` + unknownText + `) u,
	(SELECT count(*) AS n, min(since) AS oldest FROM {records} WHERE ` + overdueText + `) o`

	// sampleText counts the rows in a share of the table's pages.
	sampleText = `SELECT
	count(*) FILTER (WHERE kind = {completed} AND due > {started}),
	count(*) FILTER (WHERE kind = {forgotten} AND due > {started} OR kind = {completed} AND due <= {started} AND due + tombstone > {started})
FROM {records} TABLESAMPLE SYSTEM ($1)`

	bytesText = `SELECT coalesce(sum(pg_total_relation_size(t.relid)), 0)::bigint, coalesce(sum(pg_relation_size(t.relid)), 0)::bigint
FROM (
	SELECT c.oid AS relid FROM pg_class c WHERE c.oid = $1::regclass
	UNION SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = $1::regclass
) t`

	// roomText counts no more than it must know.
	roomText = `SELECT
	(SELECT count(*) FROM (SELECT FROM {records} WHERE ` + unknownText + ` LIMIT $1) u)
		+ (SELECT count(*) FROM (SELECT FROM {records} WHERE ` + overdueText + ` LIMIT $1) o),
	(SELECT count(*) FROM (SELECT FROM {records} WHERE kind = {inFlight} AND due > {started} LIMIT $1) i)`
)

const (
	// exactCounts is up to which number of records Stats counts every one.
	exactCounts = 100_000
	// samplePages is about how many pages a sample reads.
	samplePages = 4000
	pageBytes   = 8192
)

// Stats is described at [driver.Counter]. What is in flight and unknown is
// counted exactly. So is what is completed or forgotten, up to 100,000 of each:
// past that it is estimated from a sample of the table's pages, which reads about
// 32 MiB however large the table is. Bytes is what the table takes on disk with
// its indexes, and with the room that rows have left behind.
func (r *records) Stats(ctx context.Context) (st driver.Stats, err error) {
	if err := r.enter(ctx); err != nil {
		return st, err
	}
	err = r.insist(ctx, func() error {
		var oldest, heap int64
		err := r.one(ctx, statement{r.text.stats, []any{int64(exactCounts + 1)}},
			&st.InFlight, &st.Unknown, &oldest, &st.Completed, &st.Forgotten)
		if err != nil {
			return err
		}
		st.OldestUnknown = duration(max(0, oldest))
		if err := r.one(ctx, statement{r.text.bytes, []any{r.name.records}}, &st.Bytes, &heap); err != nil {
			return err
		}
		if st.Completed <= exactCounts && st.Forgotten <= exactCounts {
			return nil
		}
		percent := min(100, 100*float64(samplePages)/float64(heap/pageBytes+1))
		var completed, forgotten int64
		if err := r.one(ctx, statement{r.text.sample, []any{percent}}, &completed, &forgotten); err != nil {
			return err
		}
		st.Completed = max(min(st.Completed, exactCounts), int64(float64(completed)*100/percent))
		st.Forgotten = max(min(st.Forgotten, exactCounts), int64(float64(forgotten)*100/percent))
		return nil
	})
	return st, err
}

// bound keeps the number of unknowns below Options.MaxUnknown: not to the last
// one, as others add to them meanwhile.
type bound struct {
	mu sync.Mutex
	// What was counted, when, and how long it took.
	unknown, open int64
	at            time.Time
	took          time.Duration
	// asked is how many claims have been asked for that the count may miss:
	// those since, and those that were pending by then. Each of them can become an
	// unknown.
	asked, pending int64
	counting       bool
}

const (
	// boundEvery is how old a count may be while the bound is far away.
	boundEvery = time.Second
	// boundQuick is how long a count may take that is made at each claim, where a
	// test does not say otherwise.
	boundQuick = 20 * time.Millisecond
)

// room reports whether there is room for another claim of an absent key. Its
// caller says when that has been done.
func (b *bound) room(ctx context.Context, r *records) (bool, error) {
	limit := int64(r.opts.MaxUnknown)
	b.mu.Lock()
	b.asked++
	b.pending++
	if limit < 0 {
		b.mu.Unlock()
		return true, nil
	}
	age := time.Since(b.at)
	near := b.at.IsZero() || b.unknown+b.open+b.asked > limit
	stale := near && age >= 10*(b.took-r.opts.quick) || age >= boundEvery
	room := b.unknown < limit
	if !stale || b.counting {
		b.mu.Unlock()
		return room, nil
	}
	if near {
		b.mu.Unlock()
		return b.look(ctx, r)
	}
	// Nobody waits for a count that will hardly change the answer.
	b.counting = true
	b.mu.Unlock()
	r.background(func() {
		_, err := b.look(r.ctx, r)
		b.mu.Lock()
		b.counting = false
		if err != nil {
			b.at = b.at.Add(boundEvery) // not at each claim, while the server is away
		}
		b.mu.Unlock()
	})
	return room, nil
}

// done says that a claim which asked for room has been answered.
func (b *bound) done(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending -= n
}

// look counts.
func (b *bound) look(ctx context.Context, r *records) (bool, error) {
	limit := int64(r.opts.MaxUnknown)
	if limit < 0 {
		return true, nil
	}
	b.mu.Lock()
	before := b.asked - b.pending
	b.mu.Unlock()
	var unknown, open int64
	begun := time.Now()
	if err := r.one(ctx, statement{r.text.room, []any{limit + 1}}, &unknown, &open); err != nil {
		return false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unknown, b.open, b.asked = unknown, open, b.asked-before
	b.at, b.took = time.Now(), time.Since(begun)
	return unknown < limit, nil
}
