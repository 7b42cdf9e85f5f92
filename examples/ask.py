#!/usr/bin/env python3
"""Asks a model within the limits of llmquota: pick, call, record; when refused, wait as told; when failed, retry.

    ask.py ORG QUESTION...

PGHOST, PGUSER and so on name the database. The secret of a key is in the environment variable that secret_ref names.
"""
import json
import os
import sys
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg
from psycopg.rows import namedtuple_row

PICK = "SELECT * FROM llmquota_pick('chat', org => %s, input_tokens => %s, max_output_tokens => 100, retry_of => %s)"
RECORD = "SELECT llmquota_record(%s, %s, %s, http_status => %s, error => %s, latency_ms => %s)"
RETRY = "SELECT * FROM llmquota_retry(%s, http_status => %s, error => %s, latency_ms => %s)"
PATIENCE_MS = 20_000


def call(pick, question):
    """Calls the provider: the HTTP status or None, and its body or what went wrong."""
    headers = {"Authorization": "Bearer " + os.environ[pick.secret_ref], "Content-Type": "application/json"}
    url = pick.base_url + "/chat/completions"
    body = json.dumps({"model": pick.provider_model, "max_tokens": pick.max_output_tokens,
                       "messages": [{"role": "user", "content": question}]})
    try:
        with urlopen(Request(url, body.encode(), headers), timeout=pick.timeout_ms / 1000) as reply:
            return reply.status, reply.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return None, str(error)


def ask(db, org, question):
    request = (org, len(question) // 4 + 1)
    failed = None
    pick = db.execute(PICK, (*request, failed)).fetchone()
    while True:
        if pick.status != "granted":
            print(f"{pick.status}, again in {pick.retry_after_ms} ms: {pick.refusal}", file=sys.stderr)
            if pick.retry_after_ms is None or pick.retry_after_ms > PATIENCE_MS:
                sys.exit(f"no answer: {pick.status}")
            time.sleep(pick.retry_after_ms / 1000)
            pick = db.execute(PICK, (*request, failed)).fetchone()
            continue
        start = time.monotonic()
        status, body = call(pick, question)
        latency_ms = int(1000 * (time.monotonic() - start))
        if status == 200:
            answer = json.loads(body)
            usage = answer["usage"]
            db.execute(RECORD, (pick.lease, usage["prompt_tokens"], usage["completion_tokens"], status, None,
                                latency_ms))
            return answer["choices"][0]["message"]["content"]
        failed = pick.lease
        pick = db.execute(RETRY, (failed, status, body, latency_ms)).fetchone()


# autocommit: no transaction stays open while the provider works. prepare_threshold: psycopg prepares a statement when
# it has run five times; a pgbouncer before 1.21 in transaction mode cannot have that, and None switches it off.
with psycopg.connect(autocommit=True, prepare_threshold=None, row_factory=namedtuple_row) as connection:
    for text in sys.argv[2:]:
        print(ask(connection, sys.argv[1], text))
