// Asks a question that others may have asked before: whoever has a fresh answer makes no call.
//
//     node recall.js ORG QUESTION
//
// Of all who find no fresh answer at once one makes the call. What to do when a call is refused or fails is in ask.js.
const { setTimeout: sleep } = require('timers/promises');
const { Client } = require('pg');

const GET = "SELECT * FROM llmquota_cache_get('questions', llmquota_cache_key($1), $2)";
const PUT = "SELECT * FROM llmquota_cache_put('questions', llmquota_cache_key($1), $2, org => $3)";
const PICK = "SELECT * FROM llmquota_pick('chat', org => $1, input_tokens => $2, max_output_tokens => 100)";
const RECORD = 'SELECT llmquota_record($1, $2, $3, http_status => $4, error => $5)';

// The provider's HTTP status and body; an error when there is none.
async function post(pick, messages) {
    const headers = { Authorization: `Bearer ${process.env[pick.secret_ref]}`, 'Content-Type': 'application/json' };
    const body = JSON.stringify({ model: pick.provider_model, max_tokens: pick.max_output_tokens, messages });
    const signal = AbortSignal.timeout(pick.timeout_ms);
    const reply = await fetch(`${pick.base_url}/chat/completions`, { method: 'POST', headers, body, signal });
    return [reply.status, await reply.text()];
}

// The provider's answer; null when there is none.
async function call(one, org, messages) {
    const pick = await one(PICK, [org, Math.ceil(JSON.stringify(messages).length / 4)]);
    if (pick.status !== 'granted') {
        return null;
    }
    const [status, body] = await post(pick, messages).catch((error) => [null, String(error.cause ?? error)]);
    if (status !== 200) {
        await one(RECORD, [pick.lease, null, null, status, body]);
        return null;
    }
    const { usage, choices } = JSON.parse(body);
    await one(RECORD, [pick.lease, usage.prompt_tokens, usage.completion_tokens, status, null]);
    return choices[0].message;
}

async function recall(db, org, question) {
    const one = async (sql, values) => (await db.query(sql, values)).rows[0];
    const messages = [{ role: 'user', content: question }];
    const key = { route: 'chat', messages };
    let found = await one(GET, [key, org]);
    while (found.status === 'miss' && !found.refresh) { // somebody else is asking it
        await sleep(found.retry_after_ms);
        found = await one(GET, [key, org]);
    }
    if (!found.refresh) {
        return found.answer.content;
    }
    const said = await call(one, org, messages);
    if (said !== null) {
        await one(PUT, [key, said, org]);
    } else if (found.status === 'miss') {
        throw new Error('no answer');
    }
    return (said ?? found.answer).content; // the stale one is better than none
}

// Each query is a transaction of its own: an answer is everybody's as soon as it is put.
async function main(args) {
    const db = new Client();
    await db.connect();
    try {
        console.log(await recall(db, ...args));
    } finally {
        await db.end();
    }
}

main(process.argv.slice(2)).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
});
