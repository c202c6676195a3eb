package pgstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/idem-go/idem/driver"
)

// The server's codes for what the store treats in a way of its own.
const (
	codeSerialization  = "40001"
	codeDeadlock       = "40P01"
	codeLockTimeout    = "55P03" // another transaction holds a row
	codeCanceled       = "57014"
	codeDivision       = "22012" // a statement of the store's found that it may not go on
	codeNoTable        = "42P01"
	codeNoSchema       = "3F000"
	codeNoRight        = "42501"
	codeReadOnly       = "25006"
	codeTooMany        = "53300"
	codeFailed         = "25P02" // an earlier statement of the transaction failed
	codeStarting       = "57P03"
	codeAdminShutdown  = "57P01"
	codeCrashShutdown  = "57P02"
	codeNoPrepared     = "26000"
	codePreparedExists = "42P05"
)

// code returns the server's code of an error, of any driver that tells it; ""
// for an error that is not of the server's.
func code(err error) string {
	var s interface{ SQLState() string }
	if errors.As(err, &s) {
		return s.SQLState()
	}
	return ""
}

// codedError is an error of the store's own that is treated as the server's.
type codedError struct{ code, text string }

func (e *codedError) Error() string    { return e.text }
func (e *codedError) SQLState() string { return e.code }

// busy reports that a transaction failed for a reason of the database's alone,
// and may do better next time.
func busy(err error) bool {
	c := code(err)
	return c == codeSerialization || c == codeDeadlock
}

// silent reports that the server did not answer, so that nothing is known of
// what was asked.
func silent(err error) bool {
	switch c := code(err); {
	case c == "":
		return true
	case c == codeAdminShutdown || c == codeCrashShutdown || c == codeStarting || c == codeTooMany:
		return true
	default:
		return len(c) == 5 && (c[:2] == "08" || c[:2] == "XX")
	}
}

// answered reports that an error is an answer of the store's, or of the
// context's, that asking again would not change.
func answered(err error) bool {
	var unreadable *driver.UnreadableError
	if errors.As(err, &unreadable) {
		return true
	}
	for _, e := range []error{
		driver.ErrLost, driver.ErrLapsed, driver.ErrCompleted, driver.ErrTooLarge, driver.ErrFull,
		driver.ErrInvalid, driver.ErrState, driver.ErrClosed, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

var errReadOnly error = &codedError{codeReadOnly, "pgstore: transactions are read-only"}

// explain says what an error means to an operator.
func explain(err error) error {
	switch code(err) {
	case codeNoTable, codeNoSchema:
		return fmt.Errorf("pgstore: the tables are missing; make them with 'idem store migrate': %w", err)
	case codeNoRight:
		return fmt.Errorf("pgstore: the server's role lacks a right; grant it SELECT, INSERT, UPDATE and DELETE on the tables and USAGE on the sequence: %w", err)
	case codeReadOnly:
		return fmt.Errorf("pgstore: the server takes no writes, as a standby does; connect to the primary (target_session_attrs=read-write): %w", err)
	case codeTooMany:
		return fmt.Errorf("pgstore: the server has no connection left; make pools smaller or max_connections larger: %w", err)
	case codeNoPrepared, codePreparedExists:
		return fmt.Errorf("pgstore: a pooler in between loses prepared statements; connect with default_query_exec_mode=exec: %w", err)
	case "":
		return fmt.Errorf("pgstore: the server does not answer: %w", err)
	}
	return fmt.Errorf("pgstore: %w", err)
}

// silences is how often a call that got no answer is sent again at once, for
// connections that have died while nobody used them.
const silences = 3

// insist calls f until it succeeds or gives an error that another try would not
// change. f may be called again after an answer was lost: every call of a store
// can be.
func (r *records) insist(ctx context.Context, f func() error) error {
	silence := 0
	for try := 0; ; try++ {
		err := f()
		switch {
		case err == nil || answered(err):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case busy(err) || code(err) == codeLockTimeout || code(err) == codeDivision || errors.Is(err, errRaced):
		case silent(err) && silence < silences:
			silence++
		default:
			return explain(err)
		}
		if err := r.pause(ctx, try); err != nil {
			return err
		}
	}
}

// errRaced says that a statement changed nothing, and that what it was told
// does not explain why: somebody else was there in between.
var errRaced = errors.New("pgstore: raced")

// pause waits for a short time that grows with the number of tries, and differs
// between those who would otherwise meet again.
func (r *records) pause(ctx context.Context, try int) error {
	longest := min(time.Millisecond<<min(try, 7), 100*time.Millisecond)
	timer := time.NewTimer(rand.N(longest) + 1)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.closing:
		return driver.ErrClosed
	}
}
