-- The algorithm of redis-cell (GCRA) as a Redis script: KEYS the subject's key; ARGV burst, amount, period in microseconds,
-- cost. The answer is that of CL.THROTTLE: whether it is limited, the limit, what remains, milliseconds until a retry (-1:
-- it is not limited) and until nothing is used. Times are whole microseconds, as exact as a double holds them.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local interval = ARGV[3] / ARGV[2]
local burst = interval * ARGV[1]
local arrival = redis.call('GET', KEYS[1])
arrival = arrival and tonumber(arrival) or now
if arrival < now then
	arrival = now
end
local next = arrival + interval * ARGV[4]
local room = burst - (next - now)
if room < 0 then
	return {1, tonumber(ARGV[1]), math.floor((burst - (arrival - now)) / interval), math.ceil(-room / 1000), math.ceil((arrival - now) / 1000)}
end
local reset = math.ceil((next - now) / 1000)
redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', reset)
return {0, tonumber(ARGV[1]), math.floor(room / interval), -1, reset}
