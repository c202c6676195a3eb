package redisstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

const dsnShape = "redis://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…][/DB][?SETTING=VALUE&…]"

// dsn is what a DSN says.
type dsn struct {
	tls            bool
	addrs          []string
	user, password string
	db             int
	query          url.Values
}

// parseDSN takes a DSN apart. No error holds any of it but the names of its
// settings, since a password may stand where none belongs.
func parseDSN(s string) (*dsn, error) {
	malformed := errors.New("redisstore: the DSN is malformed: it should be " + dsnShape)
	scheme, rest, ok := strings.Cut(s, "://")
	d := &dsn{}
	switch {
	case !ok:
		return nil, malformed
	case scheme == "rediss" || scheme == "valkeys":
		d.tls = true
	case scheme != "redis" && scheme != "valkey":
		return nil, malformed
	}
	rest, query, _ := strings.Cut(rest, "?")
	var err error
	if d.query, err = url.ParseQuery(query); err != nil {
		return nil, malformed
	}
	// A password may hold a slash or an @ where it was not escaped; hosts do not.
	credentials, hosts := "", rest
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		credentials, hosts = rest[:i], rest[i+1:]
	}
	user, password, has := strings.Cut(credentials, ":")
	if d.user, err = url.PathUnescape(user); err != nil {
		return nil, malformed
	}
	if d.password, err = url.PathUnescape(password); err != nil {
		return nil, malformed
	}
	if credentials != "" && !has {
		return nil, errors.New("redisstore: the DSN has a user without a password; write redis://:PASSWORD@HOST for a password alone")
	}
	hosts, db, _ := strings.Cut(hosts, "/")
	if q := d.query.Get("db"); db == "" {
		db = q
	}
	if db != "" {
		if d.db, err = strconv.Atoi(db); err != nil || d.db < 0 {
			return nil, errors.New("redisstore: the DSN's database should be a number")
		}
	}
	for _, h := range append(strings.Split(hosts, ","), d.query["addr"]...) {
		addr, err := address(h)
		if err != nil {
			return nil, malformed
		}
		d.addrs = append(d.addrs, addr)
	}
	for name := range d.query {
		switch name {
		case "addr", "cluster", "sentinel", "master_set", "sentinel_user", "sentinel_password", "ca", "cert", "key", "server_name", "skip_verify",
			"protocol", "db", "dial_timeout", "timeout", "client_name", "prefix", "wait_replicas", "wait_timeout", "partitions":
		default:
			return nil, errors.New("redisstore: the DSN has a setting that nobody knows: there are addr, cluster, sentinel, master_set, sentinel_user, " +
				"sentinel_password, ca, cert, key, server_name, skip_verify, protocol, db, dial_timeout, timeout, client_name, prefix, " +
				"wait_replicas, wait_timeout and partitions")
		}
	}
	return d, nil
}

func address(h string) (string, error) {
	if h == "" || strings.ContainsAny(h, " @?#/") {
		return "", errors.New("no host")
	}
	host, port, err := net.SplitHostPort(h)
	if err != nil {
		host, port = strings.Trim(h, "[]"), "6379"
		if strings.Contains(host, ":") != strings.HasPrefix(h, "[") {
			return "", errors.New("no port")
		}
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || host == "" {
		return "", errors.New("no port")
	}
	return net.JoinHostPort(host, port), nil
}

func (d *dsn) bool(name string, otherwise bool) (bool, error) {
	v := d.query.Get(name)
	if v == "" {
		return otherwise, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("redisstore: the DSN's %s should be true or false", name)
	}
	return b, nil
}

func (d *dsn) duration(name string, otherwise time.Duration) (time.Duration, error) {
	v := d.query.Get(name)
	if v == "" {
		return otherwise, nil
	}
	t, err := time.ParseDuration(v)
	if err != nil || t <= 0 {
		return 0, fmt.Errorf("redisstore: the DSN's %s should be a duration, such as 5s", name)
	}
	return t, nil
}

// OptionsOf returns a copy of o, which may be nil, with what a DSN says of the
// store: the settings prefix, wait_replicas, wait_timeout and partitions are
// fields of [Options].
func OptionsOf(dsn string, o *Options) (*Options, error) {
	d, err := parseDSN(dsn)
	if err != nil {
		return nil, err
	}
	var f Options
	if o != nil {
		f = *o
	}
	if v := d.query.Get("prefix"); v != "" {
		f.Prefix = v
	}
	for name, n := range map[string]*int{"wait_replicas": &f.WaitReplicas, "partitions": &f.Partitions} {
		if v := d.query.Get(name); v != "" {
			if *n, err = strconv.Atoi(v); err != nil {
				return nil, fmt.Errorf("redisstore: the DSN's %s should be a number", name)
			}
		}
	}
	if f.WaitTimeout, err = d.duration("wait_timeout", f.WaitTimeout); err != nil {
		return nil, err
	}
	if _, err := f.withDefaults(); err != nil {
		return nil, err
	}
	return &f, nil
}

// Connect makes a client for the servers that a DSN names,
//
//	redis://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…][/DB][?SETTING=VALUE&…]
//
// with rediss:// in the place of redis:// for TLS; valkey:// and valkeys:// are
// the same. A single host may be a node of a cluster, which is found out; several
// are nodes of one, or sentinels. The settings are
//
//	addr=HOST:PORT      one more host; may stand several times
//	sentinel=NAME       the hosts are sentinels that watch the master of this name;
//	                    master_set is the same
//	sentinel_user,
//	sentinel_password   for the sentinels; USER and PASSWORD are the master's
//	cluster=true        a cluster, or an error; false is a single server
//	ca                  a file with the certificates that TLS trusts; by default the system's
//	cert, key           files with the client's certificate and its key
//	server_name         the name in the server's certificate, where it is not HOST
//	skip_verify=true    TLS with whoever answers
//	protocol=2          RESP2, for what is between and knows no other
//	dial_timeout        how long a connection may take to be made; by default 3s
//	timeout             how long a server may take to answer before the connection
//	                    is given up; by default 5s
//	client_name         shown by CLIENT LIST; by default idem
//	db                  as DB
//
// and those of [OptionsOf]. Calls of many goroutines share few connections. No
// error holds the password. The client is the caller's, who closes it.
func Connect(ctx context.Context, dsn string) (rueidis.Client, error) {
	d, err := parseDSN(dsn)
	if err != nil {
		return nil, err
	}
	o, err := d.clientOption()
	if err != nil {
		return nil, err
	}
	type made struct {
		client rueidis.Client
		err    error
	}
	got := make(chan made, 1)
	go func() {
		c, err := rueidis.NewClient(o)
		got <- made{c, err}
	}()
	select {
	case m := <-got:
		if m.err != nil {
			return nil, d.explain(ctx, m.err)
		}
		if err := d.accepts(m.client); err != nil {
			m.client.Close()
			return nil, err
		}
		return m.client, nil
	case <-ctx.Done():
		go func() { // ends with the dial's own timeout
			if m := <-got; m.err == nil {
				m.client.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// accepts looks whether the client is of the kind that the DSN asks for.
func (d *dsn) accepts(c rueidis.Client) error {
	cluster := c.Mode() == rueidis.ClientModeCluster
	if cluster && d.db != 0 {
		return errors.New("redisstore: a cluster has no databases; leave the number out of the DSN")
	}
	if wants, _ := d.bool("cluster", false); wants && !cluster {
		return errors.New("redisstore: the server is not part of a cluster, but the DSN says cluster=true")
	}
	return nil
}

// explain says why there is no client. A server that does not know a command
// repeats it, with the password in it.
func (d *dsn) explain(ctx context.Context, err error) error {
	for _, secret := range []string{d.password, d.query.Get("sentinel_password")} {
		if secret != "" && strings.Contains(err.Error(), secret) {
			return errors.New("redisstore: the server refuses the commands by which a client signs in; idem needs Redis 6.2 or newer")
		}
	}
	if strings.Contains(err.Error(), "cluster support disabled") && len(d.addrs) > 1 {
		return errors.New("redisstore: the DSN names several hosts, which are not a cluster; name one, or add sentinel=NAME where they are sentinels")
	}
	return explain(ctx, err)
}

func (d *dsn) clientOption() (o rueidis.ClientOption, err error) {
	o = rueidis.ClientOption{
		InitAddress: d.addrs, Username: d.user, Password: d.password, SelectDB: d.db,
		ClientName:   or(d.query.Get("client_name"), "idem"),
		DisableCache: true, // the store reads nothing that may be old
		// Room for the calls of many goroutines while a server does not answer.
		RingScaleEachConn: 12,
	}
	if o.Dialer.Timeout, err = d.duration("dial_timeout", 3*time.Second); err != nil {
		return o, err
	}
	if o.ConnWriteTimeout, err = d.duration("timeout", 5*time.Second); err != nil {
		return o, err
	}
	switch d.query.Get("protocol") {
	case "", "3":
	case "2":
		o.AlwaysRESP2 = true
	default:
		return o, errors.New("redisstore: the DSN's protocol should be 2 or 3")
	}
	cluster, err := d.bool("cluster", true)
	if err != nil {
		return o, err
	}
	o.ForceSingleClient = !cluster
	if o.TLSConfig, err = d.tlsConfig(); err != nil {
		return o, err
	}
	o.ClusterOption.ShardsRefreshInterval = 10 * time.Second
	if name := or(d.query.Get("sentinel"), d.query.Get("master_set")); name != "" {
		o.Sentinel = rueidis.SentinelOption{
			MasterSet: name, Username: d.query.Get("sentinel_user"), Password: d.query.Get("sentinel_password"),
			Dialer: o.Dialer, TLSConfig: o.TLSConfig, TopologyRefreshInterval: 5 * time.Second,
		}
	} else if !cluster && len(d.addrs) > 1 {
		return o, errors.New("redisstore: the DSN names several hosts, but says cluster=false")
	}
	return o, nil
}

func (d *dsn) tlsConfig() (*tls.Config, error) {
	skip, err := d.bool("skip_verify", false)
	if err != nil {
		return nil, err
	}
	ca, cert, key := d.query.Get("ca"), d.query.Get("cert"), d.query.Get("key")
	if !d.tls {
		if ca+cert+key+d.query.Get("server_name") != "" || skip {
			return nil, errors.New("redisstore: the DSN has settings for TLS; write rediss:// to have it")
		}
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: d.query.Get("server_name"), InsecureSkipVerify: skip}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("redisstore: the file of the authority's certificate (ca): %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("redisstore: the file of the authority's certificate (ca) holds none")
		}
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("redisstore: the client's certificate (cert and key): %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
