package natsstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idem-go/idem/natsstore"
	"github.com/idem-go/idem/testserver"
	"github.com/idem-go/idem/testserver/nats"
)

// alone starts a server as a process of its own, which a test may kill.
func alone(t testing.TB) *nats.Server {
	t.Helper()
	s, err := nats.StartProcess(&nats.Options{Settings: map[string]string{"server_name": "alone"}})
	return started(t, s, err)
}

func started(t testing.TB, s *nats.Server, err error) *nats.Server {
	t.Helper()
	if !testserver.Need(t, "nats", err) {
		return nil
	}
	t.Cleanup(func() {
		if t.Failed() {
			log := s.Log()
			t.Logf("the server said: %s", log[max(0, len(log)-4000):])
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// cluster is three servers, each a process.
type cluster struct{ *nats.Server }

func startCluster(t testing.TB) *cluster {
	t.Helper()
	s, err := nats.Cluster(nil)
	if s = started(t, s, err); s == nil {
		return nil
	}
	return &cluster{s}
}

// leader returns the server that leads a bucket.
func (c *cluster) leader(t testing.TB, nc *natsgo.Conn, bucket string) *nats.Server {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var found *nats.Server
	eventually(t, "the bucket has a leader", func(ctx context.Context) bool {
		st, err := js.Stream(ctx, "KV_"+bucket)
		if err != nil || st.CachedInfo().Cluster == nil {
			return false
		}
		for i, n := range c.Nodes() {
			if fmt.Sprint("n", i+1) == st.CachedInfo().Cluster.Leader {
				found = n
			}
		}
		return found != nil
	})
	return found
}

// eventually asks again and again until it is so.
func eventually(t testing.TB, what string, is func(ctx context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		one, stop := context.WithTimeout(ctx, 2*time.Second)
		ok := is(one)
		stop()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not in 30 s: %s", what)
		}
	}
}

// migrated makes a bucket, as soon as the servers can, and returns a DSN of it.
func migrated(t testing.TB, dsn func(bucket, query string) string, query string) (bucket, full string) {
	t.Helper()
	bucket = freshBucket()
	full = dsn(bucket, query)
	o, err := natsstore.OptionsOf(full, nil)
	if err != nil {
		t.Fatal(err)
	}
	nc := connect(t, full)
	var last error
	eventually(t, "the bucket can be made", func(ctx context.Context) bool {
		last = natsstore.Migrate(ctx, nc, o)
		if last != nil {
			t.Log(last)
		}
		return last == nil
	})
	return bucket, full
}

// one is the DSN of a bucket on a single server.
func one(s *nats.Server) func(bucket, query string) string {
	return func(bucket, query string) string { return s.DSN() + "/" + bucket + query }
}

// opened is a store of a DSN.
func opened(t testing.TB, dsn string, o *natsstore.Options) *natsstore.Store {
	t.Helper()
	s, err := natsstore.Open(t.Context(), dsn, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
