package testserver

import (
	"errors"
	"strings"
	"testing"
)

func TestRedisClusterLives(t *testing.T) {
	s, err := RedisCluster(nil)
	if !Need(t, "redis", err) {
		return
	}
	if len(s.Nodes()) != 3 || len(s.Addrs()) != 3 || strings.Count(s.DSN(), "127.0.0.1:") != 3 {
		t.Fatal(s.Addrs(), s.DSN())
	}
	// Slot 12182, which is the third server's.
	if _, err := redisCall(t.Context(), s.Addrs()[2], "SET", "foo", "kept"); err != nil {
		t.Error(err)
	}
	if _, err := redisCall(t.Context(), s.Addrs()[0], "SET", "foo", "kept"); err == nil || !strings.Contains(err.Error(), "MOVED 12182 "+s.Addrs()[2]) {
		t.Errorf("the first server about a slot of the third: %v", err)
	}
	one := s.Nodes()[1]
	if err := one.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cluster misses a server", func() error {
		if clusterWhole(t.Context(), s.Nodes()[:1]) == nil {
			return errors.New("it is whole")
		}
		return nil
	})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Kill(), s.Start()); err != nil {
		t.Fatal(err)
	}
	if got, err := redisCall(t.Context(), s.Addrs()[2], "GET", "foo"); err != nil || got != "kept" {
		t.Errorf("%q %v", got, err)
	}
	if err := s.Start(); !errors.Is(err, ErrRunning) {
		t.Errorf("Start of what runs: %v", err)
	}
	before := running(t, s)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := allGone(before); err != nil {
		t.Error(err)
	}
}

func TestRedisSentinelFailsOver(t *testing.T) {
	s, err := RedisSentinel(nil)
	if !Need(t, "redis", err) {
		return
	}
	if len(s.Data()) != 2 || len(s.Sentinels()) != 3 || len(s.Addrs()) != 3 || s.Addr() != s.Sentinels()[0].Addr() || !strings.Contains(s.DSN(), "master_set="+MasterSet) {
		t.Fatal(s.Addrs(), s.DSN())
	}
	if m, err := s.Master(); err != nil || m != s.Data()[0] {
		t.Fatalf("%v %v", m, err)
	}
	if _, err := redisCall(t.Context(), s.Data()[0].Addr(), "SET", "k", "kept"); err != nil {
		t.Fatal(err)
	}
	if got, err := redisCall(t.Context(), s.Data()[0].Addr(), "WAIT", "1", "20000"); err != nil || got != "1" {
		t.Fatalf("WAIT: %q %v", got, err)
	}
	was, err := s.KillMaster()
	if err != nil || was != s.Data()[0] {
		t.Fatal(was, err)
	}
	now, err := s.Master()
	if err != nil || now != s.Data()[1] {
		t.Fatal(now, err)
	}
	if got, err := redisCall(t.Context(), now.Addr(), "GET", "k"); err != nil || got != "kept" {
		t.Errorf("%q %v", got, err)
	}
	if err := was.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

func TestPgBouncer(t *testing.T) {
	pg, err := Postgres(nil)
	if !Need(t, "postgres", err) {
		return
	}
	s, err := PgBouncer(pg, &Options{Settings: map[string]string{"default_pool_size": "7"}})
	if !Need(t, "pgbouncer", err) {
		return
	}
	if got, err := psql(t.Context(), s, "SELECT current_database()"); err != nil || got != "idem" {
		t.Errorf("%q %v", got, err)
	}
	if err := errors.Join(s.Kill(), s.Start()); err != nil {
		t.Fatal(err)
	}
	if got, err := psql(t.Context(), s, "SELECT current_user"); err != nil || got != "idem" {
		t.Errorf("%q %v", got, err)
	}
}
