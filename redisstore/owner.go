package redisstore

import (
	"context"
	"encoding/binary"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
)

// Renew is described at [driver.Store]. It is one round trip.
func (s *Store) Renew(ctx context.Context, ref driver.Ref, lease time.Duration) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	if err := driver.CheckLease(lease); err != nil {
		return err
	}
	_, err := s.write(ctx, &s.scripts.renew, ref, false, microsText(lease))
	return err
}

// Complete is described at [driver.Store]. It is one round trip.
func (s *Store) Complete(ctx context.Context, ref driver.Ref, c driver.Completion) (late bool, err error) {
	if err := s.enter(ctx); err != nil {
		return false, err
	}
	if err := c.Check(s.opts.MaxResult); err != nil {
		return false, err
	}
	record := appendCompleted(make([]byte, 0, completedSize(&c)), ref.Token, &c)
	late, err = s.write(ctx, &s.scripts.complete, ref, true, rueidis.BinaryString(record), microsText(c.Retention))
	if late {
		s.bound.fewer()
	}
	return late, err
}

// Release is described at [driver.Store]. It is one round trip.
func (s *Store) Release(ctx context.Context, ref driver.Ref, r driver.Release) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	if err := r.Check(); err != nil {
		return err
	}
	_, err := s.write(ctx, &s.scripts.release, ref, false, microsText(r.Retention), switches(r.Answered, r.Unused))
	return err
}

// Abandon is described at [driver.Store]. It is one round trip.
func (s *Store) Abandon(ctx context.Context, ref driver.Ref) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	_, err := s.write(ctx, &s.scripts.abandon, ref, false)
	if err == nil {
		s.bound.more()
	}
	return err
}

// write runs a step of a claim's owner.
func (s *Store) write(ctx context.Context, sc *script, ref driver.Ref, safe bool, args ...string) (late bool, err error) {
	record, index := s.layout.keys(&ref.Key)
	all := make([]string, 1, 4)
	all[0] = tokenText(ref.Token)
	m, err := s.run(ctx, &step{sc, []string{record, index}, append(all, args...)}, safe)
	if err != nil {
		return false, unreadable(err, ref.Key)
	}
	said, err := m.ToInt64()
	if err != nil {
		return false, errNonsense
	}
	return said == saidLate, refusal(said, ref.Key)
}

// tokenText is a token as the scripts compare it.
func tokenText(token uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], token)
	return string(b[:])
}

func microsText(d time.Duration) string { return strconv.FormatInt(micros(d), 10) }

// switches is a digit for each.
func switches(on ...bool) string {
	b := make([]byte, len(on))
	for i, v := range on {
		b[i] = '0'
		if v {
			b[i] = '1'
		}
	}
	return string(b)
}
