-- Ends a claim whose owner cannot know the outcome.
--
-- KEYS  the record; the index of its partition
-- ARGV  1 the token, 8 bytes
--
-- Gives 0; 1 lost; 3 completed; 4 the record cannot be read.
local h = redis.call('GETRANGE', KEYS[1], 0, 39)
if h == '' then return 1 end
if #h < 40 or string.byte(h) ~= 1 then return 4 end
if string.sub(h, 24, 31) ~= ARGV[1] then return 1 end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local _, kind, flags, attempt, since, old, token, tombstone = struct.unpack('>BBBI4I8I8I8I8', h)
if kind < 1 or kind == 2 or kind > 7 then return 4 end
local from = now
if kind == 1 and old <= now then from = old end
if kind == 1 then old = from + tombstone elseif kind == 4 and old <= now then old = old + tombstone end
if old <= now or kind >= 6 then return 1 end
if kind == 3 then return 0 end
if kind ~= 1 then return 3 end

if old > 9007199254740991 then old = 9007199254740991 end
local member = string.sub(KEYS[1], -32)
redis.call('ZREM', KEYS[2], member)
redis.call('SETRANGE', KEYS[1], 1, '\3')
redis.call('SETRANGE', KEYS[1], 15, struct.pack('>I8', old))
redis.call('ZADD', KEYS[2], 40000000000001 + (old - old % 1000) / 1000, member, 50000000000000 + (since - since % 1000) / 1000, 's' .. member)
if flags % 16 >= 8 then
  redis.pcall('PUBLISH', string.match(KEYS[1], '^[^{]*') .. 'ended', member)
end
return 0
