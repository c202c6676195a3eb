package redisstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/redisstore"
	"github.com/idem-go/idem/testserver"
)

var cluster = &lazy{name: "redis-cluster", start: func() (*testserver.Server, error) { return testserver.RedisCluster(nil) }}

func onCluster(t testing.TB) (*testserver.Server, rueidis.Client) {
	t.Helper()
	server := cluster.get(t)
	if server == nil {
		return nil, nil
	}
	client := connect(t, server.DSN())
	if client.Mode() != rueidis.ClientModeCluster || len(client.Nodes()) != 3 {
		t.Fatalf("the client is for a %s of %d", client.Mode(), len(client.Nodes()))
	}
	return server, client
}

func TestClusterConformance(t *testing.T) {
	server, client := onCluster(t)
	if server == nil {
		return
	}
	o := small()
	o.Partitions = 16
	drivertest.Run(t, harness(client, o))
}

func TestClusterModel(t *testing.T) {
	server, client := onCluster(t)
	if server == nil {
		return
	}
	o := small()
	o.Partitions = 16
	drivertest.RunModel(t, harness(client, o), &drivertest.ModelOptions{Histories: 3, Keys: 8})
}

func TestClusterLinearizableAcrossProcesses(t *testing.T) {
	server, _ := onCluster(t)
	if server == nil {
		return
	}
	acrossProcesses(t, server.DSN())
}

// Records are on all masters, and are counted and listed over all of them.
func TestClusterSpreads(t *testing.T) {
	server, client := onCluster(t)
	if server == nil {
		return
	}
	b := newBed(t, client, redisstore.Options{SweepEvery: -1})
	const n = 300
	for i := range n {
		req := request(fmt.Sprint(i))
		complete(t, b, grant(t, b, req), completion(req, "r"))
	}
	st, err := b.Stats(t.Context())
	must(t, err)
	if st.Completed != n {
		t.Errorf("%d records are counted", st.Completed)
	}
	seen := map[driver.Key]bool{}
	for q := (driver.Query{Limit: 70}); ; {
		page, err := b.List(t.Context(), q)
		must(t, err)
		for _, rec := range page.Records {
			seen[rec.Key] = true
		}
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	if len(seen) != n {
		t.Errorf("%d records are listed", len(seen))
	}
	for addr, node := range client.Nodes() {
		keys, err := node.Do(t.Context(), node.B().Dbsize().Build()).ToInt64()
		must(t, err)
		if keys < n/6 {
			t.Errorf("%s has %d keys", addr, keys)
		}
	}
	findings, err := redisstore.Check(t.Context(), client, &b.opts)
	must(t, err)
	for _, f := range findings {
		if f.Severity >= driver.SeverityWarning {
			t.Errorf("found: %+v", f)
		}
	}
	if !b.Describe().Durable {
		t.Error("masters without replicas that sync at each command are durable")
	}
}

// While a master is away the keys of the others go on where the cluster allows
// it, and every call ends by its context.
func TestClusterLosesAMaster(t *testing.T) {
	server, err := testserver.RedisCluster(&testserver.Options{Settings: map[string]string{"cluster-require-full-coverage": "no", "cluster-node-timeout": "1000"}})
	if !testserver.Need(t, "redis-cluster", err) {
		return
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	b := newBed(t, connect(t, server.DSN()), redisstore.Options{SweepEvery: -1, MaxUnknown: -1})
	refs := map[string]driver.Ref{}
	for i := range 60 {
		refs[fmt.Sprint(i)] = grant(t, b, request(fmt.Sprint(i)))
	}
	away := server.Nodes()[2]
	must(t, away.Kill())
	ok := 0
	for id, ref := range refs {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		began := time.Now()
		_, err := b.Complete(ctx, ref, completion(request(id), "r"))
		cancel()
		if err == nil {
			ok++
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("a call with 200ms took %v", took)
		}
	}
	if ok == 0 || ok == len(refs) {
		t.Errorf("%d of %d were completed; it should be about two thirds", ok, len(refs))
	}
	must(t, away.Start())
	must(t, server.Await())
	for id, ref := range refs {
		eventually(t, 20*time.Second, func() error {
			_, err := b.Complete(t.Context(), ref, completion(request(id), "r"))
			return err
		})
		if rec := state(t, b, ref.Key, driver.StateCompleted); string(rec.Result.Body) != "r" {
			t.Errorf("the result is %q", rec.Result.Body)
		}
	}
}
