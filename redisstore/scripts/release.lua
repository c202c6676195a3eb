-- Ends a claim in flight without a result: the operation was not done.
--
-- KEYS  the record; the index of its partition
-- ARGV  1 the token, 8 bytes; 2 the retention of the attempt count; 3 a byte each
--       for "answered" and "unused"
--
-- Gives 0; 1 lost; 2 the lease is over; 3 completed; 4 the record cannot be read.
local h = redis.call('GETRANGE', KEYS[1], 0, 55)
if h == '' then return 1 end
if #h < 40 or string.byte(h) ~= 1 then return 4 end
if string.sub(h, 24, 31) ~= ARGV[1] then return 1 end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local _, kind, flags, attempt, since, old, token, tombstone = struct.unpack('>BBBI4I8I8I8I8', h)
if kind < 1 or kind == 2 or kind > 7 then return 4 end
if kind ~= 1 or old <= now then
  if kind == 1 or kind == 4 and old <= now then old = old + tombstone end
  if old <= now then return 1 end
  if kind >= 6 then return 0 end
  return kind <= 3 and 2 or 3
end

local due = now + ARGV[2]
if due > 9007199254740991 then due = 9007199254740991 end
if string.byte(ARGV[3], 2) == 49 and attempt > 0 then attempt = attempt - 1 end
local answered = string.byte(ARGV[3]) == 49 and '\1' or '\0'
local member = string.sub(KEYS[1], -32)
redis.call('ZREM', KEYS[2], member)
redis.call('SET', KEYS[1], '\1\6' .. answered .. struct.pack('>I4I8I8I8I8', attempt, now, due, token, 0) .. '\2' .. string.sub(h, 41, 56))
redis.call('ZADD', KEYS[2], 30000000000001 + (due - due % 1000) / 1000, member)
if flags % 16 >= 8 then
  redis.pcall('PUBLISH', string.match(KEYS[1], '^[^{]*') .. 'ended', member)
end
return 0
