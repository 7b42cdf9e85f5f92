#!/usr/bin/env python3
"""Answers a message of a user: what was said before is in the database, for whichever instance gets the next message.

    talk.py ORG CHANNEL USER MESSAGE_ID TEXT

A message that is delivered twice is answered once, and of two messages at once neither is lost. What to do when a call is
refused or fails is in ask.py.
"""
import json
import os
import sys
from urllib.request import Request, urlopen

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

GET = "SELECT * FROM llmquota_session_get(%s, %s, %s)"
PUT = "SELECT * FROM llmquota_session_put(%s, %s, %s, %s, version => %s)"
PICK = """SELECT * FROM llmquota_pick('chat', org => %s, input_tokens => %s, max_output_tokens => 100,
                                      session => %s, request_id => %s)"""
RECORD = "SELECT llmquota_record(%s, %s, %s, http_status => %s, error => %s)"


def call(pick, messages):
    """The provider's answer; an error when there is none."""
    headers = {"Authorization": "Bearer " + os.environ[pick.secret_ref], "Content-Type": "application/json"}
    body = json.dumps({"model": pick.provider_model, "max_tokens": pick.max_output_tokens, "messages": messages})
    request = Request(pick.base_url + "/chat/completions", body.encode(), headers)
    with urlopen(request, timeout=pick.timeout_ms / 1000) as reply:
        return json.load(reply)


def answer(db, org, channel, user, message_id, text):
    who = (org, channel, user)
    found = db.execute(GET, who).fetchone()
    question = {"role": "user", "content": text}
    messages = [*(found.state or []), question]
    tokens = len(json.dumps(messages)) // 4 + 1
    pick = db.execute(PICK, (org, tokens, found.session, message_id)).fetchone()
    if pick.status != "granted":  # in_flight and duplicate: another delivery of the message is, or was, answered
        sys.exit(f"no answer: {pick.status}, {pick.refusal}")
    try:
        reply = call(pick, messages)
    except OSError as error:
        db.execute(RECORD, (pick.lease, None, None, getattr(error, "code", None), str(error)))
        raise
    usage, said = reply["usage"], reply["choices"][0]["message"]
    db.execute(RECORD, (pick.lease, usage["prompt_tokens"], usage["completion_tokens"], 200, None))
    # with whatever others have put there meanwhile
    while (found := db.execute(PUT, (*who, Jsonb([*(found.state or []), question, said]), found.version)).fetchone()) \
            .status == "conflict":
        print(f"conflict with version {found.version}", file=sys.stderr)
    return said["content"]


# autocommit: no transaction stays open, and keeps others from the conversation, while the provider works.
# prepare_threshold: see ask.py.
with psycopg.connect(autocommit=True, prepare_threshold=None, row_factory=namedtuple_row) as connection:
    print(answer(connection, *sys.argv[1:]))
