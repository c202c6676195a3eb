package mysqlstore

import (
	"context"
	"database/sql"
	"errors"

	"github.com/idem-go/idem/driver"
)

// Claim is described at [driver.Store]. A claim that is granted is one
// statement where nothing was known of its key; so is a refusal, with the record's
// result, where the server is MariaDB. While a transaction of DoTx or CompleteTx holds the key, Claim waits
// for its end as long as ctx lasts.
func (s *Store) Claim(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
	if err := s.enter(ctx); err != nil {
		return driver.ClaimReply{}, err
	}
	if err := req.Check(); err != nil {
		return driver.ClaimReply{}, err
	}
	var reply driver.ClaimReply
	err := s.again(ctx, func() error {
		if err := s.room(ctx, &req); err != nil {
			return err
		}
		a, err := s.claim(ctx, nil, unbounded, &req)
		if err != nil {
			return err
		}
		reply = driver.ClaimReply{Granted: a.granted, Record: a.record.view(req.Key)}
		return nil
	})
	if err == nil && !reply.Granted {
		err = s.logged(ctx, &reply.Record)
	}
	if err != nil {
		return driver.ClaimReply{}, err
	}
	if reply.Granted && req.Retry {
		s.unknowns.fewer()
	}
	if reply.Granted {
		// Whoever waits for a claim before this one has nothing to wait for.
		s.waiters.ended(req.Key, reply.Record.Token)
	}
	return reply, nil
}

// answer is what the claiming statement gave.
type answer struct {
	granted bool
	// record is the record afterwards; when granted, as far as it is known.
	record record
}

// claim asks for a claim, in a transaction or, where that is nil, by itself. Most
// end with the first statement: the key had no record, or has one over which the
// claim is not granted.
func (s *Store) claim(ctx context.Context, on *sql.Tx, wait int, req *driver.ClaimRequest) (answer, error) {
	for n := 0; ; n++ {
		token, r, err := s.insert(ctx, on, wait, req)
		if err != nil {
			return answer{}, err
		}
		if token != 0 {
			return answer{granted: true, record: granted(req, token, 1)}, nil
		}
		rec, err := r.settle(req.Key)
		if err != nil {
			return answer{}, err
		}
		v := rec.verdict(req)
		switch v {
		case refuse:
			return answer{record: rec}, nil
		case released:
			return answer{}, driver.ErrLost
		}
		if r != nil {
			a, changed, err := s.take(ctx, on, req, v, r, &rec)
			if err != nil || changed {
				return a, err
			}
		}
		// What was read has changed since.
		if err := s.pause(ctx, n); err != nil {
			return answer{}, err
		}
	}
}

// insert inserts the record of a claim, and returns its token; or 0, and the row
// that is there, nil if it has gone meanwhile.
func (s *Store) insert(ctx context.Context, on *sql.Tx, wait int, req *driver.ClaimRequest) (token int64, r *row, err error) {
	stmt, err := s.stmts.in(ctx, on, s.tables.claims[wait])
	if err != nil {
		return 0, nil, err
	}
	if s.tables.returns(wait) {
		var r row
		if err := r.scan(stmt.QueryRowContext(ctx, claimArgs(req)...)); err != nil {
			return 0, nil, err
		}
		// The row's own times tell an insertion from a repeat, which is never as
		// old as its own statement.
		if r.format == recordFormat && kind(r.kind) == inFlight && string(r.nonce) == string(req.Nonce[:]) && r.since == r.now && r.attempt == 1 {
			return r.token, nil, nil
		}
		return 0, &r, nil
	}
	res, err := stmt.ExecContext(ctx, claimArgs(req)...)
	if err != nil {
		return 0, nil, err
	}
	if token, err = res.LastInsertId(); err != nil || token != 0 {
		return token, nil, err
	}
	r, err = s.read(ctx, on, req.Key)
	return 0, r, err
}

// take grants a claim over a row that was read, or the claim that was granted
// before; changed is false if the row is not as it was.
func (s *Store) take(ctx context.Context, on *sql.Tx, req *driver.ClaimRequest, v verdict, r *row, rec *record) (a answer, changed bool, err error) {
	text, args := s.tables.again, []any{micros(req.Lease)}
	if v == grant {
		text, args = s.tables.take, []any{
			rec.attempt + 1, req.Nonce[:], fingerprintBytes(req.Fingerprint), nameBytes(req.Scope), nameBytes(req.ID),
			micros(req.Tombstone), micros(req.Lease),
		}
	}
	stmt, err := s.stmts.in(ctx, on, text)
	if err != nil {
		return answer{}, false, err
	}
	res, err := stmt.ExecContext(ctx, append(args, r.asReadArgs(req.Key)...)...)
	if err != nil {
		return answer{}, false, err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return answer{}, false, err
	}
	if v == repeat {
		again := *rec
		again.kind, again.due = inFlight, again.now+micros(req.Lease)
		return answer{granted: true, record: again}, true, nil
	}
	token, err := res.LastInsertId()
	return answer{granted: true, record: granted(req, token, rec.attempt+1)}, err == nil, err
}

// verdict is what becomes of a claim over a record.
type verdict uint8

const (
	refuse verdict = iota
	grant
	repeat
	// released: the claim itself was granted and released before.
	released
)

// verdict judges a claim over a settled record.
func (r *record) verdict(req *driver.ClaimRequest) verdict {
	ours := string(r.nonce) == string(req.Nonce[:])
	switch r.kind {
	case absent, releasedByResolve:
		return grant
	case releasedByOwner:
		if string(r.ended) == string(req.Nonce[:]) {
			return released
		}
		if r.answered != nil && req.Waited != 0 && req.Waited <= uint64(*r.answered) {
			return refuse
		}
		return grant
	case inFlight, lapsed:
		if ours {
			return repeat
		}
	}
	if r.kind.isUnknown() && req.Retry && string(r.fingerprint) == string(fingerprintBytes(req.Fingerprint)) {
		return grant
	}
	return refuse
}

// granted is the record of a claim that has just been granted.
func granted(req *driver.ClaimRequest, token int64, attempt uint32) record {
	return record{kind: inFlight, row: row{
		token: token, attempt: attempt, due: micros(req.Lease), nonce: req.Nonce[:],
		fingerprint: fingerprintBytes(req.Fingerprint), scope: []byte(req.Scope), id: []byte(req.ID),
	}}
}

// read returns the row of a key, nil where there is none.
func (s *Store) read(ctx context.Context, on *sql.Tx, key driver.Key) (*row, error) {
	stmt, err := s.stmts.in(ctx, on, s.tables.lookup)
	if err != nil {
		return nil, err
	}
	var r row
	err = r.scan(stmt.QueryRowContext(ctx, key[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return &r, err
}

// Lookup is described at [driver.Store]. It never waits for a transaction.
func (s *Store) Lookup(ctx context.Context, key driver.Key) (driver.Record, error) {
	rec, err := s.lookup(ctx, key)
	if err != nil {
		return driver.Record{}, err
	}
	v := rec.view(key)
	if err := s.logged(ctx, &v); err != nil {
		return driver.Record{}, err
	}
	return v, nil
}

func (s *Store) lookup(ctx context.Context, key driver.Key) (record, error) {
	if err := s.enter(ctx); err != nil {
		return record{}, err
	}
	var rec record
	err := s.again(ctx, func() error {
		r, err := s.read(ctx, nil, key)
		if err != nil || r == nil {
			rec = record{}
			return err
		}
		rec, err = r.settle(key)
		return err
	})
	return rec, err
}
