package testserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
)

// MariaDB starts a MariaDB: database, user and password are "idem", the user has
// every right, and what a commit promises is the server's own default. max_connections is
// 500, buffers are small. IDEM_TEST_MARIADB_DSN names another.
func MariaDB(o *Options) (*Server, error) {
	if s := external("mariadb", "IDEM_TEST_MARIADB_DSN", o); s != nil {
		return s, nil
	}
	server, err := program([]string{"/usr/libexec"}, "mariadbd")
	if err != nil {
		return nil, err
	}
	install, err := program(nil, "mariadb-install-db", "mysql_install_db")
	if err != nil {
		return nil, err
	}
	if _, err := unprivileged("mysql", "nobody"); err != nil {
		return nil, err
	}
	args := []string{server, "--no-defaults", "--datadir={dir}/data", "--socket={dir}/socket", "--pid-file={dir}/pid",
		"--bind-address=127.0.0.1", "--port={port}"}
	if os.Geteuid() == 0 {
		args = append(args, "--user=root") // it refuses to be root's unless it is told
	}
	settings := o.settings(map[string]string{
		"max-connections": "500", "skip-name-resolve": "", "performance-schema": "off",
		"innodb-buffer-pool-size": "64M", "innodb-log-file-size": "16M", "key-buffer-size": "1M", "aria-pagecache-buffer-size": "8M",
		"init-file": "{dir}/init.sql",
	})
	for _, name := range sortedNames(settings) {
		arg := "--" + name
		if v := settings[name]; v != "" {
			arg += "=" + v
		}
		args = append(args, arg)
	}
	return start(Program{
		Name: "mariadb",
		DSN:  "mysql://idem:idem@127.0.0.1:{port}/idem",
		Args: args,
		Prepare: func(dir, _ string) error {
			if err := everything.fromTemplate("mariadb", dataDir(dir), func(dir string) error {
				args := []string{"--no-defaults", "--datadir=./" + filepath.Base(dir), "--auth-root-authentication-method=normal", "--skip-test-db",
					"--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=0"}
				if os.Geteuid() == 0 {
					args = append(args, "--user=root")
				}
				// The program, a script, takes no folder with a space in its name.
				return command(nil, filepath.Dir(dir), "", install, args...)
			}); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "init.sql"), []byte(mariadbInit), 0o644)
		},
		Answers: mysqlAnswers,
		Options: o,
	}, startDetails{})
}

// mariadbInit makes what a client needs. The server runs it at each start, before
// it takes connections.
const mariadbInit = `CREATE DATABASE IF NOT EXISTS idem;
CREATE USER IF NOT EXISTS 'idem'@'%' IDENTIFIED BY 'idem';
GRANT ALL PRIVILEGES ON *.* TO 'idem'@'%' WITH GRANT OPTION;
`

// MySQL gives the MySQL 8 that IDEM_TEST_MYSQL_DSN names. No distribution that the tests
// run on has it, so there is no private one: ErrMissing without the variable, or
// with options that only a private one could have.
func MySQL(o *Options) (*Server, error) {
	if s := external("mysql8", "IDEM_TEST_MYSQL_DSN", o); s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("%w: MySQL 8; IDEM_TEST_MYSQL_DSN=mysql://user:password@host:port/database names one", ErrMissing)
}

// mysqlAnswers reads the packet by which a server begins each connection.
func mysqlAnswers(_ context.Context, c net.Conn) error {
	head := make([]byte, 5)
	if _, err := io.ReadFull(c, head); err != nil {
		return err
	}
	if head[4] != 10 { // the protocol's version; 0xff is an error
		return errors.New("it is not ready")
	}
	return nil
}
