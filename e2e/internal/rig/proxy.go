package rig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Proxy is the command, running as a process. Its methods, but for those that
// send requests, are for one goroutine.
type Proxy struct {
	// Listen and Admin are its addresses; they stay when it starts again.
	Listen, Admin string
	// Store is what --store was given.
	Store string

	t        testing.TB
	upstream string
	args     []string
	cmd      *exec.Cmd
	log      *logBuffer
	exited   chan struct{}
	client   *http.Client
}

// Start starts the command before the upstream, with a file store in a
// directory of the test's own unless args name another, and waits until it is
// ready. It is killed when the test ends.
func Start(t testing.TB, upstream string, args ...string) *Proxy {
	t.Helper()
	p := &Proxy{
		t: t, upstream: upstream, log: &logBuffer{},
		client: &http.Client{Timeout: Patience, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	for _, a := range args {
		if store, ok := strings.CutPrefix(a, "--store="); ok {
			p.Store = store
		}
	}
	if p.Store == "" {
		p.Store = "file:" + t.TempDir() + "/store"
		args = append(args, "--store="+p.Store)
	}
	p.args = args
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("the proxy's log:\n%s", p.log)
		}
	})
	// A port that is free now may be taken a moment later.
	for try := 0; ; try++ {
		p.Listen, p.Admin = freeAddress(t), freeAddress(t)
		p.launch()
		if p.awaitReady() {
			return p
		}
		if try == 4 || !strings.Contains(p.log.String(), "another program listens") {
			t.Fatalf("the proxy did not start: exit %d\n%s", p.cmd.ProcessState.ExitCode(), p.log)
		}
	}
}

// freeAddress picks a port below those that systems give to outgoing
// connections, so that it is still free when the proxy starts again.
func freeAddress(t testing.TB) string {
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 12_000+rand.IntN(20_000)))
		if err != nil {
			continue
		}
		defer l.Close()
		return l.Addr().String()
	}
	t.Fatal("rig: no free port")
	return ""
}

// Command returns the command with its arguments, not started.
func Command(args ...string) *exec.Cmd {
	return exec.Command(os.Getenv(binaryVariable), args...)
}

func (p *Proxy) launch() {
	p.t.Helper()
	p.cmd = Command(append([]string{"proxy", "--upstream", p.upstream, "--listen", p.Listen, "--admin", p.Admin}, p.args...)...)
	p.cmd.Stderr = p.log
	p.cmd.Stdout = p.log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	cmd, exited := p.cmd, make(chan struct{})
	p.exited = exited
	go func() {
		_ = cmd.Wait() // its exit code is what counts
		close(exited)
	}()
}

// awaitReady reports false when the process ended instead.
func (p *Proxy) awaitReady() bool {
	p.t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for {
		if res, err := p.client.Get("http://" + p.Admin + "/readyz"); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return true
			}
		}
		select {
		case <-tick.C:
		case <-p.exited:
			return false
		case <-deadline.C:
			p.t.Fatalf("the proxy is not ready after %v\n%s", Patience, p.log)
		}
	}
}

// Kill ends the process by SIGKILL and waits until it is gone. A second call
// does nothing.
func (p *Proxy) Kill() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("kill the proxy: %v", err)
	}
	<-p.exited
}

// Restart starts the process again, on the same addresses and store, and waits
// until it is ready. The one before has ended.
func (p *Proxy) Restart() {
	p.t.Helper()
	p.Relaunch()
	if !p.awaitReady() {
		p.t.Fatalf("the proxy did not start again: exit %d\n%s", p.cmd.ProcessState.ExitCode(), p.log)
	}
}

// Relaunch is Restart without the wait.
func (p *Proxy) Relaunch() {
	p.t.Helper()
	<-p.exited
	p.launch()
}

// AwaitReady waits until the process is ready, and ends the test when it ended
// instead.
func (p *Proxy) AwaitReady() {
	p.t.Helper()
	if !p.awaitReady() {
		p.t.Fatalf("the proxy ended: exit %d\n%s", p.cmd.ProcessState.ExitCode(), p.log)
	}
}

// Serves waits until the process is ready, and reports false when it ended
// instead.
func (p *Proxy) Serves() bool {
	p.t.Helper()
	return p.awaitReady()
}

// Ready reports whether the proxy says that it serves.
func (p *Proxy) Ready() bool {
	res, err := p.client.Get("http://" + p.Admin + "/readyz")
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// Signal sends the process a signal.
func (p *Proxy) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Exit waits until the process has ended, and returns its exit code.
func (p *Proxy) Exit() int {
	p.t.Helper()
	Receive(p.t, "the proxy ends", p.exited)
	return p.cmd.ProcessState.ExitCode()
}

// Terminate ends the process by SIGTERM and returns its exit code.
func (p *Proxy) Terminate() int {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Exit()
}

// PID is the number of the process.
func (p *Proxy) PID() int { return p.cmd.Process.Pid }

// Log is what the process has said so far, earlier starts included.
func (p *Proxy) Log() string { return p.log.String() }

// Send sends a request on a connection of its own.
func (p *Proxy) Send(r Request) Reply {
	p.t.Helper()
	return Send(p.t, p.Listen, r)
}

// Post sends a POST with that key and body to /things.
func (p *Proxy) Post(key, body string) Reply {
	p.t.Helper()
	return p.Send(Request{Key: key, Body: body})
}

// Record is a record as the admin address shows it.
type Record struct {
	Scope, Key, Path, State string
	Attempt                 int
	Response                *struct {
		Status  int
		Headers http.Header
		Body    []byte
	}
}

// Records lists the records in one of the states, all pages.
func (p *Proxy) Records(states ...string) []Record {
	p.t.Helper()
	var all []Record
	after := ""
	for {
		q := url.Values{"state": states, "limit": {"500"}}
		if after != "" {
			q.Set("after", after)
		}
		var page struct {
			Records []Record
			Next    string
		}
		r := p.Ask("GET", "/v1/records?"+q.Encode(), "")
		if r.Status != http.StatusOK {
			p.t.Fatalf("list records: %v", r)
		}
		if err := json.Unmarshal(r.Body, &page); err != nil {
			p.t.Fatal(err)
		}
		all = append(all, page.Records...)
		if page.Next == "" {
			return all
		}
		after = page.Next
	}
}

// Find returns the record of a key, whatever its scope, or one without a state.
func (p *Proxy) Find(key string) Record {
	p.t.Helper()
	all := p.Records("in-flight", "completed", "unknown", "forgotten")
	if i := slices.IndexFunc(all, func(r Record) bool { return r.Key == key }); i >= 0 {
		return all[i]
	}
	return Record{}
}

// Ask sends a request to the admin address; body, unless empty, is JSON.
func (p *Proxy) Ask(method, path, body string) Reply {
	p.t.Helper()
	req, err := http.NewRequest(method, "http://"+p.Admin+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := p.client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	r := Reply{Status: res.StatusCode, Header: res.Header}
	r.Body, r.Err = io.ReadAll(res.Body)
	return r
}

// logBuffer is a buffer that two goroutines may use.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
