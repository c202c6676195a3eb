package sqlitestore_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/sqlitestore"
)

// Trap 2: between the look and the transaction another process does the work.
func TestTrap2LookedAtAgain(t *testing.T) {
	b := newBed(t, small())
	var meanwhile func()
	o := small()
	s := newStore(t, b.DB(), o.WithGap(func(where string) {
		if f := meanwhile; f != nil && (where == "claim" || where == "tx") {
			meanwhile = nil
			f()
		}
	}).WithClock(b.clock))

	meanwhile = func() { complete(t, b, grant(t, b, request("claim")), "first") }
	reply, err := s.Claim(t.Context(), request("claim"))
	if err != nil || reply.Granted || string(reply.Record.Result.Body) != "first" {
		t.Errorf("granted %v, %v, %v", reply.Granted, reply.Record.State, err)
	}
	// A transaction that finds the writer busy looks first, and then again.
	release := s.HoldGate()
	meanwhile = func() {
		release()
		if done, err := b.DoTx(t.Context(), txRequest("tx"), effect("tx")); err != nil || !done.Ran {
			t.Errorf("ran %v, %v", done.Ran, err)
		}
	}
	counted := txRequest("tx")
	counted.CountAttempts = true
	done, err := s.DoTx(t.Context(), counted, never(t))
	if err != nil || done.Ran || string(done.Record.Result.Body) != "done" || done.Record.Attempt != 1 {
		t.Errorf("ran %v, %+v, %v", done.Ran, done.Record, err)
	}
	if n := effects(t, b.DB(), "tx"); n != 1 {
		t.Errorf("%d effects", n)
	}
}

// What is known is answered while work of this process runs, and while another's
// does; what is not known is in-flight once Wait is over.
func TestDoTxWhileAnotherWorks(t *testing.T) {
	b := newBed(t, small())
	other := b.again(t)
	complete(t, b, grant(t, b, request("done")), "result")
	began, letGo := make(chan bool), make(chan bool)
	ended := make(chan error, 1)
	go func() {
		_, err := b.DoTx(t.Context(), txRequest("running"), func(ctx context.Context, tx *sql.Tx, rec driver.Record) (driver.Completion, error) {
			c, err := effect("running")(ctx, tx, rec)
			close(began)
			<-letGo
			return c, err
		})
		ended <- err
	}()
	<-began
	for _, s := range []*bed{b, other} {
		if reply, err := s.DoTx(t.Context(), txRequest("done"), never(t)); err != nil || string(reply.Record.Result.Body) != "result" {
			t.Errorf("what is known: %v, %v", reply.Record.State, err)
		}
		if reply, err := s.Claim(t.Context(), request("done")); err != nil || string(reply.Record.Result.Body) != "result" {
			t.Errorf("what is known: %v, %v", reply.Record.State, err)
		}
		req := txRequest("running")
		req.Wait, req.CountAttempts = 0, true
		if reply, err := s.DoTx(t.Context(), req, never(t)); err != nil || reply.Record.State != driver.StateInFlight || reply.Record.Left <= 0 {
			t.Errorf("what is not known: %+v, %v", reply.Record, err)
		}
	}
	close(letGo)
	must(t, <-ended)
	if rec := state(t, b, "running", driver.StateCompleted); rec.Attempt != 1 {
		t.Errorf("the attempt is %d", rec.Attempt)
	}
}

// An attempt that was counted for work which was then not called is taken back.
func TestAnAttemptThatIsTakenBack(t *testing.T) {
	b := newBed(t, small())
	f := &faults{failWith: errors.New("some error")}
	o := small()
	s := newStore(t, spoiled(t, b.file, f), o.WithClock(b.clock))
	req := txRequest("k")
	req.CountAttempts = true
	for range 3 {
		f.refuse.Store(2) // after the count has committed
		_, err := s.DoTx(t.Context(), req, never(t))
		want(t, err, f.failWith, "DoTx")
		eventually(t, "end of the count", func() bool { return state(t, s, "k", driver.StateAbsent).Attempt == 0 })
	}
	// Over what was released before, it is the count as it was.
	must(t, s.Release(t.Context(), grant(t, s, request("k")), driver.Release{Retention: retention}))
	f.refuse.Store(2)
	_, err := s.DoTx(t.Context(), req, never(t))
	want(t, err, f.failWith, "DoTx")
	eventually(t, "end of the count", func() bool { return state(t, s, "k", driver.StateAbsent).Attempt == 1 })
	if reply, err := s.DoTx(t.Context(), req, effect("k")); err != nil || reply.Record.Attempt != 2 {
		t.Errorf("the attempt is %d, %v", reply.Record.Attempt, err)
	}
}

// Trap 38: the owner of a lease is paused past its end; its successor's work commits,
// and then its own transaction must not.
func TestTrap38APausedOwnerAndItsSuccessor(t *testing.T) {
	b := newBed(t, small())
	successor := b.again(t)
	paused := grant(t, b, request("k"))
	tx, err := b.DB().Begin()
	must(t, err)
	// It has read, and not yet written, when it is paused.
	var n int
	must(t, tx.QueryRow(`SELECT count(*) FROM effects`).Scan(&n))
	must(t, tx.Rollback()) // an immediate transaction would hold the successor up

	b.clock.Advance(lease)
	next := request("k")
	next.Retry = true
	ref := grant(t, successor, next)
	tx2, err := successor.DB().Begin()
	must(t, err)
	_, err = effect("k")(t.Context(), tx2, driver.Record{})
	must(t, err)
	_, err = successor.CompleteTx(t.Context(), tx2, ref, completion("successor"))
	must(t, err)
	must(t, tx2.Commit())

	tx, err = b.DB().Begin()
	must(t, err)
	_, err = effect("k")(t.Context(), tx, driver.Record{})
	must(t, err)
	_, err = b.CompleteTx(t.Context(), tx, paused, completion("paused"))
	want(t, err, driver.ErrLost, "CompleteTx of who was paused")
	if err := tx.Commit(); !errors.Is(err, sql.ErrTxDone) {
		t.Errorf("its commit: %v", err)
	}
	if got := effects(t, b.DB(), "k"); got != 1 {
		t.Errorf("%d effects", got)
	}
	if rec := state(t, b, "k", driver.StateCompleted); string(rec.Result.Body) != "successor" || rec.Attempt != 2 {
		t.Errorf("the record is %+v", rec)
	}
}

// A deferred transaction that has read what is no longer the newest is told so; its
// claim is as it was, and the transaction made again completes it.
func TestCompleteTxAfterReading(t *testing.T) {
	b := newBed(t, small())
	deferred := open(t, b.file, quick+"&_txlock=deferred")
	o := small()
	s := newStore(t, deferred, o.WithClock(b.clock))
	ref := grant(t, s, request("k"))
	tx, err := deferred.Begin()
	must(t, err)
	var n int
	must(t, tx.QueryRow(`SELECT count(*) FROM effects`).Scan(&n))
	must(t, execute(b.DB(), `INSERT INTO effects (name) VALUES ('meanwhile')`))
	_, err = s.CompleteTx(t.Context(), tx, ref, completion("x"))
	if sqlitestore.Code(err)&0xff != 5 {
		t.Errorf("CompleteTx: %v; it should say that the database is busy", err)
	}
	must(t, tx.Rollback())
	want(t, s.Renew(t.Context(), ref, lease), nil, "Renew")
	tx, err = deferred.Begin()
	must(t, err)
	late, err := s.CompleteTx(t.Context(), tx, ref, completion("x"))
	if late || err != nil {
		t.Errorf("CompleteTx: late %v, %v", late, err)
	}
	must(t, tx.Commit())
	state(t, b, "k", driver.StateCompleted)
}

// A transaction of another database is refused, and nothing is done.
func TestCompleteTxOfAnotherDatabase(t *testing.T) {
	b, other := newBed(t, small()), newBed(t, small())
	ref := grant(t, b, request("k"))
	tx, err := other.DB().Begin()
	must(t, err)
	defer func() { must(t, tx.Rollback()) }()
	if _, err := b.CompleteTx(t.Context(), tx, ref, completion("x")); err == nil {
		t.Error("CompleteTx took it")
	}
	state(t, b, "k", driver.StateInFlight)
}

// The context's end while others are waited for ends a call at once.
func TestDoTxGivesUp(t *testing.T) {
	b := newBed(t, small())
	release := b.HoldGate()
	defer release()
	began := time.Now()
	_, err := b.DoTx(soon(t, 30*time.Millisecond), txRequest("k"), never(t))
	want(t, err, context.DeadlineExceeded, "DoTx")
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
}
