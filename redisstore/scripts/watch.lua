-- Says how long a claim has left, and marks it so that its end is published.
--
-- KEYS  the record
-- ARGV  1 the token, 8 bytes
--
-- Gives what is left of the lease; 0 where the claim is not in flight.
local h = redis.call('GETRANGE', KEYS[1], 0, 39)
if #h < 40 or string.byte(h) ~= 1 or string.byte(h, 2) ~= 1 or string.sub(h, 24, 31) ~= ARGV[1] then return 0 end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local due = struct.unpack('>I8', h, 16)
if due <= now then return 0 end
local flags = string.byte(h, 3)
-- A server that is full does not take the mark: then the waiter polls.
if flags % 16 < 8 then redis.pcall('SETRANGE', KEYS[1], 2, string.char(flags + 8)) end
return due - now
