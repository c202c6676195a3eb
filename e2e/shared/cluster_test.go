package shared

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idem-go/idem/testserver"
	natsserver "github.com/idem-go/idem/testserver/nats"
)

// group is servers that belong together, of which one at a time is killed or
// stopped: the one that pick names.
type group struct {
	server
	nodes []server
	dsn   string
	pick  func() (int, error)
	// whole, unless nil, waits until the servers work together again.
	whole func() error

	mu   sync.Mutex
	away server // the one that was killed or stopped
}

// DSN is what a store takes.
func (g *group) DSN() string { return g.dsn }

// Kill ends one of the servers by SIGKILL.
func (g *group) Kill() error { return g.take(server.Kill) }

// Pause stops one of the servers where it is.
func (g *group) Pause() error { return g.take(server.Pause) }

// Start starts the server that was killed.
func (g *group) Start() error { return g.bring(server.Start) }

// Resume lets the server go on that was stopped.
func (g *group) Resume() error { return g.bring(server.Resume) }

func (g *group) take(how func(server) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.away != nil {
		return errors.New("one is away already, and no more than one may be")
	}
	i, err := g.pick()
	if err != nil {
		return err
	}
	g.away = g.nodes[i]
	return how(g.away)
}

func (g *group) bring(how func(server) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.away == nil {
		return errors.New("none is away")
	}
	s := g.away
	g.away = nil
	if err := how(s); err != nil || g.whole == nil {
		return err
	}
	return g.whole()
}

// natsGroup is a cluster of three servers that have a copy each; the one is killed
// that leads the store's bucket.
func natsGroup(*testserver.Options) (server, error) {
	c, err := natsserver.Cluster(nil)
	if err != nil {
		return nil, err
	}
	g := &group{server: c, dsn: c.DSN(), pick: func() (int, error) { return leads(c.DSN(), 3) }}
	for _, n := range c.Nodes() {
		g.nodes = append(g.nodes, n)
	}
	return g, nil
}

// redisGroup is a cluster of three masters, any of which is killed.
func redisGroup(o *testserver.Options) (server, error) {
	c, err := testserver.RedisCluster(o)
	if err != nil {
		return nil, err
	}
	g := &group{
		server: c, dsn: "redis://" + strings.Join(c.Addrs(), ","), whole: c.Await,
		pick: func() (int, error) { return rand.IntN(3), nil },
	}
	for _, n := range c.Nodes() {
		g.nodes = append(g.nodes, n)
	}
	return g, nil
}

// leads returns which of n servers leads the bucket, once one does.
func leads(dsn string, n int) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	nc, err := natsgo.Connect(dsn, natsgo.RetryOnFailedConnect(true))
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	for {
		name, err := leaderName(ctx, js)
		for i := range n {
			if name == fmt.Sprint("n", i+1) {
				return i, nil
			}
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("nobody leads the bucket, but %q: %w", name, err)
		}
		pause(20 * time.Millisecond)
	}
}

func leaderName(ctx context.Context, js jetstream.JetStream) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s, err := js.Stream(ctx, "KV_idem")
	if err != nil {
		return "", err
	}
	c := s.CachedInfo().Cluster
	if c == nil {
		return "", errors.New("the bucket has no replicas")
	}
	return c.Leader, nil
}
