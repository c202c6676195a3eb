package testserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
)

// keeper has everything that this process has started. One folder holds it all:
// data of servers, and for each running group of processes an empty file in
// groups that is named by its number.
type keeper struct {
	mu        sync.Mutex
	dir       string         // "" before the first server, and after StopAll
	stdin     io.WriteCloser // of the watchdog, which acts when it is closed
	watchdog  *exec.Cmd
	processes []*process
	templates map[string]*template
}

// everything is what StopAll stops. Child processes belong to the process as a
// whole, and so does the list of them.
//
//nolint:gochecknoglobals // see above
var everything = &keeper{}

// StopAll stops every server that this process has started, and removes their
// data. It returns what could not be stopped or removed. Servers can be started again after it.
func StopAll() error { return everything.stopAll() }

// watchdogScript waits until its input ends, which it does when the process
// that holds the other end does, however that ended. Then no more group of
// processes can begin, and those that have begun are killed, with the children
// that have left the group (each backend of PostgreSQL does).
const watchdogScript = `
trap '' HUP INT TERM QUIT
cat >/dev/null
children() {
	if [ -r "/proc/$1/task/$1/children" ]; then cat "/proc/$1/task/$1/children"
	else ps -A -o pid=,ppid= | while read -r c p; do [ "$p" = "$1" ] && echo "$c"; done; fi
}
cd "$1" || exit 0
mv groups ended || exit 0
for f in ended/*; do
	p=${f##*/}
	[ "$p" = '*' ] && continue
	kill -STOP "$p" 2>/dev/null || continue
	kill -KILL $(children "$p") -"$p" 2>/dev/null
	rm -f /dev/shm/*faketime_*_"$p"
done
for f in */data/postmaster.pid; do
	[ -f "$f" ] && ipcrm -m "$(sed -n '7s/.* //p' "$f")" 2>/dev/null
done
cd /
rm -rf "$1" || { sleep 1; rm -rf "$1"; }
`

// groupScript is what runs a program: the file is there before the program is,
// and where the watchdog has been faster there is no folder for it.
const groupScript = `: >"$1/groups/$$" || exit 1; shift; exec "$@"`

// folder returns a new folder for a server's data.
func (k *keeper) folder(name string) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.open(); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(k.dir, name+"-")
	if err != nil {
		return "", fmt.Errorf("testserver: a folder for %s: %w", name, err)
	}
	return dir, os.Chmod(dir, 0o755)
}

// open makes the folder of everything and starts the watchdog, under the mutex.
func (k *keeper) open() error {
	if k.dir != "" {
		return nil
	}
	dir, err := os.MkdirTemp("", "idem-testserver-")
	if err != nil {
		return fmt.Errorf("testserver: a folder for data: %w", err)
	}
	fail := func(err error) error {
		return fmt.Errorf("testserver: starting the watchdog: %w", errors.Join(err, os.RemoveAll(dir)))
	}
	// Servers of other users write in it too.
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(filepath.Join(dir, "groups"), 0o700), os.Chmod(filepath.Join(dir, "groups"), 0o777)); err != nil {
		return fail(err)
	}
	cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", watchdogScript, "idem-testserver-watchdog", dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = ownGroup(nil)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fail(err)
	}
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	k.dir, k.stdin, k.watchdog = dir, stdin, cmd
	k.templates = map[string]*template{}
	return nil
}

func (k *keeper) add(p *process) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.processes = append(k.processes, p)
}

func (k *keeper) remove(p *process) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.processes = slices.DeleteFunc(k.processes, func(q *process) bool { return p == q })
}

func (k *keeper) stopAll() error {
	k.mu.Lock()
	processes := slices.Clone(k.processes)
	k.mu.Unlock()
	errs := make([]error, len(processes))
	var wg sync.WaitGroup
	for i, p := range processes {
		wg.Go(func() { errs[i] = p.stop() })
	}
	wg.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dir == "" {
		return errors.Join(errs...)
	}
	err := errors.Join(errors.Join(errs...), k.stdin.Close(), k.watchdog.Wait(), os.RemoveAll(k.dir))
	k.dir, k.processes = "", nil
	return err
}

// A template is a data folder that was made once, and is copied for each server
// of its kind.
type template struct {
	once sync.Once
	dir  string
	err  error
}

// fromTemplate makes the folder dst a copy of the template, which build
// makes at the first call in the folder that it is given.
func (k *keeper) fromTemplate(key, dst string, build func(dir string) error) error {
	k.mu.Lock()
	if err := k.open(); err != nil {
		k.mu.Unlock()
		return err
	}
	t := k.templates[key]
	if t == nil {
		t = &template{dir: filepath.Join(k.dir, "template-"+key)}
		k.templates[key] = t
	}
	k.mu.Unlock()
	t.once.Do(func() { t.err = build(t.dir) })
	if t.err != nil {
		return t.err
	}
	out, err := exec.CommandContext(context.Background(), "cp", "-Rp", t.dir, dst).CombinedOutput()
	if err != nil {
		return fmt.Errorf("testserver: copying a template: %w: %s", err, out)
	}
	return nil
}
