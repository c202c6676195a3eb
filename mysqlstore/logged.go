package mysqlstore

import (
	"context"
	"sync"
	"time"

	"github.com/idem-go/idem/driver"
)

// InnoDB lets others read what a transaction has committed before its log is on
// the disk: only the one who commits waits for that. A server that is killed in
// between has forgotten, when it is there again, what a reader was told, and the
// operation is done once more with another result. So nobody is told of a record
// that was completed just now before a commit of this store's own has been
// acknowledged: the log is written in order, and whatever could be read before
// that commit stands before it. What this store itself has completed it knows to
// be there.

// loggedAfter is how old a completion must be to be in the log for certain. The
// server writes it at once, or when the disk answers again.
const loggedAfter = time.Minute

// logWriteTime bounds one commit that others wait for.
const logWriteTime = 10 * time.Second

// markText is a write that changes a row whenever it is made. It is the count of
// the attempts of a key that no operation has, and is dropped with the others.
func (t *tables) markText() string {
	return `INSERT INTO ` + t.attempts + ` (hash, attempts, due) VALUES (REPEAT(x'00', 32), 1, ` + clock + ` + 3600000000)` +
		` ON DUPLICATE KEY UPDATE attempts = IF(attempts = 1, 2, 1)`
}

// logWrites are the commits of a store that say so much of the log is written.
// Whoever comes while one is under way shares the next.
type logWrites struct {
	mu   sync.Mutex
	next *logWrite // that has not begun, nil for none
	busy bool
	// known are the tokens of the last completions that are in the log for certain;
	// before are those of the time before. Either is given up when it is full.
	known, before map[driver.Key]uint64
}

// mostKnown is how many completions a store knows of to be in the log, twice.
const mostKnown = 8192

// know notes that a completion is in the log.
func (l *logWrites) know(key driver.Key, token uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.known) >= mostKnown || l.known == nil {
		l.known, l.before = make(map[driver.Key]uint64), l.known
	}
	l.known[key] = token
}

func (l *logWrites) knows(key driver.Key, token uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, ok := l.known[key]
	if !ok {
		t, ok = l.before[key]
	}
	return ok && t == token
}

// logWrite is one such commit.
type logWrite struct {
	done chan struct{}
	err  error
}

// logged returns when a record that may be told to somebody stays, whatever
// becomes of the server.
func (s *Store) logged(ctx context.Context, v *driver.Record) error {
	if v.State != driver.StateCompleted && v.State != driver.StateForgotten || v.Age >= loggedAfter || s.logWrites.knows(v.Key, v.Token) {
		return nil
	}
	w := s.joinLogWrite()
	select {
	case <-w.done:
		if w.err == nil {
			s.logWrites.know(v.Key, v.Token)
		}
		return w.err
	case <-s.closing:
		return driver.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) joinLogWrite() *logWrite {
	l := &s.logWrites
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == nil {
		l.next = &logWrite{done: make(chan struct{})}
	}
	if !l.busy {
		l.busy = true
		s.start(s.writeLog)
	}
	return l.next
}

// writeLog makes commits until nobody waits for one.
func (s *Store) writeLog() {
	l := &s.logWrites
	for {
		l.mu.Lock()
		w := l.next
		l.next = nil
		l.busy = w != nil
		l.mu.Unlock()
		if w == nil {
			return
		}
		w.err = s.markLog()
		close(w.done)
	}
}

func (s *Store) markLog() error {
	ctx, cancel := context.WithTimeout(s.life, logWriteTime)
	defer cancel()
	return s.again(ctx, func() error {
		stmt, err := s.stmts.get(ctx, s.tables.mark)
		if err == nil {
			_, err = stmt.ExecContext(ctx)
		}
		return err
	})
}
