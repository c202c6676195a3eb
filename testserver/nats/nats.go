package nats

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/idem-go/idem/testserver"
)

// Options say how a server is started. Nil options are ready for use.
type Options struct {
	// SyncInterval is JetStream's sync_interval, such as "always" or "1s". Empty is the
	// server's own default, two minutes, by which a crash of the machine can forget
	// what was acknowledged.
	SyncInterval string

	// Settings are lines of the server's configuration, by name: "max_payload":
	// "2MB". JetStream are those of its jetstream block.
	Settings, JetStream map[string]string

	// StoreDir is where the data are. A folder that is named stays after Stop; an
	// empty name is a temporary one, which does not.
	StoreDir string
}

func (o *Options) plain() bool {
	return o.SyncInterval == "" && len(o.Settings) == 0 && len(o.JetStream) == 0 && o.StoreDir == ""
}

func orDefaults(o *Options) *Options {
	if o == nil {
		return &Options{}
	}
	return o
}

// config returns the text of a configuration file. Further lines are for a
// cluster.
func (o *Options) config(port, storeDir string, further ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "host: 127.0.0.1\nport: %s\n", port)
	writeSettings(&b, o.Settings)
	b.WriteString("jetstream {\n")
	fmt.Fprintf(&b, "store_dir: %q\n", storeDir)
	if o.SyncInterval != "" {
		fmt.Fprintf(&b, "sync_interval: %s\n", o.SyncInterval)
	}
	writeSettings(&b, o.JetStream)
	b.WriteString("}\n")
	for _, l := range further {
		b.WriteString(l + "\n")
	}
	return b.String()
}

func writeSettings(b *strings.Builder, settings map[string]string) {
	names := make([]string, 0, len(settings))
	for n := range settings {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		fmt.Fprintf(b, "%s: %s\n", n, settings[n])
	}
}

// A Server is what testserver.Server is: single, a cluster, or embedded in this
// process. Its methods may be called by several goroutines.
type Server struct {
	s *testserver.Server // nil when it is embedded
	e *embedded
}

// Start starts a server in this process. It is quick to start, and has no process
// that could be stopped: Kill is a shutdown, and Pause gives
// testserver.ErrExternal. StopAll stops it too.
func Start(o *Options) (*Server, error) {
	o = orDefaults(o)
	if s := external(o); s != nil {
		return s, nil
	}
	e, err := newEmbedded(o)
	if err != nil {
		return nil, err
	}
	if err := e.start(); err != nil {
		return nil, errors.Join(err, e.stop())
	}
	return &Server{e: e}, nil
}

func external(o *Options) *Server {
	if !o.plain() {
		return nil
	}
	if s := testserver.External("nats", "IDEM_TEST_NATS_DSN"); s != nil {
		return &Server{s: s}
	}
	return nil
}

// DSN returns what idem's --store takes: nats://….
func (s *Server) DSN() string {
	if s.e != nil {
		return "nats://" + s.e.addr
	}
	return s.s.DSN()
}

// Addr returns the host:port of the server, or of the first of a cluster.
func (s *Server) Addr() string {
	if s.e != nil {
		return s.e.addr
	}
	return s.s.Addr()
}

// Addrs returns the host:port of each server.
func (s *Server) Addrs() []string {
	if s.e != nil {
		return []string{s.e.addr}
	}
	return s.s.Addrs()
}

// External reports that IDEM_TEST_NATS_DSN named the server.
func (s *Server) External() bool { return s.e == nil && s.s.External() }

// Nodes returns the servers of a cluster, each of which can be killed and paused by
// itself, or the server itself.
func (s *Server) Nodes() []*Server {
	if s.e != nil || len(s.s.Nodes()) == 1 {
		return []*Server{s}
	}
	var nodes []*Server
	for _, n := range s.s.Nodes() {
		nodes = append(nodes, &Server{s: n})
	}
	return nodes
}

// Kill ends the server by SIGKILL, and waits until it has ended. The data stay.
// One that is embedded is shut down.
func (s *Server) Kill() error {
	if s.e != nil {
		return s.e.shutdown()
	}
	return s.s.Kill()
}

// Shutdown tells the server to end as it should, and waits until it has.
func (s *Server) Shutdown() error {
	if s.e != nil {
		return s.e.shutdown()
	}
	return s.s.Shutdown()
}

// Start starts a server that was killed or shut down, on the same data and port,
// and waits until it answers. A single server of a cluster may answer before the
// cluster has a leader.
func (s *Server) Start() error {
	if s.e != nil {
		return s.e.start()
	}
	return s.s.Start()
}

// Pause stops the server's process where it is (SIGSTOP).
func (s *Server) Pause() error {
	if s.e != nil {
		return fmt.Errorf("%w: a server that is embedded can't be paused; StartProcess starts one that can", testserver.ErrExternal)
	}
	return s.s.Pause()
}

// Resume lets a server go on that was paused.
func (s *Server) Resume() error {
	if s.e != nil {
		return fmt.Errorf("%w: a server that is embedded can't be paused; StartProcess starts one that can", testserver.ErrExternal)
	}
	return s.s.Resume()
}

// Stop ends the server and removes its data, unless the options named their
// folder. A second call does nothing.
func (s *Server) Stop() error {
	if s.e != nil {
		return s.e.stop()
	}
	return s.s.Stop()
}

// Log returns the last lines of what the server has said; one that is embedded
// says nothing.
func (s *Server) Log() string {
	if s.e != nil {
		return ""
	}
	return s.s.Log()
}

// StopAll stops every server that this process has started, those of package
// testserver too, and removes their data.
func StopAll() error {
	embeddedServers.Lock()
	all := slices.Clone(embeddedServers.list)
	embeddedServers.Unlock()
	var errs []error
	for _, e := range all {
		errs = append(errs, e.stop())
	}
	return errors.Join(append(errs, testserver.StopAll())...)
}

// embeddedServers is what StopAll stops. Servers belong to the process as a
// whole, and so does the list of them.
//
//nolint:gochecknoglobals // see above
var embeddedServers struct {
	sync.Mutex
	list []*embedded
}

// served says that this process has called ServeChild.
//
//nolint:gochecknoglobals // what a process does first, it does once
var served atomic.Bool

// embedded is a server in this process.
type embedded struct {
	addr, dir string
	options   *server.Options

	mu      sync.Mutex
	s       *server.Server // nil when it does not run
	stopped bool
}

func newEmbedded(o *Options) (*embedded, error) {
	port, err := testserver.FreePort()
	if err != nil {
		return nil, err
	}
	dir, err := testserver.TempDir("nats")
	if err != nil {
		return nil, err
	}
	store := o.StoreDir
	if store == "" {
		store = filepath.Join(dir, "data")
	}
	conf := filepath.Join(dir, "nats.conf")
	if err := os.WriteFile(conf, []byte(o.config(fmt.Sprint(port), store)), 0o644); err != nil {
		return nil, fmt.Errorf("testserver/nats: %w", err)
	}
	e := &embedded{addr: fmt.Sprintf("127.0.0.1:%d", port), dir: dir}
	if e.options, err = server.ProcessConfigFile(conf); err != nil {
		return nil, fmt.Errorf("testserver/nats: configuration: %w", err)
	}
	e.options.NoSigs, e.options.NoLog = true, true
	embeddedServers.Lock()
	defer embeddedServers.Unlock()
	embeddedServers.list = append(embeddedServers.list, e)
	return e, nil
}

func (e *embedded) start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.stopped:
		return testserver.ErrEnded
	case e.s != nil:
		return testserver.ErrRunning
	}
	s, err := server.NewServer(e.options.Clone())
	if err != nil {
		return fmt.Errorf("testserver/nats: %w", err)
	}
	s.Start()
	if !s.ReadyForConnections(30*time.Second) || !s.JetStreamEnabled() {
		s.Shutdown()
		s.WaitForShutdown()
		return errors.New("testserver/nats: the embedded server did not start")
	}
	e.s = s
	return nil
}

func (e *embedded) shutdown() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.s != nil {
		e.s.Shutdown()
		e.s.WaitForShutdown()
		e.s = nil
	}
	return nil
}

func (e *embedded) stop() error {
	if err := e.shutdown(); err != nil {
		return err
	}
	embeddedServers.Lock()
	embeddedServers.list = slices.DeleteFunc(embeddedServers.list, func(x *embedded) bool { return x == e })
	embeddedServers.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopped = true
	return os.RemoveAll(e.dir)
}
