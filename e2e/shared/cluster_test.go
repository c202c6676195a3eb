package shared

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	natsserver "github.com/idem-go/idem/testserver/nats"
)

// leader is a cluster of NATS servers of which the one is killed, or stopped, that
// leads the store's bucket.
type leader struct {
	*natsserver.Server

	mu   sync.Mutex
	away *natsserver.Server // the one that was killed or stopped
}

// Kill ends the leader by SIGKILL.
func (l *leader) Kill() error { return l.take((*natsserver.Server).Kill) }

// Pause stops the leader where it is.
func (l *leader) Pause() error { return l.take((*natsserver.Server).Pause) }

// Start starts the server that was killed, and waits for the others.
func (l *leader) Start() error { return l.bring((*natsserver.Server).Start) }

// Resume lets the server go on that was stopped.
func (l *leader) Resume() error { return l.bring((*natsserver.Server).Resume) }

func (l *leader) take(how func(*natsserver.Server) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away != nil {
		return errors.New("one is away already, and no more than one may be")
	}
	n, err := l.leads()
	if err != nil {
		return err
	}
	l.away = n
	return how(n)
}

func (l *leader) bring(how func(*natsserver.Server) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away == nil {
		return errors.New("none is away")
	}
	n := l.away
	l.away = nil
	return how(n)
}

// leads returns the server that leads the bucket, once there is one.
func (l *leader) leads() (*natsserver.Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	nc, err := natsgo.Connect(l.DSN(), natsgo.RetryOnFailedConnect(true))
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	for {
		n, err := l.ask(ctx, js)
		if err == nil {
			return n, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("nobody leads the bucket: %w", err)
		}
		pause(20 * time.Millisecond)
	}
}

func (l *leader) ask(ctx context.Context, js jetstream.JetStream) (*natsserver.Server, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s, err := js.Stream(ctx, "KV_idem")
	if err != nil {
		return nil, err
	}
	info, err := s.Info(ctx)
	if err != nil {
		return nil, err
	}
	if info.Cluster == nil {
		return nil, errors.New("the bucket has no replicas")
	}
	for i, n := range l.Nodes() {
		if info.Cluster.Leader == fmt.Sprint("n", i+1) {
			return n, nil
		}
	}
	return nil, fmt.Errorf("%q leads", info.Cluster.Leader)
}
