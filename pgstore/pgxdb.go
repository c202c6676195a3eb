package pgstore

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// pgxDB is a pool of pgx's.
type pgxDB struct {
	pool *pgxpool.Pool
	most int
	// patience gives statements up that take long.
	patience patience
	// plain says that a statement can go without a transaction around it, since
	// what the server makes around it is READ COMMITTED.
	plain bool
	// alone says that no commit waits for a standby.
	alone bool
}

func newPgxDB(pool *pgxpool.Pool) *pgxDB {
	return &pgxDB{pool: pool, most: int(pool.Config().MaxConns)}
}

func (d *pgxDB) named(s serverSettings) { d.plain, d.alone = s.readCommitted, s.standbys == "" }

func (d *pgxDB) size() int { return d.most }

const beginReadCommitted = "begin isolation level read committed"

func (d *pgxDB) query(ctx context.Context, s statement, each func(scan scanner) error) error {
	if !d.plain {
		return d.send(ctx, []statement{s}, []func(scan scanner) error{each})
	}
	rows, err := d.pool.Query(ctx, s.text, s.args...)
	if err != nil {
		return err
	}
	return read(rows, each)
}

func read(rows pgx.Rows, each func(scan scanner) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// send runs statements in one transaction and one round trip.
func (d *pgxDB) send(ctx context.Context, statements []statement, each []func(scan scanner) error) error {
	if d.plain && len(statements) == 1 {
		return d.query(ctx, statements[0], each[0])
	}
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return d.batch(ctx, conn, statements, each)
}

func (d *pgxDB) batch(ctx context.Context, conn *pgxpool.Conn, statements []statement, each []func(scan scanner) error) error {
	b := &pgx.Batch{}
	if !d.plain {
		b.Queue(beginReadCommitted)
	}
	for i, s := range statements {
		b.Queue(s.text, s.args...).Query(func(rows pgx.Rows) error { return read(rows, each[i]) })
	}
	if !d.plain {
		b.Queue("commit")
	}
	err := conn.SendBatch(ctx, b).Close()
	if err != nil {
		clean(conn)
	}
	return err
}

// pooled reports that a pooler is between the pool and the server: it answers
// for connections that are not the client's own.
func (d *pgxDB) pooled(ctx context.Context) (bool, error) {
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	return pooler(ctx, conn.Conn())
}

func pooler(ctx context.Context, conn *pgx.Conn) (bool, error) {
	var pid uint32
	err := conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid)
	return pid != conn.PgConn().PID(), err
}

// endWait is how long the end of a transaction may take that nobody waits for.
const endWait = 2 * time.Second

// clean ends the transaction that a failed batch has left, so that the
// connection can be used again.
func clean(conn *pgxpool.Conn) {
	if conn.Conn().IsClosed() || conn.Conn().PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), endWait)
	defer cancel()
	if _, err := conn.Exec(ctx, "rollback"); err != nil {
		_ = conn.Conn().Close(ctx) // the server rolls back what has lost its connection
	}
}

// begin begins a transaction of the server's default kind.
func (d *pgxDB) begin(ctx context.Context, first statement, impatient bool, each func(scan scanner) error) (transaction[pgx.Tx], error) {
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	b := &pgx.Batch{}
	b.BeginTx(pgx.TxOptions{})
	b.Queue(first.text, first.args...).Query(func(rows pgx.Rows) error { return read(rows, each) })
	var tx pgx.Tx
	send := func() error {
		results := conn.SendBatch(ctx, b)
		tx = results.Tx()
		return results.Close()
	}
	if impatient {
		err = d.patience.run(ctx, conn, send)
	} else {
		err = send()
	}
	if err != nil {
		clean(conn)
		conn.Release()
		return nil, err
	}
	return &pgxTransaction{conn: conn, work: &workTx{Tx: tx}}, nil
}

func (d *pgxDB) in(tx pgx.Tx) querier { return pgxQuerier{tx} }

// pgxQuerier runs statements in a transaction of the application's.
type pgxQuerier struct{ tx pgx.Tx }

func (q pgxQuerier) query(ctx context.Context, s statement, each func(scan scanner) error) error {
	rows, err := q.tx.Query(ctx, s.text, s.args...)
	if err != nil {
		return err
	}
	return read(rows, each)
}

// fail rolls the whole transaction back. Of a nested one, which is but a
// savepoint, that needs more than its own Rollback: the outer one would commit.
func (d *pgxDB) fail(ctx context.Context, tx pgx.Tx, err error) {
	if w, ok := tx.(*workTx); ok {
		w.fail(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWait)
	defer cancel()
	conn := tx.Conn()
	// This ends the server's transaction, whichever tx is.
	_, ended := tx.Exec(ctx, "rollback")
	if ended == nil {
		// A savepoint is not there any more, an outermost one has nothing to roll
		// back and does not mind.
		ended = tx.Rollback(ctx)
	}
	if ended != nil && conn != nil {
		_ = conn.Close(ctx) // a commit of the outer one is an error now
	}
}

// pgxTransaction is a transaction of DoTx.
type pgxTransaction struct {
	conn *pgxpool.Conn
	work *workTx
}

func (t *pgxTransaction) tx() pgx.Tx { return t.work }

func (t *pgxTransaction) failed() error { return t.work.failed }

func (t *pgxTransaction) commit(ctx context.Context, last statement) error {
	t.work.end()
	b := &pgx.Batch{}
	b.Queue(last.text, last.args...)
	var tag string
	b.Queue("commit").Query(func(rows pgx.Rows) error {
		rows.Close()
		tag = rows.CommandTag().String()
		return rows.Err()
	})
	if err := t.conn.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	if tag == "ROLLBACK" {
		return &codedError{codeFailed, "pgstore: a statement of the transaction failed, so it was rolled back"}
	}
	return nil
}

func (t *pgxTransaction) rollback() {
	t.work.end()
	clean(t.conn)
	t.conn.Release()
}

// listen calls notified for each notification of a channel, until the
// connection is lost or ctx ends. It calls ready once it listens.
func (d *pgxDB) listen(ctx context.Context, channel string, ready func(), notified func(payload string)) error {
	config := d.pool.Config()
	cc := config.ConnConfig
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, cc); err != nil {
			return err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWait)
		defer cancel()
		_ = conn.Close(ctx) // nothing was written by it
	}()
	if pooled, err := pooler(ctx, conn); err != nil {
		return err
	} else if pooled {
		return errPooler
	}
	if _, err := conn.Exec(ctx, "LISTEN "+quote(channel)); err != nil {
		return err
	}
	ready()
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		notified(n.Payload)
	}
}

// errPooler says that there is nobody to listen to.
var errPooler = errors.New("pgstore: a pooler is in between, which may not pass notifications on")
