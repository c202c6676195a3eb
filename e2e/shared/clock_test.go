package shared

import (
	"fmt"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/testserver"
)

// The clocks of server and client are ten minutes apart, in either direction: a lease is as
// long as it was said to be, nobody takes over early, and a result is kept for as long as
// was asked for.
//
// SQLite has no server: its clock is in its own tests. NATS tells no time to a write, and its
// server is a Go program, whose clock nothing moves.
func TestTrap33ClocksTenMinutesApart(t *testing.T) {
	err := testserver.NeedClock()
	if !testserver.Need(t, "faketime", err) {
		return
	}
	each(t, func(k *kind) bool { return k.clock && !k.again }, func(t *testing.T, k *kind) {
		for _, offset := range []time.Duration{10 * time.Minute, -10 * time.Minute} {
			t.Run(offset.String(), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, k, &testserver.Options{ClockOffset: offset})
				if l == nil {
					return
				}
				apart(t, l)
			})
		}
	})
}

func apart(t *testing.T, l *lab) {
	const lease = 2 * time.Second
	b := &stopBed{t: t, crew: newCrew(t, 2, &config{
		Store: l.kind.name, DSN: l.dsn, Scope: scopeOf(t), Lease: lease, Wait: time.Millisecond, StoreTimeout: 5 * time.Second,
	})}
	_, first := b.send(0, task{Op: opDo, Key: "k", Gate: true})
	if a := receive(t, "the first begins", first); !a.Begun {
		t.Fatalf("the first: %+v", a)
	}
	// It is renewed for longer than a lease: nobody else may have it.
	for end := time.Now().Add(lease + lease/2); time.Now().Before(end); pause(50 * time.Millisecond) {
		if a := b.ask(1, task{Op: opDo, Key: "k"}); a.What != inFlight {
			t.Fatalf("the second, while the first is at work: %+v", a)
		}
	}
	p := playerOf(t, *b.config)
	if r, err := p.store.Lookup(t.Context(), driver.KeyOf(b.config.Scope, "k")); err != nil || r.Left <= 0 || r.Left > lease || r.Age < lease || r.Age > time.Minute {
		t.Errorf("the claim: %v, %v left of %v, %v old: %v", r.State, r.Left, lease, r.Age, err)
	}
	// Its last renewal was a third of the lease ago at most, and something for a
	// machine that is busy.
	began := time.Now()
	b.replace(0)
	a := answer{What: inFlight}
	for end := time.Now().Add(patience); a.What == inFlight && time.Now().Before(end); pause(10 * time.Millisecond) {
		a = b.ask(1, task{Op: opDo, Key: "k"})
	}
	took := time.Since(began)
	if a.What != unknown || took < lease/3 || took > lease+5*time.Second {
		t.Errorf("after its owner's end, with a lease of %v: %v after %v", lease, a.What, took)
	}
	ops := []op{opDo}
	if l.kind.tx {
		ops = append(ops, opTx)
	}
	for _, o := range ops {
		key := fmt.Sprint("other-", o)
		a := b.ask(0, task{Op: o, Key: key})
		if again := b.ask(1, task{Op: o, Key: key}); a.What != ran || again.What != replayed || again.Value != a.Value {
			t.Errorf("%s: %+v, and then %+v", key, a, again)
		}
		r, err := p.store.Lookup(t.Context(), driver.KeyOf(b.config.Scope, key))
		if day := 24 * time.Hour; err != nil || r.Left > day || r.Left < day-time.Minute || r.Age > time.Minute {
			t.Errorf("%s: %v, %v left of %v, %v old: %v", key, r.State, r.Left, day, r.Age, err)
		}
	}
	b.end()
}
