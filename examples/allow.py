#!/usr/bin/env python3
"""Asks whether a message may be handled, by two limits at once: one of its user, one of the address that it came from.

    allow.py USER ADDRESS

A limit that somebody may want to change without a deployment is a row of llmquota.rate_limit: it rules over these numbers.
"""
import math
import sys

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb


def allow(db, user, address):
    limits = [{"scope": "messages of a user", "subject": user, "amount": 3, "per_ms": 3_600_000},
              {"scope": "messages of an address", "subject": address, "amount": 100, "per_ms": 3_600_000}]
    return db.execute("SELECT * FROM llmquota_allow_all(%s)", (Jsonb(limits),)).fetchone()


# autocommit: what is charged is charged at once, and a transaction would change nothing. prepare_threshold: see ask.py.
with psycopg.connect(autocommit=True, prepare_threshold=None, row_factory=namedtuple_row) as connection:
    answer = allow(connection, *sys.argv[1:])
if not answer.allowed:  # 429, with Retry-After
    sys.exit(f"{answer.scope}: again in {math.ceil(answer.retry_after_ms / 1000)} s")
print(f"go on, {answer.remaining} left")
