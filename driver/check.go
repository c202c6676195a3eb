package driver

import (
	"fmt"
	"time"
)

// MaxName is the most bytes that a scope or an id may have.
const MaxName = 4096

// Check returns an error that wraps ErrInvalid when the request is out of
// bounds. Every store calls it before it changes anything.
func (r *ClaimRequest) Check() error {
	if len(r.Scope) > MaxName || len(r.ID) > MaxName {
		return fmt.Errorf("%w: scope and id take at most %d bytes each", ErrInvalid, MaxName)
	}
	if r.Nonce == (Nonce{}) {
		return fmt.Errorf("%w: a claim needs a nonce", ErrInvalid)
	}
	if err := positive("lease", r.Lease); err != nil {
		return err
	}
	return positive("tombstone", r.Tombstone)
}

// Check is as for [ClaimRequest.Check]; a result larger than maxResult bytes,
// unless that is 0, gives an error that wraps ErrTooLarge.
func (c *Completion) Check(maxResult int) error {
	if len(c.Scope) > MaxName || len(c.ID) > MaxName {
		return fmt.Errorf("%w: scope and id take at most %d bytes each", ErrInvalid, MaxName)
	}
	if err := checkResult(c.Result, c.Dropped, maxResult); err != nil {
		return err
	}
	if err := positive("retention", c.Retention); err != nil {
		return err
	}
	return positive("tombstone", c.Tombstone)
}

// Check is as for [ClaimRequest.Check].
func (r Release) Check() error { return positive("retention", r.Retention) }

// Check is as for [Completion.Check].
func (r *Resolution) Check(maxResult int) error {
	if r.Action < ResolveComplete || r.Action > ResolveErase {
		return fmt.Errorf("%w: no such action: %d", ErrInvalid, r.Action)
	}
	if err := checkResult(r.Result, r.Dropped, maxResult); err != nil {
		return err
	}
	if err := positive("retention", r.Retention); err != nil {
		return err
	}
	return positive("tombstone", r.Tombstone)
}

// Check returns an error that wraps ErrInvalid when the query is out of bounds.
func (q *Query) Check() error {
	if q.Limit < 1 || q.Limit > 1000 {
		return fmt.Errorf("%w: limit %d is not in 1 to 1000", ErrInvalid, q.Limit)
	}
	return nil
}

// CheckLease returns an error that wraps ErrInvalid for a lease of zero or less.
func CheckLease(d time.Duration) error { return positive("lease", d) }

func checkResult(r Result, dropped bool, maxResult int) error {
	if dropped && r.Size() > 0 {
		return fmt.Errorf("%w: a dropped result has no bytes", ErrInvalid)
	}
	if maxResult > 0 && r.Size() > maxResult {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, r.Size(), maxResult)
	}
	return nil
}

func positive(name string, d time.Duration) error {
	if d <= 0 {
		return fmt.Errorf("%w: %s must be more than zero, not %v", ErrInvalid, name, d)
	}
	return nil
}
