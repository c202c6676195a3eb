package redisstore

import (
	"context"
	"crypto/sha1" // what EVALSHA names scripts by; nothing is protected with it
	"embed"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
)

//go:embed scripts/*.lua
var scriptFiles embed.FS

// script is one step of the store: a program that the server runs with nothing
// else in between.
type script struct{ text, sha string }

// scripts are the steps of the store.
type scripts struct {
	claim, renew, complete, release, abandon, lookup, watch, resolve script

	settle, due, survey, page, peek script
}

func readScripts() *scripts {
	read := func(name string) script {
		text, err := scriptFiles.ReadFile("scripts/" + name + ".lua")
		if err != nil {
			panic("redisstore: a script that was built in is not there: " + err.Error())
		}
		sum := sha1.Sum(text)
		return script{string(text), hex.EncodeToString(sum[:])}
	}
	return &scripts{
		claim: read("claim"), renew: read("renew"), complete: read("complete"), release: read("release"),
		abandon: read("abandon"), lookup: read("lookup"), watch: read("watch"), resolve: read("resolve"),
		settle: read("settle"), due: read("due"), survey: read("survey"), page: read("page"), peek: read("peek"),
	}
}

// The answers of the scripts that are numbers.
const (
	saidOK         = 0
	saidLost       = 1
	saidLapsed     = 2
	saidCompleted  = 3
	saidUnreadable = 4
	saidLate       = 5
	saidState      = 6

	saidFull     = -1
	saidReleased = -2
	saidMissing  = -3
)

// refusal is what a script's number means for the owner of a claim.
func refusal(said int64, key driver.Key) error {
	switch said {
	case saidOK, saidLate:
		return nil
	case saidLost, saidReleased:
		return driver.ErrLost
	case saidLapsed:
		return driver.ErrLapsed
	case saidCompleted:
		return driver.ErrCompleted
	case saidState:
		return driver.ErrState
	case saidFull:
		return driver.ErrFull
	case saidUnreadable:
		return &driver.UnreadableError{Key: key, Reason: "its format is another"}
	case saidMissing:
		return &driver.UnreadableError{Key: key, Reason: "the server has dropped it before its time: it was evicted, or deleted by hand"}
	}
	return errNonsense
}

var errNonsense = errors.New("redisstore: the server gave an answer that the scripts do not give; look at what is between")

// step is a script with what it is about.
type step struct {
	script *script
	keys   []string
	args   []string
}

func (st *step) command(c rueidis.CommandClient, whole bool) rueidis.Completed {
	if whole {
		return c.B().Eval().Script(st.script.text).Numkeys(int64(len(st.keys))).Key(st.keys...).Arg(st.args...).Build()
	}
	return c.B().Evalsha().Sha1(st.script.sha).Numkeys(int64(len(st.keys))).Key(st.keys...).Arg(st.args...).Build()
}

// tries is how often a call is made that got no answer, or one that says not
// now. Every script may be run again: the repeat changes nothing.
const tries = 5

// run runs a step, and again where the server says that it will answer soon, or
// the connection broke. Safe says that its answer must be on replicas, where
// that is asked for.
func (s *Store) run(ctx context.Context, st *step, safe bool) (rueidis.RedisMessage, error) {
	for try := 1; ; try++ {
		m, err := s.once(ctx, st, safe)
		if err == nil {
			if s.suspect.Load() {
				s.suspect.Store(false)
			}
			return m, nil
		}
		if ctx.Err() != nil {
			s.suspect.Store(true)
			return m, ctx.Err()
		}
		again := transient(err)
		if _, said := rueidis.IsRedisErr(err); !said && !errors.Is(err, errReplicas) {
			s.suspect.Store(true)
		}
		if s.closed.Load() {
			return m, driver.ErrClosed
		}
		if !again || try == tries || !s.pause(ctx, try) {
			return m, explain(ctx, err)
		}
	}
}

// pause waits a little before a call is made again, and reports whether it may.
func (s *Store) pause(ctx context.Context, try int) bool { return pause(ctx, s.closing, try) }

func pause(ctx context.Context, closing <-chan struct{}, try int) bool {
	// The first break of a connection is mostly one that was idle for too long.
	wait := rand.N(min(2*time.Millisecond<<(2*try), time.Second))
	if d, ok := ctx.Deadline(); ok && time.Until(d) < wait {
		return false
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-closing:
	}
	return false
}

// ask makes a call that is no script's, and again as run does. The client's own
// way to make calls again would go on for as long as the context lasts.
func ask(ctx context.Context, call func() (rueidis.RedisMessage, error)) (rueidis.RedisMessage, error) {
	for try := 1; ; try++ {
		m, err := call()
		if err == nil || rueidis.IsRedisNil(err) || ctx.Err() != nil || !transient(err) || try == tries || !pause(ctx, nil, try) {
			return m, err
		}
	}
}

// askOf is ask for one command, which build makes anew each time.
func askOf(ctx context.Context, c rueidis.Client, build func(rueidis.Builder) rueidis.Completed) (rueidis.RedisMessage, error) {
	return ask(ctx, func() (rueidis.RedisMessage, error) { return c.Do(ctx, build(c.B())).ToMessage() })
}

// once runs a step once.
func (s *Store) once(ctx context.Context, st *step, safe bool) (rueidis.RedisMessage, error) {
	if s.suspect.Load() {
		// The client may wait for a new connection, or for room in its queue, for
		// longer than a context lasts: so it is left to do that alone.
		return s.apart(ctx, st, safe)
	}
	return s.send(ctx, st, safe)
}

func (s *Store) apart(ctx context.Context, st *step, safe bool) (rueidis.RedisMessage, error) {
	type answer struct {
		m   rueidis.RedisMessage
		err error
	}
	got := make(chan answer, 1)
	if !s.begin() {
		return rueidis.RedisMessage{}, driver.ErrClosed
	}
	go func() {
		defer s.running.Done()
		m, err := s.send(ctx, st, safe)
		got <- answer{m, err}
	}()
	select {
	case a := <-got:
		return a.m, a.err
	case <-ctx.Done():
		return rueidis.RedisMessage{}, ctx.Err()
	}
}

func (s *Store) send(ctx context.Context, st *step, safe bool) (rueidis.RedisMessage, error) {
	if safe && s.opts.WaitReplicas > 0 {
		return s.sendSafe(ctx, st)
	}
	m, err := s.client.Do(ctx, st.command(s.client, false)).ToMessage()
	if isNoScript(err) {
		m, err = s.client.Do(ctx, st.command(s.client, true)).ToMessage()
	}
	return m, err
}

// sendSafe runs a step on a connection of its own, on which it waits for the
// replicas. That waits for all that was written before as well, so that a
// repeat, which writes nothing, is as safe.
func (s *Store) sendSafe(ctx context.Context, st *step) (m rueidis.RedisMessage, err error) {
	c, release := s.client.Dedicate()
	defer release()
	for _, whole := range []bool{false, true} {
		wait := c.B().Wait().Numreplicas(int64(s.opts.WaitReplicas)).Timeout(s.opts.WaitTimeout.Milliseconds()).Build()
		got := c.DoMulti(ctx, st.command(c, whole), wait)
		if m, err = got[0].ToMessage(); isNoScript(err) && !whole {
			continue
		}
		if err != nil {
			return m, err
		}
		n, err := got[1].ToInt64()
		if err == nil && n < int64(s.opts.WaitReplicas) {
			err = errReplicas
		}
		return m, err
	}
	return m, err
}

// runAll runs many steps, each for itself and each at most twice, and returns
// their answers in their order.
func (s *Store) runAll(ctx context.Context, steps []step) ([]rueidis.RedisMessage, error) {
	out := make([]rueidis.RedisMessage, len(steps))
	for from := 0; from < len(steps); from += fewSteps {
		if err := s.enter(ctx); err != nil {
			return nil, err
		}
		part := steps[from:min(from+fewSteps, len(steps))]
		commands := make([]rueidis.Completed, len(part))
		for i := range part {
			commands[i] = part[i].command(s.client, false)
		}
		for i, got := range s.client.DoMulti(ctx, commands...) {
			m, err := got.ToMessage()
			if err != nil {
				m, err = s.run(ctx, &part[i], false)
			}
			if err != nil {
				return nil, err
			}
			out[from+i] = m
		}
	}
	return out, nil
}

// fewSteps is how many steps are sent together, so that the calls of others are
// not kept waiting behind them.
const fewSteps = 64

func isNoScript(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	return ok && e.IsNoScript()
}
