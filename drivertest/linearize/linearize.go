package linearize

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/drivertest"
)

// Options are the sizes of [Run]; 0 means the default.
type Options struct {
	// Seed decides what the clients do, though not how they race. By default it
	// is taken from the environment ([drivertest.SeedVariable]), or else from the
	// clock.
	Seed uint64
	// Rounds is how many keys are raced for, one after another; 200 by default.
	Rounds int
	// Clients is how many race; 8 by default.
	Clients int
	// Calls is how many calls each makes on a key; 8 by default.
	Calls int
}

// judging is how long porcupine may look for an order of one key's calls.
const judging = 30 * time.Second

// Run races clients on a fresh store of the harness, and fails the test unless
// what they were told is linearizable. Of the harness it needs New, and uses
// Around.
func Run(t *testing.T, h drivertest.Harness, o *Options) {
	t.Helper()
	var opts Options
	if o != nil {
		opts = *o
	}
	if opts.Seed == 0 {
		opts.Seed = drivertest.Seed(t)
	}
	opts.Rounds = or(opts.Rounds, 200)
	opts.Clients = or(opts.Clients, 8)
	opts.Calls = or(opts.Calls, 8)
	t.Logf("linearize: %d clients, %d rounds, %s=%d", opts.Clients, opts.Rounds, drivertest.SeedVariable, opts.Seed)
	var history []porcupine.Operation
	around := h.Around
	if around == nil {
		around = func(t *testing.T, f func(t *testing.T)) { f(t) }
	}
	around(t, func(t *testing.T) { history = race(t, h.New(t), opts) })
	if err := judge(history); err != nil {
		t.Errorf("%v\nmore luck with %s=%d", err, drivertest.SeedVariable, opts.Seed)
	}
}

func or(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// round is one key and what the clients share of it.
type round struct {
	key    driver.Key
	id     string
	newest atomic.Uint64 // the last token that anybody saw granted
	last   atomic.Pointer[driver.ClaimRequest]
}

// race returns what the clients called and were told.
func race(t testing.TB, s driver.Store, o Options) []porcupine.Operation {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	var clock atomic.Int64 // calls and answers, in their order
	var history []porcupine.Operation
	for n := range o.Rounds {
		id := fmt.Sprint("round ", n)
		r := &round{key: driver.KeyOf("scope", id), id: id}
		clients := make([][]porcupine.Operation, o.Clients)
		var start, end sync.WaitGroup
		start.Add(1)
		for c := range clients {
			rng := rand.New(rand.NewPCG(o.Seed, uint64(n*o.Clients+c)))
			end.Go(func() {
				start.Wait()
				for range o.Calls {
					in := r.input(rng)
					if rng.IntN(3) == 0 {
						runtime.Gosched()
					}
					called := clock.Add(1)
					out := call(ctx, s, in)
					clients[c] = append(clients[c], porcupine.Operation{
						ClientId: c, Input: in, Output: out, Call: called, Return: clock.Add(1),
					})
					r.saw(in, out)
				}
			})
		}
		start.Done()
		end.Wait()
		history = append(history, slices.Concat(clients...)...)
	}
	return history
}

// input is a call: what is asked of the store.
type input struct {
	call  string
	key   driver.Key
	ref   driver.Ref
	req   driver.ClaimRequest
	c     driver.Completion
	rel   driver.Release
	lease time.Duration
	// repeat says that the nonce of the claim has been used before.
	repeat bool
}

// output is what the store answered.
type output struct {
	err     error
	granted bool
	late    bool
	record  driver.Record
}

// Nothing ends by itself while clients race.
const long = 1000 * time.Hour

func (r *round) input(rng *rand.Rand) input {
	in := input{key: r.key, ref: driver.Ref{Key: r.key, Token: r.newest.Load()}, lease: long}
	if rng.IntN(8) == 0 && in.ref.Token > 0 {
		in.ref.Token--
	}
	switch n := rng.IntN(100); {
	case n < 40:
		in.call = "Claim"
		in.req = driver.ClaimRequest{
			Key: r.key, Scope: "scope", ID: r.id, Lease: long, Tombstone: long,
			Fingerprint: driver.Fingerprint{Rule: uint8(1 + rng.IntN(8)/7)}, Retry: rng.IntN(4) > 0,
		}
		for i := range in.req.Nonce {
			in.req.Nonce[i] = byte(1 + rng.IntN(255))
		}
		if rng.IntN(3) == 0 {
			in.req.Waited = in.ref.Token
		}
		if last := r.last.Load(); last != nil && rng.IntN(4) == 0 {
			// Under retry a nonce that is not the newest any more would be granted
			// for what it is, a claim of its own: no caller repeats one that way.
			in.req, in.repeat = *last, true
			in.req.Retry = false
		}
	case n < 50:
		in.call = "Lookup"
	case n < 60:
		in.call = "Renew"
	case n < 76:
		in.call = "Release"
		in.rel = driver.Release{Answered: rng.IntN(2) == 0, Retention: long}
	case n < 90:
		in.call = "Abandon"
	default:
		in.call = "Complete"
		in.c = driver.Completion{
			Result: driver.Result{Body: []byte{'a' + byte(rng.IntN(2))}},
			Scope:  "scope", ID: r.id, Fingerprint: driver.Fingerprint{Rule: 1},
			Retention: long, Tombstone: long,
		}
	}
	return in
}

// saw shares what was granted with the other clients.
func (r *round) saw(in input, out output) {
	if in.call != "Claim" || !out.granted {
		return
	}
	for {
		old := r.newest.Load()
		if out.record.Token <= old {
			return
		}
		if r.newest.CompareAndSwap(old, out.record.Token) {
			r.last.Store(&in.req)
			return
		}
	}
}

func call(ctx context.Context, s driver.Store, in input) (out output) {
	switch in.call {
	case "Claim":
		var reply driver.ClaimReply
		reply, out.err = s.Claim(ctx, in.req)
		out.granted, out.record = reply.Granted, reply.Record
	case "Lookup":
		out.record, out.err = s.Lookup(ctx, in.key)
	case "Renew":
		out.err = s.Renew(ctx, in.ref, in.lease)
	case "Release":
		out.err = s.Release(ctx, in.ref, in.rel)
	case "Abandon":
		out.err = s.Abandon(ctx, in.ref)
	case "Complete":
		out.late, out.err = s.Complete(ctx, in.ref, in.c)
	}
	return out
}

// judge returns an error unless the history is linearizable, key by key.
func judge(history []porcupine.Operation) error {
	keys := partition(history)
	for _, ops := range keys {
		switch porcupine.CheckOperationsTimeout(judgeModel(), ops, judging) {
		case porcupine.Ok:
		case porcupine.Unknown:
			return fmt.Errorf("linearize: no order of %d calls was found in %v, and none excluded", len(ops), judging)
		default:
			return fmt.Errorf("linearize: no order of these calls explains their answers:\n%s", describe(ops))
		}
	}
	return nil
}

// partition parts a history by its keys, in the order of their first calls.
func partition(history []porcupine.Operation) [][]porcupine.Operation {
	at := map[driver.Key]int{}
	var parts [][]porcupine.Operation
	for _, op := range history {
		key := op.Input.(input).key
		i, ok := at[key]
		if !ok {
			i = len(parts)
			at[key] = i
			parts = append(parts, nil)
		}
		parts[i] = append(parts[i], op)
	}
	return parts
}

func judgeModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return drivertest.Model{} },
		Step: func(state, in, out any) (bool, any) {
			return step(state.(drivertest.Model), in.(input), out.(output))
		},
	}
}

// step reports whether a call may get its answer in a state, and the state that
// it leaves.
func step(m drivertest.Model, in input, out output) (bool, drivertest.Model) {
	const now = 0
	switch in.call {
	case "Claim":
		if in.repeat && errors.Is(out.err, driver.ErrLost) && m.State(now) == driver.StateAbsent {
			// A store may remember the nonces of more than the last claim.
			return true, m
		}
		next, want, err := m.Claim(now, in.req, out.record.Token)
		if err != nil || out.err != nil {
			return errors.Is(out.err, err), next
		}
		return out.granted == want.Granted && same(out.record, want.Record), next
	case "Lookup":
		next, want := m.Lookup(now)
		return out.err == nil && same(out.record, want), next
	case "Renew":
		next, err := m.Renew(now, in.ref.Token, in.lease)
		return errors.Is(out.err, err), next
	case "Release":
		next, err := m.Release(now, in.ref.Token, in.rel)
		return errors.Is(out.err, err), next
	case "Abandon":
		next, err := m.Abandon(now, in.ref.Token)
		return errors.Is(out.err, err), next
	}
	next, late, err := m.Complete(now, in.ref.Token, in.c)
	return errors.Is(out.err, err) && out.late == late, next
}

// same compares records, but for their times.
func same(a, b driver.Record) bool {
	return a.State == b.State && a.Token == b.Token && a.Attempt == b.Attempt &&
		a.Fingerprint == b.Fingerprint && a.Answered == b.Answered && a.Dropped == b.Dropped &&
		string(a.Result.Meta) == string(b.Result.Meta) && string(a.Result.Body) == string(b.Result.Body)
}

// describe lists calls in the order in which they were made.
func describe(ops []porcupine.Operation) string {
	ops = slices.Clone(ops)
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var b strings.Builder
	for _, op := range ops {
		in, out := op.Input.(input), op.Output.(output)
		fmt.Fprintf(&b, "\t%d to %d, client %d: %s", op.Call-ops[0].Call, op.Return-ops[0].Call, op.ClientId, in.call)
		switch in.call {
		case "Claim":
			fmt.Fprintf(&b, "(nonce %x, rule %d, retry %v, waited %d)", in.req.Nonce[:2], in.req.Fingerprint.Rule, in.req.Retry, in.req.Waited)
		case "Lookup":
		default:
			fmt.Fprintf(&b, "(token %d, %s)", in.ref.Token, in.c.Result.Body)
		}
		fmt.Fprintf(&b, ": %v", out.err)
		if in.call == "Claim" || in.call == "Lookup" {
			fmt.Fprintf(&b, ", granted %v, %v, token %d, attempt %d, answered %v, %s",
				out.granted, out.record.State, out.record.Token, out.record.Attempt, out.record.Answered, out.record.Result.Body)
		}
		if out.late {
			b.WriteString(", late")
		}
		b.WriteByte('\n')
	}
	return b.String()
}
