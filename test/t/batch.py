"""Clients that pick in batches, judged by what they themselves wrote down.

batch.py SCENARIO CONNINFO ...: configures, runs and judges one scenario, and prints what came of it as JSON for batch.pl.
Lists of what is wrong are empty when all is well.
"""
import json
import random
import re
import sys
import threading
import time
from collections import Counter

import clients
import oracle

CLIENTS = 32
SECONDS = 6


def configure(connection, keys, quotas):
    connection.execute("INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai')")
    connection.execute("INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p')")
    connection.execute("INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p')")
    connection.execute("INSERT INTO llmquota.key (key, account) SELECT 'k' || n, 'a' FROM generate_series(1, %s) n",
                       (keys,))
    with connection.cursor() as cursor:
        cursor.executemany('INSERT INTO llmquota.quota (scope, subject, metric, amount, per)'
                           " VALUES (%s, %s, %s, %s, %s * interval '1 second')", quotas)


# Scenario limits: batches, sets and single picks at once, over limits of every kind.

ORGS = ('one', 'two', 'three', 'four')
TOKENS = 10
LIMITS = [  # (scope, subject, metric, amount, seconds)
    ('global', '', 'concurrency', 60, None),
    ('global', '', 'tokens', 9_000, 1),
    ('key', '*', 'requests', 400, 1),
    ('key', '*', 'concurrency', 40, None),
    ('org', '*', 'requests', 300, 1),
    ('org', '*', 'concurrency', 25, None),
]
ROOMY = [('global', '', 'requests', 1_000_000_000, 3600), ('org', '*', 'tokens', 1_000_000_000, 3600)]
COLUMNS = """lease::text, key, (EXTRACT(epoch FROM granted_at) * 1000000)::bigint"""
ASK = [
    f"SELECT %(orgs)s::text[], 1, {COLUMNS} FROM llmquota_pick('m', (%(orgs)s::text[])[1], {TOKENS}, 0)"
    " WHERE status = 'granted'",
    f"SELECT %(orgs)s::text[], 1, {COLUMNS} FROM llmquota_pick_many('m', (%(orgs)s::text[])[1], %(n)s, {TOKENS}, 0)"
    " WHERE status = 'granted'",
    f"SELECT %(orgs)s::text[], place, {COLUMNS} FROM llmquota_pick_set('m', %(orgs)s::text[],"
    f" array_fill({TOKENS}::bigint, ARRAY[%(n)s]), array_fill(0::bigint, ARRAY[%(n)s])) WHERE status = 'granted'",
]


def pick_some(connection):
    """What one question was granted: (org, lease, key, granted at), by turns."""
    n = random.randrange(1, 30)
    orgs = [random.choice(ORGS) for _ in range(n)]
    rows = connection.execute(random.choice(ASK), {'orgs': orgs, 'n': n}).fetchall()
    return [dict(org=orgs[place - 1], lease=lease, key=key, granted_at=at) for orgs, place, lease, key, at in rows]


def limits_client(connection, number):
    calls, held = [], []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        held += pick_some(connection)
        random.shuffle(held)
        for call in held[random.randrange(4):]:
            call['until'] = clients.now()
            connection.execute('SELECT status FROM llmquota_record(%s, %s, 0)', (call['lease'], TOKENS))
            calls.append(call)
            held.remove(call)
    for call in held:
        call['until'] = clients.now()
        connection.execute('SELECT status FROM llmquota_record(%s, %s, 0)', (call['lease'], TOKENS))
    return calls + held


def fullest(calls, metric, seconds):
    if metric == 'concurrency':
        return oracle.most_at_once([(call['granted_at'], call['until']) for call in calls])
    weight = TOKENS if metric == 'tokens' else 1
    return oracle.fullest_interval([(call['granted_at'], weight) for call in calls], seconds * 1_000_000)


def subjects_of(calls, scope):
    if scope == 'global':
        return {'': calls}
    names = {call[scope] for call in calls}
    return {name: [call for call in calls if call[scope] == name] for name in names}


def limits(dsn):
    connection = clients.connect(dsn)
    configure(connection, 2, LIMITS + ROOMY)
    calls = [call for made in clients.run(CLIENTS, limits_client, dsn) for call in made]
    use = [(fullest(mine, metric, seconds), amount, f'{scope} {subject} {metric}')
           for scope, _, metric, amount, seconds in LIMITS for subject, mine in subjects_of(calls, scope).items()]
    used = {(row[0], row[1]): row[2] for row in connection.execute(
        "SELECT scope, subject, used FROM llmquota.meter_window WHERE period = '1 hour'")}
    expected = {('global', ''): len(calls)} | {
        ('org', org): TOKENS * len(mine) for org, mine in subjects_of(calls, 'org').items()}
    return {
        'granted': len(calls),
        'use': [f'{what}: {most} of {amount}' for most, amount, what in use],
        'broken': [f'{what}: {most} of {amount}' for most, amount, what in use if most > amount],
        'idle': [f'{what}: {most} of {amount}' for most, amount, what in use if most < amount * 0.2],
        'unequal': [f'{key}: meter {used.get(key)}, log {expected.get(key)}' for key in {*used, *expected}
                    if used.get(key, 0) != expected.get(key, 0)],
    }


# Scenario jobs: the recipe of doc/operations.md. One org has most of the jobs.

WORKERS = 8
HANDS = 4  # calls that a worker can make at once
JOBS = {'flood': 240, 'a': 60, 'b': 60, 'c': 60, 'd': 60}
CALL_SECONDS = 0.02


def prepared(sql):
    """A statement that the page prepares, with its parameters as psycopg has them."""
    return re.sub(r'\$(\d)', r'%(\1)s', re.sub(r'^PREPARE .* AS$', '', sql, flags=re.M))


def worker(connection, number, take, end):
    """Takes jobs as the page says, and makes calls that take some time; (org, job, begun, ended) of each."""
    done, running = [], []
    while True:
        now = time.monotonic()
        for job in [job for job in running if job['due'] <= now]:
            running.remove(job)
            done.append((job['org'], job['id'], job['granted_at'], clients.now()))
            connection.execute(end, {'1': job['id'], '2': job['lease'], '3': 'an answer', '4': 7})
        rows = []
        if len(running) < HANDS:
            cursor = connection.execute(take, {'1': HANDS - len(running)})
            columns = [column.name for column in cursor.description]
            rows = [dict(zip(columns, row)) for row in cursor]
        granted = [row for row in rows if row['status'] == 'granted']
        for job in granted:
            job['due'] = time.monotonic() + CALL_SECONDS * random.uniform(0.5, 1.5)
            job['granted_at'] = int(job['granted_at'].timestamp() * 1_000_000)
        running += granted
        if not rows and not running:
            open_jobs, = connection.execute('SELECT count(*) FROM job WHERE answer IS NULL').fetchone()
            if open_jobs == 0:
                return done
        if not granted:
            threading.Event().wait(clients.PAUSE)


def jain(shares):
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def jobs(dsn, table, take, end):
    connection = clients.connect(dsn)
    configure(connection, 2, [('global', '', 'concurrency', 15, None), ('org', '*', 'concurrency', 8, None)])
    connection.execute("UPDATE llmquota.model SET model = 'chat'")
    connection.execute(table)
    for org, count in JOBS.items():
        connection.execute("INSERT INTO job (org, prompt) SELECT %s, 'prompt ' || n FROM generate_series(1, %s) n",
                           (org, count))
    done = [job for made in clients.run(WORKERS, worker, dsn, prepared(take), prepared(end)) for job in made]
    calls = [dict(org=org, granted_at=begun, until=ended) for org, _, begun, ended in done]
    finished = {org: max(ended for whose, _, _, ended in done if whose == org) for org in JOBS}
    while_all_wait = Counter(org for org, _, begun, _ in done if begun < min(finished.values()))
    return {
        'open': connection.execute('SELECT count(*) FROM job WHERE answer IS NULL').fetchone()[0],
        'twice': len(done) - len({job for _, job, _, _ in done}),
        'most_in_all': fullest(calls, 'concurrency', None),
        'most_of_an_org': max(fullest(mine, 'concurrency', None) for mine in subjects_of(calls, 'org').values()),
        'shares': while_all_wait,
        'jain': round(jain([while_all_wait[org] for org in JOBS]), 3),
        'in_flight': connection.execute("SELECT coalesce(sum(used), 0)::int FROM llmquota.meter_window"
                                        " WHERE metric = 'concurrency'").fetchone()[0],
    }


SCENARIOS = {function.__name__: function for function in (limits, jobs)}

if __name__ == '__main__':
    print(json.dumps(SCENARIOS[sys.argv[1]](sys.argv[2], *sys.argv[3:])))
