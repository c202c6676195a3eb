package sqlitestore

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// connections is how many a pool of Connect's has at most: one writes, and the
// others read.
const connections = 8

// Connect opens the SQLite file of a DSN, which is made when it is not there, with
// the settings that keep what was acknowledged: WAL, synchronous=FULL, transactions
// that begin as IMMEDIATE. The DSN is "sqlite:" and the file's name, taken as it is
// (no byte of it means anything else): "sqlite:app.db", "sqlite:/var/lib/app.db" or
// "sqlite:///var/lib/app.db". Databases in memory are refused.
//
// It uses the driver of SQLite that the program has imported, which is registered
// as "sqlite3" or "sqlite"; there is an error when there is none.
func Connect(ctx context.Context, dsn string) (*sql.DB, error) {
	file, err := fileOf(dsn)
	if err != nil {
		return nil, err
	}
	c, err := newConnector(file)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	// A setting of the file's. Another that has it open just then is waited for.
	for try := 0; ; try++ {
		var mode string
		err := db.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode)
		if err == nil {
			return db, nil
		}
		if isBusy(err) && pause(ctx, try) == nil {
			continue
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, errors.Join(explain(err), db.Close())
	}
}

// fileOf is the name of the file that a DSN names. No error holds any of it.
func fileOf(dsn string) (string, error) {
	file, ok := strings.CutPrefix(dsn, "sqlite:")
	if rest, slashes := strings.CutPrefix(file, "//"); ok && slashes {
		if !strings.HasPrefix(rest, "/") {
			return "", errors.New("sqlitestore: a DSN is sqlite:FILE or sqlite:///FILE; there is no host in it")
		}
		file = rest
	}
	switch {
	case !ok, file == "", strings.Contains(file, "\x00"):
		return "", errors.New("sqlitestore: a DSN is sqlite:FILE, such as sqlite:app.db or sqlite:///var/lib/app.db")
	case strings.HasPrefix(file, ":memory:"):
		return "", errors.New("sqlitestore: a database in memory keeps nothing; name a file, or use the store memory: instead")
	}
	return file, nil
}

// connector makes connections with settings that only last as long as they do.
type connector struct{ sqldriver.Connector }

func newConnector(file string) (*connector, error) {
	names := sql.Drivers()
	name := "sqlite3"
	if !slices.Contains(names, name) {
		name = "sqlite"
	}
	if !slices.Contains(names, name) {
		return nil, errors.New("sqlitestore: the program has no driver of SQLite; import one, such as github.com/ncruces/go-sqlite3/driver")
	}
	// No byte of the name is taken for a part of the address.
	path := strings.ReplaceAll(url.PathEscape(file), "%2F", "/")
	address := "file:" + path + "?_txlock=immediate"
	probe, err := sql.Open(name, address)
	if err != nil {
		return nil, explain(err)
	}
	d := probe.Driver()
	if err := probe.Close(); err != nil {
		return nil, explain(err)
	}
	if dc, ok := d.(sqldriver.DriverContext); ok {
		c, err := dc.OpenConnector(address)
		return &connector{c}, explain(err)
	}
	return &connector{&plain{d, address}}, nil
}

// plain is a connector of a driver that has none.
type plain struct {
	driver  sqldriver.Driver
	address string
}

// Connect implements driver.Connector.
func (p *plain) Connect(context.Context) (sqldriver.Conn, error) { return p.driver.Open(p.address) }

// Driver implements driver.Connector.
func (p *plain) Driver() sqldriver.Driver { return p.driver }

// Connect implements driver.Connector.
func (c *connector) Connect(ctx context.Context) (sqldriver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	for _, pragma := range []string{"PRAGMA busy_timeout = 1000", "PRAGMA synchronous = FULL"} {
		if err := execute(ctx, conn, pragma); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return conn, nil
}

func execute(ctx context.Context, conn sqldriver.Conn, text string) error {
	if e, ok := conn.(sqldriver.ExecerContext); ok {
		_, err := e.ExecContext(ctx, text, nil)
		return err
	}
	return fmt.Errorf("sqlitestore: the driver's connections, %T, execute nothing", conn)
}
