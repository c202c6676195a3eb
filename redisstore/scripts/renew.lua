-- Makes the lease of a claim that is in flight begin anew.
--
-- KEYS  the record; the index of its partition
-- ARGV  1 the token, 8 bytes; 2 the lease
--
-- Gives 0; 1 lost; 2 the lease is over; 3 completed; 4 the record cannot be read.
local h = redis.call('GETRANGE', KEYS[1], 0, 39)
if h == '' then return 1 end
if #h < 40 or string.byte(h) ~= 1 then return 4 end
if string.sub(h, 24, 31) ~= ARGV[1] then return 1 end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local _, kind, flags, attempt, since, old, token, tombstone = struct.unpack('>BBBI4I8I8I8I8', h)
if kind < 1 or kind == 2 or kind > 7 then return 4 end
if kind ~= 1 or old <= now then
  if kind == 1 or kind == 4 and old <= now then old = old + tombstone end
  if old <= now or kind >= 6 then return 1 end
  return kind <= 3 and 2 or 3
end

local due = now + ARGV[2]
if due > 9007199254740991 then due = 9007199254740991 end
local packed = struct.pack('>I8', due)
local written = redis.pcall('SETRANGE', KEYS[1], 15, packed)
if type(written) == 'table' then
  -- A server that is full renews what it has granted: see complete.lua.
  redis.call('ZREM', KEYS[2], '')
  redis.call('SETRANGE', KEYS[1], 15, packed)
end
redis.call('ZADD', KEYS[2], 60000000000001 + (due - due % 1000) / 1000, string.sub(KEYS[1], -32))
return 0
