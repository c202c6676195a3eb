// Package rig builds and runs the programs that are measured, each a process
// of its own, and reads what they count.
package rig

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Binaries are the programs, by their paths.
type Binaries struct{ Idem, Bare, Upstream string }

// Root returns the directory of the project's root module.
func Root(ctx context.Context) (string, error) {
	out, err := output(ctx, "", "list", "-m", "-f", "{{.Dir}}", "github.com/idem-go/idem")
	return strings.TrimSpace(string(out)), err
}

// Build builds the programs of the tree at root into dir.
func Build(ctx context.Context, root, dir string) (Binaries, error) {
	b := Binaries{filepath.Join(dir, "idem"), filepath.Join(dir, "bareproxy"), filepath.Join(dir, "upstream")}
	for path, pkg := range map[string]string{b.Idem: "./cmd/idem", b.Bare: "./bench/cmd/bareproxy", b.Upstream: "./bench/cmd/upstream"} {
		if _, err := output(ctx, root, "build", "-o", path, pkg); err != nil {
			return b, err
		}
	}
	return b, nil
}

func output(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
		}
		return nil, fmt.Errorf("rig: go %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// Process is a program that runs.
type Process struct {
	// Addr and Admin are where it serves, host and port.
	Addr, Admin string

	name  string
	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{} // closed when it has ended
	err   error         // how it ended
	tail  []byte        // the last it wrote
}

// Start starts a program and waits until it serves. The program announces its
// addresses in a line of JSON on stderr, as "listen" and "admin".
func Start(ctx context.Context, path string, args ...string) (*Process, error) {
	p := &Process{name: filepath.Base(path), done: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, path, args...)
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 10 * time.Second
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	type addresses struct{ Listen, Admin string }
	announced := make(chan addresses, 1)
	go func() {
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			var a addresses
			if json.Unmarshal(lines.Bytes(), &a) == nil && a.Listen != "" && a.Admin != "" {
				select {
				case announced <- a:
				default:
				}
				continue
			}
			p.tail = append(append(p.tail, lines.Bytes()...), '\n')
			p.tail = p.tail[max(0, len(p.tail)-4<<10):]
		}
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	select {
	case a := <-announced:
		p.Addr, p.Admin = a.Listen, a.Admin
	case <-p.done:
		return nil, fmt.Errorf("rig: %s ended before it served: %w: %s", p.name, p.err, p.tail)
	case <-time.After(20 * time.Second):
		return nil, errors.Join(fmt.Errorf("rig: %s does not say where it serves", p.name), p.Stop())
	}
	if err := p.ready(ctx); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// ready waits until the program says that it can serve.
func (p *Process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		_, err := p.get(ctx, "/readyz")
		if err == nil {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-p.done:
			return fmt.Errorf("rig: %s ended: %w: %s", p.name, p.err, p.tail)
		case <-ctx.Done():
			return fmt.Errorf("rig: %s is not ready: %w", p.name, err)
		}
	}
}

// Stop ends the program, and waits for that. A program that does not end when
// asked to is killed, which is an error.
func (p *Process) Stop() error {
	_ = p.stdin.Close()                       // it may have ended already
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // the same
	late := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
	<-p.done
	if !late.Stop() {
		return fmt.Errorf("rig: %s did not end and was killed: %s", p.name, p.tail)
	}
	return nil
}

// Said returns the last that a program wrote to stderr before it was stopped.
func (p *Process) Said() string {
	<-p.done
	return string(p.tail)
}

// Counter returns a counter of the program's, as it stands at /metrics.
func (p *Process) Counter(ctx context.Context, name string) (float64, error) {
	text, err := p.get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(v), 64)
		}
	}
	return 0, fmt.Errorf("rig: %s has no counter %s", p.name, name)
}

func (p *Process) get(ctx context.Context, path string) (body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Admin+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("rig: %s answers %s to %s", p.name, res.Status, path)
	}
	return io.ReadAll(res.Body)
}

// CPU returns the processor time that the program has used, in user and kernel
// mode; false where the system does not tell as Linux does.
func (p *Process) CPU() (time.Duration, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, false
	}
	// The second field is the name in parentheses, which may hold spaces.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return 0, false
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	kernel, err2 := strconv.ParseInt(fields[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 wherever Go runs on Linux
	return time.Duration(user+kernel) * tick, err1 == nil && err2 == nil
}
