// Answers a message of a user: what was said before is in the database, for whichever instance gets the next message.
//
//     node talk.js ORG CHANNEL USER MESSAGE_ID TEXT
//
// A message that is delivered twice is answered once, and of two messages at once neither is lost. What to do when a call
// is refused or fails is in ask.js.
const { Client } = require('pg');

const GET = 'SELECT * FROM llmquota_session_get($1, $2, $3)';
const PUT = 'SELECT * FROM llmquota_session_put($1, $2, $3, $4, version => $5)';
const PICK = `SELECT * FROM llmquota_pick('chat', org => $1, input_tokens => $2, max_output_tokens => 100,
                                          session => $3, request_id => $4)`;
const RECORD = 'SELECT llmquota_record($1, $2, $3, http_status => $4, error => $5)';

// The provider's HTTP status and body; an error when there is none.
async function call(pick, messages) {
    const headers = { Authorization: `Bearer ${process.env[pick.secret_ref]}`, 'Content-Type': 'application/json' };
    const body = JSON.stringify({ model: pick.provider_model, max_tokens: pick.max_output_tokens, messages });
    const signal = AbortSignal.timeout(pick.timeout_ms);
    const reply = await fetch(`${pick.base_url}/chat/completions`, { method: 'POST', headers, body, signal });
    return [reply.status, await reply.text()];
}

async function answer(db, org, channel, user, messageId, text) {
    const one = async (sql, values) => (await db.query(sql, values)).rows[0];
    const who = [org, channel, user];
    const question = { role: 'user', content: text };
    let found = await one(GET, who);
    const messages = [...found.state ?? [], question];
    const tokens = Math.ceil(JSON.stringify(messages).length / 4);
    const pick = await one(PICK, [org, tokens, found.session, messageId]);
    if (pick.status !== 'granted') { // in_flight and duplicate: another delivery of the message is, or was, answered
        throw new Error(`no answer: ${pick.status}, ${JSON.stringify(pick.refusal)}`);
    }
    const [status, body] = await call(pick, messages).catch((error) => [null, String(error.cause ?? error)]);
    if (status !== 200) {
        await db.query(RECORD, [pick.lease, null, null, status, body]);
        throw new Error(body);
    }
    const { usage, choices } = JSON.parse(body);
    await db.query(RECORD, [pick.lease, usage.prompt_tokens, usage.completion_tokens, status, null]);
    const said = choices[0].message;
    do { // with whatever others have put there meanwhile
        const state = JSON.stringify([...found.state ?? [], question, said]); // pg would make an array one of SQL
        found = await one(PUT, [...who, state, found.version]);
    } while (found.status === 'conflict');
    return said.content;
}

// Each query is a transaction of its own: none stays open, and keeps others from the conversation, while the provider
// works.
async function main(args) {
    const db = new Client();
    await db.connect();
    try {
        console.log(await answer(db, ...args));
    } finally {
        await db.end();
    }
}

main(process.argv.slice(2)).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
});
