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
	// told is closed when the server has been told; nil before that begins.
	told chan struct{}
}

// watch looks after the statements until the store is closed.
func (p *patience) watch(r *records) {
	ticker := time.NewTicker(slowWait / 4)
	defer ticker.Stop()
	for {
		select {
		case <-r.closing:
			return
		case <-ticker.C:
		}
		for _, c := range p.late() {
			tell := func() {
				defer close(c.told)
				ctx, cancel := context.WithTimeout(context.Background(), endWait)
				defer cancel()
				_ = c.conn.Conn().PgConn().CancelRequest(ctx) // it ends later then, or by its context
			}
			if !r.background(tell) {
				close(c.told)
			}
		}
	}
}

// late returns those that have taken too long by now, once each.
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
