package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a program that the demo has started. A nil one was not.
type process struct {
	cmd    *exec.Cmd
	output *output
	exited chan struct{}
}

// output keeps what a program says, for when it cannot be started.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func (d *demo) start(name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(filepath.Join(d.bin, name), args...), output: &output{}, exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.Dir = d.dir
	// Ctrl-C reaches the demo alone; it stops the others in its own order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // how it ended shows in its output
		close(p.exited)
	}()
	return p, nil
}

// stop ends the process as an operator would, and by force where that takes
// too long.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		p.kill()
	}
}

// kill ends the process at once, whatever it does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// build makes the two programs.
func (d *demo) build() error {
	root, err := projectRoot()
	if err != nil {
		return err
	}
	if d.dir, err = os.MkdirTemp("", "idem-demo-"); err != nil {
		return err
	}
	d.bin = filepath.Join(d.dir, "bin")
	for _, pkg := range []string{"./cmd/idem", "./examples/users"} {
		cmd := exec.CommandContext(d.ctx, "go", "build", "-o", filepath.Join(d.bin, filepath.Base(pkg)), pkg)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
		}
	}
	return nil
}

// projectRoot is the folder above that has the workspace.
func projectRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("run the demo inside the project: there is no go.work above")
		}
		dir = up
	}
}

// freeAddress is one that nobody listens on now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

// startService starts the users service, in place of one that runs. It takes
// slow between writing a user and answering.
func (d *demo) startService(slow time.Duration) error {
	d.service.stop()
	addr := strings.TrimPrefix(d.service.url, "http://")
	if addr == "" {
		var err error
		if addr, err = freeAddress(); err != nil {
			return err
		}
	}
	p, err := d.start("users", "--addr", addr, "--db", filepath.Join(d.dir, "users.db"), "--delay", slow.String())
	if err != nil {
		return err
	}
	d.service, d.slow = service{url: "http://" + addr, process: p}, slow
	return d.awaitURL(p, "the service", d.service.url+"/users")
}

// startProxy starts the proxy, on the store that it had before.
func (d *demo) startProxy() error {
	if d.proxy.url == "" {
		for _, u := range []*string{&d.proxy.url, &d.proxy.admin} {
			addr, err := freeAddress()
			if err != nil {
				return err
			}
			*u = "http://" + addr
		}
	}
	p, err := d.start("idem", "proxy", "--upstream", d.service.url,
		"--listen", d.proxy.url[len("http://"):], "--admin", d.proxy.admin[len("http://"):],
		"--store", "file:"+filepath.Join(d.dir, "idem-data"))
	if err != nil {
		return err
	}
	d.proxy.process = p
	return d.awaitURL(p, "idem proxy", d.proxy.admin+"/readyz")
}

func (d *demo) killProxy() error {
	d.proxy.kill()
	return nil
}

func (d *demo) restartProxy() error {
	d.proxy.kill()
	return d.startProxy()
}

// awaitURL waits until the program answers, or has ended.
func (d *demo) awaitURL(p *process, name, url string) error {
	ended := false
	err := d.await(name+" to answer", func() bool {
		select {
		case <-p.exited:
			ended = true
			return true
		default:
		}
		res, err := http.Get(url)
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	if ended {
		return fmt.Errorf("%s ended: %s", name, p.output)
	}
	return err
}
