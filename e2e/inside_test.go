package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/e2e/internal/faulty"
	"github.com/idem-go/idem/e2e/internal/rig"
	"github.com/idem-go/idem/idemhttp"
	"github.com/idem-go/idem/memstore"
)

// inside is the middleware in this process, on a real socket, over a store that
// can fail: what the proxy does with its own store cannot be made to fail from
// outside.
type inside struct {
	t     *testing.T
	addr  string
	store *faulty.Store
	runs  atomic.Int64
}

// service is a handler that is told how often it ran.
type service func(w http.ResponseWriter, r *http.Request, run int64)

func startInside(t *testing.T, guardOpts *idem.Options, opts *idemhttp.Options, serve service) *inside {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	if guardOpts == nil {
		guardOpts = &idem.Options{}
	}
	if opts == nil {
		opts = &idemhttp.Options{}
	}
	guardOpts.Logger, opts.Logger = quiet, quiet
	if guardOpts.StoreTimeout == 0 {
		guardOpts.StoreTimeout = 200 * time.Millisecond
	}
	if serve == nil {
		serve = func(w http.ResponseWriter, _ *http.Request, run int64) {
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, "run %d", run)
		}
	}
	m := &inside{t: t, store: faulty.New(memstore.New(nil))}
	guard := idem.New(m.store, guardOpts)
	handler := idemhttp.New(guard, opts)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(w, r, m.runs.Add(1)) }))
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = slog.NewLogLogger(quiet.Handler(), slog.LevelError)
	server.Start()
	m.addr = server.Listener.Addr().String()
	t.Cleanup(func() {
		server.Close()
		ctx, cancel := context.WithTimeout(context.Background(), rig.Patience)
		defer cancel()
		for _, c := range []faulty.Call{faulty.Claim, faulty.Renew, faulty.Complete, faulty.Release, faulty.Abandon, faulty.Lookup} {
			m.store.On(c, nil)
		}
		if err := guard.Close(ctx); err != nil {
			t.Errorf("close the guard: %v", err)
		}
	})
	return m
}

func (m *inside) send(r rig.Request) rig.Reply {
	m.t.Helper()
	return rig.Send(m.t, m.addr, r)
}

func (m *inside) post(key, body string) rig.Reply {
	m.t.Helper()
	return m.send(rig.Request{Key: key, Body: body})
}

func (m *inside) wantRuns(n int64) {
	m.t.Helper()
	if got := m.runs.Load(); got != n {
		m.t.Errorf("%d runs, want %d", got, n)
	}
}
