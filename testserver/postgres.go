package testserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Postgres starts a PostgreSQL: database, user and password are "idem", the user is
// a superuser, and the server's settings are its own defaults (fsync and
// synchronous_commit on) but for max_connections, which is 300.
// IDEM_TEST_POSTGRES_DSN names another.
func Postgres(o *Options) (*Server, error) {
	if s := external("postgres", "IDEM_TEST_POSTGRES_DSN", o); s != nil {
		return s, nil
	}
	server, err := program([]string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin"}, "postgres")
	if err != nil {
		return nil, err
	}
	user, err := unprivileged("postgres", "nobody")
	if err != nil {
		return nil, err
	}
	return start(Program{
		Name: "postgres",
		DSN:  "postgres://idem:idem@127.0.0.1:{port}/idem?sslmode=disable",
		Args: []string{server, "-D", "{dir}/data"},
		Prepare: func(dir, port string) error {
			if err := everything.fromTemplate("postgres", dataDir(dir), func(dir string) error {
				return initPostgres(server, dir, user)
			}); err != nil {
				return err
			}
			return configurePostgres(dataDir(dir), o.settings(map[string]string{
				"listen_addresses":        "127.0.0.1",
				"port":                    port,
				"unix_socket_directories": "",
				"max_connections":         "300",
				// In the data folder, so that a killed server leaves nothing in /dev/shm.
				"dynamic_shared_memory_type": "mmap",
				"logging_collector":          "off",
			}))
		},
		Answers: postgresAnswers,
		Options: o,
	}, startDetails{owner: user, end: sigInt, clean: removeSharedMemory})
}

// initPostgres makes a folder with a database, in the user's name.
func initPostgres(server, dir string, user *owner) error {
	if err := errors.Join(os.Mkdir(dir, 0o700), user.own(dir)); err != nil {
		return fmt.Errorf("testserver: initdb: %w", err)
	}
	password := filepath.Join(filepath.Dir(dir), "postgres-password")
	if err := errors.Join(os.WriteFile(password, []byte("idem\n"), 0o600), user.own(password)); err != nil {
		return fmt.Errorf("testserver: initdb: %w", err)
	}
	if err := command(user, dir, "", filepath.Join(filepath.Dir(server), "initdb"), "-D", dir, "-U", "idem", "--pwfile="+password,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"); err != nil {
		return err
	}
	return command(user, dir, "CREATE DATABASE idem\n", server, "--single", "-D", dir, "-F", "postgres")
}

func configurePostgres(dir string, settings map[string]string) error {
	f, err := os.OpenFile(filepath.Join(dir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("testserver: configuring postgres: %w", err)
	}
	defer f.Close()
	quote := strings.NewReplacer(`'`, `''`, `\`, `\\`)
	for _, name := range sortedNames(settings) {
		if _, err := fmt.Fprintf(f, "%s = '%s'\n", name, quote.Replace(settings[name])); err != nil {
			return fmt.Errorf("testserver: configuring postgres: %w", err)
		}
	}
	return nil
}

// postgresAnswers begins a connection: a server that takes it asks for the
// password, one that is starting up says so.
func postgresAnswers(_ context.Context, c net.Conn) error {
	var b bytes.Buffer
	params := "user\x00idem\x00database\x00idem\x00\x00"
	for _, n := range []int{8 + len(params), 3 << 16} { // the length of it all, the protocol's version
		if err := binary.Write(&b, binary.BigEndian, int32(n)); err != nil {
			return err
		}
	}
	b.WriteString(params)
	if _, err := c.Write(b.Bytes()); err != nil {
		return err
	}
	kind := make([]byte, 1)
	if _, err := io.ReadFull(c, kind); err != nil {
		return err
	}
	if kind[0] != 'R' {
		return errors.New("it is not ready")
	}
	return nil
}

// removeSharedMemory removes the segment by which a server knows that no other
// works on its data. One that ended as it should has done it itself.
func removeSharedMemory(dir string) {
	b, err := os.ReadFile(filepath.Join(dataDir(dir), "postmaster.pid"))
	if err != nil {
		return
	}
	if lines := strings.Split(string(b), "\n"); len(lines) > 6 {
		if f := strings.Fields(lines[6]); len(f) == 2 {
			_ = command(nil, "/", "", "ipcrm", "-m", f[1]) // a few bytes, where there is no ipcrm
		}
	}
}

func sortedNames(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
