#!/usr/bin/env python3
"""Asks a question that others may have asked before: whoever has a fresh answer makes no call.

    recall.py ORG QUESTION

Of all who find no fresh answer at once one makes the call. What to do when a call is refused or fails is in ask.py.
"""
import json
import os
import sys
import time
from urllib.request import Request, urlopen

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

GET = "SELECT * FROM llmquota_cache_get('questions', llmquota_cache_key(%s), %s)"
PUT = "SELECT * FROM llmquota_cache_put('questions', llmquota_cache_key(%s), %s, org => %s)"
PICK = "SELECT * FROM llmquota_pick('chat', org => %s, input_tokens => %s, max_output_tokens => 100)"
RECORD = "SELECT llmquota_record(%s, %s, %s, http_status => %s, error => %s)"


def call(db, org, messages):
    """The provider's answer; None when there is none."""
    pick = db.execute(PICK, (org, len(json.dumps(messages)) // 4 + 1)).fetchone()
    if pick.status != "granted":
        return None
    headers = {"Authorization": "Bearer " + os.environ[pick.secret_ref], "Content-Type": "application/json"}
    body = json.dumps({"model": pick.provider_model, "max_tokens": pick.max_output_tokens, "messages": messages})
    try:
        with urlopen(Request(pick.base_url + "/chat/completions", body.encode(), headers),
                     timeout=pick.timeout_ms / 1000) as reply:
            answer = json.load(reply)
    except OSError as error:
        db.execute(RECORD, (pick.lease, None, None, getattr(error, "code", None), str(error)))
        return None
    usage = answer["usage"]
    db.execute(RECORD, (pick.lease, usage["prompt_tokens"], usage["completion_tokens"], 200, None))
    return answer["choices"][0]["message"]


def recall(db, org, question):
    messages = [{"role": "user", "content": question}]
    key = Jsonb({"route": "chat", "messages": messages})
    found = db.execute(GET, (key, org)).fetchone()
    while found.status == "miss" and not found.refresh:  # somebody else is asking it
        time.sleep(found.retry_after_ms / 1000)
        found = db.execute(GET, (key, org)).fetchone()
    if not found.refresh:
        return found.answer["content"]
    said = call(db, org, messages)
    if said is not None:
        db.execute(PUT, (key, Jsonb(said), org))
    elif found.status == "miss":
        sys.exit("no answer")
    return (said or found.answer)["content"]  # the stale one is better than none


# autocommit: an answer is everybody's as soon as it is put. prepare_threshold: see ask.py.
with psycopg.connect(autocommit=True, prepare_threshold=None, row_factory=namedtuple_row) as connection:
    print(recall(connection, *sys.argv[1:]))
