package testserver

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What every server does: it answers, keeps its data when it is killed and
// started, hangs while it is paused, and leaves nothing when it is stopped.
func TestServerLives(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			s, err := k.start(&Options{Settings: map[string]string{k.setting: "7"}})
			if !Need(t, k.name, err) {
				return
			}
			if s.External() || len(s.Nodes()) != 1 || s.Nodes()[0] != s || len(s.Addrs()) != 1 || s.Addrs()[0] != s.Addr() || !strings.HasSuffix(s.Addr(), ":"+s.Port()) {
				t.Errorf("%v %v %v", s.External(), s.Nodes(), s.Addrs())
			}
			if _, err := k.put(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			kept := func(after string) {
				t.Helper()
				if got, err := k.get(t.Context(), s); err != nil || got != "kept" {
					t.Fatalf("%s: %q %v", after, got, err)
				}
			}
			kept("a put")
			if got, err := k.askFor(t.Context(), s); err != nil || got != "7" {
				t.Errorf("%s is %q, not 7: %v", k.setting, got, err)
			}
			if err := s.Start(); !errors.Is(err, ErrRunning) {
				t.Errorf("Start of one that runs: %v", err)
			}

			before := running(t, s)
			if len(before) < k.processes {
				t.Errorf("%d processes", len(before))
			}
			if err := errors.Join(s.Kill(), s.Kill()); err != nil {
				t.Fatal(err)
			}
			if err := allGone(before); err != nil {
				t.Errorf("after Kill: %v", err)
			}
			if _, err := k.get(within(t, 10*time.Second), s); err == nil {
				t.Error("a server that was killed answers")
			}
			if err := s.Pause(); !errors.Is(err, ErrEnded) {
				t.Errorf("Pause of one that was killed: %v", err)
			}
			if err := s.Resume(); !errors.Is(err, ErrEnded) {
				t.Errorf("Resume of one that was killed: %v", err)
			}
			if err := s.Start(); err != nil {
				t.Fatal(err)
			}
			kept("kill and start")
			if err := errors.Join(s.Shutdown(), s.Shutdown(), s.Start()); err != nil {
				t.Fatal(err)
			}
			kept("shutdown and start")

			if err := errors.Join(s.Pause(), s.Pause()); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if got, err := k.get(within(t, 300*time.Millisecond), s); err == nil || time.Since(began) < 250*time.Millisecond {
				t.Errorf("a paused server answers after %v: %q %v", time.Since(began), got, err)
			}
			answered := make(chan error, 1)
			go func() { _, err := k.get(t.Context(), s); answered <- err }()
			if err := errors.Join(s.Resume(), s.Resume()); err != nil {
				t.Fatal(err)
			}
			if err := <-answered; err != nil {
				t.Errorf("a call that began in the pause: %v", err)
			}
			if s.Log() == "" {
				t.Error("the server has said nothing")
			}

			if err := s.Pause(); err != nil {
				t.Fatal(err)
			}
			before = running(t, s)
			if err := errors.Join(s.Stop(), s.Stop()); err != nil {
				t.Fatal(err)
			}
			if err := allGone(before, s.p.dir); err != nil {
				t.Errorf("after Stop of a paused server: %v", err)
			}
			l, err := net.Listen("tcp", s.Addr())
			if err != nil {
				t.Fatalf("after Stop: %v", err)
			}
			l.Close()
			if err := s.Start(); !errors.Is(err, ErrEnded) {
				t.Errorf("Start of one that was stopped: %v", err)
			}
		})
	}
}

func TestClockMoves(t *testing.T) {
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			if !Need(t, "faketime", NeedClock()) {
				return
			}
			s, err := k.start(&Options{ClockOffset: 10 * time.Minute})
			if !Need(t, k.name, err) {
				return
			}
			shows := func(offset time.Duration) {
				t.Helper()
				got, err := k.now(t.Context(), s)
				if err != nil {
					t.Fatal(err)
				}
				seconds, err := strconv.ParseFloat(got, 64)
				if err != nil {
					t.Fatal(err)
				}
				if off := time.Duration(seconds*1e9-float64(time.Now().UnixNano())) - offset; off.Abs() > time.Minute {
					t.Errorf("the clock is %v away from %v", off, offset)
				}
			}
			shows(10 * time.Minute)
			if err := s.SetClock(-time.Hour); err != nil {
				t.Fatal(err)
			}
			shows(-time.Hour)
			if err := errors.Join(s.Kill(), s.Start()); err != nil {
				t.Fatal(err)
			}
			shows(-time.Hour)
			before := running(t, s)
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
			if err := allGone(before, s.p.dir); err != nil {
				t.Error(err)
			}
		})
	}
	s, err := Redis(&Options{Settings: map[string]string{"hz": "7"}})
	if !Need(t, "redis", err) {
		return
	}
	if err := s.SetClock(time.Hour); err == nil {
		t.Error("a server without a MovableClock takes one")
	}
}

const childVariable = "IDEM_TESTSERVER_CHILD"

// child is a test that is killed: it has one server of each kind, one of them
// paused, and tells their processes.
func child() {
	for _, k := range kinds() {
		s, err := k.start(&Options{Settings: map[string]string{k.setting: "7"}, MovableClock: NeedClock() == nil})
		if errors.Is(err, ErrMissing) {
			continue
		}
		if err == nil && k.name == "postgres" {
			err = s.Pause()
		}
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		children, err := childrenOf(s.p.cmd.Process.Pid)
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		for _, pid := range append(children, s.p.cmd.Process.Pid) {
			fmt.Println("pid", pid)
		}
	}
	fmt.Println("dir", everything.dir)
	fmt.Println("ready")
	select {}
}

// A test that is killed leaves no process, no data and no shared memory.
func TestKilledTestLeavesNothing(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	// A folder whose name has a space, and which servers of other users can enter.
	tmp := filepath.Join(t.TempDir(), "a b")
	if err := errors.Join(os.Mkdir(tmp, 0o755), os.Chmod(filepath.Dir(filepath.Dir(tmp)), 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), childVariable+"=1", "TMPDIR="+tmp)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	var dir string
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "ready"; {
		switch what, value, _ := strings.Cut(lines.Text(), " "); what {
		case "pid":
			pid, err := strconv.Atoi(value)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		case "dir":
			dir = value
		default:
			t.Error(lines.Text())
		}
	}
	if dir == "" {
		t.Error("the child has started nothing")
	} else if err := allGone(pids, dir); err == nil {
		t.Error("the servers do not run before the kill")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	eventually(t, "everything is gone", func() error { return allGone(pids, dir) })
}

func TestRunStartsAnything(t *testing.T) {
	server, err := program(nil, "redis-server", "valkey-server")
	if !Need(t, "redis", err) {
		return
	}
	s, err := Run(Program{
		Name: "any", DSN: "any://{port}", Args: []string{server, "--port", "{port}", "--dir", "{dir}", "--logfile", "{dir}/said"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.DSN() != "any://"+s.Port() || !exists(filepath.Join(s.p.dir, "said")) {
		t.Errorf("%s %s", s.DSN(), s.p.dir)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	_, err = Run(Program{Name: "any", Args: []string{"/bin/sh", "-c", "echo no such luck; exit 3"}})
	if err == nil || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("a program that ends: %v", err)
	}
}

func TestStartAgainAfterStopAll(t *testing.T) {
	k := &keeper{}
	dir, err := k.folder("a")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(k.stopAll(), k.stopAll()); err != nil {
		t.Fatal(err)
	}
	if err := allGone(nil, dir, filepath.Dir(dir)); err != nil {
		t.Error(err)
	}
	if dir, err = k.folder("b"); err != nil || !exists(dir) {
		t.Errorf("%s %v", dir, err)
	}
	if err := k.stopAll(); err != nil {
		t.Error(err)
	}
}
