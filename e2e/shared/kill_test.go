package shared

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

// restart kills a server by SIGKILL, and starts it again at once.
func restart(s server) func() error {
	return func() error { return errors.Join(s.Kill(), s.Start()) }
}

// scopeOf is a scope of the test's own: its rows and records may share a server.
func scopeOf(t *testing.T) string { return t.Name() }

// playerOf opens the store in this process, for as long as the test runs. Its gates
// are nobody's to open.
func playerOf(t *testing.T, c config) *player {
	t.Helper()
	p, err := newPlayer(t.Context(), &c, func(answer) {})
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(p.end(ctx), p.ledger.Close()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// quickLease is that of tests whose owners vanish.
const quickLease = 2 * time.Second

// underKills is a load on a store while something is killed.
type underKills struct {
	op                     op
	workers, clients, keys int
	kills                  int
	// all kills all workers at once, where it is not the server that is killed;
	// server kills that.
	server, all bool
	limit       time.Duration
}

func (u underKills) run(t *testing.T, k *kind) {
	seed := seedOf(t)
	l := labOf(t, k)
	if l == nil || u.server && !l.private(t) {
		return
	}
	c := newCrew(t, u.workers, &config{
		Store: k.name, DSN: l.dsn, Scope: scopeOf(t), Lease: quickLease, Wait: time.Second,
		StoreTimeout: 2 * time.Second, SweepEvery: time.Second, Conns: 6,
	})
	kill := func() error {
		switch {
		case u.server:
			return restart(l.server)()
		case u.all:
			c.replaceAll()
		default:
			c.replace(rand.IntN(u.workers))
		}
		return nil
	}
	var killed *killer
	work := &load{
		crew: c, book: newBook(), op: u.op, clients: u.clients, seed: seed, keys: u.keys, limit: u.limit,
		more: func() bool { return killed.kills.Load() < int64(u.kills) },
		task: func(random *rand.Rand, t *task) {
			if u.op == opDo || random.IntN(8) == 0 {
				t.Before = time.Duration(random.Int64N(int64(4 * time.Millisecond)))
				t.After = time.Duration(random.Int64N(int64(4 * time.Millisecond)))
			}
		},
	}
	began := time.Now()
	killed = killEach(seed, time.Second, work.reached, kill)
	work.run(t)
	kills := killed.end(t)
	c.end()
	took := time.Since(began)

	p := playerOf(t, *c.config)
	effects := ledgerOf(t, c.config.Ledger)
	if u.op != opDo {
		effects = rowsOf(t, p.opened, c.config.Scope)
	}
	y := work.book.settle(t, p, u.op, effects, u.op == opTx)
	t.Logf("IDEM_TEST_SEED=%d: %v, %d kills in %.1fs (%.2fs each until it worked again), %d questions %v",
		seed, y, kills, took.Seconds(), killed.took.Seconds()/float64(max(1, kills)), work.book.asked, work.book.by)
}

// The server is killed by SIGKILL each second, under load, and started again: at
// most one effect, and every unknown listed.
func TestTrap8ServerKilledEachSecondLeased(t *testing.T) {
	u := underKills{op: opDo, workers: 3, clients: 32, keys: 500, kills: 5, server: true, limit: 2 * time.Minute}
	if testing.Short() {
		u.keys, u.kills = 100, 2
	}
	each(t, func(k *kind) bool { return k.start != nil && (k.cluster || !k.again) }, func(t *testing.T, k *kind) {
		u := u
		if k.cluster {
			u.keys, u.kills = min(u.keys, 200), min(u.kills, 3) // they elect a leader each time
		}
		u.run(t, k)
	})
}

// The processes that do the work are killed by SIGKILL, one each second: what each
// of them held becomes unknown once its lease is over, and nothing runs twice.
func TestTrap7WorkersKilledEachSecondLeased(t *testing.T) {
	u := underKills{op: opDo, workers: 3, clients: 24, keys: 300, kills: 3, limit: 2 * time.Minute}
	if testing.Short() {
		u.keys, u.kills = 50, 2
	}
	each(t, once, u.run)
}

// In Tx mode there is exactly one effect for each key, in 10,000 keys, with the
// server killed each second; with SQLite all processes that have the file open.
func TestTrap44KilledEachSecondTx(t *testing.T) {
	u := underKills{op: opTx, workers: 3, clients: 48, keys: 10_000, kills: 8, limit: 6 * time.Minute}
	if testing.Short() {
		u.keys, u.kills = 500, 2
	}
	each(t, withTx, func(t *testing.T, k *kind) {
		u := u
		u.server, u.all = k.start != nil, k.start == nil
		if k.name == "postgres-sql" {
			u.keys /= 4 // the same server, another client
		}
		u.run(t, k)
	})
}

// So it is where the processes are killed, one each second, and where a leased
// claim ends in a transaction: there at most one.
func TestTrap38WorkersKilledEachSecondTx(t *testing.T) {
	u := underKills{workers: 3, clients: 24, keys: 500, kills: 3, limit: 2 * time.Minute}
	if testing.Short() {
		u.keys, u.kills = 50, 2
	}
	for _, o := range []op{opTx, opCompleteTx} {
		t.Run(string(o), func(t *testing.T) {
			u := u
			u.op = o
			each(t, func(k *kind) bool { return k.tx && !k.again }, u.run)
		})
	}
}
