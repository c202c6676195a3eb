package redisstore

import (
	"context"
	"time"
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
