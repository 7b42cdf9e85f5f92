#!/usr/bin/env python3
"""Asks a model when it is its turn: waits in the line of llmquota, in the call or with a ticket.

    wait.py ORG held|ticket PATIENCE_MS QUESTION

held: one call, which answers when it is granted. It needs a connection for as long as it waits, so it is nothing for
pgbouncer. ticket: many calls, each of which answers soon, and none in between; hundreds can wait with a few connections.
What to do when a call fails is in ask.py.
"""
import json
import os
import sys
import time
from urllib.request import Request, urlopen

import psycopg
from psycopg.rows import namedtuple_row

PICK = """SELECT * FROM llmquota_pick('chat', org => %s, input_tokens => %s, max_output_tokens => 100,
                                      wait_ms => %s, queue => %s)"""
CLAIM = "SELECT * FROM llmquota_claim(%s, wait_ms => %s)"
RELEASE = "SELECT llmquota_release(%s)"
RECORD = "SELECT llmquota_record(%s, %s, %s, http_status => %s, error => %s)"
CLAIM_MS = 50


def turn(db, request, held, patience_ms):
    """The pick, once it is granted, or when there is nothing to wait for, or no longer."""
    deadline = time.monotonic() + patience_ms / 1000
    pick = db.execute(PICK, (*request, patience_ms if held else None, not held)).fetchone()
    while pick.status == "queued":  # of a held one, too, when as many wait in their calls as may
        print(f"queued as number {pick.refusal['position']}, again in {pick.retry_after_ms} ms", file=sys.stderr)
        if time.monotonic() + pick.retry_after_ms / 1000 > deadline:
            db.execute(RELEASE, (pick.lease,))
            break
        time.sleep(pick.retry_after_ms / 1000)
        pick = db.execute(CLAIM, (pick.lease, CLAIM_MS)).fetchone()
    return pick


def call(pick, question):
    """The provider's answer; an error when there is none."""
    headers = {"Authorization": "Bearer " + os.environ[pick.secret_ref], "Content-Type": "application/json"}
    body = json.dumps({"model": pick.provider_model, "max_tokens": pick.max_output_tokens,
                       "messages": [{"role": "user", "content": question}]})
    request = Request(pick.base_url + "/chat/completions", body.encode(), headers)
    with urlopen(request, timeout=pick.timeout_ms / 1000) as reply:
        return json.load(reply)


def ask(db, org, form, patience_ms, question):
    pick = turn(db, (org, len(question) // 4 + 1), form == "held", int(patience_ms))
    if pick.status != "granted":
        sys.exit(f"no answer: {pick.status}, {pick.refusal}")
    try:
        answer = call(pick, question)
    except OSError as error:
        db.execute(RECORD, (pick.lease, None, None, getattr(error, "code", None), str(error)))
        raise
    usage = answer["usage"]
    db.execute(RECORD, (pick.lease, usage["prompt_tokens"], usage["completion_tokens"], 200, None))
    return answer["choices"][0]["message"]["content"]


# autocommit: no transaction stays open while it waits, nor while the provider works. prepare_threshold: see ask.py.
with psycopg.connect(autocommit=True, prepare_threshold=None, row_factory=namedtuple_row) as connection:
    print(ask(connection, *sys.argv[1:]))
