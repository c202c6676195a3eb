package drivertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
)

// SeedVariable is the environment variable that sets the seed of random tests.
// A failure says which value repeats it.
const SeedVariable = "IDEM_TEST_SEED"

// ModelOptions are the sizes of [RunModel]; 0 means the default.
type ModelOptions struct {
	// Seed is the first history's, each next one's is one more. By default it
	// is taken from the environment (SeedVariable), or else from the clock.
	Seed uint64
	// Histories is how many are run, each on a fresh store; 100 by default.
	Histories int
	// Steps is how many calls a history makes; 500 by default.
	Steps int
	// Keys is how many keys they are about; 4 by default.
	Keys int
}

func (o *ModelOptions) defaults(t testing.TB) ModelOptions {
	t.Helper()
	var set ModelOptions
	if o != nil {
		set = *o
	}
	if set.Seed == 0 {
		set.Seed = Seed(t)
	}
	if set.Histories == 0 {
		set.Histories = 100
	}
	if set.Steps == 0 {
		set.Steps = 500
	}
	if set.Keys == 0 {
		set.Keys = 4
	}
	return set
}

// Seed returns the seed that the environment sets, or else one from the clock.
func Seed(t testing.TB) uint64 {
	t.Helper()
	v := os.Getenv(SeedVariable)
	if v == "" {
		return uint64(time.Now().UnixNano())
	}
	seed, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatalf("drivertest: %s is %q; it should be a number", SeedVariable, v)
	}
	return seed
}

// RunModel compares a store, call by call, with [Model] over long random
// histories: claims, their repeats, writes with old tokens, operators who
// resolve, time that passes, to a boundary and past it. A history must take
// less than half a minute where time runs on by itself.
func RunModel(t *testing.T, h Harness, o *ModelOptions) {
	t.Helper()
	h.check(t)
	opts := o.defaults(t)
	t.Logf("drivertest: %d histories of %d steps from %s=%d", opts.Histories, opts.Steps, SeedVariable, opts.Seed)
	for i := range opts.Histories {
		seed := opts.Seed + uint64(i)
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			h.around(t, func(t *testing.T) { runHistory(t, h, opts, seed) })
		})
	}
}

// history is one run of the store beside the models of its keys.
type history struct {
	*env
	rng   *rand.Rand
	seed  uint64
	limit int
	exact bool
	now   time.Duration
	keys  []*modelled
}

// modelled is one key.
type modelled struct {
	Model
	req   driver.ClaimRequest // the last one granted
	old   []driver.Nonce      // of claims before that
	refs  []uint64            // tokens granted
	key   driver.Key
	id    string
	trace []string
}

func runHistory(t testing.TB, h Harness, o ModelOptions, seed uint64) {
	t.Helper()
	e := &env{TB: t, h: h, ctx: context.WithoutCancel(t.Context())}
	e.s = h.New(t)
	r := &history{env: e, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), exact: h.Slack == 0, limit: e.limit()}
	for i := range o.Keys {
		id := fmt.Sprint("key ", i)
		r.keys = append(r.keys, &modelled{id: id, key: driver.KeyOf("scope", id)})
	}
	for step := range o.Steps {
		r.step()
		if step%16 == 15 {
			r.checkAll()
		}
	}
	r.checkAll()
}

// fail ends the history, and tells how the key came there.
func (r *history) fail(k *modelled, format string, args ...any) {
	r.Helper()
	trace := k.trace[max(0, len(k.trace)-25):]
	r.Fatalf("%s\nrepeat it with %s=%d; the last calls on the key:\n\t%s",
		fmt.Sprintf(format, args...), SeedVariable, r.seed, strings.Join(trace, "\n\t"))
}

func (r *history) note(k *modelled, format string, args ...any) {
	k.trace = append(k.trace, fmt.Sprintf("%v: ", r.now)+fmt.Sprintf(format, args...))
}

func (r *history) step() {
	r.Helper()
	k := r.keys[r.rng.IntN(len(r.keys))]
	switch n := r.rng.IntN(100); {
	case n < 30:
		r.claim(k)
	case n < 38:
		r.renew(k)
	case n < 54:
		r.complete(k)
	case n < 62:
		r.release(k)
	case n < 68:
		r.abandon(k)
	case n < 80:
		r.resolve(k)
	case n < 84:
		r.sweep()
	default:
		r.pass(k)
	}
	r.check(k)
}

// duration is a time to keep something. Where time runs on by itself no two
// boundaries are closer than a minute.
func (r *history) duration() time.Duration {
	d := time.Duration(1+r.rng.IntN(5)) * time.Minute
	if r.rng.IntN(4) == 0 {
		d *= 20
	}
	if r.exact && r.rng.IntN(3) == 0 {
		d += time.Duration(r.rng.IntN(3) - 1)
	}
	return d
}

// pass lets time pass, often to the boundary of the key's, or just before it.
func (r *history) pass(k *modelled) {
	r.Helper()
	d := r.duration()
	if left := k.due - r.now; k.at(r.now).kind != nothing && left > 0 && r.rng.IntN(3) > 0 {
		d = left
		if r.exact {
			d += time.Duration(r.rng.IntN(3) - 1)
		}
	}
	if d <= 0 {
		return
	}
	r.advance(d)
	r.now += d
}

func (r *history) claim(k *modelled) {
	r.Helper()
	req := driver.ClaimRequest{
		Key: k.key, Scope: "scope", ID: k.id, Fingerprint: fingerprint([]string{"a", "a", "b"}[r.rng.IntN(3)]),
		Lease: r.duration(), Tombstone: r.duration(), Retry: r.rng.IntN(2) == 0,
	}
	for i := range req.Nonce {
		req.Nonce[i] = byte(1 + r.rng.IntN(255))
	}
	now := k.at(r.now)
	switch {
	case r.rng.IntN(4) == 0 && now.kind != nothing && now.kind != releasedByResolve:
		lease := req.Lease
		req = k.req
		req.Lease = lease
	case r.rng.IntN(8) == 0 && len(k.old) > 0 && now.State(r.now) != driver.StateAbsent:
		req.Nonce, req.Retry = k.old[r.rng.IntN(len(k.old))], false
	case r.rng.IntN(3) == 0:
		req.Waited = r.token(k)
	}
	reply, err := r.s.Claim(r.ctx, req)
	next, want, wantErr := k.Claim(r.now, req, reply.Record.Token)
	r.note(k, "Claim(nonce %x, retry %v, waited %d, lease %v, tombstone %v): granted %v, %s, %v",
		req.Nonce[:2], req.Retry, req.Waited, req.Lease, req.Tombstone, reply.Granted, show(reply.Record), err)
	r.compare(k, "Claim", err, wantErr)
	if wantErr == nil {
		if reply.Granted != want.Granted {
			r.fail(k, "Claim: granted is %v; it should be %v", reply.Granted, want.Granted)
		}
		r.same(k, "Claim", reply.Record, want.Record)
	}
	if want.Granted && next.token != k.token {
		if k.token != 0 {
			k.old = append(k.old, k.req.Nonce)
		}
		k.req = req
		k.refs = append(k.refs, next.token)
	}
	k.Model = next
}

// token is one that a caller may hold: mostly the newest.
func (r *history) token(k *modelled) uint64 {
	switch {
	case len(k.refs) == 0 || r.rng.IntN(20) == 0:
		return uint64(1+r.rng.IntN(1000))<<32 + k.highest
	case r.rng.IntN(5) == 0:
		return k.refs[r.rng.IntN(len(k.refs))]
	}
	return k.refs[len(k.refs)-1]
}

func (r *history) renew(k *modelled) {
	r.Helper()
	token, lease := r.token(k), r.duration()
	err := r.s.Renew(r.ctx, driver.Ref{Key: k.key, Token: token}, lease)
	next, want := k.Renew(r.now, token, lease)
	r.note(k, "Renew(token %d, lease %v): %v", token, lease, err)
	r.compare(k, "Renew", err, want)
	k.Model = next
}

func (r *history) result() (driver.Result, bool) {
	switch r.rng.IntN(6) {
	case 0:
		return driver.Result{}, true
	case 1:
		return driver.Result{}, false
	case 2:
		return driver.Result{Meta: []byte("201"), Body: []byte("made")}, false
	}
	return driver.Result{Meta: []byte("200"), Body: []byte("a")}, false
}

func (r *history) complete(k *modelled) {
	r.Helper()
	token := r.token(k)
	c := driver.Completion{
		Scope: "scope", ID: k.id, Fingerprint: k.req.Fingerprint,
		Retention: r.duration(), Tombstone: r.duration(),
	}
	c.Result, c.Dropped = r.result()
	if r.limit > 0 && r.rng.IntN(20) == 0 {
		c.Result, c.Dropped = driver.Result{Body: make([]byte, r.limit+1)}, false
		_, err := r.s.Complete(r.ctx, driver.Ref{Key: k.key, Token: token}, c)
		r.note(k, "Complete(token %d, too large): %v", token, err)
		r.compare(k, "Complete", err, driver.ErrTooLarge)
		return
	}
	late, err := r.s.Complete(r.ctx, driver.Ref{Key: k.key, Token: token}, c)
	before := k.at(r.now)
	next, wantLate, want := k.Complete(r.now, token, c)
	r.note(k, "Complete(token %d, %q, dropped %v, retention %v, tombstone %v): late %v, %v",
		token, c.Result.Body, c.Dropped, c.Retention, c.Tombstone, late, err)
	r.compare(k, "Complete", err, want)
	// Whether the repeat was late is not known of a tombstone, and means nothing
	// where an operator completed the record.
	open := before.kind == forgotten || before.resolved
	if want == nil && late != wantLate && !open {
		r.fail(k, "Complete: late is %v; it should be %v", late, wantLate)
	}
	k.Model = next
}

func (r *history) release(k *modelled) {
	r.Helper()
	token := r.token(k)
	rel := driver.Release{Answered: r.rng.IntN(2) == 0, Unused: r.rng.IntN(4) == 0, Retention: r.duration()}
	err := r.s.Release(r.ctx, driver.Ref{Key: k.key, Token: token}, rel)
	next, want := k.Release(r.now, token, rel)
	r.note(k, "Release(token %d, answered %v, unused %v, retention %v): %v", token, rel.Answered, rel.Unused, rel.Retention, err)
	r.compare(k, "Release", err, want)
	k.Model = next
}

func (r *history) abandon(k *modelled) {
	r.Helper()
	token := r.token(k)
	err := r.s.Abandon(r.ctx, driver.Ref{Key: k.key, Token: token})
	next, want := k.Abandon(r.now, token)
	r.note(k, "Abandon(token %d): %v", token, err)
	r.compare(k, "Abandon", err, want)
	k.Model = next
}

func (r *history) resolve(k *modelled) {
	r.Helper()
	if r.resolver() == nil {
		return
	}
	res := driver.Resolution{
		Action: driver.Action(1 + r.rng.IntN(3)), Force: r.rng.IntN(4) == 0,
		Retention: r.duration(), Tombstone: r.duration(),
	}
	if res.Action == driver.ResolveComplete {
		res.Result, res.Dropped = r.result()
	}
	if r.rng.IntN(2) == 0 {
		res.Token = k.at(r.now).token
	}
	_, _, wantErr := k.Resolve(r.now, res)
	if wantErr == nil && r.rng.IntN(4) == 0 {
		// Of a record in another state too it is not said which error comes first.
		res.Token = k.token + 1
	}
	rec, err := r.resolver().Resolve(r.ctx, k.key, res)
	next, want, wantErr := k.Resolve(r.now, res)
	r.note(k, "Resolve(action %d, token %d, force %v, retention %v, tombstone %v): %s, %v",
		res.Action, res.Token, res.Force, res.Retention, res.Tombstone, show(rec), err)
	if errors.Is(wantErr, driver.ErrState) && err == nil && r.repeats(k, res) {
		_, want = k.Lookup(r.now)
		wantErr = nil
	}
	r.compare(k, "Resolve", err, wantErr)
	if wantErr == nil {
		r.same(k, "Resolve", rec, want)
	}
	k.Model = next
}

// repeats reports that a resolution finds what it would make.
func (r *history) repeats(k *modelled, res driver.Resolution) bool {
	m := k.at(r.now)
	switch res.Action {
	case driver.ResolveComplete:
		return m.kind == completed && m.has(res.Result, res.Dropped)
	case driver.ResolveRelease:
		return m.kind == releasedByResolve
	}
	return m.kind == forgotten
}

func (r *history) check(k *modelled) {
	r.Helper()
	rec, err := r.s.Lookup(r.ctx, k.key)
	next, want := k.Lookup(r.now)
	r.compare(k, "Lookup", err, nil)
	r.same(k, "Lookup", rec, want)
	k.Model = next
}

// checkAll compares every key, the counts and the list.
func (r *history) checkAll() {
	r.Helper()
	var want driver.Stats
	for _, k := range r.keys {
		r.check(k)
		switch k.State(r.now) {
		case driver.StateInFlight:
			want.InFlight++
		case driver.StateCompleted:
			want.Completed++
		case driver.StateUnknown:
			want.Unknown++
		case driver.StateForgotten:
			want.Forgotten++
		}
	}
	if c, ok := driver.As[driver.Counter](r.s); ok {
		r.counts(c, want)
	}
	if _, ok := driver.As[driver.Lister](r.s); ok {
		records := r.pages(driver.Query{Limit: 2})
		for _, rec := range records {
			i := slices.IndexFunc(r.keys, func(k *modelled) bool { return k.key == rec.Key })
			if i < 0 || rec.State != r.keys[i].State(r.now) {
				r.Fatalf("List returned a record that is %s; repeat it with %s=%d", show(rec), SeedVariable, r.seed)
			}
		}
		if n := int(want.InFlight + want.Completed + want.Unknown + want.Forgotten); len(records) != n {
			r.Fatalf("List returned %d records; it should return %d; repeat it with %s=%d", len(records), n, SeedVariable, r.seed)
		}
	}
}

func (r *history) compare(k *modelled, call string, got, want error) {
	r.Helper()
	if want == nil && got != nil || !errors.Is(got, want) {
		r.fail(k, "%s: %v; it should give: %v", call, got, want)
	}
}

func (r *history) same(k *modelled, call string, got, want driver.Record) {
	r.Helper()
	if got.Key != k.key {
		r.fail(k, "%s returned the record of another key", call)
	}
	want.Key = k.key
	if want.State == driver.StateAbsent || want.State == driver.StateForgotten {
		got.Scope, got.ID, want.Scope, want.ID = "", "", "", ""
	}
	slack := time.Duration(0)
	if !r.exact {
		slack = 30 * time.Second
	}
	if d := differ(got, want, slack); d != "" {
		r.fail(k, "%s returned a record that differs from the model's: %s", call, d)
	}
}
