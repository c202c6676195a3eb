package natsstore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idem-go/idem/natsstore"
	"github.com/idem-go/idem/testserver"
)

// serverVariable makes this binary a NATS server; its value is a node in JSON.
const serverVariable = "IDEM_NATSSTORE_SERVER"

// node is one server of those that the tests start as processes.
type node struct {
	Name, Dir, Port string
	ClusterPort     int
	Routes          []string
	MaxPayload      int
}

// serveNode is the server's life in its process.
func serveNode() {
	v, ok := os.LookupEnv(serverVariable)
	if !ok {
		return
	}
	var n node
	if err := json.Unmarshal([]byte(v), &n); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	port, _ := strconv.Atoi(n.Port)
	o := &server.Options{
		ServerName: n.Name, Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: n.Dir, NoSigs: true,
		MaxPayload: int32(n.MaxPayload),
	}
	if n.ClusterPort != 0 {
		o.Cluster = server.ClusterOpts{Name: "idem", Host: "127.0.0.1", Port: n.ClusterPort}
		o.Routes = server.RoutesFromStr(strings.Join(n.Routes, ","))
	}
	s, err := server.NewServer(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s.ConfigureLogger()
	s.Start()
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	<-end
	s.Shutdown()
	s.WaitForShutdown()
	os.Exit(0)
}

// startNode starts a server as a process of its own.
func startNode(t testing.TB, n node) *testserver.Server {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n.Dir, n.Port = "DIR", "PORT"
	b, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	config := strings.NewReplacer("DIR", "{dir}", "PORT", "{port}").Replace(string(b))
	s, err := testserver.Run(testserver.Program{
		Name: "nats", DSN: "nats://127.0.0.1:{port}", Args: []string{exe}, Env: []string{serverVariable + "=" + config},
	})
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
type cluster struct {
	nodes []*testserver.Server
	names []string
}

func startCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{}
	var ports []int
	var routes []string
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		ports, routes = append(ports, port), append(routes, fmt.Sprint("nats://127.0.0.1:", port))
		l.Close()
	}
	for i := range 3 {
		name := fmt.Sprint("node", i)
		s := startNode(t, node{Name: name, ClusterPort: ports[i], Routes: routes})
		if s == nil {
			return nil
		}
		c.nodes, c.names = append(c.nodes, s), append(c.names, name)
	}
	return c
}

func (c *cluster) dsn(bucket, query string) string {
	var hosts []string
	for _, n := range c.nodes {
		hosts = append(hosts, n.Addr())
	}
	return "nats://" + strings.Join(hosts, ",") + "/" + bucket + query
}

// leader returns the server that leads a bucket.
func (c *cluster) leader(t testing.TB, nc *nats.Conn, bucket string) *testserver.Server {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var found *testserver.Server
	eventually(t, "the bucket has a leader", func(ctx context.Context) bool {
		st, err := js.Stream(ctx, "KV_"+bucket)
		if err != nil || st.CachedInfo().Cluster == nil {
			return false
		}
		for i, name := range c.names {
			if name == st.CachedInfo().Cluster.Leader {
				found = c.nodes[i]
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
func one(s *testserver.Server) func(bucket, query string) string {
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
