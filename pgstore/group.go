package pgstore

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/idem-go/idem/driver"
)

const (
	// groupCalls is how many calls a group takes at most.
	groupCalls = 128
	// groupBytes is how large a result may be that is sent with those of others.
	groupBytes = 64 << 10
)

// member is a call that shares a statement with others.
type member struct {
	claim    *claimCall
	complete *completeCall
	err      error
	done     chan struct{}

	// left says that its caller has gone. It, and the group that the member is
	// in, belong to the grouper's mutex.
	left bool
	in   *running
	// followers are claims of the same key, which the member's answer may answer.
	followers []*member
}

func (m *member) key() driver.Key {
	if m.claim != nil {
		return m.claim.req.Key
	}
	return m.complete.ref.Key
}

// running is a group that is under way.
type running struct {
	// present are the members whose callers are still there. When all have gone
	// the statement is given up.
	present int
	cancel  context.CancelFunc
}

// grouper sends claims and completions. While few are under way each is sent at
// once, by its caller. Those that come while as many statements are under way
// as may be wait for the next, and go together as one: so the number of commits
// that the server makes durable, and of messages, does not grow with that of
// callers.
type grouper struct {
	store *records
	// quick runs a statement that does not bound its wait for a row; nil where
	// that is not safe.
	quick querier
	send  func(ctx context.Context, statements []statement, each []func(scan scanner) error) error

	mu    sync.Mutex
	busy  int
	queue []*member
}

func (g *grouper) claim(ctx context.Context, c *claimCall) error {
	if !g.enter() {
		err := g.wait(ctx, &member{claim: c})
		if errors.Is(err, errApart) {
			return g.store.claimAlone(ctx, c, groupWait)
		}
		return err
	}
	defer g.leave()
	if g.quick != nil && c.room && !c.again {
		return g.store.claimQuick(ctx, g.quick, c)
	}
	return g.store.claimAlone(ctx, c, groupWait)
}

func (g *grouper) complete(ctx context.Context, c *completeCall) error {
	if c.c.Result.Size() > groupBytes {
		return g.store.completeAlone(ctx, g.store.db, g.store.text.complete, c, ownWait)
	}
	if !g.enter() {
		// The caller may go, and use its bytes again, before the group is sent.
		own := *c.c
		own.Result.Meta = slices.Clone(own.Result.Meta)
		own.Result.Body = slices.Clone(own.Result.Body)
		copied := *c
		copied.c = &own
		err := g.wait(ctx, &member{complete: &copied})
		if errors.Is(err, errApart) {
			return g.store.completeAlone(ctx, g.store.db, g.store.text.complete, c, groupWait)
		}
		if err == nil {
			c.done, c.late = copied.done, copied.late
		}
		return err
	}
	defer g.leave()
	if g.quick == nil {
		return g.store.completeAlone(ctx, g.store.db, g.store.text.complete, c, groupWait)
	}
	c.done, c.late = false, false
	return g.quick.query(ctx, statement{g.store.text.completeQuick, c.args()}, func(scan scanner) error {
		var notified *string
		var prompt int
		c.done = true
		return scan(&c.late, &notified, &prompt)
	})
}

// enter takes a place among the statements that are under way.
func (g *grouper) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy >= g.store.opts.MaxGroups {
		return false
	}
	g.busy++
	return true
}

// leave gives the place to those who have come meanwhile.
func (g *grouper) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) == 0 || !g.store.background(g.work) {
		g.busy--
	}
}

// wait lets a call be sent with others.
func (g *grouper) wait(ctx context.Context, m *member) error {
	m.done = make(chan struct{})
	g.mu.Lock()
	g.queue = append(g.queue, m)
	g.mu.Unlock()
	select {
	case <-m.done:
		return m.err
	case <-g.store.closing:
		// Whoever closes the store does not wait for a server that hangs.
		g.gone(m)
		return driver.ErrClosed
	case <-ctx.Done():
		g.gone(m)
		return ctx.Err()
	}
}

// gone notes that a member's caller has gone.
func (g *grouper) gone(m *member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m.left = true
	if m.in != nil {
		if m.in.present--; m.in.present == 0 {
			m.in.cancel()
		}
	}
}

// work sends one group after another, until nobody waits.
func (g *grouper) work() {
	for {
		g.mu.Lock()
		group := g.take()
		if len(group) == 0 {
			g.busy--
			g.mu.Unlock()
			return
		}
		ctx, cancel := context.WithCancel(g.store.ctx)
		run := &running{cancel: cancel}
		for _, m := range group {
			for _, each := range append([]*member{m}, m.followers...) {
				each.in = run
				run.present++
			}
		}
		g.mu.Unlock()
		err := g.run(ctx, group)
		cancel()
		g.end(group, err)
	}
}

// take returns the next group, in the order of its keys: at most one claim, and
// one completion, of each. Other claims of a key follow the first one.
func (g *grouper) take() []*member {
	var group, rest []*member
	claims, completions := map[driver.Key]*member{}, map[driver.Key]bool{}
	for i, m := range g.queue {
		if m.left {
			continue
		}
		if len(group) == groupCalls {
			rest = append(rest, g.queue[i:]...)
			break
		}
		key := m.key()
		switch {
		case m.claim != nil && claims[key] != nil:
			claims[key].followers = append(claims[key].followers, m)
			continue
		case m.claim != nil:
			claims[key] = m
		case completions[key]:
			rest = append(rest, m)
			continue
		default:
			completions[key] = true
		}
		group = append(group, m)
	}
	g.queue = rest
	slices.SortFunc(group, func(a, b *member) int {
		ka, kb := a.key(), b.key()
		return bytes.Compare(ka[:], kb[:])
	})
	return group
}

// run sends a group as one transaction: a statement for its claims, and one for
// its completions.
func (g *grouper) run(ctx context.Context, group []*member) error {
	var statements []statement
	var each []func(scan scanner) error
	claims, completions := map[string]*claimCall{}, map[string]*completeCall{}
	var asks, ends [][]any
	for _, m := range group {
		key := m.key()
		if m.claim != nil {
			m.claim.take(nil, false)
			claims[string(key[:])] = m.claim
			asks = append(asks, m.claim.args())
		} else {
			m.complete.done = false
			completions[string(key[:])] = m.complete
			ends = append(ends, m.complete.args())
		}
	}
	if len(asks) > 0 {
		statements = append(statements, statement{g.store.text.claims, append(columnsOf(claimParams(), asks), milliseconds(groupWait))})
		each = append(each, func(scan scanner) error {
			found, granted, err := scanClaim(scan)
			if err != nil {
				return err
			}
			if c := claims[string(found.key)]; c != nil {
				c.take(found, granted)
			}
			return nil
		})
	}
	if len(ends) > 0 {
		statements = append(statements, statement{g.store.text.completes, append(columnsOf(completeParams(), ends), milliseconds(groupWait))})
		each = append(each, func(scan scanner) error {
			var key []byte
			var late bool
			if err := scanComplete(scan, &key, &late); err != nil {
				return err
			}
			if c := completions[string(key)]; c != nil {
				c.done, c.late = true, late
			}
			return nil
		})
	}
	return g.send(ctx, statements, each)
}

// errApart tells a member that its group failed, for what may be the fault of
// another one.
var errApart = errors.New("pgstore: the group failed")

// end tells the members of a group what came of it.
func (g *grouper) end(group []*member, err error) {
	if err != nil && !busy(err) && !silent(err) && code(err) != codeLockTimeout {
		err = errApart
	}
	var again []*member
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range group {
		followers := m.followers
		m.followers = nil
		for _, f := range followers {
			f.in = nil
			if err != nil {
				f.err = err
				close(f.done)
			} else if !f.follows(m) {
				again = append(again, f)
			} else {
				close(f.done)
			}
		}
		m.in, m.err = nil, err
		close(m.done)
	}
	g.queue = append(again, g.queue...)
}

// follows answers a claim by what another claim of its key has read, if that
// refuses both: the key was like that while both of them waited.
func (m *member) follows(first *member) bool {
	if first.claim.found == nil {
		return false
	}
	seen := *first.claim.found
	if seen.check(m.key()) == nil && (!seen.settle() || seen.decide(m.claim.req) == grant) {
		return false
	}
	shared := *first.claim.found
	m.claim.take(&shared, false)
	return true
}

// columnsOf makes an array of each parameter.
func columnsOf(params []param, rows [][]any) []any {
	args := make([]any, len(params))
	for i, p := range params {
		switch p.typ {
		case "bytea":
			args[i] = column[[]byte](rows, i)
		case "boolean":
			args[i] = column[bool](rows, i)
		default:
			args[i] = column[int64](rows, i)
		}
	}
	return args
}

func column[T any](rows [][]any, i int) []T {
	values := make([]T, len(rows))
	for n, row := range rows {
		values[n] = row[i].(T)
	}
	return values
}
