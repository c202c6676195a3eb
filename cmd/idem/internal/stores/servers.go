package stores

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	natsclient "github.com/nats-io/nats.go"
	_ "github.com/ncruces/go-sqlite3/driver" // the driver "sqlite3", without cgo
	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/mysqlstore"
	"github.com/idem-go/idem/natsstore"
	"github.com/idem-go/idem/pgstore"
	"github.com/idem-go/idem/redisstore"
	"github.com/idem-go/idem/sqlitestore"
)

// sqlite is a file that processes of one machine share.
func sqlite() kind {
	e := engineOf(sqlitestore.Open, sqlitestore.Connect, (*sql.DB).Close, sqlitestore.Migrate, sqlitestore.Check,
		func(_ string, o Options) (*sqlitestore.Options, error) {
			return &sqlitestore.Options{MaxUnknown: o.MaxUnknown, MaxResult: o.MaxResult, Logger: o.Logger}, nil
		})
	// The engine makes a file that is missing, which only migrate should.
	open, check := e.open, e.check
	e.open = func(ctx context.Context, dsn string, o Options) (closer, error) {
		if err := isThere(dsn); err != nil {
			return nil, err
		}
		return open(ctx, dsn, o)
	}
	e.check = func(ctx context.Context, dsn string, o Options) ([]driver.Finding, error) {
		if err := isThere(dsn); err != nil {
			return nil, err
		}
		return check(ctx, dsn, o)
	}
	return kind{
		schemes: []string{"sqlite"},
		form:    "sqlite:FILE",
		parse: func(scheme, rest string) (DSN, error) {
			name, err := path(scheme, rest)
			switch {
			case err != nil:
				return DSN{}, err
			case strings.HasPrefix(name, ":memory:"):
				return DSN{}, errors.New("a database in memory keeps nothing, use memory: instead")
			case strings.ContainsRune(name, '?'):
				return DSN{}, errors.New("sqlite: takes no settings after a question mark")
			}
			return newDSN(scheme, scheme+":"+name, secret{text: scheme + ":" + name}), nil
		},
		engine: e,
	}
}

// isThere gives an error for a file that is missing.
func isThere(dsn string) error {
	_, err := os.Stat(strings.TrimPrefix(dsn, "sqlite:"))
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("stores: there is no such file; make it with idem store migrate")
	}
	return err
}

func postgres() kind {
	return kind{
		schemes: []string{"postgres", "postgresql"},
		form:    "postgres://USER:PASSWORD@HOST:PORT/DATABASE",
		parse: remoteParse(true, false, "host", "port", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslnegotiation",
			"application_name", "connect_timeout", "target_session_attrs", "search_path", "default_query_exec_mode",
			"pool_max_conns", "pool_min_conns", "pool_max_conn_lifetime", "pool_max_conn_idle_time"),
		engine: engineOf(pgstore.Open, pgstore.Connect, func(p *pgxpool.Pool) error { p.Close(); return nil }, pgstore.Migrate, pgstore.Check,
			func(_ string, o Options) (*pgstore.Options, error) {
				return &pgstore.Options{MaxUnknown: o.MaxUnknown, MaxResult: o.MaxResult, Logger: o.Logger}, nil
			}),
	}
}

func mysql() kind {
	return kind{
		schemes: []string{"mysql", "mariadb"},
		form:    "mysql://USER:PASSWORD@HOST:PORT/DATABASE",
		parse: remoteParse(true, false, "socket", "tls", "tls-ca", "tls-cert", "tls-key", "max-conns", "timeout", "readTimeout", "writeTimeout",
			"charset", "collation", "maxAllowedPacket", "interpolateParams", "serverPubKey"),
		engine: engineOf(mysqlstore.Open, mysqlstore.Connect, (*sql.DB).Close, mysqlstore.Migrate, mysqlstore.Check,
			func(_ string, o Options) (*mysqlstore.Options, error) {
				return &mysqlstore.Options{MaxUnknown: o.MaxUnknown, MaxResult: o.MaxResult, Logger: o.Logger}, nil
			}),
	}
}

func redis() kind {
	return kind{
		schemes: []string{"redis", "rediss", "valkey", "valkeys"},
		form:    "redis://:PASSWORD@HOST:PORT/0",
		parse: remoteParse(false, false, "cluster", "sentinel", "ca", "cert", "key", "server_name", "skip_verify", "protocol", "db",
			"dial_timeout", "timeout", "client_name", "prefix", "wait_replicas", "wait_timeout", "partitions"),
		engine: engineOf(redisstore.Open, redisstore.Connect, func(c rueidis.Client) error { c.Close(); return nil }, redisstore.Migrate, redisstore.Check,
			func(dsn string, o Options) (*redisstore.Options, error) {
				return redisstore.OptionsOf(dsn, &redisstore.Options{MaxUnknown: o.MaxUnknown, MaxResult: o.MaxResult, Logger: o.Logger})
			}),
	}
}

func nats() kind {
	return kind{
		schemes: []string{"nats", "tls"},
		form:    "nats://HOST:PORT/BUCKET",
		parse:   remoteParse(false, true, "tls", "ca", "cert", "key", "creds", "domain", "replicas", "max_bytes", "sync", "discover"),
		engine: engineOf(natsstore.Open, natsstore.Connect, func(c *natsclient.Conn) error { c.Close(); return nil }, natsstore.Migrate, natsstore.Check,
			func(dsn string, o Options) (*natsstore.Options, error) {
				return natsstore.OptionsOf(dsn, &natsstore.Options{MaxResult: o.MaxResult, Logger: o.Logger})
			}),
	}
}
