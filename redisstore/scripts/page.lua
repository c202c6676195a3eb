-- Lists a partition in the order of its index.
--
-- KEYS  the index of the partition
-- ARGV  1 the most that are listed; 2 and 3 the key and the score after which the
--       list goes on, or nothing; then the ranges, each a digit and whether all
--       (a) or only what is over (o) is wanted of it
--
-- Gives keys, each with its score after it.
local t = redis.call('TIME')
local ms = t[1] * 1000 + (t[2] - t[2] % 1000) / 1000
local want = tonumber(ARGV[1])
local from = 0
if ARGV[2] ~= '' then
  local score = redis.call('ZSCORE', KEYS[1], ARGV[2])
  if score and tonumber(score) == tonumber(ARGV[3]) then
    from = redis.call('ZRANK', KEYS[1], ARGV[2]) + 1
  else
    from = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[3])
  end
end
local found = {}
for i = 4, #ARGV do
  local base = string.sub(ARGV[i], 1, 1) * 10000000000000
  local last = base + 9999999999999
  if string.sub(ARGV[i], 2) == 'o' then last = base + ms end
  local first = redis.call('ZCOUNT', KEYS[1], '-inf', string.format('(%.0f', base))
  if first < from then first = from end
  local stop = redis.call('ZCOUNT', KEYS[1], '-inf', last) - 1
  if stop >= first + want - #found / 2 then stop = first + want - #found / 2 - 1 end
  if stop >= first then
    for _, v in ipairs(redis.call('ZRANGE', KEYS[1], first, stop, 'WITHSCORES')) do found[#found + 1] = v end
  end
end
return found
