package redisstore

import (
	"context"
	"encoding/binary"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
)

// Claim is described at [driver.Store]. It is one round trip.
func (s *Store) Claim(ctx context.Context, req driver.ClaimRequest) (reply driver.ClaimReply, err error) {
	if err := s.enter(ctx); err != nil {
		return reply, err
	}
	if err := req.Check(); err != nil {
		return reply, err
	}
	full, err := s.full(ctx)
	if err != nil {
		return reply, err
	}
	record, index := s.layout.keys(&req.Key)
	known := appendClaim(make([]byte, 0, claimSize(&req)), &req)
	lease := micros(req.Lease)
	args := [3]string{strconv.FormatInt(lease, 10), rueidis.BinaryString(known)}
	n := 2
	if req.Retry || full || req.Waited != 0 {
		args[2] = claimOptions(&req, full)
		n = 3
	}
	m, err := s.run(ctx, &step{&s.scripts.claim, []string{record, index}, args[:n]}, true)
	if err != nil {
		return reply, unreadable(err, req.Key)
	}
	if !m.IsArray() {
		token, err := m.ToInt64()
		if err != nil || token == 0 {
			return reply, errNonsense
		}
		if token < 0 {
			return reply, refusal(token, req.Key)
		}
		s.bound.more()
		granted := driver.Record{State: driver.StateInFlight, Token: uint64(token), Attempt: 1, Left: span(later(token, lease) - token)}
		reply = granting(&req, granted)
		return reply, nil
	}
	a, err := m.ToArray()
	if err != nil || len(a) < 2 {
		return reply, errNonsense
	}
	now, r, err := readAnswer(a, req.Key, len(a) > 2)
	if err != nil {
		return reply, err
	}
	if len(a) > 2 {
		var v driver.Record
		r.view(&v, req.Key, now)
		if req.Retry && v.Attempt > 1 {
			s.bound.fewer()
		} else {
			s.bound.more()
		}
		return granting(&req, v), nil
	}
	r.settle(now)
	r.view(&reply.Record, req.Key, now)
	return reply, nil
}

func claimOptions(req *driver.ClaimRequest, full bool) string {
	b := []byte{'0', '0'}
	if req.Retry {
		b[0] = '1'
	}
	if full {
		b[1] = '1'
	}
	return string(binary.BigEndian.AppendUint64(b, req.Waited))
}

// granting is the answer to a claim that was granted: what the server said of
// it, and what the request knows.
func granting(req *driver.ClaimRequest, v driver.Record) driver.ClaimReply {
	v.Key, v.Scope, v.ID, v.Fingerprint = req.Key, req.Scope, req.ID, req.Fingerprint
	return driver.ClaimReply{Granted: true, Record: v}
}

// readAnswer reads a server's time and a record, or only the record's head.
func readAnswer(a []rueidis.RedisMessage, key driver.Key, head bool) (now int64, r record, err error) {
	now, err = a[0].ToInt64()
	if err != nil {
		return 0, r, errNonsense
	}
	b, err := a[1].AsBytes()
	if err != nil {
		return 0, r, errNonsense
	}
	if head {
		err = r.decodeHead(b)
	} else {
		err = r.decode(b, false)
	}
	if err != nil {
		return 0, r, &driver.UnreadableError{Key: key, Reason: err.Error()}
	}
	return now, r, nil
}

// Lookup is described at [driver.Store]. It is one round trip.
func (s *Store) Lookup(ctx context.Context, key driver.Key) (v driver.Record, err error) {
	if err := s.enter(ctx); err != nil {
		return v, err
	}
	record, index := s.layout.keys(&key)
	m, err := s.run(ctx, &step{&s.scripts.lookup, []string{record, index}, nil}, false)
	if err != nil {
		return v, unreadable(err, key)
	}
	return s.readRecord(m, key)
}

// readRecord reads the answer of lookup.lua or resolve.lua.
func (s *Store) readRecord(m rueidis.RedisMessage, key driver.Key) (v driver.Record, err error) {
	if !m.IsArray() {
		said, err := m.ToInt64()
		switch {
		case err != nil || said == 0:
			return v, errNonsense
		case said > int64(time.Hour/time.Microsecond):
			return driver.Record{Key: key}, nil // the server's time
		}
		return v, refusal(said, key)
	}
	a, err := m.ToArray()
	if err != nil || len(a) != 2 {
		return v, errNonsense
	}
	now, r, err := readAnswer(a, key, false)
	if err != nil {
		return v, err
	}
	r.settle(now)
	r.view(&v, key, now)
	return v, nil
}
