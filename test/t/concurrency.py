"""Concurrent picks, judged by what the clients themselves wrote down.

concurrency.py SCENARIO CONNINFO: configures, runs and judges one scenario, and prints what came of it as JSON for
concurrency.pl. Lists of what is wrong are empty when all is well.
"""
import json
import random
import sys
import time
from collections import Counter

import clients
import oracle

CLIENTS = 32
SECONDS = 10
PICK = """
SELECT p.status, p.lease::text, p.key, p.account, p.provider, p.model, p.refusal->>'scope', p.refusal->>'metric',
       (EXTRACT(epoch FROM p.granted_at) * 1000000)::bigint, (EXTRACT(epoch FROM p.expires_at) * 1000000)::bigint
  FROM llmquota_pick(%s, %s, %s, %s, ttl_ms => %s) p"""
COLUMNS = ('status', 'lease', 'key', 'account', 'provider', 'model', 'scope', 'metric', 'granted_at', 'expires_at')


def pick(connection, route, org, tokens=(1, 0), ttl_ms=None):
    row = connection.execute(PICK, (route, org, *tokens, ttl_ms)).fetchone()
    return dict(zip(COLUMNS, row), org=org, reserved=sum(tokens))


def insert_quotas(connection, quotas):
    with connection.cursor() as cursor:
        cursor.executemany(
            'INSERT INTO llmquota.quota (scope, subject, model, metric, amount, per)'
            " VALUES (%s, %s, %s, %s, %s, %s * interval '1 second')", quotas)


# Scenario limits: every scope is limited. There is a provider for each scope, and for its calls the limits of that
# scope are the tightest; what is asked for changes twice, so that requests, tokens and concurrency bind in turn, and
# those of everything after those of the others. Beside these limits there are windows of an hour that nothing leaves,
# to be compared with the sums of the log.

SCOPES = ('global', 'provider', 'account', 'key', 'org')
METRICS = ('requests', 'tokens', 'concurrency')
SUBJECTS = {
    'global': [''],
    'provider': ['by-provider'],
    'account': ['by-account/1', 'by-account/2'],
    'key': ['by-key/1/1', 'by-key/1/2', 'by-key/2/1', 'by-key/2/2'],
    'org': ['by-org-1', 'by-org-2', 'by-org-3'],
}
AMOUNTS = {  # of a subject, and of everything
    'requests': (10, 150, 1), 'tokens': (12_000, 150_000, 2), 'concurrency': (3, 40, None),
}
ROOMY = 1_000_000_000_000
# A provider that refuses keeps its model at the account from being picked no longer than it says: all limits stay in use.
AT_ONCE = """'{"retry-after-ms": "1"}'"""


def tight_quotas():
    """(scope, subject, model, metric, amount, seconds) of every limit that is to bind."""
    for scope, subjects in SUBJECTS.items():
        for metric, (amount, in_all, seconds) in AMOUNTS.items():
            for subject in subjects:
                yield scope, subject, None, metric, in_all if scope == 'global' else amount, seconds


def roomy_quotas():
    for scope in SCOPES:
        for model in (None, '*') if scope in ('account', 'org') else (None,):
            for metric in ('requests', 'tokens'):
                yield scope, '' if scope == 'global' else '*', model, metric, ROOMY, 3600


def configure_limits(connection):
    for scope in SCOPES:
        name = f'by-{scope}'
        connection.execute('INSERT INTO llmquota.provider (provider, adapter) VALUES (%s, %s)', (name, 'openai'))
        connection.execute('INSERT INTO llmquota.model (model, provider) VALUES (%s, %s)', (name, name))
        connection.execute("INSERT INTO llmquota.account (account, provider) VALUES (%s, %s), (%s, %s)",
                           (f'{name}/1', name, f'{name}/2', name))
        connection.execute("INSERT INTO llmquota.key (key, account) SELECT a.account || '/' || n, a.account"
                           ' FROM llmquota.account a, generate_series(1, 2) n WHERE a.provider = %s', (name,))
    insert_quotas(connection, [*tight_quotas(), *roomy_quotas()])


def ask(connection, elapsed):
    """A pick of the kind whose turn it is: many small ones, large ones, or small ones that are held for long."""
    turn = elapsed / SECONDS * 3
    kind = ('many', 'large', 'held')[int(turn)]
    scope = 'global' if turn % 1 > 0.6 else random.choice(SCOPES[1:])
    org = random.choice(SUBJECTS['org']) if scope == 'org' else f'other-{random.randrange(6)}'
    tokens = (random.randrange(1000, 4000), random.randrange(1000)) if kind == 'large' else (random.randrange(5), 5)
    forgotten = random.random() < 0.02
    call = pick(connection, f'by-{scope}', org, tokens, 200 if forgotten else None)
    call['forgotten'] = forgotten
    return kind, call


def settle(connection, call):
    """Ends a call in one of the ways there are; writes down what it cost, and how long it was certainly in flight."""
    call.update(requests=1, tokens=call['reserved'], until=min(clients.now(), call['expires_at']))
    if call['forgotten']:
        call['until'] = call['expires_at']
        return
    way = random.choices(('less', 'more', 'answered', 'cut', 'released'), (70, 8, 8, 4, 10))[0]
    if way in ('less', 'more'):
        reserved = call['reserved']
        call['tokens'] = random.randrange(reserved + 1) if way == 'less' else reserved + random.randrange(500)
        query, arguments = 'llmquota_record(%s, %s, 0)', (call['lease'], call['tokens'])
    elif way == 'answered':
        call['tokens'] = 0
        query, arguments = f'llmquota_record(%s, http_status => 429, headers => {AT_ONCE})', (call['lease'],)
    elif way == 'cut':
        query, arguments = "llmquota_record(%s, error => 'timeout')", (call['lease'],)
    else:
        call.update(requests=0, tokens=0)
        query, arguments = 'llmquota_release(%s) AS r (status)', (call['lease'],)
    status = connection.execute(f'SELECT status FROM {query}', arguments).fetchone()[0]
    assert status in ('settled', 'released'), f'a live lease was {status}'


def limits_client(connection, number):
    granted, refusals, held = [], Counter(), []
    start = time.monotonic()
    while (elapsed := time.monotonic() - start) < SECONDS:
        kind, call = ask(connection, elapsed)
        if call['status'] == 'granted':
            held.append(call)
        elif call['status'] != 'unavailable':
            refusals[call['scope'], call['metric']] += 1
        while len(held) > (5 if kind == 'held' else 0):
            granted.append(held.pop(random.randrange(len(held))))
            settle(connection, granted[-1])
        if number == 0 and random.random() < 0.05:
            connection.execute('SELECT llmquota_maintain()')
    for call in held:
        settle(connection, call)
    return granted + held, refusals


def counted(calls, scope, subject):
    column = {'global': None}.get(scope, scope)
    return [call for call in calls if column is None or call[column] == subject]


def fullest(calls, metric, seconds):
    """The most that a limit has ever admitted, as the log has it: the actual where it is no larger than reserved."""
    if metric == 'concurrency':
        return oracle.most_at_once([(call['granted_at'], call['until']) for call in calls])
    weights = {'requests': lambda call: call['requests'], 'tokens': lambda call: min(call['tokens'], call['reserved'])}
    return oracle.fullest_interval([(call['granted_at'], weights[metric](call)) for call in calls], seconds * 1_000_000)


def sums_of_log(calls):
    sums = Counter()
    for scope, _, model, metric, _, _ in roomy_quotas():
        for call in calls:
            subject = '' if scope == 'global' else call[scope]
            sums[scope, subject, model and call['model'], metric] += call[metric]
    return sums


def limits(dsn):
    connection = clients.connect(dsn)
    configure_limits(connection)
    start = time.monotonic()
    results = clients.run(CLIENTS, limits_client, dsn)
    calls = [call for granted, _ in results for call in granted]
    refusals = sum((refused for _, refused in results), Counter())
    clients.wait_for(lambda: connection.execute('SELECT llmquota_maintain() IS NOT NULL AND NOT EXISTS'
                                                ' (SELECT FROM llmquota.lease)').fetchone()[0], 'leases stay')
    use = [(fullest(counted(calls, scope, subject), metric, seconds), amount, f'{scope} {subject} {metric}')
           for scope, subject, _, metric, amount, seconds in tight_quotas()]
    meters = {tuple(row[:4]): row[4] for row in connection.execute(
        "SELECT scope, subject, model, metric, used FROM llmquota.meter_window WHERE period = '1 hour'")}
    sums = sums_of_log(calls)
    return {
        'granted': len(calls),
        'refused': {f'{scope} {metric}': times for (scope, metric), times in sorted(refusals.items())},
        'use': [f'{what}: {most} of {amount}' for most, amount, what in use],
        'broken': [f'{what}: {most} of {amount}' for most, amount, what in use if most > amount],
        'idle': [f'{what}: {most} of {amount}' for most, amount, what in use if most < amount * 0.6],
        'seconds': round(time.monotonic() - start, 1),
        'never_refused': [f'{scope} {metric}' for scope in SCOPES for metric in METRICS if not refusals[scope, metric]],
        'unequal': [f'{key}: meter {meters.get(key)}, log {sums.get(key)}' for key in {*sums, *meters}
                    if meters.get(key, 0) != sums.get(key, 0)],
        'in_flight': connection.execute("SELECT sum(used)::int FROM llmquota.meter_window WHERE metric = 'concurrency'")
        .fetchone()[0],
    }


# Scenarios of many picks in the same instant on one key.

def one_key(dsn, *quota):
    connection = clients.connect(dsn)
    connection.execute("INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai')")
    connection.execute("INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p')")
    connection.execute("INSERT INTO llmquota.key (key, account) VALUES ('k', 'a')")
    connection.execute("INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p')")
    insert_quotas(connection, [('key', 'k', None, *quota)])
    return connection


def exactly(dsn, connections, picks, tokens, *quota):
    connection = one_key(dsn, *quota)
    connection.execute("SELECT llmquota_release(lease) FROM llmquota_pick('m')")
    know_all = "SELECT status FROM llmquota_pick('m', exclude => '{k}')"
    query = f"SELECT p.status FROM generate_series(1, {picks}) n, llmquota_pick('m', 'org ' || n, {tokens}, 0) p"
    answers = Counter(clients.at_once(dsn, connections, know_all, query))
    used, = connection.execute('SELECT used FROM llmquota.meter_window').fetchone()
    leases, = connection.execute('SELECT count(*) FROM llmquota.lease').fetchone()
    return {'answers': answers, 'used': used, 'leases': leases}


def two_of_fifty(dsn):
    return exactly(dsn, 50, 1, 1, 'requests', 2, 60)


def fifty_of_a_thousand(dsn):
    return exactly(dsn, 1000, 1, 100, 'tokens', 5000, 3600)


def first_use(dsn):
    connection = one_key(dsn, 'concurrency', 1000, None)
    insert_quotas(connection, [('org', '*', None, 'requests', 20, 3600)])
    know_all = "SELECT status FROM llmquota_pick('m', exclude => '{k}')"
    answers = Counter(clients.at_once(dsn, 50, know_all, "SELECT status FROM llmquota_pick('m', 'new')"))
    names, meters = connection.execute(
        "SELECT count(DISTINCT n.id), count(DISTINCT m.id) FROM llmquota.name n LEFT JOIN llmquota.meter m"
        " ON m.scope = 'o' AND m.subject = n.id WHERE n.kind = 'o' AND n.name = 'new'").fetchone()
    return {'answers': answers, 'names': names, 'meters': meters}


# Scenario tenants: two orgs with keys of their own, one of which may use shared keys too, while the configuration
# changes.

OWNERS = {'own-1': 'one', 'own-2': 'one', 'two-1': 'two', 'two-2': 'two', 'shared-1': None, 'shared-2': None}


def configure_tenants(connection):
    connection.execute("INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai')")
    connection.execute("INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p')")
    connection.execute("INSERT INTO llmquota.org (org, shared_keys) VALUES ('one', true), ('two', false)")
    for key, owner in OWNERS.items():
        connection.execute('INSERT INTO llmquota.account (account, provider, org) VALUES (%s, %s, %s)',
                           (key, 'p', owner))
        connection.execute('INSERT INTO llmquota.key (key, account) VALUES (%s, %s)', (key, key))
    insert_quotas(connection, [('key', '*', None, 'concurrency', 3, None)])


def tenants_client(connection, number):
    seen, held = Counter(), []
    end = time.monotonic() + SECONDS / 2
    while time.monotonic() < end:
        org = random.choice(('one', 'two', 'three'))
        call = pick(connection, 'm', org)
        seen[org, call['key'] or call['status']] += 1
        if call['lease']:
            held.append(call['lease'])
        if held and random.random() < 0.5:
            connection.execute('SELECT llmquota_release(%s)', (held.pop(0),))
        if number == 0:
            connection.execute('UPDATE llmquota.key SET enabled = random() < 0.8 WHERE key = %s',
                               (random.choice([*OWNERS]),))
    return seen


def tenants(dsn):
    configure_tenants(clients.connect(dsn))
    seen = sum(clients.run(CLIENTS, tenants_client, dsn), Counter())
    allowed = {'one': ('one', None), 'two': ('two',), 'three': (None,)}
    used = {(org, key): times for (org, key), times in seen.items() if key in OWNERS}
    return {
        'granted': sum(used.values()),
        'refused': sum(seen.values()) - sum(used.values()),
        'crossed': [f'{org} got {key}' for org, key in used if OWNERS[key] not in allowed[org]],
        'missing': [f'{org} never got {key}' for org, owners in allowed.items() for key in OWNERS
                    if OWNERS[key] in owners and (org, key) not in used],
    }


SCENARIOS = {function.__name__: function for function in (limits, two_of_fifty, fifty_of_a_thousand, first_use, tenants)}

if __name__ == '__main__':
    print(json.dumps(SCENARIOS[sys.argv[1]](sys.argv[2])))
