package testserver

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// state is what is known of a process: whether it is there at all, and its
// letter, as ps prints it: T is stopped, Z has ended and nobody has asked for it yet.
type state struct {
	parent int
	letter byte
}

// states returns the state of all processes.
func states() (map[int]state, error) {
	if !exists("/proc/self/stat") {
		return psStates()
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("testserver: processes: %w", err)
	}
	all := map[int]state{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if s, ok := procState(pid); ok {
			all[pid] = s
		}
	}
	return all, nil
}

func procState(pid int) (state, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return state{}, false // it has ended meanwhile
	}
	// A program's name stands in parentheses, and may hold some itself.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 2 {
		return state{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	return state{parent, fields[0][0]}, err == nil
}

func psStates() (map[int]state, error) {
	out, err := exec.CommandContext(context.Background(), "ps", "-A", "-o", "pid=,ppid=,stat=").Output()
	if err != nil {
		return nil, fmt.Errorf("testserver: ps: %w", err)
	}
	all := map[int]state{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		pid, err := strconv.Atoi(f[0])
		parent, perr := strconv.Atoi(f[1])
		if err == nil && perr == nil {
			all[pid] = state{parent, f[2][0]}
		}
	}
	return all, nil
}

// childrenOf returns the children of a process.
func childrenOf(pid int) ([]int, error) {
	all, err := states()
	if err != nil {
		return nil, err
	}
	var children []int
	for p, s := range all {
		if s.parent == pid {
			children = append(children, p)
		}
	}
	return children, nil
}

// waitGone waits until none of the processes runs.
func waitGone(pids []int) error {
	return waitStates(pids, "did not end", func(s state) bool { return s.letter == 'Z' || s.letter == 'X' })
}

// waitStopped waits until each of the processes is stopped or gone.
func waitStopped(pids []int) error {
	return waitStates(pids, "did not stop", func(s state) bool { return s.letter == 'T' || s.letter == 'Z' || s.letter == 'X' })
}

func waitStates(pids []int, what string, done func(state) bool) error {
	deadline := time.Now().Add(killTimeout)
	for wait := time.Millisecond; len(pids) > 0; wait = min(2*wait, 50*time.Millisecond) {
		all, err := states()
		if err != nil {
			return err
		}
		var left []int
		for _, pid := range pids {
			if s, there := all[pid]; there && !done(s) {
				left = append(left, pid)
			}
		}
		if pids = left; len(pids) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v %s in %v", pids, what, killTimeout)
		}
		pause(context.Background(), wait)
	}
	return nil
}
