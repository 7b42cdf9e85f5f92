#!/usr/bin/env python3
"""A worker with a table of jobs: takes as many as it has hands, fairly, calls, records; ends when no job is open.

    work.py [HANDS]

Any number of workers can run at once. The table, and what the statements do, is in doc/operations.md, "A table of jobs".
PGHOST, PGUSER and so on name the database. The secret of a key is in the environment variable that secret_ref names.
"""
import json
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg
from psycopg.rows import namedtuple_row

TAKE = """
WITH due AS (
	SELECT org FROM job WHERE answer IS NULL AND not_before <= now() GROUP BY org ORDER BY min(id) LIMIT 100
), taken AS (
	SELECT j.* FROM due CROSS JOIN LATERAL (
		SELECT id, org, prompt FROM job
		 WHERE job.org = due.org AND answer IS NULL AND not_before <= now()
		 ORDER BY id LIMIT %(hands)s FOR UPDATE SKIP LOCKED) j
), offered AS (
	SELECT array_agg(id ORDER BY id) AS ids, array_agg(org ORDER BY id) AS orgs, array_agg(prompt ORDER BY id) AS prompts
	  FROM taken
), picked AS (
	SELECT o.ids[p.place] AS id, p.* FROM offered o
	 CROSS JOIN LATERAL llmquota_pick_set('chat', o.orgs, prompts => o.prompts, at_most => %(hands)s) p
), started AS (
	UPDATE job SET lease = p.lease, not_before = p.expires_at
	  FROM picked p WHERE job.id = p.id AND p.status = 'granted'
)
SELECT t.org, t.prompt, p.* FROM picked p JOIN taken t USING (id)"""
END = """
WITH ended AS (
	UPDATE job SET answer = %(answer)s WHERE id = %(id)s AND lease = %(lease)s RETURNING id
)
SELECT r.status FROM llmquota_record(%(lease)s, usage => %(usage)s) r"""
RETRY = """
WITH retry AS MATERIALIZED (
	SELECT * FROM llmquota_retry(%(lease)s, http_status => %(status)s, error => %(body)s)
), job AS (
	UPDATE job SET lease = r.lease,
				   not_before = coalesce(r.expires_at, now() + coalesce(r.retry_after_ms, 60000) * interval '1 ms')
	  FROM retry r WHERE job.id = %(id)s AND job.lease = %(lease)s
)
SELECT * FROM retry"""
OPEN = "SELECT EXISTS (SELECT FROM job WHERE answer IS NULL)"
PAUSE_MS = 200


def call(pick, prompt):
    """Calls the provider: the HTTP status or None, and its body or what went wrong."""
    headers = {"Authorization": "Bearer " + os.environ[pick.secret_ref], "Content-Type": "application/json"}
    body = json.dumps({"model": pick.provider_model, "max_tokens": pick.max_output_tokens,
                       "messages": [{"role": "user", "content": prompt}]})
    try:
        request = Request(pick.base_url + "/chat/completions", body.encode(), headers)
        with urlopen(request, timeout=pick.timeout_ms / 1000) as reply:
            return reply.status, reply.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return None, str(error)


def do(db, job):
    """Makes the call of a job, and others as long as llmquota has one to try; the job is open again when it has none."""
    pick = job
    while pick.status == "granted":
        status, body = call(pick, job.prompt)
        if status == 200:
            reply = json.loads(body)
            db.execute(END, {"id": job.id, "lease": pick.lease, "usage": json.dumps(reply["usage"]),
                             "answer": reply["choices"][0]["message"]["content"]})
            return
        pick = db.execute(RETRY, {"id": job.id, "lease": pick.lease, "status": status, "body": body}).fetchone()


def work(db, hands):
    running = set()
    with ThreadPoolExecutor(hands) as pool:
        while True:
            pause_ms = PAUSE_MS
            if len(running) < hands:
                jobs = db.execute(TAKE, {"hands": hands - len(running)}).fetchall()
                running |= {pool.submit(do, db, job) for job in jobs if job.status == "granted"}
                pause_ms = min((job.retry_after_ms for job in jobs if job.retry_after_ms), default=PAUSE_MS)
            if running:
                done, running = wait(running, pause_ms / 1000, FIRST_COMPLETED)
                for call_of_job in done:
                    call_of_job.result()
            elif db.execute(OPEN).fetchone()[0]:
                time.sleep(pause_ms / 1000)
            else:
                return


# autocommit: no transaction stays open while the provider works. prepare_threshold: psycopg prepares a statement when
# it has run five times; a pgbouncer before 1.21 in transaction mode cannot have that, and None switches it off. Threads
# take turns at the connection.
with psycopg.connect(autocommit=True, prepare_threshold=None, row_factory=namedtuple_row) as connection:
    work(connection, int(sys.argv[1]) if len(sys.argv) > 1 else 4)
