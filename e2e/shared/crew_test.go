package shared

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// crew is several workers with one store. Its methods may be called by several
// goroutines; kill and end by one.
type crew struct {
	t      *testing.T
	config *config
	number atomic.Uint64

	mu      sync.Mutex
	workers []*worker
}

// newCrew starts n workers, which end with the test.
func newCrew(t *testing.T, n int, c *config) *crew {
	t.Helper()
	if c.Ledger == "" {
		c.Ledger = filepath.Join(t.TempDir(), "ledger")
	}
	k := &crew{t: t, config: c}
	for range n {
		k.workers = append(k.workers, k.start())
	}
	t.Cleanup(func() {
		for _, w := range k.workers {
			w.kill()
		}
	})
	return k
}

// worker is a process that does tasks.
type worker struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stderr bytes.Buffer

	mu      sync.Mutex
	tasks   *json.Encoder
	waiting map[uint64]chan answer
	over    bool
	ended   chan struct{}
	err     error // what the process ended with
}

func (c *crew) start() *worker {
	c.t.Helper()
	exe, err := os.Executable()
	must(c.t, err)
	text, err := json.Marshal(c.config)
	must(c.t, err)
	w := &worker{waiting: map[uint64]chan answer{}, ended: make(chan struct{})}
	w.cmd = exec.Command(exe, "-test.run=^$")
	w.cmd.Env = append(os.Environ(), workerVariable+"="+string(text))
	w.cmd.Stderr = &w.stderr
	if c.config.Disk != "" {
		w.cmd.SysProcAttr = apartFrom()
	}
	stdin, err := w.cmd.StdinPipe()
	must(c.t, err)
	stdout, err := w.cmd.StdoutPipe()
	must(c.t, err)
	must(c.t, w.cmd.Start())
	w.stdin, w.tasks = stdin, json.NewEncoder(stdin)
	go w.read(stdout)
	return w
}

// read gives each answer to who waits for it, until the process ends.
func (w *worker) read(out io.Reader) {
	for answers := json.NewDecoder(out); ; {
		var a answer
		if answers.Decode(&a) != nil {
			break
		}
		w.mu.Lock()
		c := w.waiting[a.N]
		if !a.Begun {
			delete(w.waiting, a.N)
		}
		w.mu.Unlock()
		if c != nil {
			c <- a
		}
	}
	err := w.cmd.Wait()
	w.mu.Lock()
	w.over, w.err = true, err
	for n, c := range w.waiting {
		close(c)
		delete(w.waiting, n)
	}
	w.mu.Unlock()
	close(w.ended)
}

// send gives a task to the process. The answers come on the channel, that it has
// begun first where the task has a gate; it is closed when none can come any more.
func (w *worker) send(t task) <-chan answer {
	c := make(chan answer, 2)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		close(c)
		return c
	}
	if t.Op != opGo {
		w.waiting[t.N] = c
	}
	_ = w.tasks.Encode(t) // a process that has ended closes the channel
	return c
}

// kill ends the process by SIGKILL, and waits until it has ended.
func (w *worker) kill() {
	_ = w.cmd.Process.Kill() // one that has ended is as good
	<-w.ended
}

// worker returns the i-th worker.
func (c *crew) worker(i int) *worker {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.workers[i%len(c.workers)]
}

// send gives a task to the i-th worker, with a number of its own.
func (c *crew) send(i int, t task) (number uint64, answers <-chan answer) {
	t.N = c.number.Add(1)
	return t.N, c.worker(i).send(t)
}

// ask gives a task to the i-th worker and waits for the answer.
func (c *crew) ask(i int, t task) answer {
	_, answers := c.send(i, t)
	return final(answers)
}

// final is the last answer of a task.
func final(answers <-chan answer) answer {
	for a := range answers {
		if !a.Begun {
			return a
		}
	}
	return answer{What: gone}
}

// receive waits for the next answer.
func receive(t *testing.T, what string, answers <-chan answer) answer {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case a, ok := <-answers:
		if !ok {
			t.Fatalf("%s: the worker has ended", what)
		}
		return a
	case <-late.C:
		t.Fatalf("%s: no answer in %v", what, patience)
	}
	panic("unreachable")
}

// replace kills the i-th worker by SIGKILL and puts a new one in its place.
func (c *crew) replace(i int) {
	c.t.Helper()
	c.worker(i).kill()
	w := c.start()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.workers[i%len(c.workers)] = w
}

// replaceAll kills all workers at once, starts new ones, and waits until they are
// there.
func (c *crew) replaceAll() {
	c.t.Helper()
	for i := range c.workers {
		_ = c.worker(i).cmd.Process.Kill() // one that has ended is as good
	}
	var there []<-chan answer
	for i := range c.workers {
		c.replace(i)
		_, answers := c.send(i, task{Op: opNothing})
		there = append(there, answers)
	}
	for _, answers := range there {
		final(answers)
	}
}

// signal sends a signal to the i-th worker.
func (c *crew) signal(i int, s os.Signal) {
	c.t.Helper()
	must(c.t, c.worker(i).cmd.Process.Signal(s))
}

// end lets all workers come to their end: they save what is to be saved. A race, a
// panic, a result that is not saved in time is an error of the test.
func (c *crew) end() {
	c.t.Helper()
	for i := range c.workers {
		c.send(i, task{Op: opEnd})
	}
	for i := range c.workers {
		w := c.worker(i)
		late := time.AfterFunc(2*patience, func() { _ = w.cmd.Process.Kill() })
		<-w.ended
		if !late.Stop() {
			c.t.Errorf("worker %d did not come to its end", i)
		}
		if w.err != nil {
			c.t.Errorf("worker %d: %v\n%s", i, w.err, tail(w.stderr.String()))
		}
	}
}

// tail is the end of a long text.
func tail(text string) string {
	const most = 8 << 10
	if len(text) > most {
		return fmt.Sprintf("…%s", text[len(text)-most:])
	}
	return text
}
