package testserver

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// PgBouncer starts a PgBouncer before a PostgreSQL, with that one's database, user
// and password. It gives a connection to the server for a transaction only
// (pool_mode transaction), unless the settings, those of its [pgbouncer] section,
// say otherwise.
func PgBouncer(pg *Server, o *Options) (*Server, error) {
	bouncer, err := program(nil, "pgbouncer")
	if err != nil {
		return nil, err
	}
	user, err := unprivileged("postgres", "nobody")
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(pg.DSN())
	if err != nil || u.User == nil {
		return nil, errors.New("testserver: pgbouncer: the DSN of its PostgreSQL is no URL with a user") // it may hold a password
	}
	password, _ := u.User.Password()
	name := strings.TrimPrefix(u.Path, "/")
	dsn := url.URL{Scheme: "postgres", User: u.User, Host: "127.0.0.1:port", Path: u.Path, RawQuery: "sslmode=disable"}
	return start(Program{
		Name: "pgbouncer",
		DSN:  strings.Replace(dsn.String(), "127.0.0.1:port", "127.0.0.1:{port}", 1),
		Args: []string{bouncer, "{dir}/pgbouncer.ini"},
		Prepare: func(dir, port string) error {
			settings := o.settings(map[string]string{
				"listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": "", "auth_type": "plain",
				"auth_file": filepath.Join(dir, "users"), "pool_mode": "transaction", "default_pool_size": "20", "max_client_conn": "1000",
				"ignore_startup_parameters": "extra_float_digits",
			})
			var b strings.Builder
			fmt.Fprintf(&b, "[databases]\n%s = host=%s port=%s dbname=%s\n[pgbouncer]\n", name, u.Hostname(), u.Port(), name)
			for _, n := range sortedNames(settings) {
				fmt.Fprintf(&b, "%s = %s\n", n, settings[n])
			}
			quote := strings.NewReplacer(`"`, `""`)
			users := fmt.Sprintf("\"%s\" \"%s\"\n", quote.Replace(u.User.Username()), quote.Replace(password))
			for file, text := range map[string]string{"pgbouncer.ini": b.String(), "users": users} {
				path := filepath.Join(dir, file)
				if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), user.own(path)); err != nil {
					return fmt.Errorf("testserver: configuring pgbouncer: %w", err)
				}
			}
			return nil
		},
		Answers: postgresAnswers,
		Options: o,
	}, startDetails{owner: user, end: sigInt})
}
