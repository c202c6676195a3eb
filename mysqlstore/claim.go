package mysqlstore

import (
	"context"
	"database/sql"
	"errors"

	"github.com/idem-go/idem/driver"
)

// Claim is described at [driver.Store]. A claim that is granted is one
// statement; so is a refusal, with the record's result, where the server is
// MariaDB. While a transaction of DoTx or CompleteTx holds the key, Claim waits
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
		a, err := s.claim(ctx, s.db, variant{retry: req.Retry, waited: req.Waited != 0, wait: -1}, &req)
		if err != nil {
			return err
		}
		reply = driver.ClaimReply{Granted: a.granted, Record: a.record.view(req.Key)}
		return nil
	})
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

// handle is where statements run: the pool, or a transaction.
type handle interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// prepared returns a statement for where it is to run.
func (s *Store) prepared(ctx context.Context, on handle, text string) (*sql.Stmt, error) {
	stmt, err := s.stmts.get(ctx, text)
	if err != nil {
		return nil, err
	}
	if tx, ok := on.(*sql.Tx); ok {
		return tx.StmtContext(ctx, stmt), nil
	}
	return stmt, nil
}

// claim asks for a claim, once.
func (s *Store) claim(ctx context.Context, on handle, v variant, req *driver.ClaimRequest) (answer, error) {
	stmt, err := s.prepared(ctx, on, s.tables.claims[v])
	if err != nil {
		return answer{}, err
	}
	if s.tables.returning {
		var r row
		if err := r.scan(stmt.QueryRowContext(ctx, claimArgs(v, req)...)); err != nil {
			return answer{}, err
		}
		return answered(req, &r)
	}
	for n := 0; ; n++ {
		res, err := stmt.ExecContext(ctx, claimArgs(v, req)...)
		if err != nil {
			return answer{}, err
		}
		id, err := res.LastInsertId()
		if err != nil {
			return answer{}, err
		}
		token, attempt, exact := grantOf(id)
		if id != 0 && exact {
			return answer{granted: true, record: granted(req, token, attempt)}, nil
		}
		r, err := s.read(ctx, on, req.Key)
		if err != nil {
			return answer{}, err
		}
		if id != 0 && r.token == token {
			a := answer{granted: true, record: granted(req, token, int(r.attempt))}
			a.record.since, a.record.now, a.record.due = r.since, r.now, r.now+micros(req.Lease)
			return a, nil
		}
		if a, err := answered(req, r); err != nil || !a.granted && !a.record.grantable(v, req) {
			return a, err
		}
		// What was refused has changed since: it is asked for again.
		if err := s.pause(ctx, n); err != nil {
			return answer{}, err
		}
	}
}

// answered is what a row says to a claim, when it was read in the claiming
// statement or the claim was refused before.
func answered(req *driver.ClaimRequest, r *row) (answer, error) {
	rec, err := r.settle(req.Key)
	if err != nil {
		return answer{}, err
	}
	if rec.kind == releasedByOwner && string(rec.ended) == string(req.Nonce[:]) {
		return answer{}, driver.ErrLost
	}
	return answer{granted: rec.kind == inFlight && string(rec.nonce) == string(req.Nonce[:]), record: rec}, nil
}

// granted is the record of a claim that has just been granted.
func granted(req *driver.ClaimRequest, token int64, attempt int) record {
	return record{kind: inFlight, row: row{
		token: token, attempt: uint32(attempt), due: micros(req.Lease), nonce: req.Nonce[:],
		fingerprint: fingerprintBytes(req.Fingerprint), scope: []byte(req.Scope), id: []byte(req.ID),
	}}
}

// grantable says of a settled record that the claiming statement would grant a
// claim over it.
func (r *record) grantable(v variant, req *driver.ClaimRequest) bool {
	switch {
	case r.kind == absent || r.kind == releasedByResolve:
		return true
	case r.kind == releasedByOwner:
		return r.answered == nil || !v.waited || *r.answered < waitedOf(req)
	case (r.kind == inFlight || r.kind == lapsed) && string(r.nonce) == string(req.Nonce[:]):
		return true
	case r.kind.isUnknown():
		return v.retry && string(r.fingerprint) == string(fingerprintBytes(req.Fingerprint))
	}
	return false
}

// read returns the row of a key, nil where there is none.
func (s *Store) read(ctx context.Context, on handle, key driver.Key) (*row, error) {
	stmt, err := s.prepared(ctx, on, s.tables.lookup)
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
	return rec.view(key), nil
}

func (s *Store) lookup(ctx context.Context, key driver.Key) (record, error) {
	if err := s.enter(ctx); err != nil {
		return record{}, err
	}
	var rec record
	err := s.again(ctx, func() error {
		r, err := s.read(ctx, s.db, key)
		if err != nil || r == nil {
			rec = record{}
			return err
		}
		rec, err = r.settle(key)
		return err
	})
	return rec, err
}
