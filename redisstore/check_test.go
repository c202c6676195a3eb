package redisstore_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/redisstore"
)

// severities are those of Check by what was looked at.
func severities(t *testing.T, s *bed) map[string]driver.Severity {
	t.Helper()
	found, err := redisstore.Check(t.Context(), s.client, &s.opts)
	must(t, err)
	all := map[string]driver.Severity{}
	for _, f := range found {
		if (f.Means == "") != (f.Severity == driver.SeverityOK) || (f.Remedy == "") != (f.Severity == driver.SeverityOK) {
			t.Errorf("a finding that says too little, or too much: %+v", f)
		}
		all[f.Subject] = max(all[f.Subject], f.Severity)
	}
	return all
}

func wantSeverity(t *testing.T, all map[string]driver.Severity, subject string, want driver.Severity) {
	t.Helper()
	got, ok := all[subject]
	if !ok || got != want {
		t.Errorf("%s is %v (found %v); it should be %v", subject, got, ok, want)
	}
}

// Trap 36: whatever evicts is refused, and why is said.
func TestTrap36EvictionIsRefused(t *testing.T) {
	server := own(t, nil)
	if server == nil {
		return
	}
	client := connect(t, server.DSN())
	s := newBed(t, client, small())
	for _, policy := range []string{"allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"} {
		do(t, client, "CONFIG", "SET", "maxmemory-policy", policy)
		_, err := redisstore.New(t.Context(), client, &s.opts)
		if err == nil || !strings.Contains(err.Error(), policy) || !strings.Contains(err.Error(), "noeviction") {
			t.Errorf("New with %s: %v", policy, err)
		}
		wantSeverity(t, severities(t, s), "maxmemory-policy", driver.SeverityError)
		if err := s.Recheck(t.Context()); err == nil || !strings.Contains(err.Error(), policy) {
			t.Errorf("a store that runs finds %s: %v", policy, err)
		}
	}
	do(t, client, "CONFIG", "SET", "maxmemory-policy", "noeviction")
	wantSeverity(t, severities(t, s), "maxmemory-policy", driver.SeverityOK)
	must(t, s.Recheck(t.Context()))
}

// Trap 51: what the server forgets is read from it, and said.
func TestTrap51WhatTheServerForgets(t *testing.T) {
	server := own(t, nil)
	if server == nil {
		return
	}
	client := connect(t, server.DSN())
	s := newBed(t, client, small())
	for _, c := range []struct {
		aof, fsync, subject string
		severity            driver.Severity
		durable             bool
	}{
		{"no", "always", "appendonly", driver.SeverityWarning, false},
		{"yes", "everysec", "appendfsync", driver.SeverityWarning, false},
		{"yes", "no", "appendfsync", driver.SeverityWarning, false},
		{"yes", "always", "appendfsync", driver.SeverityOK, true},
	} {
		do(t, client, "CONFIG", "SET", "appendfsync", c.fsync)
		do(t, client, "CONFIG", "SET", "appendonly", c.aof)
		wantSeverity(t, severities(t, s), c.subject, c.severity)
		var logged lockedBuffer
		o := s.opts
		o.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		again := openBed(t, client, o)
		if again.Describe().Durable != c.durable {
			t.Errorf("appendonly %s, appendfsync %s: durable %v", c.aof, c.fsync, again.Describe().Durable)
		}
		if said := strings.Count(logged.String(), "setting="+c.subject); said != 1 && c.severity != driver.SeverityOK || said > 1 {
			t.Errorf("it was logged %d times: %s", said, logged.String())
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Trap 64: what is missing, or another's, is one clear sentence at the start.
func TestTrap64TheServerIsNotReady(t *testing.T) {
	server := own(t, nil)
	if server == nil {
		return
	}
	client := connect(t, server.DSN())
	refused := func(o redisstore.Options, want string) {
		t.Helper()
		if _, err := redisstore.New(t.Context(), client, &o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New: %v; it should say: %s", err, want)
		}
		found, err := redisstore.Check(t.Context(), client, &o)
		must(t, err)
		bad := 0
		for _, f := range found {
			if f.Subject == "format" && f.Severity == driver.SeverityError {
				bad++
			}
		}
		if bad != 1 {
			t.Errorf("Check finds %d errors of the format", bad)
		}
	}
	o := small()
	o.Prefix = freshPrefix()
	refused(o, "idem store migrate")
	must(t, redisstore.Migrate(t.Context(), client, &o))
	must(t, redisstore.Migrate(t.Context(), client, &o))
	s := openBed(t, client, o)
	// What is there stays, whatever a later Migrate asks for.
	more := o
	more.Partitions = 64
	must(t, redisstore.Migrate(t.Context(), client, &more))
	req := request("k")
	grant(t, openBed(t, client, more), req)
	state(t, s, req.Key, driver.StateInFlight)

	do(t, client, "SET", o.Prefix+"format", "2 partitions=4")
	refused(o, "newer idem")
	if err := redisstore.Migrate(t.Context(), client, &o); err == nil {
		t.Error("Migrate went back to an older format")
	}
	for _, other := range []string{"something else", "1 partitions=3", "1 partitions=99999", "1"} {
		do(t, client, "SET", o.Prefix+"format", other)
		refused(o, "not what idem wrote")
	}
	do(t, client, "DEL", o.Prefix+"format")
	if err := s.Recheck(t.Context()); err == nil || !strings.Contains(err.Error(), "flushed") {
		t.Errorf("a store whose server was flushed finds: %v", err)
	}
}

// Two that migrate at once agree.
func TestMigrateAtOnce(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	client := connect(t, server.DSN())
	prefix := freshPrefix()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			o := redisstore.Options{Prefix: prefix, Partitions: 1 << (i % 8)}
			if err := redisstore.Migrate(t.Context(), client, &o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	openBed(t, client, redisstore.Options{Prefix: prefix, SweepEvery: -1})
}

func TestOptionsAreChecked(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	client := connect(t, server.DSN())
	for _, o := range []redisstore.Options{
		{Prefix: "a{b}"}, {Prefix: strings.Repeat("x", 33)}, {Partitions: 3}, {Partitions: 8192}, {Partitions: -1}, {WaitReplicas: -1},
	} {
		if err := redisstore.Migrate(t.Context(), client, &o); err == nil {
			t.Errorf("Migrate takes %+v", o)
		}
		if _, err := redisstore.New(t.Context(), client, &o); err == nil {
			t.Errorf("New takes %+v", o)
		}
	}
}

// A user who may do less learns what is missing; what a client cannot read is
// unknown.
func TestUsersWithFewRights(t *testing.T) {
	server := own(t, nil)
	if server == nil {
		return
	}
	admin := connect(t, server.DSN())
	s := newBed(t, admin, small())
	for i, c := range []struct {
		rights   []string
		subject  string
		severity driver.Severity
		usable   bool
	}{
		{[]string{"~*", "&*", "+@all", "-info"}, "INFO", driver.SeverityUnknown, true},
		{[]string{"~*", "&*", "+@all", "-config"}, "appendfsync", driver.SeverityUnknown, true},
		{[]string{"~*", "&*", "+@all", "-@scripting"}, "scripts", driver.SeverityError, false},
		{[]string{"~*", "resetchannels", "+@all"}, "notifications", driver.SeverityWarning, true},
		{[]string{"~" + s.opts.Prefix + "*", "&" + s.opts.Prefix + "*", "+@scripting", "+@read", "+@write", "+@pubsub", "+@connection", "+info", "+config|get", "+cluster", "+time"}, "scripts", driver.SeverityOK, true},
	} {
		user := fmt.Sprint("user", i)
		do(t, admin, append([]string{"ACL", "SETUSER", user, "on", ">hunter2"}, c.rights...)...)
		limited := &bed{client: connect(t, "redis://"+user+":hunter2@"+server.Addr()), opts: s.opts}
		wantSeverity(t, severities(t, limited), c.subject, c.severity)
		other, err := redisstore.New(t.Context(), limited.client, &s.opts)
		if !c.usable {
			if err == nil || !strings.Contains(err.Error(), "allow") || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v: New: %v", c.rights, err)
			}
			continue
		}
		must(t, err)
		req := request(user)
		complete(t, other, grant(t, other, req), completion(req, "r"))
		must(t, other.Close())
	}
}

// The goroutine of a store sweeps, and says once when the server is no longer fit.
func TestTheStoreSweepsByItself(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	o := small()
	s := newBed(t, connect(t, server.DSN()), o)
	req := request("k")
	c := completion(req, strings.Repeat("x", 5000))
	complete(t, s, grant(t, s, req), c)
	advance(t, s, time.Hour)
	if n, err := do(t, s.client, "STRLEN", recordKey(s, req.Key)).ToInt64(); err != nil || n < 5000 {
		t.Fatalf("the record has %d bytes", n)
	}
	o = s.opts
	o.SweepEvery = 10 * time.Millisecond
	openBed(t, s.client, o)
	eventually(t, 10*time.Second, func() error {
		n, err := do(t, s.client, "STRLEN", recordKey(s, req.Key)).ToInt64()
		must(t, err)
		if n != 40 {
			return fmt.Errorf("the record has %d bytes", n)
		}
		return nil
	})
	state(t, s, req.Key, driver.StateForgotten)
	advance(t, s, 24*time.Hour)
	eventually(t, 10*time.Second, func() error {
		n, err := do(t, s.client, "EXISTS", recordKey(s, req.Key), indexKey(s, req.Key)).ToInt64()
		must(t, err)
		if n != 0 {
			return fmt.Errorf("%d keys are left", n)
		}
		return nil
	})
}
