// Asks whether a message may be handled, by two limits at once: one of its user, one of the address that it came from.
//
//     node allow.js USER ADDRESS
//
// A limit that somebody may want to change without a deployment is a row of llmquota.rate_limit: it rules over these
// numbers.
const { Client } = require('pg');

async function allow(db, user, address) {
    const limits = [{ scope: 'messages of a user', subject: user, amount: 3, per_ms: 3_600_000 },
        { scope: 'messages of an address', subject: address, amount: 100, per_ms: 3_600_000 }];
    return (await db.query('SELECT * FROM llmquota_allow_all($1)', [JSON.stringify(limits)])).rows[0];
}

async function main(args) {
    const db = new Client();
    await db.connect();
    try {
        const answer = await allow(db, ...args);
        if (!answer.allowed) { // 429, with Retry-After
            throw new Error(`${answer.scope}: again in ${Math.ceil(answer.retry_after_ms / 1000)} s`);
        }
        console.log(`go on, ${answer.remaining} left`);
    } finally {
        await db.end();
    }
}

main(process.argv.slice(2)).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
});
