-- Reads a record.
--
-- KEYS  the record; the index of its partition
--
-- Gives the server's time and the record; the time alone where there is none; -3
-- where the record is not where the index says that it is.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local v = redis.call('GET', KEYS[1])
if v then return {now, v} end
local known = redis.call('ZSCORE', KEYS[2], string.sub(KEYS[1], -32))
if known then
  known = tonumber(known)
  if (known < 30000000000000 or known >= 40000000000000) and known % 10000000000000 > now / 1000 then return -3 end
end
return now
