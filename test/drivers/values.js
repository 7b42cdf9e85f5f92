// What pg makes of the values that go into and come out of the calls. ORG is one that gets no second lease.
const { Client } = require('pg');

const PICK = 'SELECT * FROM llmquota_pick($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)';

function check(promise, kept) {
    console.log(`${kept ? 'ok' : 'not ok'} - ${promise}`);
}

async function main(org) {
    const db = new Client();
    await db.connect();
    const one = async (text, values) => (await db.query(text, values)).rows[0];
    const pick = await one(PICK,
        ['chat', org, 1200, 500, 'high', ['key-2', 'nobody'], 's-1', 'r-1', 60000, 'a prompt', null]);
    check('a text is a string', pick.status === 'granted' && pick.key === 'key-1');
    check('a uuid is a string', /^[0-9a-f-]{36}$/.test(pick.lease));
    check('an integer is a number', pick.attempt === 1 && pick.max_output_tokens === 500);
    check('a time is a Date', pick.granted_at instanceof Date && pick.expires_at - pick.granted_at === 60000);
    check('no refusal is null', pick.refusal === null && pick.retry_after_ms === null);

    const refused = await one(PICK, ['chat', org, null, null, null, null, null, null, null, null, null]);
    check('a refusal is an object', refused.status === 'rate_limited' && refused.refusal.amount === 1);
    check('a wait is a number', typeof refused.retry_after_ms === 'number' && refused.lease === null);

    const renewed = await one('SELECT llmquota_renew($1, $2) AS until', [pick.lease, 600000]);
    check('a renewed lease expires later', renewed.until > pick.expires_at);
    const usage = { output_tokens: 312, output_tokens_details: { reasoning_tokens: 12 } };
    const record = await one('SELECT * FROM llmquota_record($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)',
        [pick.lease, 1180, null, 1000, 0, null, 200, null, 700, { feature: ['a', 1] }, usage, { 'retry-after': '1' }]);
    check('a record is settled', record.status === 'settled' && record.usage_source === 'reported');
    const released = await one('SELECT llmquota_release($1) AS status', [pick.lease]);
    check('a release is a string', released.status === 'already_settled');
    const huge = "SELECT * FROM llmquota_pick('chat', $1, input_tokens => $2)";
    const error = await one(huge, [org, 2n ** 62n]).catch((e) => e);
    check('a bigint arrives as one', error.code === '22003' && error.message.includes(String(2n ** 62n)));
    await db.end();
}

main(process.argv[2]);
