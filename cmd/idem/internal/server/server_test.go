package server_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/cmd/idem/internal/server"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/memstore"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// house is a server that runs, on real sockets.
type house struct {
	t           *testing.T
	server      *server.Server
	public      string
	admin       string
	guard       *idem.Guard
	store       *memstore.Store
	signals     chan os.Signal
	stop        context.CancelFunc
	closedIdle  atomic.Bool
	storeClosed atomic.Bool
	ended       chan error
}

func start(t *testing.T, drain time.Duration, handler http.HandlerFunc) *house {
	t.Helper()
	h := &house{t: t, store: memstore.New(nil), signals: make(chan os.Signal, 2), ended: make(chan error, 1)}
	logger := slog.New(slog.DiscardHandler)
	h.guard = idem.New(h.store, &idem.Options{Logger: logger})
	h.server = server.New(&server.Options{Drain: drain, Logger: logger})
	if h.server.Ready() {
		t.Error("ready before it serves")
	}
	public, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.public, h.admin = public.Addr().String(), admin.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	t.Cleanup(stop)
	ready := func(w http.ResponseWriter, _ *http.Request) {
		if !h.server.Ready() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}
	go func() {
		h.ended <- h.server.Run(ctx, public, admin, h.signals, server.Config{
			Public: handler, Admin: http.HandlerFunc(ready), Guard: h.guard,
			CloseIdle: func() { h.closedIdle.Store(true) },
			CloseStore: func() error {
				h.storeClosed.Store(true)
				return h.store.Close()
			},
		})
	}()
	h.until("it serves", func() bool { return h.status("http://"+h.admin) == 200 })
	return h
}

// until polls, for what has no event of its own.
func (h *house) until(what string, done func() bool) {
	h.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			h.t.Fatalf("waited %v in vain until %s", patience, what)
		}
	}
}

// status returns a GET's status, 0 for no connection.
func (h *house) status(url string) int {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Get(url)
	if err != nil {
		return 0
	}
	_ = res.Body.Close()
	return res.StatusCode
}

func (h *house) end() error {
	h.t.Helper()
	return receive(h.t, h.ended)
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %v in vain", patience)
		panic("unreachable")
	}
}

func TestDrainLetsRequestsEnd(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	h := start(t, time.Minute, func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-leave
		_, _ = io.WriteString(w, "done")
	})
	got := make(chan string, 1)
	go func() {
		res, err := http.Get("http://" + h.public)
		if err != nil {
			got <- err.Error()
			return
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		got <- fmt.Sprint(string(b), err)
	}()
	receive(t, entered)
	if n := h.server.Requests(); n != 1 {
		t.Errorf("%d requests run", n)
	}
	h.signals <- syscall.SIGTERM
	h.until("it is not ready", func() bool { return h.status("http://"+h.admin) == 503 })
	h.until("it does not listen", func() bool {
		c, err := net.Dial("tcp", h.public)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	if h.storeClosed.Load() {
		t.Error("the store is closed while a request runs")
	}
	close(leave)
	if s := receive(t, got); s != "done<nil>" {
		t.Errorf("answer: %s", s)
	}
	if err := h.end(); err != nil {
		t.Errorf("drained, with an error: %v", err)
	}
	if !h.storeClosed.Load() || !h.closedIdle.Load() || h.status("http://"+h.admin) != 0 {
		t.Error("something is left open")
	}
	if _, err := h.guard.Begin(context.Background(), &idem.Request{Key: idem.Key{ID: "k"}}); !errors.Is(err, idem.ErrClosed) {
		t.Errorf("the guard is open: %v", err)
	}
}

func TestDrainEnds(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	h := start(t, 50*time.Millisecond, func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-leave
	})
	defer close(leave)
	answered := make(chan error, 2)
	for range 2 {
		go func() {
			res, err := http.Get("http://" + h.public)
			if err == nil {
				_ = res.Body.Close()
			}
			answered <- err
		}()
		receive(t, entered)
	}
	h.signals <- os.Interrupt
	err := h.end()
	var cut *server.CutError
	if !errors.As(err, &cut) || cut.Requests != 2 || cut.Drain != 50*time.Millisecond {
		t.Fatalf("%v", err)
	}
	if !strings.Contains(err.Error(), "2 requests") || !strings.Contains(err.Error(), "unknown") {
		t.Errorf("%v", err)
	}
	for range 2 {
		if err := receive(t, answered); err == nil {
			t.Error("a request that was cut off got an answer")
		}
	}
	if !h.storeClosed.Load() {
		t.Error("the store is open")
	}
}

// Some that end a process signal it and its group, so that it gets one wish
// twice: that is not the impatience of a second signal.
func TestSignalThatComesTwiceDrains(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	h := start(t, time.Hour, func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-leave
		_, _ = io.WriteString(w, "whole")
	})
	got := make(chan string, 1)
	go func() {
		res, err := http.Get("http://" + h.public)
		if err != nil {
			got <- err.Error()
			return
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		got <- fmt.Sprint(string(b), err)
	}()
	receive(t, entered)
	h.signals <- syscall.SIGTERM
	h.signals <- syscall.SIGTERM
	h.until("it is not ready", func() bool { return !h.server.Ready() })
	h.until("the second was taken", func() bool { return len(h.signals) == 0 })
	close(leave)
	if r := receive(t, got); r != "whole<nil>" {
		t.Errorf("the request that ran got %q", r)
	}
	if err := h.end(); err != nil {
		t.Error(err)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	h := start(t, time.Hour, func(http.ResponseWriter, *http.Request) {
		close(entered)
		<-leave
	})
	defer close(leave)
	go func() {
		res, err := http.Get("http://" + h.public)
		if err == nil {
			_ = res.Body.Close()
		}
	}()
	receive(t, entered)
	h.signals <- syscall.SIGTERM
	h.until("it is not ready", func() bool { return !h.server.Ready() })
	since := time.Now()
	h.until("it is a second signal", func() bool { return time.Since(since) > server.SameSignal })
	h.signals <- syscall.SIGTERM
	if err := h.end(); !errors.Is(err, server.ErrInterrupted) {
		t.Errorf("%v", err)
	}
}

// A connection that became another protocol has no end that could be waited
// for, and is not counted.
func TestUpgradedConnectionsDoNotHoldTheEndUp(t *testing.T) {
	gone := make(chan struct{})
	h := start(t, time.Hour, func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(io.Discard, c)
		close(gone)
	})
	c, err := net.Dial("tcp", h.public)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %v", res, err)
	}
	defer res.Body.Close()
	if n := h.server.Requests(); n != 0 {
		t.Errorf("%d requests run", n)
	}
	h.stop()
	if err := h.end(); err != nil {
		t.Error(err)
	}
	_ = c.Close()
	receive(t, gone)
}

// What could not be saved is said.
func TestResultsThatAreNotSaved(t *testing.T) {
	broken := idem.New(unsaving{memstore.New(nil)}, &idem.Options{Policy: idem.Policy{SaveWait: time.Millisecond}, Logger: slog.New(slog.DiscardHandler)})
	b, err := broken.Begin(context.Background(), &idem.Request{Key: idem.Key{ID: "k"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Claim.Complete(idem.Result{}); !errors.Is(err, idem.ErrUnsaved) {
		t.Fatal(err)
	}
	srv := server.New(nil)
	public, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	err = srv.Run(ctx, public, admin, nil, server.Config{Public: http.NotFoundHandler(), Admin: http.NotFoundHandler(), Guard: broken, CloseStore: func() error { return errors.New("disk gone") }})
	if err == nil || !strings.Contains(err.Error(), "could not be saved") || !strings.Contains(err.Error(), "disk gone") {
		t.Errorf("%v", err)
	}
}

// unsaving is a store that does not take results.
type unsaving struct{ driver.Store }

func (unsaving) Complete(context.Context, driver.Ref, driver.Completion) (bool, error) {
	return false, errors.New("no answer")
}

// An address that fails ends the server, and the error says which.
func TestListenerThatFails(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	srv := server.New(&server.Options{Logger: logger})
	public, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = admin.Close()
	store := memstore.New(nil)
	err = srv.Run(context.Background(), public, admin, nil, server.Config{Public: http.NotFoundHandler(), Admin: http.NotFoundHandler(), Guard: idem.New(store, nil), CloseStore: store.Close})
	if err == nil || !strings.Contains(err.Error(), "admin address") {
		t.Errorf("%v", err)
	}
	if _, err := net.Dial("tcp", public.Addr().String()); err == nil {
		t.Error("the other address is still served")
	}
}

// A store whose server does not answer is not waited for without end, and one
// that closes in time is.
func TestStoreThatDoesNotClose(t *testing.T) {
	for name, wait := range map[string]time.Duration{"hangs": 10 * time.Millisecond, "closes": time.Minute, "takes its time": 0} {
		t.Run(name, func(t *testing.T) {
			public, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			admin, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			hang, called := make(chan struct{}), make(chan struct{})
			defer close(hang)
			cfg := server.Config{Public: http.NotFoundHandler(), Admin: http.NotFoundHandler(), Guard: idem.New(memstore.New(nil), nil), CloseWait: wait}
			cfg.CloseStore = func() error {
				close(called)
				if name == "hangs" {
					<-hang
				}
				return errors.New("closed now")
			}
			ctx, stop := context.WithCancel(context.Background())
			stop()
			err = server.New(&server.Options{Logger: slog.New(slog.DiscardHandler)}).Run(ctx, public, admin, nil, cfg)
			receive(t, called)
			if want := map[bool]string{true: "did not answer for 10ms", false: "closed now"}[name == "hangs"]; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
}
