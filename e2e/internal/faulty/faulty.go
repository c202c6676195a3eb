// Package faulty is a store that fails as a test says, around one that works.
package faulty

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/idem-go/idem/driver"
)

// ErrDown is what a store says that does not answer.
var ErrDown = errors.New("faulty: the store is down")

// Fault is what happens to one call.
type Fault uint8

// The faults.
const (
	// None: the call goes through.
	None Fault = iota
	// Refused: nothing is changed, and the call gives an error.
	Refused
	// Lost: the call takes effect, and its answer is lost.
	Lost
	// Hangs: nothing is changed, and the call returns when its context ends.
	Hangs
	// Unreadable: the record is there and cannot be read.
	Unreadable
)

// Call is a method of the store.
type Call string

// The calls that can fail.
const (
	Claim    Call = "claim"
	Renew    Call = "renew"
	Complete Call = "complete"
	Release  Call = "release"
	Abandon  Call = "abandon"
	Lookup   Call = "lookup"
)

// Store fails as it is told. It is safe for use by many goroutines.
type Store struct {
	driver.Store

	mu     sync.Mutex
	faults map[Call]func(n int) Fault
	calls  map[Call]int
}

// New returns a store around one that works, without any fault.
func New(s driver.Store) *Store {
	return &Store{Store: s, faults: map[Call]func(int) Fault{}, calls: map[Call]int{}}
}

// Unwrap implements driver.Wrapper.
func (s *Store) Unwrap() driver.Store { return s.Store }

// On sets what happens to a call, by how many there were of it since, from 1.
// Nil heals it.
func (s *Store) On(c Call, fault func(n int) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[c], s.calls[c] = fault, 0
}

// Always is a fault of every call.
func Always(f Fault) func(int) Fault { return func(int) Fault { return f } }

// First is a fault of the first n calls.
func First(n int, f Fault) func(int) Fault {
	return func(i int) Fault {
		if i <= n {
			return f
		}
		return None
	}
}

// Calls is how many calls there were since On.
func (s *Store) Calls(c Call) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[c]
}

func (s *Store) next(c Call) Fault {
	s.mu.Lock()
	s.calls[c]++
	n, fault := s.calls[c], s.faults[c]
	s.mu.Unlock()
	if fault == nil {
		return None
	}
	return fault(n) // it may wait, and others go on meanwhile
}

// do carries a call out, or does not.
func (s *Store) do(ctx context.Context, c Call, key driver.Key, call func() error) error {
	switch s.next(c) {
	case Refused:
		return ErrDown
	case Hangs:
		<-ctx.Done()
		return ctx.Err()
	case Unreadable:
		return &driver.UnreadableError{Key: key, Reason: "a test says so"}
	case Lost:
		if err := call(); err != nil {
			return err
		}
		return ErrDown
	default:
		return call()
	}
}

// Claim implements driver.Store.
func (s *Store) Claim(ctx context.Context, req driver.ClaimRequest) (reply driver.ClaimReply, err error) {
	err = s.do(ctx, Claim, req.Key, func() (err error) {
		reply, err = s.Store.Claim(ctx, req)
		return err
	})
	if err != nil {
		return driver.ClaimReply{}, err
	}
	return reply, nil
}

// Renew implements driver.Store.
func (s *Store) Renew(ctx context.Context, ref driver.Ref, lease time.Duration) error {
	return s.do(ctx, Renew, ref.Key, func() error { return s.Store.Renew(ctx, ref, lease) })
}

// Complete implements driver.Store.
func (s *Store) Complete(ctx context.Context, ref driver.Ref, c driver.Completion) (late bool, err error) {
	err = s.do(ctx, Complete, ref.Key, func() (err error) {
		late, err = s.Store.Complete(ctx, ref, c)
		return err
	})
	return late, err
}

// Release implements driver.Store.
func (s *Store) Release(ctx context.Context, ref driver.Ref, r driver.Release) error {
	return s.do(ctx, Release, ref.Key, func() error { return s.Store.Release(ctx, ref, r) })
}

// Abandon implements driver.Store.
func (s *Store) Abandon(ctx context.Context, ref driver.Ref) error {
	return s.do(ctx, Abandon, ref.Key, func() error { return s.Store.Abandon(ctx, ref) })
}

// Lookup implements driver.Store.
func (s *Store) Lookup(ctx context.Context, key driver.Key) (rec driver.Record, err error) {
	err = s.do(ctx, Lookup, key, func() (err error) {
		rec, err = s.Store.Lookup(ctx, key)
		return err
	})
	return rec, err
}
