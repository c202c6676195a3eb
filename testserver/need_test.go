package testserver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// recorder is a test that notes what is done to it.
type recorder struct {
	testing.TB
	logged []string
	failed bool
	fatal  bool
}

func (r *recorder) Helper()                    {}
func (r *recorder) Logf(f string, args ...any) { r.logged = append(r.logged, fmt.Sprintf(f, args...)) }
func (r *recorder) Errorf(string, ...any)      { r.failed = true }
func (r *recorder) Fatalf(string, ...any)      { r.fatal = true; panic(r) }

func TestNeed(t *testing.T) {
	tests := []struct {
		name, list           string
		err                  error
		there, failed, fatal bool
	}{
		{name: "redis", there: true},
		{name: "redis", list: "all", there: true},
		{name: "redis", err: ErrMissing},
		{name: "redis", list: "postgres,redis", err: ErrMissing, failed: true},
		{name: "redis", list: "redis-cluster", err: ErrMissing},
		{name: "redis", list: "race,all", err: fmt.Errorf("x: %w", ErrMissing), failed: true},
		{name: "redis", list: "all", err: ErrExternal, failed: true},
		{name: "mysql8", list: "all", err: ErrMissing},
		{name: "mysql8", list: "all,mysql8", err: ErrMissing, failed: true},
		{name: "redis", err: errors.New("it broke"), fatal: true},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %q %v", tt.name, tt.list, tt.err), func(t *testing.T) {
			t.Setenv("IDEM_TEST_REQUIRE", tt.list)
			r := &recorder{}
			there := func() bool {
				defer func() { _ = recover() }()
				return Need(r, tt.name, tt.err)
			}()
			if there != tt.there || r.failed != tt.failed || r.fatal != tt.fatal {
				t.Errorf("there %v, failed %v, fatal %v", there, r.failed, r.fatal)
			}
			if said := slices.ContainsFunc(r.logged, func(l string) bool { return strings.HasPrefix(l, "NOT TESTED: "+tt.name+": ") }); said != (!tt.there && !tt.fatal) {
				t.Errorf("logged %q", r.logged)
			}
		})
	}
}

func TestVariableNamesServer(t *testing.T) {
	for _, tt := range []struct {
		variable string
		start    func(*Options) (*Server, error)
	}{
		{"IDEM_TEST_POSTGRES_DSN", Postgres}, {"IDEM_TEST_MARIADB_DSN", MariaDB}, {"IDEM_TEST_MYSQL_DSN", MySQL}, {"IDEM_TEST_REDIS_DSN", Redis},
		{"IDEM_TEST_NATS_DSN", func(*Options) (*Server, error) { return External("nats", "IDEM_TEST_NATS_DSN"), nil }},
	} {
		const dsn = "db://someone:hunter2@host.invalid:77/idem"
		t.Setenv(tt.variable, dsn)
		s, err := tt.start(nil)
		if err != nil {
			t.Fatal(err)
		}
		if !s.External() || s.DSN() != dsn || s.Addr() != "host.invalid:77" || s.Port() != "77" || s.Log() != "" {
			t.Errorf("%s: %v %q %q %q", tt.variable, s.External(), s.DSN(), s.Addr(), s.Log())
		}
		for _, err := range []error{s.Kill(), s.Shutdown(), s.Start(), s.Pause(), s.Resume(), s.SetClock(time.Hour)} {
			if !errors.Is(err, ErrExternal) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v", tt.variable, err)
			}
		}
		if err := s.Stop(); err != nil {
			t.Errorf("Stop: %v", err)
		}
	}
	t.Setenv("IDEM_TEST_MYSQL_DSN", "db://x")
	if s, err := MySQL(&Options{ClockOffset: time.Hour}); !errors.Is(err, ErrMissing) {
		t.Errorf("options that only a server of our own has: %v %v", s, err)
	}
}

func TestMissingIsErrMissing(t *testing.T) {
	t.Setenv("IDEM_TEST_MYSQL_DSN", "")
	if _, err := MySQL(nil); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
	if _, err := program([]string{"/usr/lib/*"}, "no-such-program", "nor-this"); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := program(nil, "sh"); !errors.Is(err, ErrMissing) {
		t.Errorf("sh without a PATH: %v", err)
	}
	if p, err := program([]string{"/usr/nowhere", "/bin"}, "no-such-program", "sh"); err != nil || p != "/bin/sh" {
		t.Errorf("sh in /bin: %q %v", p, err)
	}
}
