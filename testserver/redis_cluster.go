package testserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// busDistance is how far the port on which the servers of a cluster talk to each
// other is from that for clients.
const busDistance = 10000

// slots is how many hash slots a cluster has.
const slots = 16384

// RedisCluster starts a cluster of three masters, without replicas, and waits
// until each of them says that it is whole. Settings are for each of them. The DSN is
// that of the first, with the others' addresses as addr: redis://host:port/0?addr=….
func RedisCluster(o *Options) (*Server, error) {
	prog, err := redisProgram("redis-cluster", map[string]string{
		"cluster-enabled": "yes", "cluster-config-file": "nodes.conf", "cluster-node-timeout": "2000",
	}, o)
	if err != nil {
		return nil, err
	}
	one := func() (*Server, error) {
		return start(prog, startDetails{jemalloc: true, distance: []int{busDistance}})
	}
	nodes, err := startAll(one, one, one)
	if err != nil {
		return nil, err
	}
	g := Group("redis cluster", "", func(ctx context.Context) error { return clusterWhole(ctx, nodes) }, nodes...)
	g.dsn = redisDSN(g.addrs, nil)
	if err := joinCluster(context.Background(), nodes); err != nil {
		return nil, errors.Join(err, g.Stop())
	}
	if err := g.Await(); err != nil {
		return nil, errors.Join(err, g.Stop())
	}
	return g, nil
}

// joinCluster gives each server its third of the slots, and makes them meet.
func joinCluster(ctx context.Context, nodes []*Server) error {
	for i, n := range nodes {
		args := []string{"CLUSTER", "ADDSLOTS"}
		for s := i * slots / len(nodes); s < (i+1)*slots/len(nodes); s++ {
			args = append(args, strconv.Itoa(s))
		}
		if _, err := redisCall(ctx, n.Addr(), args...); err != nil {
			return err
		}
		// Servers that meet with the same epoch quarrel about slots first.
		if _, err := redisCall(ctx, n.Addr(), "CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1)); err != nil {
			return err
		}
	}
	for _, n := range nodes[1:] {
		host, port, err := net.SplitHostPort(n.Addr())
		if err != nil {
			return err
		}
		if _, err := redisCall(ctx, nodes[0].Addr(), "CLUSTER", "MEET", host, port); err != nil {
			return err
		}
	}
	return nil
}

// clusterWhole reports that each server knows the others and all slots, and
// that none of those is in doubt.
func clusterWhole(ctx context.Context, nodes []*Server) error {
	for _, n := range nodes {
		info, err := redisCall(ctx, n.Addr(), "CLUSTER", "INFO")
		if err != nil {
			return err
		}
		for _, want := range []string{"cluster_state:ok", fmt.Sprintf("cluster_slots_ok:%d", slots), fmt.Sprintf("cluster_known_nodes:%d", len(nodes))} {
			if !strings.Contains(info, want+"\r\n") {
				return fmt.Errorf("%s: not %s", n.Addr(), want)
			}
		}
	}
	return nil
}

// redisDSN names several servers in one DSN.
func redisDSN(addrs []string, query url.Values) string {
	if query == nil {
		query = url.Values{}
	}
	query["addr"] = addrs[1:]
	return "redis://" + addrs[0] + "/0?" + strings.ReplaceAll(query.Encode(), "%3A", ":")
}

// MasterSet is the name by which the sentinels of RedisSentinel know their master.
const MasterSet = "mymaster"

// A SentinelSet is a master, its replica, and three sentinels that put the replica
// in the master's place when it has been gone for a second.
type SentinelSet struct {
	*Server
	data      []*Server
	sentinels []*Server
}

// RedisSentinel starts a master, a replica and three sentinels, and waits until the
// sentinels know each other and the replica. Settings are for the master and the
// replica. Addrs are the sentinels'; the DSN is
// redis://host:port/0?addr=…&master_set=mymaster, with their addresses.
func RedisSentinel(o *Options) (*SentinelSet, error) {
	prog, err := redisProgram("redis-master", nil, o)
	if err != nil {
		return nil, err
	}
	master, err := start(prog, startDetails{jemalloc: true})
	if err != nil {
		return nil, err
	}
	set := &SentinelSet{data: []*Server{master}}
	fail := func(err error) (*SentinelSet, error) {
		for _, s := range append(set.data, set.sentinels...) {
			err = errors.Join(err, s.Stop())
		}
		return nil, err
	}
	prog, err = redisProgram("redis-replica", map[string]string{"replicaof": "127.0.0.1 " + master.Port()}, o)
	if err != nil {
		return fail(err)
	}
	replica, err := start(prog, startDetails{jemalloc: true})
	if err != nil {
		return fail(err)
	}
	set.data = append(set.data, replica)
	sentinel := func() (*Server, error) { return startSentinel(master.Port()) }
	if set.sentinels, err = startAll(sentinel, sentinel, sentinel); err != nil {
		return fail(err)
	}
	set.Server = Group("redis sentinel", "", set.whole, append(append([]*Server{}, set.data...), set.sentinels...)...)
	set.addrs = nil
	for _, s := range set.sentinels {
		set.addrs = append(set.addrs, s.Addr())
	}
	set.dsn = redisDSN(set.addrs, url.Values{"master_set": {MasterSet}})
	if err := set.Await(); err != nil {
		return fail(err)
	}
	return set, nil
}

func startSentinel(masterPort string) (*Server, error) {
	server, err := program(nil, "redis-server", "valkey-server")
	if err != nil {
		return nil, err
	}
	return start(Program{
		Name: "redis-sentinel",
		Args: []string{server, "{dir}/redis.conf", "--sentinel"},
		Prepare: func(dir, port string) error {
			return configureRedis(dir, map[string]string{
				"bind": "127.0.0.1", "port": port, "dir": "data", "daemonize": "no",
				"sentinel": "monitor " + MasterSet + " 127.0.0.1 " + masterPort + " 2\n" +
					"sentinel down-after-milliseconds " + MasterSet + " 1000\n" +
					"sentinel failover-timeout " + MasterSet + " 4000",
			})
		},
		Answers: redisAnswers,
	}, startDetails{jemalloc: true})
}

// whole reports that the sentinels know each other and a replica that follows.
func (s *SentinelSet) whole(ctx context.Context) error {
	for _, n := range s.sentinels {
		info, err := redisCall(ctx, n.Addr(), "INFO", "sentinel")
		if err != nil {
			return err
		}
		if !strings.Contains(info, "status=ok,") || !strings.Contains(info, ",slaves=1,sentinels=3") {
			return fmt.Errorf("sentinel %s does not know all the others", n.Addr())
		}
	}
	m, err := s.Master()
	if err != nil {
		return err
	}
	for _, n := range s.data {
		if n == m {
			continue
		}
		info, err := redisCall(ctx, n.Addr(), "INFO", "replication")
		if err != nil {
			return err
		}
		if !strings.Contains(info, "master_link_status:up") {
			return errors.New("the replica does not follow yet")
		}
	}
	return nil
}

// Master returns the server that says it is the master, of those that answer. After
// a failover that is the former replica, and the former master becomes a
// replica when it is started again.
func (s *SentinelSet) Master() (*Server, error) {
	var masters []*Server
	for _, n := range s.data {
		role, err := redisCall(context.Background(), n.Addr(), "INFO", "replication")
		if err == nil && strings.Contains(role, "role:master") {
			masters = append(masters, n)
		}
	}
	if len(masters) != 1 {
		return nil, fmt.Errorf("testserver: %d of the servers say that they are the master", len(masters))
	}
	return masters[0], nil
}

// Data returns the master and the replica, in the order of their start.
func (s *SentinelSet) Data() []*Server { return s.data }

// Sentinels returns the sentinels.
func (s *SentinelSet) Sentinels() []*Server { return s.sentinels }

// KillMaster kills the master, waits until the replica has taken its place, and
// returns the killed server, which can be started again.
func (s *SentinelSet) KillMaster() (*Server, error) {
	master, err := s.Master()
	if err != nil {
		return nil, err
	}
	if err := master.Kill(); err != nil {
		return nil, err
	}
	err = until("failover", func(ctx context.Context) error {
		now, err := s.Master()
		if err != nil {
			return err
		}
		if now == master {
			return errors.New("the replica is none yet")
		}
		return s.agreed(ctx, now)
	})
	return master, err
}

// agreed reports that every sentinel names the server as the master.
func (s *SentinelSet) agreed(ctx context.Context, master *Server) error {
	for _, n := range s.sentinels {
		info, err := redisCall(ctx, n.Addr(), "INFO", "sentinel")
		if err != nil {
			return err
		}
		if !strings.Contains(info, "address="+master.Addr()+",") {
			return fmt.Errorf("sentinel %s names another master", n.Addr())
		}
	}
	return nil
}
