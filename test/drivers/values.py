#!/usr/bin/python3
"""What psycopg makes of the values that go into and come out of the calls. ORG is one that gets no second lease."""
import datetime
import sys
import uuid

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

PICK = "SELECT * FROM llmquota_pick(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"


def check(promise, kept):
    print("ok" if kept else "not ok", "-", promise, flush=True)


def main(org):
    db = psycopg.connect(autocommit=True, prepare_threshold=None, row_factory=namedtuple_row)
    pick = db.execute(PICK, ("chat", org, 1200, 500, "high", ["key-2", "nobody"], "s-1", "r-1", 60000,
                             "a prompt", None)).fetchone()
    check("a text is a str", pick.status == "granted" and pick.key == "key-1")
    check("a uuid is a UUID", isinstance(pick.lease, uuid.UUID))
    check("an integer is an int", (pick.attempt, pick.max_output_tokens) == (1, 500))
    check("a time is a datetime with a zone", pick.granted_at.tzinfo is not None
          and pick.expires_at - pick.granted_at == datetime.timedelta(minutes=1))
    check("no refusal is None", pick.refusal is None and pick.retry_after_ms is None)

    refused = db.execute(PICK, ("chat", org, None, None, None, None, None, None, None, None, None)).fetchone()
    check("a refusal is a dict", refused.status == "rate_limited" and refused.refusal["amount"] == 1)
    check("a wait is an int", isinstance(refused.retry_after_ms, int) and refused.lease is None)

    renewed, = db.execute("SELECT llmquota_renew(%s, %s)", (pick.lease, 600000)).fetchone()
    check("a renewed lease expires later", renewed > pick.expires_at)
    usage = {"output_tokens": 312, "output_tokens_details": {"reasoning_tokens": 12}}
    record = db.execute("SELECT * FROM llmquota_record(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                        (pick.lease, 1180, None, 1000, 0, None, 200, None, 700, Jsonb({"feature": ["a", 1]}),
                         Jsonb(usage), Jsonb({"retry-after": "1"}))).fetchone()
    check("a record is settled", (record.status, record.usage_source) == ("settled", "reported"))
    released, = db.execute("SELECT llmquota_release(%s)", (pick.lease,)).fetchone()
    check("a release is a str", released == "already_settled")
    try:
        db.execute("SELECT * FROM llmquota_pick('chat', %s, input_tokens => %s)", (org, 2**62))
        check("a bigint arrives as one", False)
    except psycopg.errors.NumericValueOutOfRange as error:
        check("a bigint arrives as one", str(2**62) in str(error))


main(*sys.argv[1:])
