package shared

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/idem-go/idem"
)

// The server hangs (SIGSTOP) at the claim, at the end of the work, at the commit: its
// callers are told so in the time that they were promised, and when it goes on all
// comes right, with one effect.
func TestTrap9TheServerHangs(t *testing.T) {
	each(t, single, func(t *testing.T, k *kind) {
		l := labOf(t, k)
		if l == nil || !l.private(t) {
			return
		}
		// A second is what is promised in each case; the rest is for a machine that
		// is busy.
		const bound = 8 * time.Second
		b := &hangBed{cutBed: cutBed{t: t}, lab: l, bound: bound}
		c := config{
			Store: k.name, DSN: l.dsn, Scope: scopeOf(t), Ledger: filepath.Join(t.TempDir(), "ledger"),
			Lease: time.Minute, Wait: 300 * time.Millisecond, StoreTimeout: 500 * time.Millisecond, SaveWait: 700 * time.Millisecond,
		}
		b.through = playerOf(t, c)
		b.direct = playerOf(t, c)
		b.warm(opDo)
		b.atClaim(opDo)
		b.atComplete()
		if k.tx {
			b.warm(opTx)
			b.atClaim(opTx)
			b.atCommit()
		}
	})
}

// hangBed is a store whose server is stopped.
type hangBed struct {
	cutBed
	lab   *lab
	bound time.Duration
}

// stopped reports how long do took; the server, which do or its caller has stopped,
// goes on afterwards.
func (b *hangBed) stopped(what string, do func()) {
	t := b.t
	t.Helper()
	began := time.Now()
	do()
	took := time.Since(began)
	must(t, b.lab.server.Resume())
	if took > b.bound {
		t.Errorf("%s took %v while the server hung", what, took)
	}
	t.Logf("%s: told after %v", what, took.Round(time.Millisecond))
}

func (b *hangBed) atClaim(o op) {
	t := b.t
	t.Helper()
	key := b.key(fmt.Sprint("claim-", o))
	var a answer
	must(t, b.lab.server.Pause())
	b.stopped(key, func() { a = b.through.play(t.Context(), task{Op: o, Key: key}) })
	if a.What != noStore && !(o == opTx && a.What == inFlight) || a.Calls > 0 {
		t.Errorf("%s: %+v", key, a)
	}
	if n := len(b.took(o)[key]); n > 0 {
		t.Errorf("%s took effect %d times", key, n)
	}
	b.done(o, key, "")
	if r := b.record(key); r.Attempt != 1 {
		t.Errorf("%s: attempt %d; a server that does not answer is no attempt", key, r.Attempt)
	}
}

func (b *hangBed) atComplete() {
	t := b.t
	t.Helper()
	key := b.key("complete")
	value := ""
	var err error
	b.stopped(key, func() {
		_, err = idem.Do(t.Context(), b.through.guard, b.request(key), func(context.Context) (string, error) {
			var werr error
			value, werr = b.through.effect(task{Key: key})
			return value, errors.Join(werr, b.lab.server.Pause())
		})
	})
	if !errors.Is(err, idem.ErrUnsaved) {
		t.Errorf("%s: %v", key, err)
	}
	b.done(opDo, key, value)
}

func (b *hangBed) atCommit() {
	t := b.t
	t.Helper()
	key := b.key("commit")
	value := ""
	var err error
	b.stopped(key, func() {
		_, err = b.through.tx.do(t.Context(), b.request(key), func(ctx context.Context, q querier) (string, error) {
			value = newValue()
			return value, errors.Join(b.through.rows(ctx, q, task{Key: key}, value), b.lab.server.Pause())
		})
	})
	if !errors.Is(err, idem.ErrStore) {
		t.Errorf("%s: %v", key, err)
	}
	// Whether it took effect is told by whoever asks; either way there is one.
	b.done(opTx, key, "")
}
