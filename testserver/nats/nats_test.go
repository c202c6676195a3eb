package nats

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idem-go/idem/testserver"
)

func TestMain(m *testing.M) {
	ServeChild()
	code := m.Run()
	if err := StopAll(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// bucket opens the bucket of the tests, making it with so many replicas.
func bucket(t *testing.T, dsn string, replicas int) jetstream.KeyValue {
	t.Helper()
	nc, err := natsgo.Connect(dsn, natsgo.MaxReconnects(-1), natsgo.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateOrUpdateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "b", Replicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func put(t *testing.T, kv jetstream.KeyValue, key string) {
	t.Helper()
	if _, err := kv.PutString(t.Context(), key, "v"); err != nil {
		t.Fatal(err)
	}
}

// eventually asks again until it is so.
func eventually(t *testing.T, what string, ask func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for {
		one, stop := context.WithTimeout(ctx, 2*time.Second)
		err := ask(one)
		stop()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func has(kv jetstream.KeyValue, key string) func(context.Context) error {
	return func(ctx context.Context) error { _, err := kv.Get(ctx, key); return err }
}

func TestServerKeepsItsData(t *testing.T) {
	for name, start := range map[string]func(*Options) (*Server, error){"embedded": Start, "process": StartProcess} {
		t.Run(name, func(t *testing.T) {
			s, err := start(&Options{SyncInterval: "always", Settings: map[string]string{"max_payload": "2MB"}, JetStream: map[string]string{"max_file": "1GB"}})
			if err != nil {
				t.Fatal(err)
			}
			kv := bucket(t, s.DSN(), 1)
			put(t, kv, "k")
			if err := s.Start(); !errors.Is(err, testserver.ErrRunning) {
				t.Errorf("Start of one that runs: %v", err)
			}
			if err := s.Kill(); err != nil {
				t.Fatal(err)
			}
			if _, err := natsgo.Connect(s.DSN()); err == nil {
				t.Error("a server that was killed takes connections")
			}
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the value", has(kv, "k"))
			if err := errors.Join(s.Shutdown(), s.Start()); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the value", has(kv, "k"))
			if err := errors.Join(s.Stop(), s.Stop()); err != nil {
				t.Error(err)
			}
			if err := s.Start(); !errors.Is(err, testserver.ErrEnded) {
				t.Errorf("Start of one that was stopped: %v", err)
			}
		})
	}
}

func TestProcessPauses(t *testing.T) {
	s, err := StartProcess(nil)
	if err != nil {
		t.Fatal(err)
	}
	kv := bucket(t, s.DSN(), 1)
	put(t, kv, "k")
	if s.External() {
		if err := s.Pause(); !errors.Is(err, testserver.ErrExternal) {
			t.Errorf("Pause of a server that is not ours: %v", err)
		}
		return
	}
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := kv.Get(short, "k"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a paused server answers: %v", err)
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the value", has(kv, "k"))
}

func TestEmbeddedRefusesWhatItCannot(t *testing.T) {
	s, err := Start(&Options{SyncInterval: "always"})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{s.Pause(), s.Resume()} {
		if !errors.Is(err, testserver.ErrExternal) {
			t.Error(err)
		}
	}
}

func TestStoreDirStays(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		s, err := StartProcess(&Options{StoreDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		kv := bucket(t, s.DSN(), 1)
		if _, err := kv.Create(t.Context(), "k", nil); err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
			t.Fatal(err)
		}
		if st, err := kv.Status(t.Context()); err != nil || st.Values() != 1 {
			t.Errorf("%v %v", st, err)
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCluster(t *testing.T) {
	s, err := Cluster(&Options{SyncInterval: "1s"})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Nodes()) != 3 || len(s.Addrs()) != 3 || strings.Count(s.DSN(), ",") != 2 {
		t.Fatal(s.Addrs(), s.DSN())
	}
	kv := bucket(t, s.DSN(), 3)
	put(t, kv, "k")
	if err := s.Nodes()[0].Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a write to two of three", func(ctx context.Context) error { _, err := kv.PutString(ctx, "k", "2"); return err })
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Kill(), s.Start()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the value", has(kv, "k"))
}
