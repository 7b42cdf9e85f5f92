-- The configuration of the Redis opponent: KEYS config:MODEL; ARGV MODEL, the global concurrency, an org's
-- requests/minute and concurrency, an account's requests/minute, tokens/minute and requests/day. 12 keys in 5 accounts.
local packed = struct.pack('<ddd', ARGV[2], ARGV[3], ARGV[4])
for account = 0, 4 do
	local keys = 0
	for number = 1, 12 do
		if number % 5 == account then
			local name = string.format('%02d', number)
			redis.call('HSET', 'key:' .. ARGV[1] .. ':' .. account .. ':' .. keys, 'key', 'key-' .. name,
				'secret_ref', 'env:OPENAI_KEY_' .. name, 'account', 'account-' .. account + 1, 'provider', 'openai',
				'base_url', 'https://api.openai.com/v1', 'model', ARGV[1], 'provider_model', 'gpt-4o-2024-08-06')
			keys = keys + 1
		end
	end
	packed = packed .. struct.pack('<dddd', ARGV[5], ARGV[6], ARGV[7], keys)
end
redis.call('SET', KEYS[1], packed)
