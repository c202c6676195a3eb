package sqlitestore_test

import (
	"context"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/sqlitestore"
)

// Trap 33: the host's wall clock jumps by ten minutes either way, for the owner and
// for who is after its key; no lease ends early, and none ends late.
func TestTrap33TheWallClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{10 * time.Minute, -10 * time.Minute, 100 * 365 * 24 * time.Hour} {
		owner := newBed(t, small())
		other := owner.again(t)
		req := request("k")
		ref := grant(t, owner, req)
		done := request("done")
		complete(t, owner, grant(t, owner, done), "result")

		owner.clock.StepWall(jump)
		next := request("k")
		next.Retry = true
		if reply, err := other.Claim(t.Context(), next); err != nil || reply.Granted || reply.Record.State != driver.StateInFlight {
			t.Errorf("after a jump of %v the key is granted: %v, %v, %v", jump, reply.Granted, reply.Record.State, err)
		}
		want(t, owner.Renew(t.Context(), ref, lease), nil, "Renew")
		if rec := state(t, other, "k", driver.StateInFlight); rec.Left != lease || rec.Age != 0 {
			t.Errorf("after a jump of %v, %v of the lease is left, and it is %v old", jump, rec.Left, rec.Age)
		}
		if rec := state(t, other, "done", driver.StateCompleted); rec.Left != retention {
			t.Errorf("after a jump of %v, %v of the retention is left", jump, rec.Left)
		}
		// A process that is started after the jump tells the same time.
		late := owner.again(t)
		owner.clock.Advance(lease - 1)
		for _, s := range []*bed{owner, other, late} {
			state(t, s, "k", driver.StateInFlight)
		}
		owner.clock.Advance(1)
		for _, s := range []*bed{owner, other, late} {
			state(t, s, "k", driver.StateUnknown)
		}
		grant(t, other, next)
	}
}

// After a restart of the host nobody can tell how long it was off: a lease that
// had not ended begins anew, whatever the wall clock says; what had ended has.
func TestTrap33TheHostIsRestarted(t *testing.T) {
	for _, off := range []time.Duration{10 * time.Minute, -10 * time.Minute, 0} {
		b := newBed(t, small())
		ended := grant(t, b, request("ended"))
		b.clock.Advance(lease)
		ref := grant(t, b, request("k"))
		complete(t, b, grant(t, b, request("done")), "result")
		b.clock.Advance(lease / 2)
		want(t, b.Renew(t.Context(), ref, 3*lease), nil, "Renew")
		forever := request("forever")
		forever.Lease = 1<<63 - 1
		grant(t, b, forever)

		// The last of its tokens is ahead of the time, and nothing is left of it.
		var last driver.Ref
		for range 10 {
			last = grant(t, b, request("often"))
			must(t, b.Release(t.Context(), last, driver.Release{Retention: 1}))
		}
		b.clock.Advance(1)
		_, err := b.Sweep(t.Context(), 10)
		must(t, err)

		must(t, b.Close())
		b.clock.StepWall(off)
		b.clock.Restart("second")
		after := b.again(t)
		if rec := state(t, after, "k", driver.StateInFlight); rec.Left != 3*lease {
			t.Errorf("off for %v: %v of the lease is left", off, rec.Left)
		}
		if ref := grant(t, after, request("often")); ref.Token <= last.Token {
			t.Errorf("off for %v: the token %d is not larger than %d", off, ref.Token, last.Token)
		}
		state(t, after, "ended", driver.StateUnknown)
		want(t, after.Renew(t.Context(), ended, lease), driver.ErrLapsed, "Renew")
		if rec := state(t, after, "done", driver.StateCompleted); rec.Left != retention-lease/2-1-max(time.Second, off) {
			t.Errorf("off for %v: %v of the retention is left", off, rec.Left)
		}
		after.clock.Advance(3*lease - 1)
		state(t, after, "k", driver.StateInFlight)
		after.clock.Advance(1)
		state(t, after, "k", driver.StateUnknown)
		state(t, after, "forever", driver.StateInFlight)
	}
}

// A process that was not there when the host was restarted, and one whose clock is
// its own, never end another's lease early. Tokens go on growing.
func TestTrap33ClocksThatHaveNothingInCommon(t *testing.T) {
	b := newBed(t, small())
	o := small()
	db := open(t, b.file, quick)
	own := newStore(t, db, o.WithOwnClock())
	ref := grant(t, b, request("k"))
	for range 5 {
		b.clock.Advance(lease - time.Second)
		next := request("k")
		next.Retry = true
		reply, err := own.Claim(t.Context(), next)
		if err != nil || reply.Granted || reply.Record.State != driver.StateInFlight {
			t.Fatalf("granted %v, %v, %v", reply.Granted, reply.Record.State, err)
		}
		mine := grant(t, own, request("another"))
		if mine.Token <= ref.Token {
			t.Errorf("the token %d is not larger than %d", mine.Token, ref.Token)
		}
		want(t, own.Release(t.Context(), mine, driver.Release{Retention: retention}), nil, "Release")
		// What another clock's base means is not read by this one.
		if rec := state(t, b, "k", driver.StateInFlight); rec.Left > lease {
			t.Errorf("%v is left of the lease", rec.Left)
		}
		want(t, b.Renew(t.Context(), ref, lease), nil, "Renew") // the first clock is back
	}
	// Alone, each ends a lease in its time.
	b.clock.Advance(lease)
	state(t, b, "k", driver.StateUnknown)
}

// Two processes of one host, with the clock that they really have, agree.
func TestTheHostsClock(t *testing.T) {
	file := newBed(t, small()).file
	o := small()
	first := newStore(t, open(t, file, quick), &o)
	second := newStore(t, open(t, file, quick), &o)
	req := request("k")
	req.Lease = 300 * time.Millisecond
	ref := grant(t, first, req)
	rec := state(t, second, "k", driver.StateInFlight)
	if rec.Left <= 0 || rec.Left > req.Lease {
		t.Errorf("%v is left of a lease of %v", rec.Left, req.Lease)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	began := time.Now()
	want(t, second.Wait(ctx, ref), nil, "Wait")
	if d := time.Since(began); d < rec.Left-time.Millisecond {
		t.Errorf("the lease of which %v was left ended after %v", rec.Left, d)
	}
	state(t, first, "k", driver.StateUnknown)
	findings, err := sqlitestore.Check(t.Context(), first.DB(), nil)
	must(t, err)
	if f := finding(t, findings, "clock"); f.Severity != driver.SeverityOK {
		t.Errorf("the clock is %+v", f)
	}
}

func finding(t testing.TB, all []driver.Finding, subject string) driver.Finding {
	t.Helper()
	for _, f := range all {
		if f.Subject == subject {
			return f
		}
	}
	t.Fatalf("nothing is said of %s", subject)
	return driver.Finding{}
}
