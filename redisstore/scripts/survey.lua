-- Counts the records of a partition.
--
-- KEYS  the index of the partition
--
-- Gives the server's time; how many are in flight, and how many of those in the
-- index are no longer; the same of the completed, the unknown and the forgotten;
-- and since when, in milliseconds, the oldest unknown was in flight, 0 for none.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local ms = (now - now % 1000) / 1000
local counts = {now}
for _, base in ipairs({60000000000000, 20000000000000, 40000000000000, 10000000000000}) do
  local over = redis.call('ZCOUNT', KEYS[1], base, base + ms)
  counts[#counts + 1] = redis.call('ZCOUNT', KEYS[1], base, base + 9999999999999) - over
  counts[#counts + 1] = over
end
local oldest = redis.call('ZRANGEBYSCORE', KEYS[1], 50000000000000, 59999999999999, 'WITHSCORES', 'LIMIT', 0, 1)
counts[#counts + 1] = oldest[2] and oldest[2] - 50000000000000 or 0
return counts
