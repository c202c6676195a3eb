package drivertest

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
)

// childVariable tells a test binary that it is a child, and what to open. The
// value has a prefix, so that an empty argument is one too.
const (
	childVariable = "IDEM_DRIVERTEST_CHILD"
	childPrefix   = "open:"
)

// ServeChild is the first line of a TestMain whose tests use [Processes]. It
// returns at once, except in a process that Processes has started: there it
// opens the store that the argument names, answers the calls that arrive, and
// ends the process when no more can come. The store is then closed by the
// function that open returned, unless the process is killed before.
func ServeChild(open func(arg string) (s driver.Store, closeStore func(), err error)) {
	arg, ok := os.LookupEnv(childVariable)
	if !ok {
		return
	}
	s, closeStore, err := open(arg[len(childPrefix):])
	if err != nil {
		fmt.Fprintf(os.Stderr, "drivertest: a child's store: %v\n", err)
		os.Exit(1)
	}
	serve(s, os.Stdin, os.Stdout)
	closeStore()
	os.Exit(0)
}

// remoteCall is a call of a store, from the parent to its child. With Cancel it
// ends the context of the call of that number.
type remoteCall struct {
	Number     uint64
	Cancel     bool
	Method     string
	Claim      driver.ClaimRequest
	Ref        driver.Ref
	Lease      time.Duration
	Completion driver.Completion
	Release    driver.Release
}

// remoteAnswer is what a call gave.
type remoteAnswer struct {
	Number uint64
	Reply  driver.ClaimReply
	Late   bool
	Failed bool
	Error  remoteError
}

// remoteError is an error that still is what it was in the child.
type remoteError struct {
	Text string
	// Is is 1 and the place of the driver's error in its list, 0 for none.
	Is         int
	Unreadable *driver.UnreadableError
}

// Error implements error.
func (e *remoteError) Error() string { return e.Text }

// Unwrap makes errors.Is and errors.As work as in the child.
func (e *remoteError) Unwrap() error {
	if e.Unreadable != nil {
		return e.Unreadable
	}
	if e.Is > 0 {
		return sentinels()[e.Is-1]
	}
	return nil
}

func sentinels() []error {
	return []error{
		driver.ErrLost, driver.ErrLapsed, driver.ErrCompleted, driver.ErrTooLarge, driver.ErrFull, driver.ErrInvalid,
		driver.ErrState, driver.ErrClosed, context.Canceled, context.DeadlineExceeded,
	}
}

func (a *remoteAnswer) failed(err error) {
	if err == nil {
		return
	}
	a.Failed, a.Error.Text = true, err.Error()
	if !errors.As(err, &a.Error.Unreadable) {
		for i, s := range sentinels() {
			if errors.Is(err, s) {
				a.Error.Is = i + 1
				break
			}
		}
	}
}

// serve answers calls until in ends.
func serve(s driver.Store, in io.Reader, out io.Writer) {
	calls, answers := gob.NewDecoder(in), gob.NewEncoder(out)
	var mu sync.Mutex // of answers and cancels
	cancels := map[uint64]context.CancelFunc{}
	all, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for {
		var c remoteCall
		if calls.Decode(&c) != nil {
			break
		}
		mu.Lock()
		if c.Cancel {
			if cancel := cancels[c.Number]; cancel != nil {
				cancel()
			}
			mu.Unlock()
			continue
		}
		ctx, cancel := context.WithCancel(all)
		cancels[c.Number] = cancel
		mu.Unlock()
		running.Go(func() {
			a := c.make(ctx, s)
			mu.Lock()
			defer mu.Unlock()
			cancel()
			delete(cancels, c.Number)
			_ = answers.Encode(&a) // a parent that is gone needs no answer
		})
	}
	stop()
	running.Wait()
}

// make makes the call.
func (c *remoteCall) make(ctx context.Context, s driver.Store) (a remoteAnswer) {
	a.Number = c.Number
	var err error
	switch c.Method {
	case "Claim":
		a.Reply, err = s.Claim(ctx, c.Claim)
	case "Renew":
		err = s.Renew(ctx, c.Ref, c.Lease)
	case "Complete":
		a.Late, err = s.Complete(ctx, c.Ref, c.Completion)
	case "Release":
		err = s.Release(ctx, c.Ref, c.Release)
	case "Abandon":
		err = s.Abandon(ctx, c.Ref)
	case "Lookup":
		a.Reply.Record, err = s.Lookup(ctx, c.Ref.Key)
	case "Wait":
		w, ok := driver.As[driver.Waiter](s)
		if !ok {
			err = errors.New("drivertest: the child's store cannot wait")
			break
		}
		err = w.Wait(ctx, c.Ref)
	default:
		err = fmt.Errorf("drivertest: no such call: %s", c.Method)
	}
	a.failed(err)
	return a
}

// ProcessStore is a store whose calls are made by other processes, each in its
// turn. It is for what many processes do to one store's data.
type ProcessStore struct {
	t        testing.TB
	arg      string
	children []*Process
	next     atomic.Uint64
}

// Process is one of the processes of a [ProcessStore]: a store whose calls are
// all made there. Besides the methods of driver.Store it has Wait.
type Process struct {
	t   testing.TB
	cmd *exec.Cmd

	mu      sync.Mutex
	calls   *gob.Encoder
	stdin   io.Closer
	number  uint64
	waiting map[uint64]chan *remoteAnswer
	err     error // why no more answers come
	ended   chan struct{}
}

// errProcess says that a process made no answer.
var errProcess = errors.New("drivertest: the process has ended")

// Processes starts n processes of this test's binary, each of which opens the
// store that arg names (see [ServeChild], which the binary's TestMain calls), and
// returns a store that spreads its calls over them. They end with the test; each can
// be killed and paused before, see [Process].
func Processes(t testing.TB, n int, arg string) *ProcessStore {
	t.Helper()
	s := &ProcessStore{t: t, arg: arg}
	for range n {
		s.children = append(s.children, startProcess(t, arg))
	}
	return s
}

// Process returns the i-th process, from 0 on.
func (s *ProcessStore) Process(i int) *Process { return s.children[i] }

// Restart puts a new process in the place of the i-th one, which has ended.
func (s *ProcessStore) Restart(i int) *Process {
	s.t.Helper()
	s.children[i] = startProcess(s.t, s.arg)
	return s.children[i]
}

func (s *ProcessStore) turn() *Process {
	return s.children[s.next.Add(1)%uint64(len(s.children))]
}

func startProcess(t testing.TB, arg string) *Process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{t: t, waiting: map[uint64]chan *remoteAnswer{}, ended: make(chan struct{})}
	p.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), exe) // it ends when its standard input does
	p.cmd.Env = append(os.Environ(), childVariable+"="+childPrefix+arg)
	p.cmd.Stderr = os.Stderr
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.stdin, p.calls = stdin, gob.NewEncoder(stdin)
	go p.read(stdout)
	t.Cleanup(func() {
		_ = stdin.Close() // it may have ended already
		late := time.AfterFunc(20*time.Second, func() { _ = p.cmd.Process.Kill() })
		<-p.ended
		if !late.Stop() {
			t.Errorf("drivertest: a process did not end when it was told to")
		}
	})
	return p
}

// read gives each answer to who waits for it, until the process ends.
func (p *Process) read(out io.Reader) {
	answers := gob.NewDecoder(out)
	for {
		a := new(remoteAnswer)
		if answers.Decode(a) != nil {
			break
		}
		p.mu.Lock()
		c := p.waiting[a.Number]
		delete(p.waiting, a.Number)
		p.mu.Unlock()
		if c != nil {
			c <- a
		}
	}
	err := errProcess
	if werr := p.cmd.Wait(); werr != nil {
		err = fmt.Errorf("%w: %w", errProcess, werr)
	}
	p.mu.Lock()
	p.err = err
	for n, c := range p.waiting {
		close(c)
		delete(p.waiting, n)
	}
	p.mu.Unlock()
	close(p.ended)
}

// call makes a call in the process.
func (p *Process) call(ctx context.Context, c remoteCall) (*remoteAnswer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	got := make(chan *remoteAnswer, 1)
	p.mu.Lock()
	if p.err != nil {
		p.mu.Unlock()
		return nil, p.err
	}
	p.number++
	c.Number = p.number
	p.waiting[c.Number] = got
	err := p.calls.Encode(&c)
	p.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProcess, err)
	}
	var a *remoteAnswer
	select {
	case a = <-got:
	case <-ctx.Done():
		p.mu.Lock()
		_ = p.calls.Encode(&remoteCall{Number: c.Number, Cancel: true}) // a process that has ended needs no word
		p.mu.Unlock()
		if c.Method != "Wait" {
			return nil, ctx.Err()
		}
		a = <-got
	}
	switch {
	case a == nil:
		return nil, p.err
	case a.Failed:
		return a, &a.Error
	}
	return a, nil
}

// Kill ends the process by SIGKILL, and waits until it has ended. Calls that
// are under way in it give an error.
func (p *Process) Kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
	<-p.ended
}

// Claim implements driver.Store.
func (p *Process) Claim(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
	a, err := p.call(ctx, remoteCall{Method: "Claim", Claim: req})
	if err != nil {
		return driver.ClaimReply{}, err
	}
	return a.Reply, nil
}

// Renew implements driver.Store.
func (p *Process) Renew(ctx context.Context, ref driver.Ref, lease time.Duration) error {
	_, err := p.call(ctx, remoteCall{Method: "Renew", Ref: ref, Lease: lease})
	return err
}

// Complete implements driver.Store.
func (p *Process) Complete(ctx context.Context, ref driver.Ref, c driver.Completion) (late bool, err error) {
	a, err := p.call(ctx, remoteCall{Method: "Complete", Ref: ref, Completion: c})
	if err != nil {
		return false, err
	}
	return a.Late, nil
}

// Release implements driver.Store.
func (p *Process) Release(ctx context.Context, ref driver.Ref, r driver.Release) error {
	_, err := p.call(ctx, remoteCall{Method: "Release", Ref: ref, Release: r})
	return err
}

// Abandon implements driver.Store.
func (p *Process) Abandon(ctx context.Context, ref driver.Ref) error {
	_, err := p.call(ctx, remoteCall{Method: "Abandon", Ref: ref})
	return err
}

// Lookup implements driver.Store.
func (p *Process) Lookup(ctx context.Context, key driver.Key) (driver.Record, error) {
	a, err := p.call(ctx, remoteCall{Method: "Lookup", Ref: driver.Ref{Key: key}})
	if err != nil {
		return driver.Record{}, err
	}
	return a.Reply.Record, nil
}

// Wait implements driver.Waiter, where the child's store does.
func (p *Process) Wait(ctx context.Context, ref driver.Ref) error {
	_, err := p.call(ctx, remoteCall{Method: "Wait", Ref: ref})
	return err
}

// Claim implements driver.Store.
func (s *ProcessStore) Claim(ctx context.Context, req driver.ClaimRequest) (driver.ClaimReply, error) {
	return s.turn().Claim(ctx, req)
}

// Renew implements driver.Store.
func (s *ProcessStore) Renew(ctx context.Context, ref driver.Ref, lease time.Duration) error {
	return s.turn().Renew(ctx, ref, lease)
}

// Complete implements driver.Store.
func (s *ProcessStore) Complete(ctx context.Context, ref driver.Ref, c driver.Completion) (late bool, err error) {
	return s.turn().Complete(ctx, ref, c)
}

// Release implements driver.Store.
func (s *ProcessStore) Release(ctx context.Context, ref driver.Ref, r driver.Release) error {
	return s.turn().Release(ctx, ref, r)
}

// Abandon implements driver.Store.
func (s *ProcessStore) Abandon(ctx context.Context, ref driver.Ref) error {
	return s.turn().Abandon(ctx, ref)
}

// Lookup implements driver.Store.
func (s *ProcessStore) Lookup(ctx context.Context, key driver.Key) (driver.Record, error) {
	return s.turn().Lookup(ctx, key)
}

// Wait implements driver.Waiter, where the children's store does.
func (s *ProcessStore) Wait(ctx context.Context, ref driver.Ref) error {
	return s.turn().Wait(ctx, ref)
}
