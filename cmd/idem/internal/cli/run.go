package cli

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/cmd/idem/internal/admin"
	"github.com/idem-go/idem/cmd/idem/internal/metrics"
	"github.com/idem-go/idem/cmd/idem/internal/proxy"
	"github.com/idem-go/idem/cmd/idem/internal/server"
	"github.com/idem-go/idem/cmd/idem/internal/stores"
	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/idemhttp"
)

// closeWait is how long the connections to a store's server may take to close.
const closeWait = 3 * time.Second

// runProxy opens all that the proxy needs, and serves when it has it all.
func runProxy(ctx context.Context, s *proxySettings, stderr io.Writer) error {
	logger := s.newLogger(stderr)
	public, adminListener, err := s.openListeners()
	if err != nil {
		return err
	}
	store, closeStore, err := s.store.Open(ctx, &stores.Options{MaxUnknown: int(s.maxUnknown), MaxResult: int(s.maxStoredResponse), Logger: logger})
	if err != nil {
		closeAll(public, adminListener)
		return storeError(s.store, err)
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	srv := server.New(&server.Options{Drain: s.drain.d, Logger: logger})
	counted := metrics.New(store, &metrics.Options{Version: buildVersion().version, Requests: srv.Requests})
	guard := idem.New(store, &idem.Options{Policy: s.policy(), Observer: observers{counted, eventLog{logger}}, Logger: logger})
	handler, closeIdle := proxy.New(guard, s.proxyConfig(logger))
	info := describe(store)
	tuneGC(s.store.InMemory())
	logger.Info("idem: serving", "version", buildVersion().version, "listen", public.Addr().String(), "admin", adminListener.Addr().String(),
		"upstream", s.upstream.String(), "store", s.store.String(), "durable", info.Durable, "shared", info.Shared, "scope", s.scope.String())
	s.warn(logger, info)

	cfg := server.Config{
		Public: handler,
		Admin: admin.New(store, &admin.Options{
			Ready: srv.Ready, Metrics: counted.Handler(), Token: s.token, Hosts: s.allowedHosts(),
			Retention: s.retention.d, Tombstone: s.tombstone.d, MaxResponse: int(s.maxStoredResponse), Logger: logger,
		}),
		Guard: guard, CloseIdle: closeIdle, CloseStore: closeStore,
	}
	if info.Shared {
		cfg.CloseWait = closeWait
	}
	if err := srv.Run(ctx, public, adminListener, signals, cfg); err != nil {
		return &failure{err}
	}
	logger.Info("idem: ended; every request has its answer and its record")
	return nil
}

func (s *proxySettings) newLogger(w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: s.logLevel.value}
	if s.logJSON.value {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// openListeners opens both addresses or none. The store comes after them, so
// that a port in use leaves no directory behind.
func (s *proxySettings) openListeners() (public, adminListener net.Listener, err error) {
	if public, err = listen("--listen", s.listen); err != nil {
		return nil, nil, err
	}
	if adminListener, err = listen("--admin", s.admin); err != nil {
		closeAll(public)
		return nil, nil, err
	}
	if s.token == "" && !isLoopback(adminListener) {
		closeAll(public, adminListener)
		return nil, nil, usage("--admin "+s.admin+" is not a loopback address on this machine and has no token", "give one with --admin-token-file, or bind it to 127.0.0.1")
	}
	return public, adminListener, nil
}

// closeAll closes listeners on which nothing was accepted.
func closeAll(listeners ...net.Listener) {
	for _, l := range listeners {
		_ = l.Close() // the process ends, with an error of its own to tell
	}
}

// policy is what idem keeps to, as the flags say it.
func (s *proxySettings) policy() idem.Policy {
	wait := s.wait.d
	if wait == 0 {
		wait = -1 // in a policy 0 stands for the default
	}
	return idem.Policy{
		Wait: wait, Lease: s.lease.d, Retention: s.retention.d, Tombstone: s.tombstone.d, MaxRun: s.maxRun.d,
		SaveWait: s.saveWait.d, MaxResult: int(s.maxStoredResponse), Unknown: s.onUnknown.value,
	}
}

func (s *proxySettings) proxyConfig(logger *slog.Logger) proxy.Config {
	return proxy.Config{
		Upstream:            s.upstream,
		UpstreamTimeout:     s.upstreamTimeout.d,
		UpstreamIdleTimeout: s.upstreamIdleTimeout.d,
		HTTP: idemhttp.Options{
			RequireKey:        s.requireKey,
			Principal:         s.scope.principal,
			MaxRequestBody:    int64(s.maxRequestBody),
			MaxRequestBodies:  max(idemhttp.DefaultMaxRequestBodies, int64(s.maxRequestBody)),
			MaxStoredResponse: int(s.maxStoredResponse),
			Logger:            logger,
		},
		Logger: logger,
	}
}

// allowedHosts are the names under which the admin address may be asked: its
// own, and those that were allowed.
func (s *proxySettings) allowedHosts() []string {
	hosts := append([]string(nil), s.adminHosts...)
	if a, err := parseAddress("--admin", s.admin); err == nil && !a.every() {
		hosts = append(hosts, a.host)
	}
	return hosts
}

// describe is what the store says of itself; what does not say is taken for a
// store that promises nothing.
func describe(store driver.Store) driver.Info {
	if d, ok := driver.As[driver.Describer](store); ok {
		return d.Describe()
	}
	return driver.Info{}
}

// warn says what an operator may not expect.
func (s *proxySettings) warn(logger *slog.Logger, info driver.Info) {
	switch {
	case info.Durable:
	case info.Shared:
		logger.Warn("idem: the store's server may forget what it has acknowledged; a retry after that runs again; idem store check says when", "store", s.store.String())
	default:
		logger.Warn("idem: the store keeps nothing when this process ends; a retry after that runs again", "store", s.store.String())
	}
	if info.MaxResult > 0 && info.MaxResult < int(s.maxStoredResponse) {
		logger.Warn("idem: the store takes less than --max-stored-response; a larger response is not replayed, and its request is not run again", "store", s.store.String(), "largest", info.MaxResult)
	}
	if s.onUnknown.value == idem.RetryUnknown {
		logger.Warn("idem: unknown outcomes are run again, so an operation may take effect twice unless the service takes the key itself")
	}
	if s.upstreamTimeout.d > s.maxRun.d {
		logger.Warn("idem: --upstream-timeout is longer than --max-run, which ends a request first", "upstream_timeout", s.upstreamTimeout.d, "max_run", s.maxRun.d)
	}
}

// observers tells several observers.
type observers []idem.Observer

// Observe implements idem.Observer.
func (o observers) Observe(ctx context.Context, e idem.Event) {
	for _, each := range o {
		each.Observe(ctx, e)
	}
}

// eventLog logs every operation at the level debug, by its key's short hash.
type eventLog struct{ logger *slog.Logger }

// Observe implements idem.Observer.
func (l eventLog) Observe(ctx context.Context, e idem.Event) {
	if !l.logger.Enabled(ctx, slog.LevelDebug) {
		return
	}
	l.logger.LogAttrs(ctx, slog.LevelDebug, "idem: operation", slog.String("outcome", string(e.Kind)), slog.String("key", e.KeyHash()),
		slog.Int("attempt", e.Attempt), slog.Bool("waited", e.Waited), slog.Duration("duration", e.Duration.Round(time.Microsecond)))
}
