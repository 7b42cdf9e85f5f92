"""500 orgs at the peak hour, whose daily budgets in baht cross their thresholds under load.

budget_peak.py CONNINFO: configures, plays and judges, and prints what came of it as JSON for budget_peak.pl. Lists of
what is wrong are empty when all is well.
"""
import datetime
import json
import os
import random
import sys
import time
import zoneinfo
from collections import Counter
from fractions import Fraction

import clients
from audit import Audit, Budget, End, Lease
from tariff import ALWAYS, Price, Tariff, Tokens, amount

CLIENTS = 300
ORGS = [f'clinic-{n:03}' for n in range(500)]
SECONDS = float(os.environ.get('SECONDS', 8))  # of calls for any org, before those are asked that have not crossed
BUSY = 6  # orgs at a time that half of the calls are for
BUSY_FOR = 0.25  # seconds
MOST_TRIES = 1000
CALL = 0.003  # seconds that a call takes, on average
PATIENCE = 0.1  # seconds that one waits who was refused, on average
MAINTAIN = 0.005  # calls after which a client has the server maintained
ZONES = ('UTC', 'Asia/Bangkok', 'Pacific/Auckland', 'America/Los_Angeles')

# A call is at most 0.19 of a budget, one of the small model a quarter of that: what is no more than asked for fits below
# each threshold.
MOST_INPUT, MOST_OUTPUT = 3000, 1000
TARIFF = Tariff({'chat': [(ALWAYS, Price('2.5', '10', cached='1.25'))], 'mini': [(ALWAYS, Price('0.625', '2.5'))],
                 'flash': [(ALWAYS, Price('0', '0', 'EUR'))]},
                {'THB': [(ALWAYS, '0.027913579246')], 'EUR': [(ALWAYS, '1.083712345678')]})
DEARNESS = {'chat': 2, 'mini': 1, 'flash': 0}
STEPS = (('0.8', 'mini'), ('0.95', 'flash'))
AMOUNT = '3.3'
BUDGET = Budget(1, 'org', 'THB', amount(AMOUNT), free_when_spent=True,
                steps=tuple((Fraction(at), model) for at, model in STEPS))
PICK = """
SELECT p.status, p.lease::text, p.key, p.account, p.model, (EXTRACT(epoch FROM p.granted_at) * 1000000)::bigint,
       p.refusal
  FROM llmquota_pick('chat', %s, %s, %s, ttl_ms => %s) p"""
RECORD = """
SELECT r.status, r.cost, r.currency
  FROM llmquota_record(%s::uuid, %s::bigint, %s::bigint, tags => jsonb_build_object('number', %s::text)) r"""


def configure(connection):
    connection.execute("INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai')")
    connection.execute("INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p'), ('b', 'p')")
    connection.execute("INSERT INTO llmquota.key (key, account) SELECT a || n, a FROM unnest('{a,b}'::text[]) a,"
                       ' generate_series(1, 3) n')
    connection.execute("INSERT INTO llmquota.model (model, provider) VALUES ('chat', 'p'), ('mini', 'p'), ('flash', 'p')")
    with connection.cursor() as cursor:
        for model, ((_, price),) in TARIFF.prices.items():
            cursor.execute('INSERT INTO llmquota.price (model, input, output, cached_input, currency)'
                           ' VALUES (%s, %s, %s, %s, %s)',
                           (model, price.input, price.output, price.cached, price.currency))
        cursor.executemany('INSERT INTO llmquota.exchange_rate (currency, rate) VALUES (%s, %s)', [
            (currency, dated[0][1]) for currency, dated in TARIFF.rates.items() if currency != 'USD'])
        connection.execute("INSERT INTO llmquota.quota (scope, subject, metric, amount)"
                           " VALUES ('global', '', 'concurrency', 15), ('org', '*', 'concurrency', 5)")
        # a day that does not end meanwhile
        zone = min(ZONES, key=lambda zone: abs(datetime.datetime.now(zoneinfo.ZoneInfo(zone)).hour - 11))
        connection.execute('INSERT INTO llmquota.budget (subject, amount, currency, timezone, free_when_spent)'
                           " VALUES ('*', %s, 'THB', %s, true)", (AMOUNT, zone))
        cursor.executemany('INSERT INTO llmquota.budget_step SELECT id, %s, %s FROM llmquota.budget', STEPS)


class Chats:
    """One client: calls one after the other."""

    def __init__(self, connection, number):
        self.connection, self.number = connection, number
        self.leases, self.refused, self.unexpected = [], Counter(), []

    def call(self, org):
        """Whether it was granted a model, and which."""
        input, output = (random.randrange(most // 2, most + 1) for most in (MOST_INPUT, MOST_OUTPUT))
        forgotten = random.random() < 0.01
        sent = clients.now()
        status, id, key, account, model, granted_at, refusal = self.connection.execute(
            PICK, (org, input, output, 1 if forgotten else None)).fetchone()
        if status != 'granted':
            self.refused[status] += 1
            if status not in ('over_capacity', 'rate_limited'):
                self.unexpected.append(f'{org}: {status} {refusal}')
            time.sleep(random.random() * 2 * PATIENCE)
            return None
        lease = Lease(id, org, key, account, 'chat', model, input, output, None, sent, granted_at)
        self.leases.append(lease)
        time.sleep(random.random() * 2 * CALL)
        if not forgotten:
            self.record(lease)
        return model

    def record(self, lease):
        number = f'{self.number}-{len(self.leases)}'
        share = random.choice((0, 0.5, 0.9, 1, 1, 1, 1.2))
        end = End('tokens', number, Tokens(int(lease.input * share), int(lease.output * share)), sent=clients.now())
        end.status, cost, currency = self.connection.execute(
            RECORD, (lease.id, end.tokens.input, end.tokens.output, number)).fetchone()
        end.answered = end.closed = clients.now()
        end.told = (amount(cost), currency)
        lease.ends.append(end)


def maintain(connection):
    """Ends what was forgotten, which else would be in flight for ever. Any of them may be the last one to call."""
    if random.random() < MAINTAIN:
        connection.execute('SELECT llmquota_maintain()')


def client(connection, number, began):
    chats = Chats(connection, number)
    while (elapsed := time.monotonic() - began) < SECONDS:
        maintain(connection)
        busy = random.Random(int(elapsed / BUSY_FOR)).sample(ORGS, BUSY)
        chats.call(random.choice(busy if random.random() < 0.5 else ORGS))
    for org in random.sample(ORGS[number::CLIENTS], len(ORGS[number::CLIENTS])):
        tries = 0
        while chats.call(org) != 'flash' and tries < MOST_TRIES:
            tries += 1
            maintain(connection)
    chats.connection = None
    return chats


def wrong_alerts(connection):
    """There is one alert for each threshold of an org, however many calls have crossed it; none is needed where what the
    calls gave back took the spend below it again before anybody looked."""
    raised = Counter(connection.execute(
        "SELECT subject, threshold::float FROM llmquota.alert WHERE kind = 'threshold' AND budget = 1").fetchall())
    spent = connection.execute('SELECT subject, (used / amount)::float FROM llmquota.budget_window WHERE budget = 1').fetchall()
    possible = Counter((org, float(at)) for org in ORGS for at, _ in STEPS)
    expected = Counter((org, float(at)) for org, part in spent for at, _ in STEPS if part >= float(at))
    return {'missing': len(expected - raised), 'too many': len(raised - possible),
            'some': [list(alert) for alert in ((expected - raised) + (raised - possible))][:10]}


def judge(connection, results):
    leases = [lease for chats in results for lease in chats.leases]
    clients.wait_for(lambda: connection.execute('SELECT NOT work_left AND NOT EXISTS (SELECT FROM llmquota.lease)'
                                                ' FROM llmquota_maintain()').fetchone()[0], 'leases or work are left')
    audit = Audit(TARIFF, [BUDGET], lambda model: None, lambda org: [org], DEARNESS)
    audit.replay(leases, {lease: (at, number) for lease, at, number in connection.execute(
        "SELECT lease::text, (EXTRACT(epoch FROM recorded_at) * 1000000)::bigint, tags->>'number' FROM llmquota.usage")})
    audit.compare({(budget, subject): used for budget, subject, used in connection.execute(
        'SELECT budget, subject, (used * 1000000000)::bigint FROM llmquota.budget_window')})
    crossed = {model: {lease.org for lease in leases if lease.model == model} for _, model in STEPS}
    ledger = connection.execute('SELECT count(*) FILTER (WHERE downgraded AND budget = 1 AND requested_model = %s),'
                                ' count(*) FILTER (WHERE NOT downgraded) FROM llmquota.usage', ('chat',)).fetchone()
    return {
        'wrong': audit.problems[:20],
        'unexpected': [what for chats in results for what in chats.unexpected][:20],
        'never free': sorted(set(ORGS) - crossed['flash']),
        'orgs of the small model': len(crossed['mini']),
        'granted': Counter(lease.model for lease in leases),
        'alerts': wrong_alerts(connection),
        'ledger': dict(zip(('downgraded', 'as asked for'), ledger)),
        'refused': sum((chats.refused for chats in results), Counter()),
    }


def main(dsn):
    connection = clients.connect(dsn)
    configure(connection)
    print(json.dumps(judge(connection, clients.run(CLIENTS, client, dsn, time.monotonic()))))


main(sys.argv[1])
