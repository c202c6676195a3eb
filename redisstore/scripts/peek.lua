-- Reads the beginnings of records of one partition.
--
-- KEYS  records
-- ARGV  1 the last byte that is read
--
-- Gives the server's time, and a beginning for each record.
local t = redis.call('TIME')
local found = {t[1] * 1000000 + t[2]}
for i, key in ipairs(KEYS) do found[i + 1] = redis.call('GETRANGE', key, 0, ARGV[1]) end
return found
