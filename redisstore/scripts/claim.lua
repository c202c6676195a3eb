-- Asks for a claim.
--
-- KEYS  the record; the index of its partition
-- ARGV  1 the lease; 2 the record of the claim from its tombstone on;
--       3 only where it is needed: a byte each for "over an unknown" and "nothing
--         that is new", and the token that was waited for
--
-- Gives the token of a fresh claim; or the server's time with the record that is in
-- the way; or the time with the head of the record granted, and 1; or a number
-- below zero: -1 nothing new is taken, -2 the nonce has been released, -3 the
-- record is not where the index says that it is.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local due = now + ARGV[1]
if due > 9007199254740991 then due = 9007199254740991 end
local score = 60000000000001 + (due - due % 1000) / 1000
local options = ARGV[3]
local full = options and string.byte(options, 2) == 49

if not full and redis.call('SET', KEYS[1], '\1\1\0\0\0\0\1' .. struct.pack('>I8I8I8', now, due, now) .. ARGV[2], 'NX') then
  local member = string.sub(KEYS[1], -32)
  if redis.call('ZADD', KEYS[2], 'NX', score, member) == 1 then return now end
  -- The index still knows the key: what it knows is over, or the record was lost.
  local known = tonumber(redis.call('ZSCORE', KEYS[2], member))
  if (known < 30000000000000 or known >= 40000000000000) and known % 10000000000000 > now / 1000 then
    redis.call('DEL', KEYS[1])
    return -3
  end
  redis.call('ZADD', KEYS[2], score, member)
  redis.call('ZREM', KEYS[2], 's' .. member)
  return now
end

local v = redis.call('GET', KEYS[1])
if not v then return -1 end
if #v < 40 or string.byte(v) ~= 1 then return {now, v} end
local _, kind, flags, attempt, since, old, token, tombstone = struct.unpack('>BBBI4I8I8I8I8', v)
local ours = string.sub(v, 41, 56) == string.sub(ARGV[2], 10, 25)
local again, retry = false, false

if kind == 1 then
  if old > now then
    if not ours then return {now, v} end
    again = true
  elseif old + tombstone > now then
    again, retry = ours, not ours
  else
    attempt = 0
  end
elseif old > now then
  if kind == 3 then
    retry = true
  elseif kind == 6 then
    if ours then return -2 end
    if options and flags % 2 == 1 then
      local waited = struct.unpack('>I8', options, 3)
      if waited > 0 and waited <= token then return {now, v} end
    end
  elseif kind ~= 7 then
    return {now, v}
  end
elseif kind == 4 and old + tombstone > now or kind < 3 or kind > 7 then
  return {now, v}
else
  attempt = 0
end

local member = string.sub(KEYS[1], -32)
if again then
  redis.call('ZREM', KEYS[2], 's' .. member)
  redis.call('SETRANGE', KEYS[1], 15, struct.pack('>I8', due))
  redis.call('ZADD', KEYS[2], score, member)
  return {now, redis.call('GETRANGE', KEYS[1], 0, 39), 1}
end
if retry then
  if not options or string.byte(options) ~= 49 or string.sub(v, 57, 89) ~= string.sub(ARGV[2], 26, 58) then
    return {now, v}
  end
elseif full then
  return -1
end
if token < now then token = now else token = token + 1 end
local record = '\1\1\0' .. struct.pack('>I4I8I8I8', attempt + 1, now, due, token) .. ARGV[2]
redis.call('SET', KEYS[1], record)
redis.call('ZADD', KEYS[2], score, member)
if retry then redis.call('ZREM', KEYS[2], 's' .. member) end
return {now, string.sub(record, 1, 40), 1}
