package testserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How long a server may take: to answer after its start, to end when it is told to,
// and to be gone after SIGKILL.
const (
	startTimeout    = 90 * time.Second
	shutdownTimeout = 20 * time.Second
	killTimeout     = 20 * time.Second
)

// pollPause is between two questions whether something is ready.
const pollPause = 5 * time.Millisecond

// process is a program that serves on one port, and its data.
type process struct {
	name  string
	dir   string // of its own; its data are in dir/data
	argv  []string
	env   []string
	owner *owner
	end   syscall.Signal // what tells it to end as it should
	// jemalloc says that the program may be linked with it.
	jemalloc bool
	addr     string
	// answers returns nil when the server does, on a new connection.
	answers func(ctx context.Context, c net.Conn) error
	// clean removes, after the end, what the folder does not hold.
	clean func(dir string)

	mu      sync.Mutex
	cmd     *exec.Cmd
	ended   chan struct{} // closed when cmd has ended
	stopped bool
}

// begin starts the program, and does not wait until it answers.
func (p *process) begin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return ErrEnded
	}
	if p.running() {
		return ErrRunning
	}
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	argv := append([]string{"-c", groupScript, "sh", filepath.Dir(p.dir)}, p.argv...)
	cmd := exec.CommandContext(context.Background(), "/bin/sh", argv...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = ownGroup(p.owner)
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd, p.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		_ = cmd.Wait() // what it ended with stands in its log
		close(ended)
	}(p.ended)
	return nil
}

// await waits until the server answers.
func (p *process) await() error {
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := p.ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("it ended; its log:\n%s", p.tail(4<<10))
		default:
		}
		if !pause(ctx, pollPause) {
			return fmt.Errorf("no answer in %v: %w; its log:\n%s", startTimeout, err, p.tail(4<<10))
		}
	}
}

// pause lets d pass, and reports that the context has not ended before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ask asks the server once whether it answers.
func (p *process) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", p.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
	}
	return p.answers(ctx, c)
}

// running reports that the program has not ended; under the mutex.
func (p *process) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// signalAll stops the leader, so that it has no more children, and sends the
// signal to it, its group and its children; it returns the children. Under the mutex.
func (p *process) signalAll(s syscall.Signal) ([]int, error) {
	leader := p.cmd.Process.Pid
	if err := signal(leader, sigStop); err != nil {
		return nil, err
	}
	children, err := childrenOf(leader)
	if err != nil {
		return nil, err
	}
	errs := []error{signal(-leader, s)}
	for _, pid := range children {
		errs = append(errs, signal(pid, s))
	}
	return children, errors.Join(errs...)
}

func (p *process) kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.killRunning()
}

func (p *process) killRunning() error {
	if !p.running() {
		return nil
	}
	leader := p.cmd.Process.Pid
	children, err := p.signalAll(sigKill)
	if err != nil {
		return err
	}
	<-p.ended
	err = waitGone(children)
	p.gone(leader)
	return err
}

// gone takes away what told the watchdog of the group.
func (p *process) gone(leader int) {
	_ = os.Remove(filepath.Join(filepath.Dir(p.dir), "groups", fmt.Sprint(leader))) // a wrapper that never ran has made none
	// Where the clock was moved, libfaketime has left something of each process.
	left, err := filepath.Glob(fmt.Sprintf("/dev/shm/*faketime_*_%d", leader))
	if err != nil {
		return
	}
	for _, name := range left {
		_ = os.Remove(name) // the server may have removed it
	}
}

func (p *process) shutdown() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return nil
	}
	leader := p.cmd.Process.Pid
	children, err := p.resumeRunning()
	if err != nil {
		return err
	}
	if err := signal(leader, p.end); err != nil {
		return err
	}
	late := time.NewTimer(shutdownTimeout)
	defer late.Stop()
	select {
	case <-p.ended:
	case <-late.C:
		return errors.Join(fmt.Errorf("it did not end in %v, and was killed", shutdownTimeout), p.killRunning())
	}
	err = waitGone(children)
	p.gone(leader)
	return err
}

func (p *process) pause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return ErrEnded
	}
	children, err := p.signalAll(sigStop)
	if err != nil {
		return err
	}
	return waitStopped(append(children, p.cmd.Process.Pid))
}

func (p *process) resume() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return ErrEnded
	}
	_, err := p.resumeRunning()
	return err
}

// resumeRunning lets all processes go on, and returns the children. Under the mutex.
func (p *process) resumeRunning() ([]int, error) {
	leader := p.cmd.Process.Pid
	children, err := childrenOf(leader)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, pid := range append(slices.Clone(children), -leader) {
		errs = append(errs, signal(pid, sigCont))
	}
	return children, errors.Join(errs...)
}

func (p *process) stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return nil
	}
	if err := p.killRunning(); err != nil {
		return err
	}
	p.stopped = true
	everything.remove(p)
	if p.clean != nil {
		p.clean(p.dir)
	}
	return os.RemoveAll(p.dir)
}

// tail returns the last n bytes of the log.
func (p *process) tail(n int64) string {
	f, err := os.Open(filepath.Join(p.dir, "log"))
	if err != nil {
		return ""
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > n {
		if _, err := f.Seek(-n, io.SeekEnd); err != nil {
			return ""
		}
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return ""
	}
	return string(b)
}

// clockFile is where libfaketime reads the offset from, again and again.
func (p *process) clockFile() string { return filepath.Join(p.dir, "clock") }

// moveClock prepares the program to run with a clock of its own.
func (p *process) moveClock(o *Options) error {
	if o == nil || o.ClockOffset == 0 && !o.MovableClock {
		return nil
	}
	lib, err := faketime()
	if err != nil {
		return err
	}
	if err := p.setClockFile(o.ClockOffset); err != nil {
		return err
	}
	if p.jemalloc {
		lib = strings.TrimSpace(lib + " " + plainMalloc())
	}
	// Only the program itself is preloaded, not the shell before it.
	p.argv = append([]string{"/usr/bin/env", "LD_PRELOAD=" + lib, "FAKETIME_TIMESTAMP_FILE=" + p.clockFile(),
		"FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "FAKETIME_FORCE_MONOTONIC_FIX=0"}, p.argv...)
	return nil
}

func (p *process) setClock(offset time.Duration) error {
	if !exists(p.clockFile()) {
		return errors.New("its clock does not move: start it with a MovableClock")
	}
	return p.setClockFile(offset)
}

// setClockFile replaces the file in one step: the library would read half of it.
func (p *process) setClockFile(offset time.Duration) error {
	text := fmt.Sprintf("%+.6f\n", offset.Seconds())
	part := p.clockFile() + ".new"
	if err := os.WriteFile(part, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(part, p.clockFile())
}

// command runs a program to its end, as the user, and gives its output with the
// error when it fails.
func command(o *owner, dir, stdin, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.SysProcAttr = ownGroup(o)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("testserver: %s: %w: %s", filepath.Base(name), err, out.String())
	}
	return nil
}
