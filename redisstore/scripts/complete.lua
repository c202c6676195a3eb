-- Ends a claim with its result.
--
-- KEYS  the record; the index of its partition
-- ARGV  1 the token, 8 bytes; 2 the completed record, but for its attempt and
--       times; 3 the retention
--
-- Gives 0; 5 where the claim was late; 1 lost; 3 completed with another result; 4
-- the record cannot be read.
local h = redis.call('GET', KEYS[1])
if not h then return 1 end
if #h < 40 or string.byte(h) ~= 1 then return 4 end
if string.sub(h, 24, 31) ~= ARGV[1] then return 1 end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local _, kind, flags, attempt, since, old, token, tombstone = struct.unpack('>BBBI4I8I8I8I8', h)
local record = ARGV[2]
local late = kind ~= 1 or old <= now

if late then
  if kind == 4 and old <= now then kind, old = 5, old + tombstone end
  if kind == 1 then old = old + tombstone end
  if kind < 1 or kind == 2 or kind > 7 then return 4 end
  if old <= now or kind == 6 then return 1 end
  local repeated = flags % 8 >= 4 and 5 or 0
  if kind == 5 then return repeated end
  if kind == 4 then
    local function result(r)
      local parts, at = string.byte(r, 40), 41
      if parts % 2 == 1 then at = at + 4 + struct.unpack('>I4', r, at) end
      if parts % 4 >= 2 then at = at + 16 end
      if parts % 8 >= 4 then at = at + 33 end
      if parts % 16 >= 8 then
        at = at + 2 + struct.unpack('>I2', r, at)
        at = at + 2 + struct.unpack('>I2', r, at)
      end
      return string.sub(r, at)
    end
    if flags % 4 >= 2 ~= (string.byte(record, 3) >= 2) or result(h) ~= result(record) then return 3 end
    return repeated
  end
  local parts, note = string.byte(record, 40), ''
  if kind == 7 and string.byte(h, 40) % 2 == 1 then
    note = string.sub(h, 41, 44 + struct.unpack('>I4', h, 41))
    parts = parts + 1
  end
  record = '\1\4' .. string.char(string.byte(record, 3) + 4) .. string.sub(record, 4, 39) .. string.char(parts) .. note .. string.sub(record, 41)
end
if kind ~= 7 and string.sub(h, 57) ~= string.sub(record, 41, #h - 16) then
  -- The claim's own fingerprint and names stay, whatever its owner says now.
  local parts, at = string.byte(record, 40), 74
  if parts % 16 >= 8 then
    at = at + 2 + struct.unpack('>I2', record, at)
    at = at + 2 + struct.unpack('>I2', record, at)
    parts = parts - 8
  end
  if string.byte(h, 40) % 16 >= 8 then parts = parts + 8 end
  record = string.sub(record, 1, 39) .. string.char(parts) .. string.sub(h, 57) .. string.sub(record, at)
end

local due = now + ARGV[3]
if due > 9007199254740991 then due = 9007199254740991 end
local member = string.sub(KEYS[1], -32)
if redis.pcall('SET', KEYS[1], record).err then
  -- A server that is full takes the result of a claim that it has granted: once a
  -- script has taken something away it may go on.
  redis.call('ZREM', KEYS[2], member)
  redis.call('SET', KEYS[1], record)
end
redis.call('SETRANGE', KEYS[1], 3, string.sub(h, 4, 7) .. struct.pack('>I8I8', now, due))
redis.call('ZADD', KEYS[2], 20000000000001 + (due - due % 1000) / 1000, member)
if late then redis.call('ZREM', KEYS[2], 's' .. member) end
if flags % 16 >= 8 then
  redis.pcall('PUBLISH', string.match(KEYS[1], '^[^{]*') .. 'ended', member)
end
return late and 5 or 0
