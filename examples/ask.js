// Asks a model within the limits of llmquota: pick, call, record; when refused, wait as told; when failed, retry.
//
//     node ask.js ORG QUESTION...
//
// PGHOST, PGUSER and so on name the database. The secret of a key is in the environment variable that secret_ref names.
const { Client } = require('pg');
const { setTimeout: sleep } = require('node:timers/promises');

const PICK = `SELECT * FROM llmquota_pick('chat', org => $1, input_tokens => $2, max_output_tokens => 100,
                                          retry_of => $3)`;
const RECORD = 'SELECT llmquota_record($1, $2, $3, http_status => $4, error => $5, latency_ms => $6)';
const RETRY = 'SELECT * FROM llmquota_retry($1, http_status => $2, error => $3, latency_ms => $4)';
const PATIENCE_MS = 20_000;

// Calls the provider: the HTTP status or null, and its body or what went wrong.
async function call(pick, question) {
    const headers = { Authorization: `Bearer ${process.env[pick.secret_ref]}`, 'Content-Type': 'application/json' };
    const body = JSON.stringify({ model: pick.provider_model, max_tokens: pick.max_output_tokens,
        messages: [{ role: 'user', content: question }] });
    const signal = AbortSignal.timeout(pick.timeout_ms);
    try {
        const reply = await fetch(`${pick.base_url}/chat/completions`, { method: 'POST', headers, body, signal });
        return [reply.status, await reply.text()];
    } catch (error) {
        return [null, String(error.cause ?? error)];
    }
}

async function ask(db, org, question) {
    const one = async (sql, values) => (await db.query(sql, values)).rows[0];
    const request = [org, Math.ceil(question.length / 4)];
    let failed = null;
    let pick = await one(PICK, [...request, failed]);
    for (;;) {
        if (pick.status !== 'granted') {
            console.error(`${pick.status}, again in ${pick.retry_after_ms} ms: ${JSON.stringify(pick.refusal)}`);
            if (pick.retry_after_ms === null || pick.retry_after_ms > PATIENCE_MS) {
                throw new Error(`no answer: ${pick.status}`);
            }
            await sleep(pick.retry_after_ms);
            pick = await one(PICK, [...request, failed]);
            continue;
        }
        const start = Date.now();
        const [status, body] = await call(pick, question);
        const latencyMs = Date.now() - start;
        if (status === 200) {
            const { usage, choices } = JSON.parse(body);
            await db.query(RECORD, [pick.lease, usage.prompt_tokens, usage.completion_tokens, status, null, latencyMs]);
            return choices[0].message.content;
        }
        failed = pick.lease;
        pick = await one(RETRY, [failed, status, body, latencyMs]);
    }
}

// Each query is a transaction of its own: none stays open while the provider works. pg prepares a statement only when
// the query has a name, as in { name: 'pick', text: PICK }. A pgbouncer before 1.21 in transaction mode cannot have
// that: give it none, as here.
async function main([org, ...questions]) {
    const db = new Client();
    await db.connect();
    try {
        for (const question of questions) console.log(await ask(db, org, question));
    } finally {
        await db.end();
    }
}

main(process.argv.slice(2)).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
});
