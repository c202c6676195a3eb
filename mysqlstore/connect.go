package mysqlstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	// defaultConnections is how many connections a pool has at most.
	defaultConnections = 32
	dialTimeout        = 5 * time.Second
	// Idle connections are given up long before a server's wait_timeout does.
	idleTimeout = 5 * time.Minute
)

// Connect returns a pool of connections, once one of them has answered. The DSN
// is a URL
//
//	mysql://user:password@host:port/database?tls=true
//
// or what the driver takes, user:password@tcp(host:port)/database?tls=true. User and
// password in a URL are percent-encoded. The query takes the driver's parameters,
// and
//
//   - max-conns: the most connections; 32 by default
//   - tls-ca, tls-cert, tls-key: files, in PEM: whom to trust, and who one is;
//     with tls-ca the server must be as in tls=true
//   - socket: the path of a Unix socket, in a URL
//
// tls is one of true, false, skip-verify and preferred, as in the driver. Its
// errors never hold the password, nor any other part of a DSN that could not be
// read.
func Connect(ctx context.Context, dsn string) (*sql.DB, error) {
	cfg, most, err := parseDSN(dsn)
	if err != nil {
		return nil, err
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, errDSN("its settings do not fit together")
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(most)
	db.SetMaxIdleConns(most)
	db.SetConnMaxIdleTime(idleTimeout)
	if err := db.PingContext(ctx); err != nil {
		_ = db.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, explained(discreet(err, cfg.Passwd))
	}
	return db, nil
}

// discreet is err, unless its text has the password in it.
func discreet(err error, password string) error {
	if password != "" && strings.Contains(err.Error(), password) {
		return errors.New("the server cannot be reached, for a reason that is not repeated because the password is in it")
	}
	return err
}

// errDSN says what is wrong with a DSN, in words of its own: the parsers' repeat
// parts of it.
func errDSN(why string) error {
	return fmt.Errorf("mysqlstore: the DSN cannot be read: %s; it should be like mysql://user:password@host:3306/database", why)
}

func parseDSN(dsn string) (cfg *mysql.Config, most int, err error) {
	scheme, _, isURL := strings.Cut(dsn, "://")
	var user *url.Userinfo
	if isURL && !strings.Contains(scheme, "@") && !strings.Contains(scheme, "/") {
		u, err := url.Parse(dsn)
		if err != nil {
			return nil, 0, errDSN("it is not a URL, or a character in it must be percent-encoded")
		}
		if u.Scheme != "mysql" && u.Scheme != "mariadb" {
			return nil, 0, errDSN("its scheme is not mysql")
		}
		user = u.User
		if dsn, err = driverDSN(u); err != nil {
			return nil, 0, err
		}
	}
	own, dsn, err := takeOwn(dsn)
	if err != nil {
		return nil, 0, err
	}
	cfg, err = mysql.ParseDSN(dsn)
	if err != nil {
		return nil, 0, errDSN("the driver does not take it")
	}
	if user != nil {
		cfg.User = user.Username()
		cfg.Passwd, _ = user.Password()
	}
	if cfg.DBName == "" {
		return nil, 0, errDSN("it names no database")
	}
	if cfg.MultiStatements {
		return nil, 0, errDSN("multiStatements=true would let one text hold many statements, which nothing here needs")
	}
	// What the driver would print by itself is in the errors that it returns.
	cfg.Logger = &mysql.NopLogger{}
	if cfg.Timeout == 0 {
		cfg.Timeout = dialTimeout
	}
	most = defaultConnections
	if v := own.Get("max-conns"); v != "" {
		if most, err = strconv.Atoi(v); err != nil || most < 1 {
			return nil, 0, errDSN("max-conns is not a number above zero")
		}
	}
	return cfg, most, withTLS(cfg, own)
}

// driverDSN is a URL, its user apart, as the driver takes it.
func driverDSN(u *url.URL) (string, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", errDSN("its parameters are not those of a URL")
	}
	address := "unix(" + query.Get("socket") + ")"
	if query.Get("socket") == "" {
		if u.Hostname() == "" {
			return "", errDSN("it names no host")
		}
		port := u.Port()
		if port == "" {
			port = "3306"
		}
		address = "tcp(" + net.JoinHostPort(u.Hostname(), port) + ")"
	}
	query.Del("socket")
	dsn := address + "/" + url.PathEscape(strings.TrimPrefix(u.Path, "/"))
	if len(query) > 0 {
		dsn += "?" + query.Encode()
	}
	return dsn, nil
}

// takeOwn takes the parameters that are not the driver's out of its DSN.
func takeOwn(dsn string) (own url.Values, rest string, err error) {
	own = url.Values{}
	slash := strings.LastIndexByte(dsn, '/')
	if slash < 0 {
		return nil, "", errDSN("it has no slash before the database")
	}
	base, params, _ := strings.Cut(dsn[slash:], "?")
	var left []string
	for param := range strings.SplitSeq(params, "&") {
		name, value, _ := strings.Cut(param, "=")
		switch name {
		case "":
		case "max-conns", "tls-ca", "tls-cert", "tls-key":
			v, err := url.QueryUnescape(value)
			if err != nil {
				return nil, "", errDSN("its parameters are not those of a URL")
			}
			own.Set(name, v)
		default:
			left = append(left, param)
		}
	}
	rest = dsn[:slash] + base
	if len(left) > 0 {
		rest += "?" + strings.Join(left, "&")
	}
	return own, rest, nil
}

// withTLS sets what the files of certificates say.
func withTLS(cfg *mysql.Config, own url.Values) error {
	ca, cert, key := own.Get("tls-ca"), own.Get("tls-cert"), own.Get("tls-key")
	if ca == "" && cert == "" && key == "" {
		return nil
	}
	if cfg.TLS == nil {
		host, _, _ := net.SplitHostPort(cfg.Addr)
		cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return fmt.Errorf("mysqlstore: tls-ca: %w", err)
		}
		cfg.TLS.RootCAs = x509.NewCertPool()
		if !cfg.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return errors.New("mysqlstore: tls-ca: the file has no certificate in PEM")
		}
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("mysqlstore: tls-cert, tls-key: %w", err)
		}
		cfg.TLS.Certificates = []tls.Certificate{pair}
	}
	return nil
}
