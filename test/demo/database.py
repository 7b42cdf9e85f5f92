"""The gate that is llmquota. Each call is one statement; when the server is gone, the next one waits for it."""
import time

import psycopg
from psycopg.rows import namedtuple_row

from player import Answer, Call
from traffic import PATIENCE

PICK = "SELECT * FROM llmquota_pick(%s, %s, %s, %s, request_id => %s, wait_ms => %s, queue => %s)"
CLAIM = "SELECT * FROM llmquota_claim(%s)"
RECORD = "SELECT status FROM llmquota_record(%s, %s, %s, http_status => %s, error => %s, latency_ms => %s)"
RELEASE = "SELECT llmquota_release(%s) AS status"
PATIENCE_S = 60


class Database:
    def __init__(self, conninfo):
        self.conninfo = conninfo
        self.connection = None
        self.unanswered_picks = 0

    def connect(self):
        """Connects, for a while also to a server that is not there."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return psycopg.connect(self.conninfo, autocommit=True, row_factory=namedtuple_row)
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def one(self, statement, *values):
        """The row that a statement answers; None when the server went away before it answered."""
        if self.connection is None:
            self.connection = self.connect()
        try:
            return self.connection.execute(statement, values).fetchone()
        except psycopg.OperationalError:
            if not self.connection.closed:
                raise
            self.connection = None
            return None

    def until_answered(self, statement, *values):
        row = None
        while row is None:
            row = self.one(statement, *values)
        return row

    def settle(self, done, statement, *values):
        """A record or release may be repeated, when the answer to the first was lost: it counts once."""
        status = self.until_answered(statement, *values).status
        return done if status == "already_settled" else status

    def pick(self, request, held=False):
        """Whoever does not wait in the call gets a ticket when he has to wait."""
        arguments = (request.route, request.org, request.input_tokens, request.max_output_tokens, str(request.number))
        pick = None
        while pick is None:
            pick = self.one(PICK, *arguments, int(1000 * PATIENCE) if held else None, not held)
            self.unanswered_picks += pick is None
        return self.answer(request, pick)

    def claim(self, request, ticket):
        return self.answer(request, self.until_answered(CLAIM, ticket))

    def answer(self, request, pick):
        if pick.status == "granted":
            return Answer(Call(pick.lease, request, request.org, pick.account, pick.key, pick.model,
                               pick.granted_at.timestamp(), pick.expires_at.timestamp(),
                               (request.input_tokens, pick.max_output_tokens), downgraded=pick.downgraded))
        limit = pick.refusal and {name: pick.refusal[name] for name in ("quota", "budget") if name in pick.refusal}
        return Answer(None, (pick.status, *next(iter((limit or {}).items()), (None, None))),
                      None if pick.retry_after_ms is None else pick.retry_after_ms / 1000,
                      pick.lease if pick.status == "queued" else None, "position" in (pick.refusal or {}))

    def record(self, call):
        said = (call.request.used_input, call.request.used_output, 200, None)
        if call.request.fate == "error":
            said = (None, None, 500, "The server had an error while processing your request")
        return self.settle("settled", RECORD, call.lease, *said, int(1000 * call.request.hold))

    def release(self, call):
        return self.give_back(call.lease)

    def give_back(self, lease_or_ticket):
        return self.settle("released", RELEASE, lease_or_ticket)
