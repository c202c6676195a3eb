package pgstore

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// slowWait is how long a statement may take that does not bound its wait for a
// row, before it is asked again as one that does. It is longer than a server
// that is not held up by somebody's transaction mostly takes.
const slowWait = 250 * time.Millisecond

// quick runs statements that do not bound their wait for a row: to set a bound
// takes the server a tenth of what a claim takes. One that takes long is given
// up, with an error as if it had had a bound.
type quick struct{ *pgxDB }

func (q quick) query(ctx context.Context, s statement, each func(scan scanner) error) error {
	conn, err := q.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return q.patience.run(ctx, conn, func() error {
		if !q.plain {
			return q.batch(ctx, conn, []statement{s}, []func(scan scanner) error{each})
		}
		rows, err := conn.Query(ctx, s.text, s.args...)
		if err != nil {
			return err
		}
		return read(rows, each)
	})
}

// patience has the server give up what takes long. One goroutine looks after all
// statements: a timer for each would cost more than the rest of the sending.
type patience struct {
	mu    sync.Mutex
	calls map[*patient]struct{}
}

// patient is a statement that may take too long.
type patient struct {
	conn  *pgxpool.Conn
	begun time.Time
	// told is closed when the server has been asked; nil before that begins.
	told chan struct{}
}

// watch looks after the statements until the store is closed.
func (d *pgxDB) watch(r *records) {
	ticker := time.NewTicker(slowWait / 4)
	defer ticker.Stop()
	for {
		select {
		case <-r.closing:
			return
		case <-ticker.C:
		}
		for _, c := range d.patience.late() {
			told := c.told
			tell := func() { d.patience.told(c, told, d.giveUp(c)) }
			if !r.background(tell) {
				d.patience.told(c, told, true)
			}
		}
	}
}

// late returns those that have taken too long by now and of which the server has
// not been told.
func (p *patience) late() (late []*patient) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.calls {
		if c.told == nil && time.Since(c.begun) >= slowWait {
			c.told = make(chan struct{})
			late = append(late, c)
		}
	}
	return late
}

// told notes that the server has been told of a statement, or, if it did not
// wait for anybody's transaction, that it has to be looked at again.
func (p *patience) told(c *patient, told chan struct{}, done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(told)
	if !done {
		c.told = nil
	}
}

const giveUpText = "SELECT count(pg_cancel_backend(pid)) > 0 FROM (SELECT pid FROM pg_locks WHERE pid = $1 AND NOT granted LIMIT 1) l"

// giveUp ends a statement that waits for a row which somebody's transaction
// holds, and no other: what is being committed, and waits for a standby, would be
// acknowledged without it. It reports false when the statement does not wait for
// a row.
func (d *pgxDB) giveUp(c *patient) bool {
	ctx, cancel := context.WithTimeout(context.Background(), endWait)
	defer cancel()
	pid := int64(c.conn.Conn().PgConn().PID())
	soon, stop := context.WithTimeout(ctx, slowWait)
	conn, err := d.pool.Acquire(soon)
	stop()
	if err == nil {
		defer conn.Release()
		var done bool
		err := conn.QueryRow(ctx, giveUpText, pid).Scan(&done)
		return err != nil || done
	}
	// All connections are held, perhaps by such statements.
	if d.alone {
		_ = c.conn.Conn().PgConn().CancelRequest(ctx) // it ends later then, or by its context
	}
	return true
}

// run runs f, which waits for the server on the connection.
func (p *patience) run(ctx context.Context, conn *pgxpool.Conn, f func() error) error {
	c := &patient{conn: conn, begun: time.Now()}
	p.mu.Lock()
	if p.calls == nil {
		p.calls = map[*patient]struct{}{}
	}
	p.calls[c] = struct{}{}
	p.mu.Unlock()
	err := f()
	p.mu.Lock()
	delete(p.calls, c)
	told := c.told
	p.mu.Unlock()
	if told == nil {
		return err
	}
	// The connection is not another's before the server has got the message, which
	// would meet another's statement.
	<-told
	if code(err) == codeCanceled && ctx.Err() == nil {
		return errHeld
	}
	return err
}
