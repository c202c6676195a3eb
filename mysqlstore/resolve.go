package mysqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/idem-go/idem/driver"
)

// Resolve is described at [driver.Resolver]. A resolution that is repeated
// returns the record again when it is just what the resolution would make it. A
// note takes 65,535 bytes at most.
func (s *Store) Resolve(ctx context.Context, key driver.Key, r driver.Resolution) (driver.Record, error) {
	if err := s.enter(ctx); err != nil {
		return driver.Record{}, err
	}
	if err := r.Check(s.maxResult); err != nil {
		return driver.Record{}, err
	}
	if len(r.Note) > maxNote {
		return driver.Record{}, fmt.Errorf("%w: a note takes at most %d bytes", driver.ErrInvalid, maxNote)
	}
	var rec record
	err := s.again(ctx, func() (err error) {
		rec, err = s.resolve(ctx, key, &r)
		return err
	})
	if err != nil {
		return driver.Record{}, err
	}
	s.unknowns.fewer()
	s.waiters.ended(key, uint64(rec.token)+1)
	return rec.view(key), nil
}

func (s *Store) resolve(ctx context.Context, key driver.Key, r *driver.Resolution) (record, error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return record{}, err
	}
	defer func() { _ = tx.Rollback() }()
	var found row
	err = found.scan(tx.QueryRowContext(ctx, s.tables.lookup+` FOR UPDATE`, key[:]))
	if errors.Is(err, sql.ErrNoRows) {
		found = row{format: recordFormat, kind: uint8(forgotten), token: 1} // and over
		err = nil
	}
	if err != nil {
		return record{}, err
	}
	rec, err := found.settle(key)
	if err != nil {
		return record{}, err
	}
	if r.Token != 0 && rec.token != tokenOf(r.Token) {
		return record{}, driver.ErrLost
	}
	changed, err := rec.resolve(r)
	if err != nil || !changed {
		return rec, err
	}
	_, err = tx.ExecContext(ctx, `UPDATE `+s.tables.records+` SET kind = ?, late = ?, dropped = ?, since = ?, due = ?, tombstone = ?,`+
		` answered = NULL, nonce = NULL, ended = ?, fingerprint = ?, scope = ?, id = ?, note = ?, result_meta = ?, result_body = ? WHERE hash = ?`,
		uint8(rec.kind), rec.late, rec.dropped, rec.since, rec.due, rec.tombstone,
		rec.ended, rec.fingerprint, bytesOrNull(rec.scope), bytesOrNull(rec.id), rec.note, rec.meta, rec.body, key[:])
	if err != nil {
		return record{}, err
	}
	return rec, tx.Commit()
}

// resolve carries out a resolution on a settled record; changed is false where
// it had been before.
func (r *record) resolve(res *driver.Resolution) (changed bool, err error) {
	switch {
	case res.Action == driver.ResolveComplete && r.kind.isUnknown():
		r.kind, r.late, r.dropped = completed, 1, 0
		if res.Dropped {
			r.dropped = 1
		}
		r.meta, r.body = bytesOrNull(res.Result.Meta), bytesOrNull(res.Result.Body)
		r.since, r.due, r.tombstone = r.now, r.now+micros(res.Retention), micros(res.Tombstone)
	case res.Action == driver.ResolveRelease && (r.kind.isUnknown() || r.kind == inFlight && res.Force):
		r.kind, r.due, r.tombstone = releasedByResolve, r.now+micros(res.Retention), 0
		r.fingerprint = nil
	case res.Action == driver.ResolveErase && r.kind == completed:
		r.kind, r.since, r.due, r.tombstone = forgotten, r.now, r.now+micros(res.Tombstone), 0
		r.fingerprint, r.dropped, r.meta, r.body = nil, 0, nil, nil
	case res.Action == driver.ResolveComplete && r.kind == completed && r.holds(res.Result, res.Dropped),
		res.Action == driver.ResolveRelease && r.kind == releasedByResolve,
		res.Action == driver.ResolveErase && r.kind == forgotten:
		return false, nil
	default:
		return false, driver.ErrState
	}
	r.answered = nil
	if r.nonce != nil {
		r.ended, r.nonce = r.nonce, nil
	}
	r.note = bytesOrNull([]byte(res.Note))
	if r.note == nil && r.kind != completed {
		r.scope, r.id = nil, nil
	}
	return true, nil
}
