package pgstore

import (
	"bytes"
	"context"
	"time"

	"github.com/idem-go/idem/driver"
)

// ownWait is how long a write of an owner's waits at a time for a row that
// another transaction holds. It asks again for as long as its caller does.
const ownWait = time.Second

// completeCall is a completion that is asked for, and its answer.
type completeCall struct {
	ref driver.Ref
	c   *driver.Completion
	// done says that it was carried out.
	done, late bool
}

func (c *completeCall) args() []any {
	return []any{
		c.ref.Key[:], int64(c.ref.Token), microseconds(c.c.Retention), microseconds(c.c.Tombstone),
		c.c.Dropped, orNull(c.c.Result.Meta), orNull(c.c.Result.Body),
		int64(c.c.Fingerprint.Rule), sumOrNull(c.c.Fingerprint), []byte(c.c.Scope), []byte(c.c.ID),
	}
}

// scanComplete reads a row of the answer to a completion's statement, and more
// of what comes after it.
func scanComplete(scan scanner, key *[]byte, late *bool, more ...any) error {
	var notified *string
	return scan(append([]any{key, late, &notified}, more...)...)
}

// Complete is described at [driver.Store]. It is one statement, which may be
// shared with the completions of others; what a refused one was refused for
// takes a second one.
func (r *records) Complete(ctx context.Context, ref driver.Ref, c driver.Completion) (late bool, err error) {
	if err := r.enter(ctx); err != nil {
		return false, err
	}
	if err := c.Check(r.opts.MaxResult); err != nil {
		return false, err
	}
	call := &completeCall{ref: ref, c: &c}
	apart := false
	err = r.insist(ctx, func() error {
		var err error
		if r.group != nil && !apart {
			err = r.group.complete(ctx, call)
		} else {
			err = r.completeAlone(ctx, r.db, r.text.complete, call, ownWait)
		}
		// Whoever waits for a row does not make others wait again.
		apart = apart || code(err) == codeLockTimeout
		if err != nil {
			return err
		}
		if call.done {
			late = call.late
			return nil
		}
		late, err = r.completed(ctx, r.db, ref, &c)
		return err
	})
	return late, err
}

func (r *records) completeAlone(ctx context.Context, q querier, text string, call *completeCall, wait time.Duration, more ...any) error {
	call.done, call.late = false, false
	var key []byte
	return q.query(ctx, statement{text, append(call.args(), milliseconds(wait))}, func(scan scanner) error {
		call.done = true
		return scanComplete(scan, &key, &call.late, more...)
	})
}

// completed says what a completion that was not taken is told: that it is a
// repeat, or what it was refused for.
func (r *records) completed(ctx context.Context, q querier, ref driver.Ref, c *driver.Completion) (late bool, err error) {
	found, err := r.owned(ctx, q, ref)
	if err != nil {
		return false, err
	}
	switch found.kind {
	case completed:
		if found.dropped != c.Dropped || !bytes.Equal(found.meta, c.Result.Meta) || !bytes.Equal(found.body, c.Result.Body) {
			return false, driver.ErrCompleted
		}
		return found.late, nil
	case forgotten:
		return found.late, nil
	case releasedByOwner:
		return false, driver.ErrLost
	}
	return false, errRaced
}

// owned returns the settled row whose newest claim ref names, or ErrLost.
func (r *records) owned(ctx context.Context, q querier, ref driver.Ref) (*row, error) {
	found, err := r.read(ctx, q, ref.Key)
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, driver.ErrLost
	}
	if err := found.check(ref.Key); err != nil {
		return nil, err
	}
	if !found.settle() || uint64(found.token) != ref.Token {
		return nil, driver.ErrLost
	}
	return found, nil
}

// own carries out an owner's write. When it changed nothing, refused says what
// the settled row of the claim makes of it.
func (r *records) own(ctx context.Context, text string, args []any, ref driver.Ref, refused func(k kind) error) error {
	return r.insist(ctx, func() error {
		done := false
		err := r.db.query(ctx, statement{text, append(args, milliseconds(ownWait))}, func(scan scanner) error {
			done = true
			var notified *string
			return scan(&notified)
		})
		if err != nil || done {
			return err
		}
		found, err := r.owned(ctx, r.db, ref)
		if err != nil {
			return err
		}
		return refused(found.kind)
	})
}

// ended is what an owner is told who goes on with a claim that has ended.
func (k kind) ended() error {
	switch k {
	case lapsed, abandoned:
		return driver.ErrLapsed
	case completed, forgotten:
		return driver.ErrCompleted
	case releasedByOwner, releasedByResolve:
		return driver.ErrLost
	}
	return errRaced
}

// Renew is described at [driver.Store].
func (r *records) Renew(ctx context.Context, ref driver.Ref, lease time.Duration) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	if err := driver.CheckLease(lease); err != nil {
		return err
	}
	return r.own(ctx, r.text.renew, []any{ref.Key[:], int64(ref.Token), microseconds(lease)}, ref, kind.ended)
}

// Release is described at [driver.Store].
func (r *records) Release(ctx context.Context, ref driver.Ref, rel driver.Release) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	if err := rel.Check(); err != nil {
		return err
	}
	args := []any{ref.Key[:], int64(ref.Token), microseconds(rel.Retention), rel.Answered, rel.Unused}
	return r.own(ctx, r.text.release, args, ref, func(k kind) error {
		if k == releasedByOwner || k == releasedByResolve {
			return nil
		}
		return k.ended()
	})
}

// Abandon is described at [driver.Store].
func (r *records) Abandon(ctx context.Context, ref driver.Ref) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	return r.own(ctx, r.text.abandon, []any{ref.Key[:], int64(ref.Token)}, ref, func(k kind) error {
		switch k {
		case abandoned:
			return nil
		case lapsed:
			return errRaced
		}
		return k.ended()
	})
}
