package testserver

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/idem-go/idem/testserver/internal/free"
)

// A Program is what [Run] starts.
type Program struct {
	// Name is short, and stands in errors and in the name of the folder.
	Name string
	// DSN is what [Server.DSN] returns.
	DSN string
	// Args are the program's path and its arguments. The folder and the port stand
	// in them as {dir} and {port}, in DSN and Env as well.
	Args []string
	// Env are variables that it gets besides those of this process.
	Env []string
	// Prepare is called once, before the start, with the folder that is the program's
	// own and the port; nil does nothing.
	Prepare func(dir, port string) error
	// Answers returns nil when the server answers on the connection, which is
	// new and has a deadline. Nil takes an accepted connection for an answer.
	Answers func(ctx context.Context, c net.Conn) error
	// Port is where it listens; 0 chooses one that is free.
	Port int
	// Options may move the clock; its Settings mean nothing here.
	Options *Options
}

// Run starts any program as a private server that listens on a free port of
// 127.0.0.1, which it is told by its arguments, and waits until it answers.
func Run(prog Program) (*Server, error) {
	return start(prog, startDetails{})
}

// startDetails is what the servers of this package need besides.
type startDetails struct {
	owner    *owner
	end      syscall.Signal // 0 is SIGTERM
	jemalloc bool           // the program may be linked with it
	clean    func(dir string)
	distance []int // of further ports from the first
}

// start starts a program on a port that was free; where somebody else was
// faster, on another.
func start(prog Program, d startDetails) (*Server, error) {
	var errs []error
	for range 5 {
		s, err := prepare(prog, d)
		if err != nil {
			return nil, err
		}
		if err = s.Start(); err == nil {
			return s, nil
		}
		taken := strings.Contains(err.Error(), "ddress already in use")
		if errs = append(errs, err, s.Stop()); !taken || prog.Port != 0 {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// prepare makes the folder of a program, which does not run yet.
func prepare(prog Program, d startDetails) (_ *Server, err error) {
	port := prog.Port
	if port == 0 {
		if port, err = free.Port(d.distance...); err != nil {
			return nil, err
		}
	}
	dir, err := everything.folder(prog.Name)
	if err != nil {
		return nil, err
	}
	if err := reachable(filepath.Dir(filepath.Dir(dir)), d.owner); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := d.owner.own(dir); err != nil {
		return nil, err
	}
	addr := free.Address(port)
	_, number, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if prog.Prepare != nil {
		if err := prog.Prepare(dir, number); err != nil {
			return nil, err
		}
	}
	fill := strings.NewReplacer("{dir}", dir, "{port}", number)
	p := &process{name: prog.Name, dir: dir, owner: d.owner, end: d.end, addr: addr, answers: prog.Answers, clean: d.clean, jemalloc: d.jemalloc}
	if p.end == 0 {
		p.end = sigTerm
	}
	if p.answers == nil {
		p.answers = func(context.Context, net.Conn) error { return nil }
	}
	for _, a := range prog.Args {
		p.argv = append(p.argv, fill.Replace(a))
	}
	for _, e := range prog.Env {
		p.env = append(p.env, fill.Replace(e))
	}
	if err := p.moveClock(prog.Options); err != nil {
		return nil, err
	}
	everything.add(p)
	return &Server{name: prog.Name, dsn: fill.Replace(prog.DSN), addrs: []string{addr}, p: p}, nil
}

// dataDir is where a server of this package has its data.
func dataDir(dir string) string { return filepath.Join(dir, "data") }
