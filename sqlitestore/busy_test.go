package sqlitestore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/idem-go/idem/driver"
	"github.com/idem-go/idem/sqlitestore"
)

// shaped are errors in the shapes that other drivers give them.
type (
	methodError struct{ code int }
	errNo       int
	errNoWide   int
	fieldError  struct {
		Code         errNo
		ExtendedCode errNoWide
	}
)

func (*methodError) Error() string  { return "locked" }
func (e *methodError) Code() int    { return e.code }
func (fieldError) Error() string    { return "locked" }
func (e *methodError) Else(int) int { return e.code }

// The same codes are found in the errors of each driver, however they are wrapped.
func TestCodesOfTheDrivers(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{sqlite3.BUSY, 5},
		{sqlite3.BUSY_SNAPSHOT, 517},
		{sqlite3.IOERR_FSYNC, 1034},
		{&methodError{517}, 517},
		{fieldError{Code: 5, ExtendedCode: 517}, 517},
		{fieldError{Code: 5}, 5},
		{fmt.Errorf("wrapped: %w", sqlite3.FULL), 13},
		{errors.Join(errors.New("first"), fmt.Errorf("second: %w", fieldError{Code: 6})), 6},
		{errors.New("sqlite: busy"), 0},
		{context.Canceled, 0},
		{nil, 0},
	} {
		if got := sqlitestore.Code(tt.err); got != tt.want {
			t.Errorf("the code of %v is %d; it should be %d", tt.err, got, tt.want)
		}
	}
	b := newBed(t, small())
	release := holdLock(t, b.file)
	defer release()
	_, err := b.DB().ExecContext(t.Context(), `INSERT INTO effects (name) VALUES ('x')`)
	if sqlitestore.Code(err)&0xff != 5 {
		t.Errorf("the code of %v is %d", err, sqlitestore.Code(err))
	}
}

// Trap 9: while another process has a writing transaction open, what writes is
// bounded by its context, and changes nothing; what only reads goes on. Trap 44:
// nothing of it counts as an attempt.
func TestTrap9AnotherHoldsTheDatabase(t *testing.T) {
	b := newBed(t, small())
	done := request("done")
	complete(t, b, grant(t, b, done), "result")
	ref := grant(t, b, request("held"))
	release := holdLock(t, b.file)

	short := func() context.Context { return soon(t, 50*time.Millisecond) }
	again := request("done")
	reply, err := b.Claim(t.Context(), again)
	if err != nil || string(reply.Record.Result.Body) != "result" {
		t.Errorf("a replay: %v, %v", reply.Record.State, err)
	}
	tx := txRequest("done")
	if reply, err := b.DoTx(t.Context(), tx, never(t)); err != nil || string(reply.Record.Result.Body) != "result" {
		t.Errorf("a replay by DoTx: %v, %v", reply.Record.State, err)
	}
	state(t, b, "held", driver.StateInFlight)
	_, err = b.Claim(short(), request("new"))
	want(t, err, context.DeadlineExceeded, "Claim")
	want(t, b.Renew(short(), ref, lease), context.DeadlineExceeded, "Renew")
	_, err = b.Complete(short(), ref, completion("x"))
	want(t, err, context.DeadlineExceeded, "Complete")
	want(t, b.Release(short(), ref, driver.Release{Retention: retention}), context.DeadlineExceeded, "Release")
	want(t, b.Abandon(short(), ref), context.DeadlineExceeded, "Abandon")
	_, err = b.DoTx(short(), txRequest("new"), never(t))
	want(t, err, context.DeadlineExceeded, "DoTx")

	counted := txRequest("new")
	counted.CountAttempts = true
	for _, wait := range []time.Duration{0, 20 * time.Millisecond} {
		counted.Wait = wait
		began := time.Now()
		reply, err := b.DoTx(t.Context(), counted, never(t))
		if err != nil || reply.Record.State != driver.StateInFlight || reply.Record.Left <= 0 {
			t.Errorf("DoTx that waits %v: %v, %v", wait, reply.Record, err)
		}
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("DoTx that waits %v took %v", wait, d)
		}
	}
	release()
	if rec := state(t, b, "new", driver.StateAbsent); rec.Attempt != 0 {
		t.Errorf("waiting counted as %d attempts", rec.Attempt)
	}
	state(t, b, "held", driver.StateInFlight)
	if ref := grant(t, b, request("new")); ref.Token == 0 {
		t.Error("no token")
	}
}

// Trap 44: a database that is busy for a while is waited for, in a call and in a
// transaction.
func TestTrap44BusyIsTriedAgain(t *testing.T) {
	b := newBed(t, small())
	release := holdLock(t, b.file)
	claimed := make(chan error, 2)
	go func() {
		reply, err := b.Claim(t.Context(), request("claim"))
		if err == nil && (!reply.Granted || reply.Record.Attempt != 1) {
			err = fmt.Errorf("granted %v, attempt %d", reply.Granted, reply.Record.Attempt)
		}
		claimed <- err
	}()
	go func() {
		reply, err := b.DoTx(t.Context(), txRequest("tx"), effect("tx"))
		if err == nil && (!reply.Ran || reply.Record.Attempt != 1) {
			err = fmt.Errorf("ran %v, attempt %d", reply.Ran, reply.Record.Attempt)
		}
		claimed <- err
	}()
	// Longer than the database itself waits.
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		_, err := b.Claim(soon(t, 100*time.Millisecond), request("other"))
		want(t, err, context.DeadlineExceeded, "Claim")
	}
	release()
	must(t, <-claimed)
	must(t, <-claimed)
	if n := effects(t, b.DB(), "tx"); n != 1 {
		t.Errorf("%d effects", n)
	}
}

// Commits that are refused for now are made again, as a whole, and count once.
func TestTrap44ACommitThatIsBusy(t *testing.T) {
	b := newBed(t, small())
	f := &faults{failWith: sqlite3.BUSY}
	o := small()
	s := newStore(t, spoiled(t, b.file, f), o.WithClock(b.clock))
	f.fail.Store(3)
	reply, err := s.Claim(t.Context(), request("k"))
	if err != nil || !reply.Granted || reply.Record.Attempt != 1 {
		t.Fatalf("granted %v, attempt %d, %v", reply.Granted, reply.Record.Attempt, err)
	}
	f.fail.Store(3)
	calls := 0
	done, err := s.DoTx(t.Context(), txRequest("tx"), func(ctx context.Context, tx *sql.Tx, rec driver.Record) (driver.Completion, error) {
		calls++
		return effect("tx")(ctx, tx, rec)
	})
	if err != nil || !done.Ran || calls != 4 || done.Record.Attempt != 1 {
		t.Errorf("ran %v, %d calls, attempt %d, %v", done.Ran, calls, done.Record.Attempt, err)
	}
	if n := effects(t, b.DB(), "tx"); n != 1 {
		t.Errorf("%d effects", n)
	}
}

// Trap 10, 44, 56: a commit takes effect and its answer is lost. Each call, made
// again, gives the first answer, and a transaction is recognised by its token.
func TestTrap10TheAnswerOfTheCommitIsLost(t *testing.T) {
	b := newBed(t, small())
	f := &faults{}
	o := small()
	s := newStore(t, spoiled(t, b.file, f), o.WithClock(b.clock))
	lost := func(call string, f2 func() error) {
		t.Helper()
		f.lose.Store(1)
		want(t, f2(), errLost, call)
		if f.lose.Load() > 0 {
			t.Fatalf("%s committed nothing", call)
		}
		f.lose.Store(0)
	}
	req := request("k")
	lost("Claim", func() error { _, err := s.Claim(t.Context(), req); return err })
	reply, err := s.Claim(t.Context(), req)
	if err != nil || !reply.Granted || reply.Record.Attempt != 1 {
		t.Fatalf("the claim again: granted %v, attempt %d, %v", reply.Granted, reply.Record.Attempt, err)
	}
	ref := driver.Ref{Key: req.Key, Token: reply.Record.Token}
	lost("Renew", func() error { return s.Renew(t.Context(), ref, lease) })
	want(t, s.Renew(t.Context(), ref, lease), nil, "Renew again")
	lost("Complete", func() error { _, err := s.Complete(t.Context(), ref, completion("a")); return err })
	complete(t, s, ref, "a")
	_, err = s.Complete(t.Context(), ref, completion("b"))
	want(t, err, driver.ErrCompleted, "Complete with another result")

	req = request("released")
	ref = grant(t, s, req)
	lost("Release", func() error { return s.Release(t.Context(), ref, driver.Release{Unused: true, Retention: retention}) })
	want(t, s.Release(t.Context(), ref, driver.Release{Unused: true, Retention: retention}), nil, "Release again")
	if rec := state(t, s, "released", driver.StateAbsent); rec.Attempt != 0 {
		t.Errorf("the attempt is %d", rec.Attempt)
	}
	ref = grant(t, s, request("abandoned"))
	lost("Abandon", func() error { return s.Abandon(t.Context(), ref) })
	want(t, s.Abandon(t.Context(), ref), nil, "Abandon again")

	f.lose.Store(1)
	done, err := s.DoTx(t.Context(), txRequest("tx"), effect("tx"))
	if err != nil || !done.Ran || done.Record.State != driver.StateCompleted {
		t.Errorf("DoTx: ran %v, %v, %v", done.Ran, done.Record.State, err)
	}
	if n := effects(t, b.DB(), "tx"); n != 1 {
		t.Errorf("%d effects", n)
	}
	// A commit that did not take effect is made again, with its work.
	f.failWith = errLost
	f.fail.Store(1)
	calls := 0
	done, err = s.DoTx(t.Context(), txRequest("again"), func(ctx context.Context, tx *sql.Tx, rec driver.Record) (driver.Completion, error) {
		calls++
		return effect("again")(ctx, tx, rec)
	})
	if err != nil || !done.Ran || calls != 2 || done.Record.Attempt != 1 {
		t.Errorf("DoTx: ran %v, %d calls, attempt %d, %v", done.Ran, calls, done.Record.Attempt, err)
	}
	if n := effects(t, b.DB(), "again"); n != 1 {
		t.Errorf("%d effects", n)
	}
	// Unless somebody else was first, whose commit is not this one's.
	var meanwhile func()
	gapped := newStore(t, s.DB(), o.WithGap(func(where string) {
		if where == "look" {
			meanwhile()
		}
	}).WithClock(b.clock))
	meanwhile = func() {
		if other, err := b.DoTx(t.Context(), txRequest("other"), effect("other")); err != nil || !other.Ran {
			t.Errorf("DoTx: ran %v, %v", other.Ran, err)
		}
	}
	f.fail.Store(1)
	done, err = gapped.DoTx(t.Context(), txRequest("other"), effect("other"))
	if err != nil || done.Ran || done.Record.State != driver.StateCompleted {
		t.Errorf("DoTx: ran %v, %v, %v", done.Ran, done.Record.State, err)
	}
	if n := effects(t, b.DB(), "other"); n != 1 {
		t.Errorf("%d effects", n)
	}
	// An error of the database's own is final.
	f.failWith = sqlite3.IOERR_WRITE
	f.fail.Store(1)
	if done, err := s.DoTx(t.Context(), txRequest("gone"), effect("gone")); err == nil || done.Ran {
		t.Errorf("DoTx: ran %v, %v", done.Ran, err)
	}
	if n := effects(t, b.DB(), "gone"); n != 0 {
		t.Errorf("%d effects", n)
	}
	state(t, s, "gone", driver.StateAbsent)
}

// Of a group whose commit gave an error each call is made again by itself.
func TestAGroupThatFails(t *testing.T) {
	b := newBed(t, small())
	f := &faults{failWith: errors.New("some error")}
	o := small()
	s := newStore(t, spoiled(t, b.file, f), o.WithClock(b.clock))
	for _, spoil := range []func(){func() { f.fail.Store(1) }, func() { f.lose.Store(1) }} {
		const n = 20
		release := s.HoldGate()
		errs := make(chan error, n)
		reqs := make([]driver.ClaimRequest, n)
		for i := range reqs {
			reqs[i] = request(fmt.Sprint(driver.NewNonce()))
			go func() {
				reply, err := s.Claim(t.Context(), reqs[i])
				if err == nil && !reply.Granted {
					err = errors.New("not granted")
				}
				errs <- err
			}()
		}
		eventually(t, "queue of all", func() bool { return s.Queued() == n })
		spoil()
		before := f.commits.Load()
		release()
		for range n {
			must(t, <-errs)
		}
		if made := f.commits.Load() - before; made != n {
			t.Errorf("%d commits were made after the one that failed; it should be %d", made, n)
		}
	}
}

// Calls that come at the same time are one transaction, and a call whose caller has
// gone before is in none.
func TestCallsShareATransaction(t *testing.T) {
	b := newBed(t, small())
	f := &faults{}
	o := small()
	s := newStore(t, spoiled(t, b.file, f), o.WithClock(b.clock))
	const n = 100
	release := s.HoldGate()
	before := f.commits.Load()
	errs := make(chan error, n)
	for i := range n {
		go func() {
			_, err := s.Claim(t.Context(), request(fmt.Sprint(i)))
			errs <- err
		}()
	}
	gone, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := s.Claim(gone, request("gone"))
		left <- err
	}()
	eventually(t, "queue of all", func() bool { return s.Queued() == n+1 })
	leave()
	want(t, <-left, context.Canceled, "the Claim of who has gone")
	release()
	for range n {
		must(t, <-errs)
	}
	if made := f.commits.Load() - before; made > 3 {
		t.Errorf("%d calls took %d commits", n, made)
	}
	state(t, b, "gone", driver.StateAbsent)
}

// Close ends those who wait for a database that is busy, and those who wait for a
// claim.
func TestCloseEndsWaiting(t *testing.T) {
	b := newBed(t, small())
	ref := grant(t, b, request("k"))
	release := holdLock(t, b.file)
	defer release()
	errs := make(chan error, 3)
	go func() { errs <- b.Wait(t.Context(), ref) }()
	go func() { _, err := b.Claim(t.Context(), request("a")); errs <- err }()
	go func() { errs <- b.Renew(t.Context(), ref, lease) }()
	eventually(t, "waiter", func() bool { return b.Watching() == 1 })
	must(t, b.Close())
	for range 3 {
		want(t, <-errs, driver.ErrClosed, "who waited")
	}
}
