-- llmquota_pick's job as a Redis script: the same limits and scopes, the same answer, a lease with an expiry.
--
--   KEYS  config:MODEL  pool:MODEL  org:ORG  lease:LEASE
--   ARGV  MODEL  ORG  LEASE (drawn by the client)  input tokens  output tokens  ttl in ms  session  request id
--
-- How it is made fast: as few redis.call as possible (7 to a grant; each costs about a microsecond), no parsing, and
-- no function made that is not called. The state:
--   config:MODEL  packed doubles: the amounts of the global concurrency, of an org's requests/minute and concurrency;
--                 then for each account requests/minute, tokens/minute, requests/day, and the number of its keys
--   pool:MODEL    packed doubles: second, day, calls in flight; then for each account the window's requests and tokens,
--                 those of the running second, and the day's requests
--   org:ORG       packed doubles: second, the window's requests, those of the running second, calls in flight
--   ring:MODEL, ring:ORG  hashes, touched once a second: second % 61 -> what was counted in that finished second
--   key:MODEL:A:K         hash: what the answer says of the K-th key of account A
--   lease:LEASE           hash with an expiry, for the script that settles it: what was charged to whom and when, in
--                         few fields, because Redis looks for a field by reading those before it
--   expiry:SECOND         hash: org -> its calls in flight that expire in that second (expire.lua gives them back)

local clock = redis.call('TIME')
local now = tonumber(clock[1])
local state = redis.call('MGET', KEYS[1], KEYS[2], KEYS[3])
local accounts = (#state[1] / 8 - 3) / 4
local config = {struct.unpack('<ddd' .. string.rep('dddd', accounts), state[1])}
local pool_format = '<ddd' .. string.rep('ddddd', accounts)
local pool, org
local need = ARGV[4] + ARGV[5]

if state[2] then
	pool = {struct.unpack(pool_format, state[2])}
else
	pool = {now, math.floor(now / 86400), 0}
	for at = 4, 3 + 5 * accounts do
		pool[at] = 0
	end
end
if state[3] then
	org = {struct.unpack('<dddd', state[3])}
else
	org = {now, 0, 0, 0}
end

-- Once a second: put the finished second away, take what is older than 60 seconds out of the sums.
if pool[1] < now then
	local ring = 'ring:' .. ARGV[1]
	local format = '<' .. string.rep('dd', accounts)
	local finished = {}
	for at = 4, #pool, 5 do
		finished[#finished + 1] = pool[at + 2]
		finished[#finished + 1] = pool[at + 3]
		pool[at + 2] = 0
		pool[at + 3] = 0
	end
	redis.call('HSET', ring, pool[1] % 61, struct.pack(format, unpack(finished)))
	for second = pool[1] + 1, math.min(now, pool[1] + 61) do
		local old = redis.call('HGET', ring, second % 61)
		if old then
			local gone = {struct.unpack(format, old)}
			for a = 0, accounts - 1 do
				pool[4 + 5 * a] = pool[4 + 5 * a] - gone[1 + 2 * a]
				pool[5 + 5 * a] = pool[5 + 5 * a] - gone[2 + 2 * a]
			end
			redis.call('HDEL', ring, second % 61)
		end
	end
	pool[1] = now
	if pool[2] ~= math.floor(now / 86400) then
		pool[2] = math.floor(now / 86400)
		for at = 4, #pool, 5 do
			pool[at + 4] = 0
		end
	end
end
if org[1] < now then
	local ring = 'ring:' .. ARGV[2]
	redis.call('HSET', ring, org[1] % 61, org[3])
	for second = org[1] + 1, math.min(now, org[1] + 61) do
		local old = redis.call('HGET', ring, second % 61)
		if old then
			org[2] = org[2] - old
			redis.call('HDEL', ring, second % 61)
		end
	end
	org[1] = now
	org[3] = 0
end

-- The account with the most headroom, over the tightest of its windows after this request.
local best, least = nil, math.huge
for a = 0, accounts - 1 do
	local u, c = 4 + 5 * a, 4 + 4 * a
	local used = math.max((pool[u] + 1) / config[c], (pool[u + 1] + need) / config[c + 1],
		(pool[u + 4] + 1) / config[c + 2])
	if used <= 1 and used < least then
		best, least = a, used
	end
end

if not best or org[2] >= config[2] or org[4] >= config[3] or pool[3] >= config[1] then
	local status, scope, subject, metric, amount = 'over_capacity', 'account', nil, 'requests', nil
	local ring = 'ring:' .. ARGV[1]
	if org[2] >= config[2] then
		status, scope, subject, amount, ring = 'rate_limited', 'org', ARGV[2], config[2], 'ring:' .. ARGV[2]
	elseif org[4] >= config[3] then
		status, scope, subject, metric, amount, ring = 'rate_limited', 'org', ARGV[2], 'concurrency', config[3], nil
	elseif pool[3] >= config[1] then
		scope, metric, amount, ring = 'global', 'concurrency', config[1], nil
	end
	local after = 50
	if ring then
		-- When the oldest second that counts leaves the window.
		after = 61000
		for second = now - 60, now - 1 do
			if redis.call('HEXISTS', ring, second % 61) == 1 then
				after = (second + 61 - now) * 1000
				break
			end
		end
	end
	return {status, false, false, false, false, false, false, false, false, false, false, false, false, after,
		cjson.encode({scope = scope, subject = subject, model = ARGV[1], metric = metric, amount = amount,
			retry_at = now + after / 1000})}
end

local at = 4 + 5 * best
local key = redis.call('HMGET', 'key:' .. ARGV[1] .. ':' .. best .. ':' .. pool[at + 2] % config[7 + 4 * best],
	'key', 'secret_ref', 'account', 'provider', 'base_url', 'model', 'provider_model')
pool[3] = pool[3] + 1
pool[at] = pool[at] + 1
pool[at + 1] = pool[at + 1] + need
pool[at + 2] = pool[at + 2] + 1
pool[at + 3] = pool[at + 3] + need
pool[at + 4] = pool[at + 4] + 1
local granted_at = now * 1000000 + clock[2]
local expires_at = granted_at + ARGV[6] * 1000
local expires_in = math.floor(expires_at / 1000000)
redis.call('MSET', KEYS[2], struct.pack(pool_format, unpack(pool)),
	KEYS[3], struct.pack('<dddd', now, org[2] + 1, org[3] + 1, org[4] + 1))
redis.call('HSET', KEYS[4], 'org', ARGV[2], 'key', key[1], 'charged', best .. ' ' .. ARGV[4] .. ' ' .. ARGV[5],
	'request', ARGV[7] .. ' ' .. ARGV[8], 'times', clock[1] .. ' ' .. clock[2] .. ' ' .. expires_in)
redis.call('PEXPIRE', KEYS[4], ARGV[6])
redis.call('HINCRBY', 'expiry:' .. expires_in, ARGV[2], 1)
return {'granted', ARGV[3], key[1], key[2], key[3], key[4], key[5], key[6], key[7], 1, tonumber(ARGV[5]), granted_at,
	expires_at, false, false}
