package pgstore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/idem-go/idem/driver"
)

const (
	// lookText looks at many claims at once. They come as one text, which every
	// driver can send.
	lookText = `WITH asked AS MATERIALIZED (
	SELECT decode(split_part(x, ' ', 1), 'hex') AS of_key, split_part(x, ' ', 2)::bigint AS of_token
	FROM unnest(string_to_array($1::text, ',')) x
)
SELECT a.of_key, a.of_token, l.due - {started}, l.watched
FROM asked a CROSS JOIN LATERAL (SELECT kind, due, watched FROM {records} WHERE key = a.of_key AND token = a.of_token OFFSET 0) l
WHERE l.kind = {inFlight} AND l.due > {started}`

	// markText says that somebody waits for a claim, so that its end is
	// notified. It does not wait for whoever is just about to change the row.
	markText = `WITH done AS (
	UPDATE {records} SET watched = true WHERE key = ANY (ARRAY(
		SELECT key FROM {records} WHERE key = $1 AND token = $2 AND kind = {inFlight} AND NOT watched FOR UPDATE SKIP LOCKED
	)) RETURNING 1
)
SELECT count(*) FROM done`
)

// listener is a database that passes notifications on.
type listener interface {
	listen(ctx context.Context, channel string, ready func(), notified func(payload string)) error
}

// watcher watches claims for those who wait for them: all of them with one
// connection that listens, and one goroutine that looks at many claims with one
// statement. Both begin with the first who waits.
type watcher struct {
	store *records

	mu      sync.Mutex
	started bool
	// listening says that the end of a marked claim is notified.
	listening bool
	watches   map[driver.Ref]*watch
	// kick wakes the goroutine, when there is something new to look at.
	kick chan struct{}
}

// watch is a claim that is waited for.
type watch struct {
	// ended is closed when the claim has ended. waiters is how many wait.
	ended   chan struct{}
	waiters int
	// next is when to look. looks is how often that has been done.
	next   time.Time
	looks  int
	marked bool
	// lapses is when the claim's lease ends, unless it is renewed.
	lapses time.Time
}

// lookBatch is how many claims one statement looks at.
const lookBatch = 500

// Wait is described at [driver.Waiter]. The end of a claim is notified by the
// process that ends it, wherever it runs. In case that this is lost, and where
// there are no notifications, the store looks by itself: see Options.PollEvery.
// The goroutines that this takes begin with the first call of Wait.
func (r *records) Wait(ctx context.Context, ref driver.Ref) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	w := &r.waits
	watched := w.join(ref)
	defer w.part(ref, watched)
	select {
	case <-watched.ended:
		return nil
	case <-r.closing:
		return driver.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join begins to watch a claim. Whoever joins others lets it be looked at again:
// it may have ended already.
func (w *watcher) join(ref driver.Ref) *watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.started {
		w.started = true
		w.watches = map[driver.Ref]*watch{}
		w.kick = make(chan struct{}, 1)
		w.store.background(w.look)
		if l, ok := w.store.db.(listener); ok && !w.store.opts.NoListen {
			w.store.background(func() { w.listen(l) })
		}
	}
	it := w.watches[ref]
	if it == nil {
		it = &watch{ended: make(chan struct{})}
		w.watches[ref] = it
	}
	it.waiters++
	it.next = time.Time{}
	w.wake()
	return it
}

func (w *watcher) part(ref driver.Ref, it *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if it.waiters--; it.waiters == 0 && w.watches[ref] == it {
		delete(w.watches, ref)
	}
}

func (w *watcher) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// end lets those go who wait for a claim.
func (w *watcher) end(ref driver.Ref) {
	if it := w.watches[ref]; it != nil {
		close(it.ended)
		delete(w.watches, ref)
	}
}

// look looks at the claims that are watched, each when it is time to, until the
// store is closed.
func (w *watcher) look() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		refs, next := w.due()
		if len(refs) > 0 {
			err := w.lookAt(refs)
			if err != nil && w.store.ctx.Err() == nil {
				// Looked at again after a while; whoever waits has a time limit.
				w.later(refs)
			}
			continue
		}
		timer.Reset(next)
		select {
		case <-w.store.closing:
			return
		case <-w.kick:
		case <-timer.C:
		}
	}
}

// due returns the claims that it is time to look at, or how long until then.
func (w *watcher) due() (refs []driver.Ref, next time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.store.ctx.Err() != nil {
		return nil, time.Hour
	}
	now := time.Now()
	next = time.Hour
	for ref, it := range w.watches {
		if left := it.next.Sub(now); left > 0 {
			next = min(next, left)
		} else if refs = append(refs, ref); len(refs) == lookBatch {
			break
		}
	}
	return refs, next
}

func (w *watcher) later(refs []driver.Ref) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ref := range refs {
		if it := w.watches[ref]; it != nil {
			it.next = time.Now().Add(w.store.opts.PollEvery)
		}
	}
}

// seen is a claim that is in flight still.
type seen struct {
	left    int64
	watched bool
}

func (w *watcher) lookAt(refs []driver.Ref) error {
	names := make([]string, len(refs))
	for i, ref := range refs {
		names[i] = hex.EncodeToString(ref.Key[:]) + " " + strconv.FormatInt(int64(ref.Token), 10)
	}
	alive := map[driver.Ref]seen{}
	// Whoever joins from now on lets it be looked at again.
	w.mu.Lock()
	for _, ref := range refs {
		if it := w.watches[ref]; it != nil {
			it.next = time.Now().Add(time.Hour)
		}
	}
	w.mu.Unlock()
	err := w.store.db.query(w.store.ctx, statement{w.store.text.look, []any{strings.Join(names, ",")}}, func(scan scanner) error {
		var key []byte
		var token int64
		var s seen
		if err := scan(&key, &token, &s.left, &s.watched); err != nil {
			return err
		}
		ref := driver.Ref{Token: uint64(token)}
		copy(ref.Key[:], key)
		alive[ref] = s
		return nil
	})
	if err != nil {
		return err
	}
	unmarked := w.plan(refs, alive)
	for _, ref := range unmarked {
		if err := w.mark(ref); err != nil {
			return err
		}
	}
	return nil
}

// plan lets those go whose claim has ended, and says when to look at the others
// again. It returns the claims that should be marked.
func (w *watcher) plan(refs []driver.Ref, alive map[driver.Ref]seen) (unmarked []driver.Ref) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for _, ref := range refs {
		it := w.watches[ref]
		if it == nil {
			continue
		}
		s, ok := alive[ref]
		if !ok {
			w.end(ref)
			continue
		}
		it.looks++
		it.marked = s.watched
		every := w.store.opts.PollEvery
		if w.listening && it.marked {
			every *= 10
		} else {
			// Most claims are short: it is looked at soon at first.
			every = min(every, 10*time.Millisecond<<min(it.looks, 10))
		}
		if w.listening && !it.marked {
			unmarked = append(unmarked, ref)
		}
		it.lapses = now.Add(duration(s.left) + time.Millisecond)
		it.lookIn(every)
	}
	return unmarked
}

// lookIn says when to look again, unless somebody has joined since. Nobody
// notifies the end of a lease.
func (it *watch) lookIn(d time.Duration) {
	if it.next.IsZero() {
		return
	}
	it.next = time.Now().Add(d)
	if it.next.After(it.lapses) {
		it.next = it.lapses
	}
}

// mark marks a claim, or lets it be looked at again where it has ended meanwhile
// or is about to.
func (w *watcher) mark(ref driver.Ref) error {
	n := 0
	if err := w.store.one(w.store.ctx, statement{w.store.text.mark, []any{ref.Key[:], int64(ref.Token)}}, &n); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if it := w.watches[ref]; it != nil && n > 0 {
		it.marked = true
		it.lookIn(10 * w.store.opts.PollEvery)
	}
	return nil
}

// listen listens until the store is closed, and begins anew when the connection
// is lost.
func (w *watcher) listen(l listener) {
	for try := 0; ; try++ {
		err := l.listen(w.store.ctx, w.store.name.channel, func() {
			try = 0
			w.listens(true)
		}, w.notified)
		w.listens(false)
		if w.store.ctx.Err() != nil {
			return
		}
		if errors.Is(err, errPooler) {
			w.store.opts.Logger.Info("pgstore: claims that are waited for are polled", "reason", err)
			return
		}
		if try == 0 {
			w.store.opts.Logger.Warn("pgstore: no notifications for now, claims that are waited for are polled", "error", err)
		}
		timer := time.NewTimer(min(100*time.Millisecond<<min(try, 8), 10*time.Second))
		select {
		case <-timer.C:
		case <-w.store.closing:
			timer.Stop()
			return
		}
	}
}

// listens notes whether there are notifications. Those that came while there
// were none are lost, so all claims are looked at.
func (w *watcher) listens(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listening = on
	for _, it := range w.watches {
		it.next = time.Time{}
	}
	w.wake()
}

// notified lets those go who wait for the claim of a notification.
func (w *watcher) notified(payload string) {
	ref, err := parseRef(payload)
	if err != nil {
		return // somebody else's
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end(ref)
}

func parseRef(payload string) (ref driver.Ref, err error) {
	key, token, _ := strings.Cut(payload, " ")
	b, err := hex.DecodeString(key)
	if err != nil || len(b) != len(ref.Key) {
		return ref, fmt.Errorf("pgstore: a notification of another kind")
	}
	copy(ref.Key[:], b)
	n, err := strconv.ParseInt(token, 10, 64)
	ref.Token = uint64(n)
	return ref, err
}
