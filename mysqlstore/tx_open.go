package mysqlstore

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"time"

	"github.com/idem-go/idem/driver"
)

// endPatience is how long the end of a transaction is waited for when its context
// has ended.
const endPatience = 2 * time.Second

// openTx is a transaction that a store has begun.
type openTx struct {
	store *Store
	tx    *sql.Tx
	// conn is the transaction's connection, where it has to be given back.
	conn *sql.Conn
	over bool
}

// claimTx begins a transaction and claims in it. Another transaction that holds
// the key is waited for at most wait, and at most a second: who waits for longer
// asks again. The transaction is nil, or to be ended by the caller, with an error
// too.
func (s *Store) claimTx(ctx context.Context, req *driver.ClaimRequest, wait time.Duration) (*openTx, answer, error) {
	seconds := 0
	if wait >= time.Second {
		seconds = longestWait
	}
	// To prepare a statement takes a connection, which must not be a second one.
	for _, text := range []string{s.tables.claims[seconds], s.tables.lookup, s.tables.take, s.tables.completeOwn, s.tables.completeCounted, s.tables.count, s.tables.uncount} {
		if _, err := s.stmts.get(ctx, text); err != nil {
			return nil, answer{}, err
		}
	}
	o := &openTx{store: s}
	var err error
	if s.tables.mariadb {
		o.tx, err = s.db.BeginTx(ctx, nil)
		if err != nil {
			return nil, answer{}, err
		}
		a, err := s.claim(ctx, o.tx, seconds, req)
		return o, a, err
	}
	return s.claimTxBySession(ctx, o, seconds, req)
}

// claimTxBySession is claimTx on a server that bounds the wait of a statement
// only by a variable of the connection, which is set back before work begins.
func (s *Store) claimTxBySession(ctx context.Context, o *openTx, seconds int, req *driver.ClaimRequest) (*openTx, answer, error) {
	var err error
	if o.conn, err = s.db.Conn(ctx); err != nil {
		return nil, answer{}, err
	}
	fail := func(err error) (*openTx, answer, error) {
		o.discard()
		return nil, answer{}, err
	}
	if seconds == 0 {
		// The least that the variable takes is a second.
		var one int
		err := o.conn.QueryRowContext(ctx, `SELECT 1 FROM `+s.tables.records+` WHERE hash = `+hexList([]driver.Key{req.Key})+` FOR UPDATE NOWAIT`).Scan(&one)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			_ = o.conn.Close()
			return nil, answer{}, err
		}
	}
	if _, err := o.conn.ExecContext(ctx, `SET @idem_wait = @@innodb_lock_wait_timeout, SESSION innodb_lock_wait_timeout = 1`); err != nil {
		return fail(err)
	}
	if o.tx, err = o.conn.BeginTx(ctx, nil); err != nil {
		return fail(err)
	}
	a, err := s.claim(ctx, o.tx, seconds, req)
	if _, e := o.tx.ExecContext(ctx, `SET SESSION innodb_lock_wait_timeout = @idem_wait`); e != nil {
		_ = o.tx.Rollback()
		return fail(errors.Join(err, e))
	}
	return o, a, err
}

// discard gives the connection up.
func (o *openTx) discard() {
	if o.conn != nil {
		_ = o.conn.Raw(func(any) error { return sqldriver.ErrBadConn })
		_ = o.conn.Close()
	}
}

// commit commits, and does nothing more at a rollback. It asks for the commit in a
// statement, which the driver gives up, with the connection, when its context
// ends; a commit by package sql would wait for a server that hangs. Nobody
// waits for package sql to end the transaction, too, which then has nothing to do.
func (o *openTx) commit(ctx context.Context) error {
	patient, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(endPatience)
		defer timer.Stop()
		select {
		case <-timer.C:
			giveUp()
		case <-patient.Done():
		}
	})
	defer stop()
	_, err := o.tx.ExecContext(patient, `COMMIT`)
	o.over = true
	o.store.start(func() {
		_ = o.tx.Rollback()
		if o.conn != nil {
			_ = o.conn.Close()
		}
	})
	if err != nil && patient.Err() != nil {
		return errSilent
	}
	return err
}

// rollback rolls back, unless the transaction has ended.
func (o *openTx) rollback(ctx context.Context) {
	if !o.over {
		_ = o.end(ctx, o.tx.Rollback)
	}
}

// end ends the transaction by package sql. It does not wait for a server that hangs for longer
// than ctx lasts and a little: the connection then is given back when the server
// has answered.
func (o *openTx) end(ctx context.Context, how func() error) error {
	o.over = true
	ended := make(chan error, 1)
	o.store.start(func() {
		err := how()
		if o.conn != nil {
			_ = o.conn.Close()
		}
		ended <- err
	})
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	timer := time.NewTimer(endPatience)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		return errSilent
	}
}

// errSilent says that the end of a transaction got no answer.
var errSilent = errors.New("mysqlstore: the server does not answer")
