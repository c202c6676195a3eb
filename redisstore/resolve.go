package redisstore

import (
	"context"
	"encoding/binary"
	"strconv"

	"github.com/redis/rueidis"

	"github.com/idem-go/idem/driver"
)

// Resolve is described at [driver.Resolver]. A resolution that is repeated
// returns the record again when it is just what the resolution would make it.
// It is one round trip.
func (s *Store) Resolve(ctx context.Context, key driver.Key, r driver.Resolution) (v driver.Record, err error) {
	if err := s.enter(ctx); err != nil {
		return v, err
	}
	if err := r.Check(s.opts.MaxResult); err != nil {
		return v, err
	}
	var token, note string
	if r.Token != 0 {
		token = tokenText(r.Token)
	}
	if r.Note != "" {
		note = string(append(binary.BigEndian.AppendUint32(nil, uint32(len(r.Note))), r.Note...))
	}
	result := appendResult(make([]byte, 0, 4+r.Result.Size()), r.Result)
	record, index := s.layout.keys(&key)
	m, err := s.run(ctx, &step{&s.scripts.resolve, []string{record, index}, []string{
		strconv.Itoa(int(r.Action)), token, switches(r.Force, r.Dropped), rueidis.BinaryString(result),
		microsText(r.Retention), microsText(r.Tombstone), note,
	}}, true)
	if err != nil {
		return v, unreadable(err, key)
	}
	s.bound.fewer()
	return s.readRecord(m, key)
}
