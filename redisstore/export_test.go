package redisstore

import (
	"context"
	"strconv"
	"time"

	"github.com/idem-go/idem/driver"
)

// shiftText moves the times of all records of a partition into the past.
const shiftText = `
redis.call('ZREM', KEYS[1], '') -- a server that is full goes on after that
local d = tonumber(ARGV[1])
local entries = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #entries, 2 do
  local member, score = entries[i], tonumber(entries[i + 1])
  local at = score % 10000000000000
  if at < 9007199254740 then redis.call('ZADD', KEYS[1], score - d, member) end
  if #member == 32 then
    local h = redis.call('GETRANGE', KEYS[1] .. member, 7, 22)
    if #h == 16 then
      local since, due = struct.unpack('>I8I8', h)
      if due < 9007199254740991 then due = due - d * 1000 end
      redis.call('SETRANGE', KEYS[1] .. member, 7, struct.pack('>I8I8', since - d * 1000, due))
    end
  end
end
return #entries`

// Advance lets d pass for the store, and a millisecond, by moving the times of
// its records.
func (s *Store) Advance(ctx context.Context, d time.Duration) error {
	ms := itoa(int(d.Milliseconds()) + 2)
	for _, index := range s.layout.indexes {
		if err := s.client.Do(ctx, s.client.B().Eval().Script(shiftText).Numkeys(1).Key(index).Arg(ms).Build()).Error(); err != nil {
			return err
		}
	}
	s.bound.forget()
	return nil
}

// Recheck looks at the server's settings as the store does now and then.
func (s *Store) Recheck(ctx context.Context) error { return s.recheck(ctx) }

// ShiftOne moves the times of one record, and its place in the index, so that
// what was now at a time of the server's is now.
func (s *Store) ShiftOne(ctx context.Context, key driver.Key, at int64) error {
	const text = `
local t = redis.call('TIME')
local d = t[1] * 1000000 + t[2] - ARGV[1]
local score = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[2]))
redis.call('ZADD', KEYS[2], score + math.floor(d / 1000), ARGV[2])
if score > 40000000000000 and score < 50000000000000 then redis.call('ZADD', KEYS[2], score + 10000000000000, 's' .. ARGV[2]) end
local since, due = struct.unpack('>I8I8', redis.call('GETRANGE', KEYS[1], 7, 22))
return redis.call('SETRANGE', KEYS[1], 7, struct.pack('>I8I8', since + d, due + d))`
	record, index := s.layout.keys(&key)
	return s.client.Do(ctx, s.client.B().Eval().Script(text).Numkeys(2).Key(record, index).Arg(strconv.FormatInt(at, 10), string(key[:])).Build()).Error()
}

// Decode reads a record as the store does, and says whether it could.
func Decode(b []byte, beginning bool) error {
	var r record
	return r.decode(b, beginning)
}
