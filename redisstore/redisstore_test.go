package redisstore_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/drivertest/linearize"
	"github.com/idem-go/idem/redisstore"
	"github.com/idem-go/idem/testserver"
)

func TestMain(m *testing.M) {
	drivertest.ServeChild(openChild)
	code := m.Run()
	if err := testserver.StopAll(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func openChild(dsn string) (driver.Store, func(), error) {
	s, err := redisstore.Open(context.Background(), dsn, nil)
	if err != nil {
		return nil, nil, err
	}
	return s, func() { s.Close() }, nil
}

// lazy is a server that is started when the first test asks for it, and shared.
type lazy struct {
	name  string
	start func() (*testserver.Server, error)
	once  sync.Once
	s     *testserver.Server
	err   error
}

// get returns the server; nil where there is none, which the log says.
func (l *lazy) get(t testing.TB) *testserver.Server {
	t.Helper()
	l.once.Do(func() { l.s, l.err = l.start() })
	if !testserver.Need(t, l.name, l.err) {
		return nil
	}
	return l.s
}

var (
	single = &lazy{name: "redis", start: func() (*testserver.Server, error) { return testserver.Redis(nil) }}

	prefixes atomic.Int64
)

func freshPrefix() string { return fmt.Sprintf("t%d-%d:", os.Getpid(), prefixes.Add(1)) }

// bed is a store with records of its own.
type bed struct {
	*redisstore.Store
	client rueidis.Client
	opts   redisstore.Options
}

func connect(t testing.TB, dsn string) rueidis.Client {
	t.Helper()
	c, err := redisstore.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func newBed(t testing.TB, client rueidis.Client, o redisstore.Options) *bed {
	t.Helper()
	o.Prefix = freshPrefix()
	if err := redisstore.Migrate(t.Context(), client, &o); err != nil {
		t.Fatal(err)
	}
	return openBed(t, client, o)
}

func openBed(t testing.TB, client rueidis.Client, o redisstore.Options) *bed {
	t.Helper()
	s, err := redisstore.New(t.Context(), client, &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return &bed{Store: s, client: client, opts: o}
}

func small() redisstore.Options {
	return redisstore.Options{MaxResult: 10_000, SweepEvery: -1, PollEvery: 20 * time.Millisecond, Partitions: 4}
}

func advance(t testing.TB, s driver.Store, d time.Duration) {
	t.Helper()
	if err := s.(*bed).Advance(context.WithoutCancel(t.Context()), d); err != nil {
		t.Fatal(err)
	}
}

// harness is that of stores on one server.
func harness(client rueidis.Client, o redisstore.Options) drivertest.Harness {
	return drivertest.Harness{
		New:     func(t testing.TB) driver.Store { return newBed(t, client, o) },
		Advance: advance,
		Slack:   20 * time.Second,
		Reopen: func(t testing.TB, s driver.Store) driver.Store {
			b := s.(*bed)
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			return openBed(t, client, b.opts)
		},
		NewBounded: func(t testing.TB, maxUnknown int) driver.Store {
			bounded := o
			bounded.MaxUnknown = maxUnknown
			return newBed(t, client, bounded)
		},
	}
}

func TestConformance(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	drivertest.Run(t, harness(connect(t, server.DSN()), small()))
}

func TestModel(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	o := &drivertest.ModelOptions{Histories: 12}
	if testing.Short() {
		o.Histories = 3
	}
	drivertest.RunModel(t, harness(connect(t, server.DSN()), small()), o)
}

func TestLinearizable(t *testing.T) {
	server := single.get(t)
	if server == nil {
		return
	}
	linearize.Run(t, harness(connect(t, server.DSN()), small()), nil)
}
