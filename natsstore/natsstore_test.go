package natsstore_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
	"github.com/idem-go/idem/drivertest/linearize"
	"github.com/idem-go/idem/natsstore"
	"github.com/idem-go/idem/testserver/nats"
)

var shared *nats.Server

func TestMain(m *testing.M) {
	nats.ServeChild()
	drivertest.ServeChild(openChild)
	flag.Parse()
	var err error
	if shared, err = nats.Start(nil); err != nil {
		panic(err)
	}
	code := m.Run()
	if err := nats.StopAll(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func openChild(dsn string) (driver.Store, func(), error) {
	s, err := natsstore.Open(context.Background(), dsn, nil)
	if err != nil {
		return nil, nil, err
	}
	return s, func() { s.Close() }, nil
}

var buckets atomic.Int64

// bed is a store in a bucket of its own, with a clock that a test moves.
type bed struct {
	*natsstore.Store
	nc    *natsgo.Conn
	opts  natsstore.Options
	shift *atomic.Int64
}

func connect(t testing.TB, dsn string) *natsgo.Conn {
	t.Helper()
	nc, err := natsstore.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func freshBucket() string { return fmt.Sprint("test-", os.Getpid(), "-", buckets.Add(1)) }

func newBed(t testing.TB, o natsstore.Options) *bed {
	t.Helper()
	o.Bucket = freshBucket()
	b := &bed{nc: connect(t, shared.DSN()), opts: o, shift: new(atomic.Int64)}
	if err := natsstore.Migrate(t.Context(), b.nc, &b.opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		js, err := jetstream.New(b.nc)
		if err != nil {
			t.Fatal(err)
		}
		// A server that was given by its DSN keeps nothing of the tests.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := js.DeleteStream(ctx, "KV_"+o.Bucket); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Error(err)
		}
	})
	b.open(t)
	return b
}

func (b *bed) open(t testing.TB) {
	t.Helper()
	s, err := natsstore.New(t.Context(), b.nc, b.opts.WithShift(b.shift))
	if err != nil {
		t.Fatal(err)
	}
	b.Store = s
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

// reopened is another process's store on the same bucket, after the first one
// has ended. The sweep came by before, as it does within a lease.
func (b *bed) reopened(t testing.TB) *bed {
	t.Helper()
	if _, err := b.Sweep(t.Context(), 1000); err != nil {
		t.Fatal(err)
	}
	b.Close()
	after := &bed{nc: b.nc, opts: b.opts, shift: b.shift}
	after.open(t)
	return after
}

func quiet() natsstore.Options { return natsstore.Options{SweepEvery: -1, MaxResult: 10_000} }

func harness() drivertest.Harness {
	return drivertest.Harness{
		New:     func(t testing.TB) driver.Store { return newBed(t, quiet()) },
		Advance: func(_ testing.TB, s driver.Store, d time.Duration) { s.(*bed).shift.Add(int64(d)) },
		Reopen:  func(t testing.TB, s driver.Store) driver.Store { return s.(*bed).reopened(t) },
		Slack:   20 * time.Second,
	}
}

func TestConformance(t *testing.T) { drivertest.Run(t, harness()) }

func TestModel(t *testing.T) {
	o := &drivertest.ModelOptions{Histories: 12}
	if testing.Short() {
		o.Histories = 5
	}
	drivertest.RunModel(t, harness(), o)
}

func TestLinearizable(t *testing.T) {
	o := &linearize.Options{Rounds: 120}
	if testing.Short() {
		o.Rounds = 40
	}
	linearize.Run(t, harness(), o)
}
