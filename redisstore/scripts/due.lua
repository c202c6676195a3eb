-- Lists records of a partition that time has changed.
--
-- KEYS  the index of the partition
-- ARGV  1 the most of each kind that is listed
--
-- Gives their keys.
local t = redis.call('TIME')
local ms = t[1] * 1000 + (t[2] - t[2] % 1000) / 1000
local found = {}
for _, base in ipairs({10000000000000, 20000000000000, 30000000000000, 40000000000000, 60000000000000}) do
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], base, base + ms, 'LIMIT', 0, ARGV[1])) do
    found[#found + 1] = member
  end
end
return found
