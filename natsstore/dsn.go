package natsstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// dsn is what a DSN says.
type dsn struct {
	scheme         string
	hosts          []string
	user, password string
	hasPassword    bool
	bucket         string
	query          url.Values
}

const dsnShape = "nats://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…][/BUCKET][?SETTING=VALUE&…]"

// parseDSN takes a DSN apart. No error holds any of it but the names of its
// settings, since a password may stand where none belongs.
func parseDSN(s string) (*dsn, error) {
	d := &dsn{}
	malformed := errors.New("natsstore: the DSN is malformed: it should be " + dsnShape)
	var rest string
	var ok bool
	if d.scheme, rest, ok = strings.Cut(s, "://"); !ok || d.scheme != "nats" && d.scheme != "tls" {
		return nil, malformed
	}
	rest, query, _ := strings.Cut(rest, "?")
	var err error
	if d.query, err = url.ParseQuery(query); err != nil {
		return nil, malformed
	}
	// A password may hold a slash where it was not escaped; hosts hold no @.
	hosts := rest
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		user, password, has := strings.Cut(rest[:i], ":")
		if d.user, err = url.PathUnescape(user); err != nil {
			return nil, malformed
		}
		if d.password, err = url.PathUnescape(password); err != nil {
			return nil, malformed
		}
		d.hasPassword, hosts = has, rest[i+1:]
	}
	hosts, d.bucket, _ = strings.Cut(hosts, "/")
	if strings.Contains(d.bucket, "/") {
		return nil, malformed
	}
	for h := range strings.SplitSeq(hosts, ",") {
		if h == "" || strings.ContainsAny(h, " @?#") {
			return nil, malformed
		}
		d.hosts = append(d.hosts, h)
	}
	for name := range d.query {
		switch name {
		case "tls", "ca", "cert", "key", "creds", "domain", "replicas", "max_bytes", "sync", "discover":
		default:
			return nil, errors.New("natsstore: the DSN has a setting that nobody knows: there are tls, ca, cert, key, creds, domain, replicas, max_bytes, sync and discover")
		}
	}
	return d, nil
}

func (d *dsn) bool(name string, otherwise bool) (bool, error) {
	v := d.query.Get(name)
	if v == "" {
		return otherwise, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("natsstore: the DSN's %s should be true or false", name)
	}
	return b, nil
}

// OptionsOf returns a copy of o, which may be nil, with what a DSN says of the
// bucket: its name (the DSN's path), and the settings domain, replicas, max_bytes
// (in bytes), and sync=always, for [Options.SyncAlways].
func OptionsOf(dsn string, o *Options) (*Options, error) {
	d, err := parseDSN(dsn)
	if err != nil {
		return nil, err
	}
	var f Options
	if o != nil {
		f = *o
	}
	if d.bucket != "" {
		f.Bucket = d.bucket
	}
	if v := d.query.Get("domain"); v != "" {
		f.Domain = v
	}
	if v := d.query.Get("replicas"); v != "" {
		if f.Replicas, err = strconv.Atoi(v); err != nil {
			return nil, errors.New("natsstore: the DSN's replicas should be 1, 3 or 5")
		}
	}
	if v := d.query.Get("max_bytes"); v != "" {
		if f.MaxBytes, err = strconv.ParseInt(v, 10, 64); err != nil || f.MaxBytes < 0 {
			return nil, errors.New("natsstore: the DSN's max_bytes should be a number of bytes")
		}
	}
	switch v := d.query.Get("sync"); v {
	case "":
	case "always":
		f.SyncAlways = true
	default:
		return nil, errors.New("natsstore: the DSN's sync can only be always")
	}
	if _, err := f.filled(); err != nil {
		return nil, err
	}
	return &f, nil
}

// Connect makes a connection to the servers that a DSN names,
//
//	nats://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…][/BUCKET][?SETTING=VALUE&…]
//
// with tls:// in the place of nats:// for TLS. A user without a password is a
// token. The settings for connections are tls=true; ca, the file of the
// authority's certificate; cert and key, the files of the client's own; creds, a
// credentials file; and discover=false, which stays with the servers named instead
// of those that they tell of. The rest are for [OptionsOf].
//
// The connection is made again whenever it breaks, and holds nothing back to be
// sent then. The caller closes it. No error holds the password.
func Connect(ctx context.Context, dsn string) (*nats.Conn, error) {
	d, err := parseDSN(dsn)
	if err != nil {
		return nil, err
	}
	discover, err := d.bool("discover", true)
	if err != nil {
		return nil, err
	}
	secure, err := d.bool("tls", d.scheme == "tls")
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	limit := 5 * time.Second
	if end, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(end))
	}
	opts := []nats.Option{
		nats.Name("idem"),
		nats.Timeout(limit),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 200*time.Millisecond),
		// What cannot be sent at once is not sent.
		nats.ReconnectBufSize(-1),
		// A server that hangs is given up for another after so long.
		nats.PingInterval(3 * time.Second),
		nats.MaxPingsOutstanding(2),
		// Without a handler the client prints what goes wrong; the calls say it.
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}
	if !discover {
		opts = append(opts, nats.IgnoreDiscoveredServers())
	}
	switch {
	case d.hasPassword:
		opts = append(opts, nats.UserInfo(d.user, d.password))
	case d.user != "":
		opts = append(opts, nats.Token(d.user))
	}
	if file := d.query.Get("creds"); file != "" {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("natsstore: the DSN's creds: %w", err)
		}
		opts = append(opts, nats.UserCredentials(file))
	}
	if secure {
		config, err := d.tls()
		if err != nil {
			return nil, err
		}
		opts = append(opts, nats.Secure(config))
	}
	nc, err := nats.Connect(strings.Join(d.hosts, ","), opts...)
	if err != nil {
		return nil, fmt.Errorf("natsstore: connect: %w: is the server running, and are the address, user and password right?", err)
	}
	return nc, nil
}

func (d *dsn) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if file := d.query.Get("ca"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("natsstore: the DSN's ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("natsstore: the DSN's ca holds no certificate")
		}
	}
	cert, key := d.query.Get("cert"), d.query.Get("key")
	if (cert == "") != (key == "") {
		return nil, errors.New("natsstore: the DSN's cert and key go together")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("natsstore: the DSN's cert and key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// Open is [Connect] and [New] in one, with the options that [OptionsOf] makes of
// the DSN and o. Closing the store closes the connection.
func Open(ctx context.Context, dsn string, o *Options) (*Store, error) {
	opts, err := OptionsOf(dsn, o)
	if err != nil {
		return nil, err
	}
	nc, err := Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	s, err := New(ctx, nc, opts)
	if err != nil {
		nc.Close()
		return nil, err
	}
	s.closeConn = true
	return s, nil
}
