package testserver

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if kind := os.Getenv(childVariable); kind != "" {
		child()
	}
	code := m.Run()
	if err := StopAll(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// kind is a kind of server, and how the tests talk to it.
type kind struct {
	name  string
	start func(*Options) (*Server, error)
	// put stores a value, get gives it.
	put, get func(ctx context.Context, s *Server) (string, error)
	// setting asks for one of the server's settings, whose value is "7".
	setting   string
	askFor    func(ctx context.Context, s *Server) (string, error)
	now       func(ctx context.Context, s *Server) (string, error) // in seconds
	processes int                                                  // at least
}

func kinds() []kind {
	pg := func(q string) func(context.Context, *Server) (string, error) {
		return func(ctx context.Context, s *Server) (string, error) { return psql(ctx, s, q) }
	}
	maria := func(q string) func(context.Context, *Server) (string, error) {
		return func(ctx context.Context, s *Server) (string, error) { return mariadb(ctx, s, q) }
	}
	redis := func(args ...string) func(context.Context, *Server) (string, error) {
		return func(ctx context.Context, s *Server) (string, error) { return redisCall(ctx, s.Addr(), args...) }
	}
	return []kind{
		{
			"postgres", Postgres, pg("CREATE TABLE t AS SELECT 'kept' AS v"), pg("SELECT v FROM t"),
			"vacuum_cost_page_miss", pg("SHOW vacuum_cost_page_miss"), pg("SELECT extract(epoch FROM clock_timestamp())"), 5,
		},
		{
			"mariadb", MariaDB, maria("CREATE TABLE t AS SELECT 'kept' AS v"), maria("SELECT v FROM t"),
			"wait-timeout", maria("SELECT @@global.wait_timeout"), maria("SELECT unix_timestamp(sysdate(6))"), 1,
		},
		{
			"redis", Redis, redis("SET", "k", "kept"), redis("GET", "k"),
			"hz", configuredHz, redis("EVAL", "return redis.call('TIME')[1]", "0"), 1,
		},
	}
}

func configuredHz(ctx context.Context, s *Server) (string, error) {
	info, err := redisCall(ctx, s.Addr(), "INFO", "server")
	_, hz, _ := strings.Cut(info, "configured_hz:")
	hz, _, _ = strings.Cut(hz, "\r\n")
	return hz, err
}

func psql(ctx context.Context, s *Server, q string) (string, error) {
	client, err := program([]string{"/usr/lib/postgresql/*/bin"}, "psql")
	if err != nil {
		return "", err
	}
	return output(ctx, client, s.DSN(), "-XAtqc", q)
}

func mariadb(ctx context.Context, s *Server, q string) (string, error) {
	client, err := program(nil, "mariadb", "mysql")
	if err != nil {
		return "", err
	}
	u, err := url.Parse(s.DSN())
	if err != nil {
		return "", err
	}
	password, _ := u.User.Password()
	return output(ctx, client, "--no-defaults", "-h"+u.Hostname(), "-P"+u.Port(), "-u"+u.User.Username(), "-p"+password, "-Ne", q, strings.Trim(u.Path, "/"))
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// eventually asks again until it is so.
func eventually(t testing.TB, what string, ask func() error) {
	t.Helper()
	if err := until(what, func(context.Context) error { return ask() }); err != nil {
		t.Fatal(err)
	}
}

// running returns the processes of the servers, by /proc and ps.
func running(t testing.TB, servers ...*Server) []int {
	t.Helper()
	var pids []int
	for _, s := range servers {
		for _, n := range s.leaves() {
			n.p.mu.Lock()
			leader := n.p.cmd.Process.Pid
			n.p.mu.Unlock()
			children, err := childrenOf(leader)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(append(pids, leader), children...)
		}
	}
	return pids
}

// allGone gives an error for a process that runs or a folder that is there.
func allGone(pids []int, dirs ...string) error {
	all, err := states()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if s, there := all[pid]; there && s.letter != 'Z' && s.letter != 'X' {
			return fmt.Errorf("process %d runs", pid)
		}
	}
	for _, d := range dirs {
		if exists(d) {
			return fmt.Errorf("%s is there", d)
		}
	}
	leftovers, err := filepath.Glob("/dev/shm/*faketime_*")
	if err != nil {
		return err
	}
	for _, l := range leftovers {
		for _, pid := range pids {
			if strings.HasSuffix(l, fmt.Sprintf("_%d", pid)) {
				return fmt.Errorf("%s is there", l)
			}
		}
	}
	return nil
}

// within is a context that ends soon.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
