-- Gives back what leases hold in flight whose second of expiry has passed: KEYS pool:MODEL, ARGV first and last second.
-- The answer is how many leases that were.
local total = 0
for second = ARGV[1], ARGV[2] do
	local expired = redis.call('HGETALL', 'expiry:' .. second)
	for i = 1, #expired, 2 do
		local org = {struct.unpack('<dddd', redis.call('GET', 'org:' .. expired[i]))}
		total = total + expired[i + 1]
		org[4] = org[4] - expired[i + 1]
		redis.call('SET', 'org:' .. expired[i], struct.pack('<dddd', unpack(org, 1, 4)))
	end
	redis.call('DEL', 'expiry:' .. second)
end
if total > 0 then
	local in_flight = struct.unpack('<d', redis.call('GETRANGE', KEYS[1], 16, 23))
	redis.call('SETRANGE', KEYS[1], 16, struct.pack('<d', in_flight - total))
end
return total
