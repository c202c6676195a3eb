-- Lets pass what time has changed since records of one partition were written.
--
-- KEYS  the index of the partition; records
--
-- Gives how many were dropped or became tombstones.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local index = KEYS[1]
local swept = 0

local function move(member, base, due)
  redis.call('ZADD', index, base + 1 + (due - due % 1000) / 1000, member)
end
local function drop(key, member)
  redis.call('UNLINK', key)
  redis.call('ZREM', index, member, 's' .. member)
  swept = swept + 1
end

for i = 2, #KEYS do
  local key = KEYS[i]
  local member = string.sub(key, -32)
  local h = redis.call('GETRANGE', key, 0, 39)
  local kind = 0
  if #h == 40 and string.byte(h) == 1 then kind = string.byte(h, 2) end
  if h == '' then
    local known = redis.call('ZSCORE', index, member)
    if known and tonumber(known) % 10000000000000 <= now / 1000 then drop(key, member) end
  elseif kind < 1 or kind == 2 or kind > 7 then
    -- It cannot be read, so it is never over. It is looked at again in an hour.
    local known = redis.call('ZSCORE', index, member)
    if known then
      known = tonumber(known)
      redis.call('ZREM', index, member)
      redis.call('ZADD', index, known - known % 10000000000000 + (now - now % 1000) / 1000 + 3600000, member)
    end
  else
    local _, _, flags, attempt, since, due, token, tombstone = struct.unpack('>BBBI4I8I8I8I8', h)
    local over = due
    if kind == 1 or kind == 4 then over = due + tombstone end
    if over > 9007199254740991 then over = 9007199254740991 end
    if over <= now then
      drop(key, member)
    elseif due > now then
      -- It was written again meanwhile.
      local base = {60000000000000, 0, 40000000000000, 20000000000000, 10000000000000, 30000000000000, 30000000000000}
      move(member, base[kind], due)
    elseif kind == 1 then
      redis.call('ZREM', index, member)
      move(member, 40000000000000, over)
      redis.call('ZADD', index, 50000000000000 + (since - since % 1000) / 1000, 's' .. member)
    else
      -- What an operator noted is kept, and then the record's name with it.
      local parts, kept = string.byte(h, 40), ''
      if parts % 2 == 1 then
        local v = redis.call('GET', key)
        local at = 45 + struct.unpack('>I4', v, 41)
        kept = string.sub(v, 41, at - 1)
        if parts % 4 >= 2 then at = at + 16 end
        if parts % 8 >= 4 then at = at + 33 end
        if parts % 16 >= 8 then
          local from = at
          at = at + 2 + struct.unpack('>I2', v, at)
          at = at + 2 + struct.unpack('>I2', v, at)
          kept = kept .. string.sub(v, from, at - 1)
          parts = 9
        else
          parts = 1
        end
      else
        parts = 0
      end
      redis.call('ZREM', index, member)
      redis.call('SET', key, '\1\5' .. string.char(flags % 8 >= 4 and 4 or 0) .. struct.pack('>I4I8I8I8I8', attempt, due, over, token, 0) .. string.char(parts) .. kept)
      move(member, 10000000000000, over)
      swept = swept + 1
    end
  end
end
return swept
