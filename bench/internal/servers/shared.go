// Package servers compares the stores of many machines with what one would write
// by hand on the same server: each measurement of a store lies between two of
// that, and what is told of it is the ratio to their mean.
package servers

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/idem-go/idem/bench/internal/stats"
	"github.com/idem-go/idem/bench/internal/stores"
	"github.com/idem-go/idem/pgstore"
	"github.com/idem-go/idem/redisstore"
	"github.com/idem-go/idem/testserver"
)

// Options say how long to measure.
type Options struct {
	// Rounds is how often each comparison is repeated, Duration how long each
	// measurement takes.
	Rounds   int
	Duration time.Duration
	// Many is how many keys a store holds where many are compared with few.
	Many int
	// Log is told what is being done.
	Log func(format string, args ...any)
}

// Servers are those that the stores are measured on.
type Servers struct {
	Postgres, MariaDB, Redis *testserver.Server
}

// Start starts the servers, each private and durable: it syncs what it has
// acknowledged. Stop ends them.
func Start() (s *Servers, err error) {
	s = new(Servers)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
			s = nil
		}
	}()
	if s.Postgres, err = testserver.Postgres(nil); err != nil {
		return s, err
	}
	if s.MariaDB, err = testserver.MariaDB(nil); err != nil {
		return s, err
	}
	s.Redis, err = testserver.Redis(nil)
	return s, err
}

// Stop ends the servers.
func (s *Servers) Stop() error { return testserver.StopAll() }

// Prepare makes the tables and the markers of the stores that the proxy is
// measured with, and returns their DSNs by their schemes.
func (s *Servers) Prepare(ctx context.Context) (map[string]string, error) {
	pool, err := pgstore.Connect(ctx, s.Postgres.DSN())
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	client, err := redisstore.Connect(ctx, s.Redis.DSN())
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return map[string]string{"postgres": s.Postgres.DSN(), "redis": s.Redis.DSN()},
		errors.Join(pgstore.Migrate(ctx, pool, nil), redisstore.Migrate(ctx, client, nil))
}

// Comparison is a store beside its peer. Each sample has a value for each round.
type Comparison struct {
	// Name says what is compared, Peer what with.
	Name, Peer string
	// Callers is how many ask at once.
	Callers int
	// Mine and Theirs are operations a second.
	Mine, Theirs stats.Sample
	// Ratio is the store's rate in its peer's mean before and after.
	Ratio stats.Sample
	// AtLeast is the ratio that the store must keep; 0 for none.
	AtLeast float64
}

// Compare makes all comparisons.
func Compare(ctx context.Context, s *Servers, o Options) ([]Comparison, error) {
	var all []Comparison
	for _, compare := range []func(context.Context, *Servers, Options) ([]Comparison, error){postgres, mariadb, sqlite, redis} {
		c, err := compare(ctx, s, o)
		if err != nil {
			return nil, err
		}
		all = append(all, c...)
	}
	return all, nil
}

// compare measures a store between two measurements of its peer, as often as
// the options say.
func (o *Options) compare(ctx context.Context, c Comparison, mine, theirs stores.Pairs) (Comparison, error) {
	keys := freshKeys()
	before, err := stores.Rate(ctx, c.Callers, o.Duration, keys, theirs)
	for round := 0; round < o.Rounds && err == nil; round++ {
		var m, after float64
		if m, err = stores.Rate(ctx, c.Callers, o.Duration, keys, mine); err != nil {
			break
		}
		if after, err = stores.Rate(ctx, c.Callers, o.Duration, keys, theirs); err != nil {
			break
		}
		t := (before + after) / 2
		c.Mine, c.Theirs, c.Ratio = append(c.Mine, m), append(c.Theirs, t), append(c.Ratio, m/t)
		before = after
		o.Log("round %d of %d: %s, %d callers: %.0f/s, %s %.0f/s", round+1, o.Rounds, c.Name, c.Callers, m, c.Peer, t)
	}
	if err != nil {
		err = fmt.Errorf("%s, %d callers: %w", c.Name, c.Callers, err)
	}
	return c, err
}

// held compares a store that holds many keys with one that holds few, both in
// databases of their own.
func (o *Options) held(ctx context.Context, name string, few, many stores.Pairs) (Comparison, error) {
	const callers = 64
	if err := fill(ctx, many, o.Many); err != nil {
		return Comparison{}, fmt.Errorf("%s: %w", name, err)
	}
	if err := fill(ctx, few, 1000); err != nil {
		return Comparison{}, fmt.Errorf("%s: %w", name, err)
	}
	o.Log("%s holds %d keys", name, o.Many)
	return o.compare(ctx, Comparison{
		Name: fmt.Sprintf("%s holding %d keys", name, o.Many), Peer: "holding 1000", Callers: callers, AtLeast: 1 / 1.3,
	}, many, few)
}

// freshKeys counts from where no other count has come to.
func freshKeys() *atomic.Uint64 {
	var keys atomic.Uint64
	keys.Store(uint64(time.Now().UnixMicro()) << 8)
	return &keys
}

// fill makes a store hold n keys.
func fill(ctx context.Context, s stores.Pairs, n int) error {
	var next atomic.Int64
	limited := &limited{s, &next, int64(n)}
	keys := freshKeys()
	for next.Load() < int64(n) {
		if _, err := stores.Rate(ctx, 256, time.Second, keys, limited); err != nil {
			return err
		}
	}
	return nil
}

// limited does so many pairs, and nothing afterwards.
type limited struct {
	stores.Pairs
	done *atomic.Int64
	most int64
}

// Pair implements stores.Pairs.
func (l *limited) Pair(ctx context.Context, n uint64, result []byte) error {
	if l.done.Add(1) > l.most {
		return nil
	}
	return l.Pairs.Pair(ctx, n, result)
}
