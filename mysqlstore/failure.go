package mysqlstore

import (
	"context"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/idem-go/idem/driver"
)

// The numbers of the server's errors that decide something.
const (
	errTooManyConnections = 1040
	errLockWaitTimeout    = 1205
	errDeadlock           = 1213
	errRecordHasChanged   = 1020 // MariaDB's innodb_snapshot_isolation
	errPrepareAgain       = 1615
	errNoWait             = 3572
	errNoTable            = 1146
	errNoDatabase         = 1049
	errOptionPreventsIt   = 1290 // read_only, super_read_only
	errReadOnlyTx         = 1792
	errReadOnlyEngine     = 1836
	errTooManyStatements  = 1461
	errPacketTooLarge     = 1153
	errBlobTooLarge       = 1118
	errShutdown           = 1053
	errInterrupted        = 1317
	errConnectionKilled   = 1927
)

func numberOf(err error) uint16 {
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		return e.Number
	}
	return 0
}

// isConflict reports that a statement failed because of what others did at the
// same time, and may succeed when it is made again. After such an error of one
// statement the server has often rolled back the whole transaction.
func isConflict(err error) bool {
	switch numberOf(err) {
	case errLockWaitTimeout, errDeadlock, errRecordHasChanged, errPrepareAgain, errNoWait:
		return true
	}
	return false
}

// isLost reports that the connection failed, so that nobody knows whether the
// statement took effect.
func isLost(err error) bool {
	var network net.Error
	switch numberOf(err) {
	case errShutdown, errConnectionKilled:
		return true
	}
	return errors.Is(err, sqldriver.ErrBadConn) || errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network)
}

// explained gives an error of the server's the package's name, and a hint where
// an operator can do something.
func explained(err error) error {
	hint := ""
	switch numberOf(err) {
	case errNoTable, errNoDatabase:
		hint = "; make the tables with idem store migrate"
	case errOptionPreventsIt, errReadOnlyTx, errReadOnlyEngine:
		hint = "; the server is read-only: connect to the one that takes writes"
	case errTooManyStatements:
		hint = "; raise max_prepared_stmt_count, or use fewer connections"
	case errPacketTooLarge:
		hint = "; raise max_allowed_packet, or set a smaller MaxResult"
	case errBlobTooLarge:
		hint = "; make the server's redo log larger, or set a smaller MaxResult"
	case errTooManyConnections:
		hint = "; raise max_connections, or use fewer connections"
	}
	return fmt.Errorf("mysqlstore: %w%s", err, hint)
}

// lostTries is how often a call is made again when its connection failed: after
// a restart of the server the connections of a pool fail one after another.
const lostTries = 3

// again makes a call until it succeeds or fails for a reason of its own: what
// fails because of others at the same time is tried again for as long as ctx
// lasts. Every call of a store may be repeated, so a call whose connection
// failed is repeated too, a few times.
func (s *Store) again(ctx context.Context, call func() error) error {
	lost := 0
	for n := 0; ; n++ {
		err := call()
		switch {
		case err == nil:
			return nil
		case s.isClosed():
			return driver.ErrClosed
		case ctx.Err() != nil:
			return ctx.Err()
		case isConflict(err):
		case isLost(err) && lost < lostTries:
			lost++
		case isContract(err):
			return err
		default:
			return explained(err)
		}
		if err := s.pause(ctx, n); err != nil {
			return err
		}
	}
}

// isContract reports that an error is one that package driver has a name for.
func isContract(err error) bool {
	var unreadable *driver.UnreadableError
	for _, known := range []error{driver.ErrLost, driver.ErrLapsed, driver.ErrCompleted, driver.ErrFull, driver.ErrState, driver.ErrClosed, driver.ErrTooLarge, driver.ErrInvalid} {
		if errors.Is(err, known) {
			return true
		}
	}
	return errors.As(err, &unreadable)
}

// pause waits a little, longer each time, and never as long as another who
// waits for the same reason.
func (s *Store) pause(ctx context.Context, n int) error {
	most := time.Millisecond << min(n, 6)
	timer := time.NewTimer(most/4 + rand.N(most))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.closing:
		return driver.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}
