// Asks a model when it is its turn: waits in the line of llmquota, in the call or with a ticket.
//
//     node wait.js ORG held|ticket PATIENCE_MS QUESTION
//
// held: one call, which answers when it is granted. It needs a connection for as long as it waits, so it is nothing for
// pgbouncer. ticket: many calls, each of which answers soon, and none in between; hundreds can wait with a few
// connections. What to do when a call fails is in ask.js.
const { Client } = require('pg');
const { setTimeout: sleep } = require('node:timers/promises');

const PICK = `SELECT * FROM llmquota_pick('chat', org => $1, input_tokens => $2, max_output_tokens => 100,
                                          wait_ms => $3, queue => $4)`;
const CLAIM = 'SELECT * FROM llmquota_claim($1, wait_ms => $2)';
const RELEASE = 'SELECT llmquota_release($1)';
const RECORD = 'SELECT llmquota_record($1, $2, $3, http_status => $4, error => $5)';
const CLAIM_MS = 50;

// The pick, once it is granted, or when there is nothing to wait for, or no longer.
async function turn(db, request, held, patienceMs) {
    const one = async (sql, values) => (await db.query(sql, values)).rows[0];
    const deadline = Date.now() + patienceMs;
    let pick = await one(PICK, [...request, held ? patienceMs : null, !held]);
    while (pick.status === 'queued') { // of a held one, too, when as many wait in their calls as may
        console.error(`queued as number ${pick.refusal.position}, again in ${pick.retry_after_ms} ms`);
        if (Date.now() + pick.retry_after_ms > deadline) {
            await db.query(RELEASE, [pick.lease]);
            break;
        }
        await sleep(pick.retry_after_ms);
        pick = await one(CLAIM, [pick.lease, CLAIM_MS]);
    }
    return pick;
}

// The provider's HTTP status and body; an error when there is none.
async function call(pick, question) {
    const headers = { Authorization: `Bearer ${process.env[pick.secret_ref]}`, 'Content-Type': 'application/json' };
    const body = JSON.stringify({ model: pick.provider_model, max_tokens: pick.max_output_tokens,
        messages: [{ role: 'user', content: question }] });
    const signal = AbortSignal.timeout(pick.timeout_ms);
    const reply = await fetch(`${pick.base_url}/chat/completions`, { method: 'POST', headers, body, signal });
    return [reply.status, await reply.text()];
}

async function ask(db, org, form, patienceMs, question) {
    const pick = await turn(db, [org, Math.ceil(question.length / 4)], form === 'held', Number(patienceMs));
    if (pick.status !== 'granted') throw new Error(`no answer: ${pick.status}, ${JSON.stringify(pick.refusal)}`);
    const [status, body] = await call(pick, question).catch((error) => [null, String(error.cause ?? error)]);
    if (status !== 200) {
        await db.query(RECORD, [pick.lease, null, null, status, body]);
        throw new Error(body);
    }
    const { usage, choices } = JSON.parse(body);
    await db.query(RECORD, [pick.lease, usage.prompt_tokens, usage.completion_tokens, status, null]);
    return choices[0].message.content;
}

// Each query is a transaction of its own: none stays open while it waits, nor while the provider works.
async function main(args) {
    const db = new Client();
    await db.connect();
    try {
        console.log(await ask(db, ...args));
    } finally {
        await db.end();
    }
}

main(process.argv.slice(2)).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
});
