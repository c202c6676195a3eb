-- Ends an outcome that is unknown, or drops a result.
--
-- KEYS  the record; the index of its partition
-- ARGV  1 the action, a digit; 2 the token, 8 bytes, or nothing; 3 a byte each for
--       "force" and "dropped"; 4 the result; 5 the retention; 6 the tombstone;
--       7 the note with its length before it, or nothing
--
-- Gives the server's time and the record as it stands afterwards; 1 lost; 6 the
-- record is in another state; -3 as in lookup.lua.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local member = string.sub(KEYS[1], -32)
local v = redis.call('GET', KEYS[1])
if not v then
  local known = tonumber(redis.call('ZSCORE', KEYS[2], member) or 0)
  if known > 0 and (known < 30000000000000 or known >= 40000000000000) and known % 10000000000000 > now / 1000 then return -3 end
  if ARGV[2] ~= '' then return 1 end
  return 6
end
if #v < 40 or string.byte(v) ~= 1 then return {now, v} end
local _, kind, flags, attempt, since, due, token, tombstone = struct.unpack('>BBBI4I8I8I8I8', v)
if kind < 1 or kind == 2 or kind > 7 then return {now, v} end
local live = kind == 1 and due > now
if kind == 1 and not live then due = due + tombstone end
if kind == 4 and due <= now then kind, due = 5, due + tombstone end
if due <= now then
  if ARGV[2] ~= '' then return 1 end
  return 6
end
if ARGV[2] ~= '' and string.sub(v, 24, 31) ~= ARGV[2] then return 1 end

-- The parts of the record after its head.
local parts, at = string.byte(v, 40), 41
if parts % 2 == 1 then at = at + 4 + struct.unpack('>I4', v, at) end
if parts % 4 >= 2 then at = at + 16 end
local fingerprint, names = '', ''
if parts % 8 >= 4 then
  fingerprint = string.sub(v, at, at + 32)
  at = at + 33
end
if parts % 16 >= 8 then
  local from = at
  at = at + 2 + struct.unpack('>I2', v, at)
  at = at + 2 + struct.unpack('>I2', v, at)
  names = string.sub(v, from, at - 1)
end
local result = string.sub(v, at)
local unknown = kind == 3 or kind == 1 and not live
local dropped = string.byte(ARGV[3], 2) == 49

local function after(d)
  d = now + d
  if d > 9007199254740991 then return 9007199254740991 end
  return d
end
local function write(kind, flags, due, tombstone, base, fingerprint, names, result)
  local parts = 0
  if ARGV[7] ~= '' then parts = parts + 1 end
  if fingerprint ~= '' then parts = parts + 4 end
  if names ~= '' then parts = parts + 8 end
  if result ~= '' then parts = parts + 16 end
  redis.call('ZREM', KEYS[2], member, 's' .. member)
  v = '\1' .. string.char(kind, flags) .. struct.pack('>I4I8I8I8I8', attempt, now, due, token, tombstone) .. string.char(parts) .. ARGV[7] .. fingerprint .. names .. result
  redis.call('SET', KEYS[1], v)
  redis.call('ZADD', KEYS[2], base + 1 + (due - due % 1000) / 1000, member)
end

if ARGV[1] == '1' then
  if unknown then
    write(4, dropped and 6 or 4, after(ARGV[5]), tonumber(ARGV[6]), 20000000000000, fingerprint, names, ARGV[4])
  elseif kind ~= 4 or flags % 4 >= 2 ~= dropped or result ~= ARGV[4] then
    return 6
  end
elseif ARGV[1] == '2' then
  if unknown or live and string.byte(ARGV[3]) == 49 then
    if ARGV[7] == '' then names = '' end
    write(7, 0, after(ARGV[5]), 0, 30000000000000, '', names, '')
  elseif kind ~= 7 then
    return 6
  end
elseif kind == 4 then
  if ARGV[7] == '' then names = '' end
  write(5, flags % 8 >= 4 and 4 or 0, after(ARGV[6]), 0, 10000000000000, '', names, '')
elseif kind ~= 5 then
  return 6
end
if flags % 16 >= 8 and live then
  redis.pcall('PUBLISH', string.match(KEYS[1], '^[^{]*') .. 'ended', member)
end
return {now, v}
