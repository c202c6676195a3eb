package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
)

// node is what a server says of itself. What it does not say is missing.
type node struct {
	addr string
	info map[string]string
	// config are the settings that INFO does not tell; empty where the user may
	// not read them.
	config map[string]string
}

// configNames are read one by one: servers before version 7 take no more at once.
func configNames() []string {
	return []string{"appendfsync", "min-replicas-to-write", "cluster-require-full-coverage"}
}

// readNodes asks every server that a client knows about itself.
func readNodes(ctx context.Context, c rueidis.Client) (nodes []node, err error) {
	_, err = ask(ctx, func() (rueidis.RedisMessage, error) {
		// Which servers there are may have changed when this is done again.
		var err error
		nodes, err = readNodesOnce(ctx, c)
		return rueidis.RedisMessage{}, err
	})
	if err != nil {
		return nil, explain(ctx, err)
	}
	slices.SortFunc(nodes, func(a, b node) int { return strings.Compare(a.addr, b.addr) })
	return nodes, nil
}

// readNodesOnce fails where no server answers. A replica of a cluster may be
// away; a master that is, is noticed by whoever needs it.
func readNodesOnce(ctx context.Context, c rueidis.Client) (nodes []node, first error) {
	first = errors.New("no server is known")
	for addr, n := range c.Nodes() {
		text, err := n.Do(ctx, n.B().Info().Build()).ToString()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if _, refused := rueidis.IsRedisErr(err); err != nil && !refused || err != nil && transient(err) {
			first = err
			continue
		}
		nd := node{addr: addr, info: map[string]string{}, config: map[string]string{}}
		for line := range strings.Lines(text) {
			if name, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
				nd.info[name] = v
			}
		}
		for _, name := range configNames() {
			if m, err := n.Do(ctx, n.B().ConfigGet().Parameter(name).Build()).AsStrMap(); err == nil {
				if v, ok := m[name]; ok {
					nd.config[name] = v
				}
			}
		}
		nodes = append(nodes, nd)
	}
	if len(nodes) == 0 {
		return nil, first
	}
	return nodes, nil
}

func (n *node) replica() bool { return n.info["role"] == "slave" }

func (n *node) number(name string) int {
	v, err := strconv.Atoi(n.info[name])
	if err != nil {
		return 0
	}
	return v
}

func durable(nodes []node) bool {
	for _, n := range nodes {
		if n.replica() || n.info["aof_enabled"] != "1" || n.config["appendfsync"] != "always" || n.number("connected_slaves") > 0 {
			return false
		}
	}
	return true
}

// judge says what the servers' settings mean for the promise. A replica counts
// as well, since it may take its master's place.
func judge(nodes []node, mode rueidis.ClientMode, waits int) []driver.Finding {
	var f findings
	several := len(nodes) > 1
	for i := range nodes {
		n := &nodes[i]
		f.at = ""
		if several {
			f.at = n.addr
		}
		f.version(n)
		f.role(n, mode)
		f.eviction(n)
		f.persistence(n)
		f.replication(n, waits)
	}
	f.at = ""
	if mode == rueidis.ClientModeCluster {
		f.cluster(nodes)
	}
	return f.found
}

// findings collects what was found; at is the server, where there are several.
type findings struct {
	found []driver.Finding
	at    string
}

func (f *findings) note(s driver.Severity, subject, found, means, remedy string) {
	if s == driver.SeverityOK {
		means, remedy = "", ""
	}
	if f.at != "" {
		subject += " of " + f.at
	}
	f.found = append(f.found, driver.Finding{Severity: s, Subject: subject, Found: found, Means: means, Remedy: remedy})
}

func when(bad bool, s driver.Severity) driver.Severity {
	if bad {
		return s
	}
	return driver.SeverityOK
}

func (f *findings) version(n *node) {
	v, name := n.info["redis_version"], "redis_version"
	if valkey := n.info["valkey_version"]; valkey != "" {
		v, name = valkey, "valkey_version"
	}
	if v == "" {
		f.note(driver.SeverityUnknown, "INFO", "refused", "The server does not tell its settings, so nobody knows whether it evicts keys, and what it has on its disk.",
			"Allow the user the command INFO, and see that maxmemory-policy is noeviction.")
		return
	}
	var major, minor int
	if _, err := fmt.Sscanf(v, "%d.%d", &major, &minor); err != nil {
		f.note(driver.SeverityUnknown, name, v, "The version cannot be read.", "Use Redis 6.2 or newer, or Valkey.")
		return
	}
	f.note(when(major < 6 || major == 6 && minor < 2, driver.SeverityError), name, v, "The store needs Redis 6.2 or newer.", "Upgrade the server.")
}

func (f *findings) role(n *node, mode rueidis.ClientMode) {
	if mode == rueidis.ClientModeCluster {
		return
	}
	f.note(when(n.replica(), driver.SeverityError), "role", or(n.info["role"], "unknown"),
		"The server is a replica, which takes no writes.", "Connect to its master, or through its sentinels (sentinel=NAME in the DSN).")
}

// eviction refuses every policy but noeviction: the volatile ones too, though the
// records have no time to live, because such a server is run as one that may
// forget, and whether there is a maxmemory or not, because one may be set later.
func (f *findings) eviction(n *node) {
	policy := n.info["maxmemory_policy"]
	if policy == "" {
		if n.info["redis_version"] != "" {
			f.note(driver.SeverityUnknown, "maxmemory-policy", "", "The server does not say whether it evicts keys; if it does, work can run twice.",
				"See that it is noeviction.")
		}
		return
	}
	f.note(when(policy != "noeviction", driver.SeverityError), "maxmemory-policy", policy,
		"A server that drops keys when its memory is full forgets what was done, and the work runs again.",
		"Set maxmemory-policy noeviction (CONFIG SET, and in its configuration file); use another server for caches.")
	if most := n.number("maxmemory"); policy == "noeviction" && most > 0 {
		used := n.number("used_memory")
		f.note(when(used > most/10*9, driver.SeverityWarning), "used_memory", fmt.Sprintf("%d of %d bytes", used, most),
			"The memory is nearly full; new claims are refused once it is.", "Give the server more memory, or keep results for less long.")
	}
}

func (f *findings) persistence(n *node) {
	aof, known := n.info["aof_enabled"]
	fsync := n.config["appendfsync"]
	switch {
	case !known:
	case aof != "1":
		f.note(driver.SeverityWarning, "appendonly", "no",
			"A restart or a crash of the server forgets what was acknowledged since the last snapshot, or all of it: such work can run twice.",
			"Set appendonly yes and appendfsync always.")
	case fsync == "":
		f.note(driver.SeverityUnknown, "appendfsync", "", "The server does not say when it syncs its disk.",
			"See that appendfsync is always, or allow the user CONFIG GET.")
	default:
		f.note(when(fsync != "always", driver.SeverityWarning), "appendfsync", fsync,
			"A power cut forgets what was acknowledged in the last second or more: such work can run twice.", "Set appendfsync always.")
	}
	if v, ok := n.info["aof_last_write_status"]; ok && v != "ok" {
		f.note(driver.SeverityError, "aof_last_write_status", v, "The server could not write to its disk.", "Look at its log and its disk.")
	}
	if n.info["loading"] == "1" {
		f.note(driver.SeverityWarning, "loading", "yes", "The server still reads its data, and answers nothing.", "Wait.")
	}
}

func (f *findings) replication(n *node, waits int) {
	if n.replica() || n.info["role"] == "" {
		return
	}
	replicas := n.number("connected_slaves")
	switch {
	case replicas == 0 && waits > 0:
		f.note(driver.SeverityError, "connected_slaves", "0", "The store is to wait for replicas (WaitReplicas), and there are none: every claim fails.",
			"Start them, or leave WaitReplicas out.")
	case replicas == 0:
		f.note(driver.SeverityOK, "connected_slaves", "0", "", "")
	case waits == 0:
		f.note(driver.SeverityWarning, "connected_slaves", strconv.Itoa(replicas),
			"The server replicates after it has answered: a failover can forget claims and results that were acknowledged last, and such work can run twice.",
			"Set WaitReplicas (wait_replicas in the DSN) to narrow that, at a price, or keep what must not run twice in a store that commits to several machines.")
	default:
		f.note(when(replicas < waits, driver.SeverityError), "connected_slaves", strconv.Itoa(replicas),
			"There are fewer replicas than WaitReplicas asks for: every claim fails.", "Start them.")
		f.note(driver.SeverityWarning, "failover", "asynchronous",
			"Calls wait for replicas, yet a failover to another replica than those can forget what was acknowledged.",
			"Let WaitReplicas be the number of all replicas.")
	}
	if least, ok := n.config["min-replicas-to-write"]; ok && replicas > 0 {
		f.note(when(least == "0", driver.SeverityWarning), "min-replicas-to-write", least,
			"A master that was cut off goes on to acknowledge claims, which are forgotten when it comes back.", "Set min-replicas-to-write 1.")
	}
}

func (f *findings) cluster(nodes []node) {
	for i := range nodes {
		if v, ok := nodes[i].config["cluster-require-full-coverage"]; ok {
			// With it a cluster that lost a part refuses everything; without, the
			// keys of the other parts go on. Neither forgets anything.
			f.note(driver.SeverityOK, "cluster-require-full-coverage", v, "", "")
			return
		}
	}
}

// Check looks at everything that keeps or breaks the promise: whether the servers
// answer and take scripts, whether they were made ready, and what their settings
// mean, each with what to do about it. An error is returned only where nothing
// could be asked.
func Check(ctx context.Context, c rueidis.Client, o *Options) ([]driver.Finding, error) {
	set, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	nodes, err := readNodes(ctx, c)
	if err != nil {
		return nil, err
	}
	f := findings{found: judge(nodes, c.Mode(), set.WaitReplicas)}
	partitions, err := readFormat(ctx, c, set.Prefix)
	switch {
	case err != nil:
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		f.note(driver.SeverityError, "format", "unreadable", "The records cannot be used: "+err.Error()+".", "Run the version of idem that made them, or 'idem store migrate'.")
	case partitions == 0:
		f.note(driver.SeverityError, "format", "missing", "The server has not been made ready for the prefix "+strconv.Quote(set.Prefix)+".", "Run 'idem store migrate'.")
	default:
		f.note(driver.SeverityOK, "format", fmt.Sprintf("%d, %d partitions", formatVersion, partitions), "", "")
	}
	if c.Mode() == rueidis.ClientModeCluster {
		f.clusterState(ctx, c)
	}
	f.scripting(ctx, c, set.Prefix)
	return f.found, ctx.Err()
}

func (f *findings) clusterState(ctx context.Context, c rueidis.Client) {
	m, err := askOf(ctx, c, func(b rueidis.Builder) rueidis.Completed { return b.ClusterInfo().Build() })
	text := ""
	if err == nil {
		text, err = m.ToString()
	}
	state := "unknown"
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "cluster_state:"); ok {
			state = v
		}
	}
	if err != nil || state == "unknown" {
		f.note(driver.SeverityUnknown, "cluster_state", state, "The cluster does not say how it is.", "Allow the user the command CLUSTER INFO.")
		return
	}
	f.note(when(state != "ok", driver.SeverityError), "cluster_state", state, "A part of the keys has no master: claims of those fail.", "Mend the cluster (redis-cli --cluster check).")
}

// scripting tries what the store does: a script that writes, and a message to
// its channel.
func (f *findings) scripting(ctx context.Context, c rueidis.Client, prefix string) {
	const text = "redis.call('SET', KEYS[1], '1', 'PX', 60000) redis.call('TIME') return redis.call('UNLINK', KEYS[1])"
	_, err := askOf(ctx, c, func(b rueidis.Builder) rueidis.Completed {
		return b.Eval().Script(text).Numkeys(1).Key(formatKey(prefix) + ":ping").Build()
	})
	if err == nil {
		f.note(driver.SeverityOK, "scripts", "run", "", "")
	} else if ctx.Err() == nil {
		f.note(driver.SeverityError, "scripts", "refused", "The store is made of scripts that write: "+explain(ctx, err).Error()+".",
			"Allow the user @scripting, @read and @write on the keys of the prefix.")
	}
	_, err = askOf(ctx, c, func(b rueidis.Builder) rueidis.Completed {
		return b.Publish().Channel(prefix + "ended").Message("").Build()
	})
	if err == nil {
		f.note(driver.SeverityOK, "notifications", "published", "", "")
	} else if ctx.Err() == nil {
		f.note(driver.SeverityWarning, "notifications", "refused", "Whoever waits for a claim is not told of its end, and polls.",
			"Allow the user @pubsub on the channels of the prefix (&"+prefix+"*).")
	}
}

// recheck looks again whether the servers may keep records, and are those that
// were made ready: somebody may have changed a setting, or flushed everything.
func (s *Store) recheck(ctx context.Context) error {
	nodes, err := readNodes(ctx, s.client)
	if err != nil {
		return nil //nolint:nilerr // whoever calls the store learns that it does not answer
	}
	for _, f := range judge(nodes, s.client.Mode(), s.opts.WaitReplicas) {
		if f.Severity == driver.SeverityError {
			return fmt.Errorf("redisstore: %s is %s: %s %s", f.Subject, f.Found, f.Means, f.Remedy)
		}
	}
	partitions, err := readFormat(ctx, s.client, s.opts.Prefix)
	switch {
	case err == nil && partitions == 0:
		return errors.New("redisstore: what Migrate wrote is gone: somebody has flushed the server, or it came back without its data, and what was done is forgotten")
	case err == nil && partitions != len(s.layout.indexes):
		return errors.New("redisstore: somebody has made the server ready for another number of partitions")
	}
	return nil
}
