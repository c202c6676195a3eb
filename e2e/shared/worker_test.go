package shared

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/idem-go/idem"
	"github.com/idem-go/idem/driver"
)

// workerVariable makes this binary a worker; its value is a config in JSON.
const workerVariable = "IDEM_E2E_SHARED_WORKER"

// op is what a worker is asked to do.
type op string

const (
	opDo         op = "do"          // idem.Do, whose work writes to the ledger
	opTx         op = "tx"          // idem.DoTx, whose work writes rows
	opCompleteTx op = "complete-tx" // a leased claim that ends by idem.CompleteTx with rows
	opRaw        op = "raw"         // a claim of the store's own, and after the gate every write by its token
	opNothing    op = "nothing"     // be there
	opRows       op = "rows"        // the effects that transactions have committed
	opFill       op = "fill"        // fill the disk of the process's own
	opEmpty      op = "empty"       // give its room back
	opGo         op = "go"          // opens the gate of another task
	opEnd        op = "end"         // close guard and store, and end
)

// task asks a worker for something.
type task struct {
	N   uint64
	Op  op
	Key string
	// Gate lets the work wait, once it has begun, until it is told to go on.
	Gate bool
	// Before and After are how long the work takes before its effect, and after it.
	Before, After time.Duration
	// Amount is moved from one account to the other, where it is not 0.
	Amount, From, To int
}

// answer is what a worker tells about a task.
type answer struct {
	N uint64
	// Begun says that the work has, and waits at its gate. The answer is to come.
	Begun bool
	What  what
	Value string
	Error string
	// Attempt is that of the last call of the work, Calls how often it was called.
	Attempt, Calls int
	// Writes are, for opRaw, what each write gave.
	Writes map[string]string
	// Rows is for opRows.
	Rows effects
}

// what is the kind of an answer.
type what string

const (
	ran        what = "ran"
	replayed   what = "replayed"
	unknown    what = "unknown"
	unsaved    what = "unsaved" // an unknown that is still being saved
	inFlight   what = "in-flight"
	noStore    what = "store"
	lost       what = "lost"
	superseded what = "superseded"
	undone     what = "undone" // an error of the work's own, which rolled it back
	failed     what = "failed"
	gone       what = "gone" // the worker has ended without an answer
)

// errWork marks an error of the work in a transaction: the database did not take it,
// and nothing of it was done.
var errWork = errors.New("the work failed")

// kindOf says what an error of idem's means.
func kindOf(err error) what {
	switch {
	case errors.Is(err, errWork):
		return undone
	case errors.Is(err, idem.ErrUnsaved):
		return unsaved
	case errors.Is(err, idem.ErrLost):
		return lost
	case errors.Is(err, idem.ErrSuperseded):
		return superseded
	case errors.Is(err, idem.ErrUnknown):
		return unknown
	case errors.Is(err, idem.ErrInFlight):
		return inFlight
	case errors.Is(err, idem.ErrStore):
		return noStore
	}
	return failed
}

// player does tasks with a store that it has open. A worker is one in a process of its
// own; where nobody is killed the test's process is one.
type player struct {
	config *config
	*opened
	ledger *os.File

	mu    sync.Mutex
	tell  func(answer)
	gates map[uint64]chan struct{}
}

// newPlayer opens the store, for as long as its server takes to answer.
func newPlayer(ctx context.Context, c *config, tell func(answer)) (*player, error) {
	k := kindNamed(c.Store)
	if k == nil {
		return nil, fmt.Errorf("no such store: %s", c.Store)
	}
	p := &player{config: c, tell: tell, gates: map[uint64]chan struct{}{}}
	var err error
	if p.ledger, err = os.OpenFile(c.Ledger, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if p.opened, err = k.open(ctx, c); err == nil {
			return p, nil
		}
		if ctx.Err() != nil {
			return nil, errors.Join(err, p.ledger.Close())
		}
		pause(20 * time.Millisecond)
	}
}

func kindNamed(name string) *kind {
	for _, k := range kinds() {
		if k.name == name {
			return k
		}
	}
	return nil
}

// serveWorker returns at once, except in a worker's process: there it does what it is
// asked for, and ends the process.
func serveWorker() {
	text, ok := os.LookupEnv(workerVariable)
	if !ok {
		return
	}
	if err := work(text); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func work(text string) error {
	c := &config{}
	if err := json.Unmarshal([]byte(text), c); err != nil {
		return err
	}
	if c.Disk != "" {
		if err := mountDisk(c.Disk, c.DiskSize); err != nil {
			return err
		}
	}
	if c.Migrate {
		if err := kindNamed(c.Store).migrate(context.Background(), c.DSN); err != nil {
			return err
		}
	}
	out := json.NewEncoder(os.Stdout)
	var mu sync.Mutex
	p, err := newPlayer(context.Background(), c, func(a answer) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(a) // a parent that has gone needs no answer
	})
	if err != nil {
		return err
	}
	in := json.NewDecoder(os.Stdin)
	var running sync.WaitGroup
	for {
		var t task
		if err := in.Decode(&t); err != nil {
			return nil // the parent has gone, or has said all there was
		}
		switch t.Op {
		case opGo:
			p.open(t.N)
		case opEnd:
			running.Wait()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			return p.end(ctx)
		default:
			running.Go(func() { p.tell(p.play(context.Background(), t)) })
		}
	}
}

// play does a task.
func (p *player) play(ctx context.Context, t task) answer {
	a := answer{N: t.N}
	var o idem.Outcome[string]
	var err error
	req := idem.Request{Key: idem.Key{Scope: p.config.Scope, ID: t.Key}}
	switch t.Op {
	case opDo:
		o, err = idem.DoOutcome(ctx, p.guard, req, func(ctx context.Context) (string, error) {
			p.begun(ctx, t, &a)
			return p.effect(t)
		})
	case opTx:
		o, err = p.tx.do(ctx, req, func(ctx context.Context, q querier) (string, error) {
			p.begun(ctx, t, &a)
			v := newValue()
			if err := p.rows(ctx, q, t, v); err != nil {
				return "", fmt.Errorf("%w: %w", errWork, err)
			}
			return v, nil
		})
	case opCompleteTx:
		o, err = p.completeTx(ctx, req, t, &a)
	case opRaw:
		err = p.raw(ctx, t, &a)
	case opNothing:
	case opRows:
		a.Rows, err = committed(ctx, p.opened, p.config.Scope)
	case opFill:
		err = fillDisk(p.config.Disk)
	case opEmpty:
		err = os.Remove(filler(p.config.Disk))
	default:
		err = fmt.Errorf("no such task: %s", t.Op)
	}
	a.What, a.Value = ran, o.Value
	switch {
	case err != nil:
		a.What, a.Error = kindOf(err), err.Error()
	case o.Replayed:
		a.What = replayed
	}
	return a
}

func filler(dir string) string { return filepath.Join(dir, "filler") }

// fillDisk writes until there is no room left.
func fillDisk(dir string) error {
	f, err := os.Create(filler(dir))
	if err != nil {
		return err
	}
	defer f.Close()
	for piece := make([]byte, 4096); ; {
		if _, err := f.Write(piece); err != nil {
			if errors.Is(err, syscall.ENOSPC) {
				return nil
			}
			return err
		}
	}
}

// newValue is what a work gives: nothing like it is ever given again.
func newValue() string {
	b := make([]byte, 12)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// begun notes a call of the work, and waits at the task's gate.
func (p *player) begun(ctx context.Context, t task, a *answer) {
	a.Calls++
	if c, ok := idem.FromContext(ctx); ok {
		a.Attempt = c.Attempt()
	}
	if t.Gate && a.Calls == 1 {
		p.wait(t)
	}
	pause(t.Before)
}

func (p *player) wait(t task) {
	c := make(chan struct{})
	p.mu.Lock()
	p.gates[t.N] = c
	p.mu.Unlock()
	p.tell(answer{N: t.N, Begun: true})
	<-c
}

// open lets the task go on that waits at its gate.
func (p *player) open(n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.gates[n]; c != nil {
		close(c)
		delete(p.gates, n)
	}
}

// effect is the work that no transaction holds: a line of the ledger, which is there
// however its process ends.
func (p *player) effect(t task) (string, error) {
	v := newValue()
	if _, err := fmt.Fprintf(p.ledger, "%s %s\n", t.Key, v); err != nil {
		return "", err
	}
	pause(t.After)
	return v, nil
}

// rows is the work of a transaction.
func (p *player) rows(ctx context.Context, q querier, t task, value string) error {
	if t.Amount != 0 {
		const move = "UPDATE accounts SET balance = balance + ? WHERE s = ? AND id = ?"
		if err := q.exec(ctx, move, -t.Amount, p.config.Scope, t.From); err != nil {
			return err
		}
		pause(t.After) // so that the one who goes the other way has its first row
		if err := q.exec(ctx, move, t.Amount, p.config.Scope, t.To); err != nil {
			return err
		}
	}
	if err := q.exec(ctx, "INSERT INTO effects (s, k, v) VALUES (?, ?, ?)", p.config.Scope, t.Key, value); err != nil {
		return err
	}
	if t.Amount == 0 {
		pause(t.After)
	}
	return nil
}

// completeTx runs a leased claim that ends in a transaction.
func (p *player) completeTx(ctx context.Context, req idem.Request, t task, a *answer) (idem.Outcome[string], error) {
	b, err := p.guard.Begin(ctx, &req)
	if err != nil {
		return idem.Outcome[string]{}, err
	}
	if b.Replayed {
		o := idem.Outcome[string]{Replayed: true}
		return o, json.Unmarshal(b.Result.Body, &o.Value)
	}
	defer func() { _ = b.Claim.Abandon() }() // nothing, once it has ended
	p.begun(b.Claim.Context(), t, a)
	v := newValue()
	err = p.tx.complete(ctx, b.Claim, v, func(ctx context.Context, q querier) error { return p.rows(ctx, q, t, v) })
	if errors.Is(err, errWork) {
		_ = b.Claim.Release(nil) // nothing was done; whoever asks next does it
	}
	return idem.Outcome[string]{Value: v}, err
}

// raw claims a key of the store itself and, after the gate, tries every write
// that its token would allow.
func (p *player) raw(ctx context.Context, t task, a *answer) error {
	key := driver.KeyOf(p.config.Scope, t.Key)
	reply, err := p.store.Claim(ctx, driver.ClaimRequest{
		Key: key, Scope: p.config.Scope, ID: t.Key, Nonce: driver.NewNonce(), Lease: p.config.Lease, Tombstone: time.Hour, Retry: p.config.Retry,
	})
	if err != nil {
		return err
	}
	if !reply.Granted {
		return fmt.Errorf("the claim was not granted, the record is %v", reply.Record.State)
	}
	p.wait(t)
	ref := driver.Ref{Key: key, Token: reply.Record.Token}
	c := driver.Completion{Result: resultOf("late"), Scope: p.config.Scope, ID: t.Key, Retention: time.Hour, Tombstone: time.Hour}
	a.Writes = map[string]string{}
	note := func(name string, err error) { a.Writes[name] = fmt.Sprint(refusal(err)) }
	note("renew", p.store.Renew(ctx, ref, p.config.Lease))
	note("release", p.store.Release(ctx, ref, driver.Release{Retention: time.Hour}))
	note("abandon", p.store.Abandon(ctx, ref))
	_, err = p.store.Complete(ctx, ref, c)
	note("complete", err)
	if p.tx != nil {
		note("complete-tx", p.tx.completeRaw(ctx, ref, c, func(ctx context.Context, q querier) error { return p.rows(ctx, q, t, "late") }))
	}
	return nil
}

// refusal is the driver's error in err, where there is one.
func refusal(err error) error {
	for _, e := range []error{driver.ErrLost, driver.ErrLapsed, driver.ErrCompleted} {
		if errors.Is(err, e) {
			return e
		}
	}
	return err
}
