package nats

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/idem-go/idem/testserver"
)

// childVariable tells a program that it is a server, and where its configuration is.
const childVariable = "IDEM_TESTSERVER_NATS"

// ServeChild is the first line of a TestMain, or of a main, whose program starts
// servers as processes. It returns at once, except in such a process: there it
// serves, and ends the process.
func ServeChild() {
	conf := os.Getenv(childVariable)
	if conf == "" {
		served.Store(true)
		return
	}
	if err := serve(conf); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve runs a server until a signal ends it.
func serve(conf string) error {
	o, err := server.ProcessConfigFile(conf)
	if err != nil {
		return fmt.Errorf("testserver/nats: configuration: %w", err)
	}
	s, err := server.NewServer(o)
	if err != nil {
		return fmt.Errorf("testserver/nats: %w", err)
	}
	s.ConfigureLogger()
	s.Start()
	s.WaitForShutdown()
	return nil
}

// errServeChild is for a program that would become itself again, and not a server.
var errServeChild = errors.New("testserver/nats: ServeChild was not called: it is the first line of TestMain, or of main")

// StartProcess starts a server that is a process of its own.
func StartProcess(o *Options) (*Server, error) {
	o = orDefaults(o)
	if s := external(o); s != nil {
		return s, nil
	}
	prog, err := o.program("nats")
	if err != nil {
		return nil, err
	}
	s, err := testserver.Run(prog)
	if err != nil {
		return nil, err
	}
	return &Server{s: s}, nil
}

// program describes a server as a process; further lines are for a cluster.
func (o *Options) program(name string, further ...string) (testserver.Program, error) {
	if !served.Load() {
		return testserver.Program{}, errServeChild
	}
	exe, err := os.Executable()
	if err != nil {
		return testserver.Program{}, fmt.Errorf("testserver/nats: %w", err)
	}
	return testserver.Program{
		Name: name,
		DSN:  "nats://127.0.0.1:{port}",
		// The flag means something to a test binary that does not become a server.
		Args: []string{exe, "-test.run=^$"},
		Env:  []string{childVariable + "={dir}/nats.conf"},
		Prepare: func(dir, port string) error {
			store := o.StoreDir
			if store == "" {
				store = filepath.Join(dir, "data")
			}
			return os.WriteFile(filepath.Join(dir, "nats.conf"), []byte(o.config(port, store, further...)), 0o644)
		},
		Answers: answers,
	}, nil
}

// answers waits for the answer to a ping.
func answers(_ context.Context, c net.Conn) error {
	if _, err := c.Write([]byte("CONNECT {\"verbose\":false}\r\nPING\r\n")); err != nil {
		return err
	}
	for lines := bufio.NewReader(c); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.HasPrefix(line, "PONG") || strings.HasPrefix(line, "-ERR") {
			return nil // an error, such as one about a password, is an answer
		}
	}
}

// routeDistance is how far a server's port for the others is from that for clients.
const routeDistance = 10000

// Cluster starts three servers, each a process, and waits until they have elected
// who leads JetStream. StoreDir means nothing here.
func Cluster(o *Options) (*Server, error) {
	options := *orDefaults(o)
	options.StoreDir = ""
	var errs []error
	for range 5 {
		s, err := startCluster(&options)
		if err == nil {
			return &Server{s: s}, nil
		}
		if errs = append(errs, err); !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func startCluster(o *Options) (_ *testserver.Server, err error) {
	var ports []int
	var routes, addrs []string
	for range 3 {
		port, err := testserver.FreePort(routeDistance)
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", port+routeDistance))
		addrs = append(addrs, "127.0.0.1:"+strconv.Itoa(port))
	}
	var nodes []*testserver.Server
	defer func() {
		if err != nil {
			for _, n := range nodes {
				err = errors.Join(err, n.Stop())
			}
		}
	}()
	for i, port := range ports {
		prog, err := o.program(fmt.Sprintf("nats-%d", i+1),
			fmt.Sprintf("server_name: n%d", i+1),
			fmt.Sprintf("cluster { name: idem, host: 127.0.0.1, port: %d, routes: [%s] }", port+routeDistance, strings.Join(routes, ", ")))
		if err != nil {
			return nil, err
		}
		prog.Port = port
		n, err := testserver.Run(prog)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	dsn := "nats://" + strings.Join(addrs, ",")
	g := testserver.Group("nats cluster", dsn, func(ctx context.Context) error { return ready(ctx, addrs) }, nodes...)
	if err := g.Await(); err != nil {
		return nil, err
	}
	return g, nil
}

// ready reports that JetStream answers at each of the servers, which it does
// when a leader has been elected.
func ready(ctx context.Context, addrs []string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, a := range addrs {
		if err := jetStreamAnswers(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func jetStreamAnswers(ctx context.Context, addr string) error {
	nc, err := nats.Connect("nats://"+addr, nats.NoReconnect(), nats.Timeout(2*time.Second))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	_, err = js.AccountInfo(ctx)
	return err
}
