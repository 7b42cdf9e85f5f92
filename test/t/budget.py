"""Many picks at the same instant on one budget.

budget.py SCENARIO CONNINFO: configures and runs one scenario, and prints what came of it as JSON for budget.pl.
"""
import json
import sys
from collections import Counter

import clients
from tariff import UNIT, Price, Tariff, ALWAYS, amount

PRICE = Price('1000', '3000', 'EUR')  # 100 tokens are 0.10
TARIFF = Tariff({'m': [(ALWAYS, PRICE)]}, {'EUR': [(ALWAYS, '1.083712345678')], 'THB': [(ALWAYS, '0.027913579246')]})


def configure(dsn, scope, subject, written, currency):
    """One key, and one budget."""
    connection = clients.connect(dsn)
    connection.execute("INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai')")
    connection.execute("INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p')")
    connection.execute("INSERT INTO llmquota.key (key, account) VALUES ('k', 'a')")
    connection.execute("INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p')")
    connection.execute("INSERT INTO llmquota.price (model, input, output, currency) VALUES ('m', %s, %s, %s)",
                       (PRICE.input, PRICE.output, PRICE.currency))
    connection.execute("INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('EUR', %s), ('THB', %s)",
                       [TARIFF.rates[currency][0][1] for currency in ('EUR', 'THB')])
    connection.execute("INSERT INTO llmquota.org (org, parent) VALUES ('group', NULL), ('clinic 0', 'group'),"
                       " ('clinic 1', 'group')")
    connection.execute('INSERT INTO llmquota.budget (scope, subject, amount, currency, downgrade_at)'
                       ' VALUES (%s, %s, %s, %s, NULL)', (scope, subject, written, currency))
    return connection


def at_once(dsn, connections, query):
    """Answers of so many connections at once, each of which knows the configuration already."""
    with clients.connect(dsn) as connection:
        connection.execute("SELECT llmquota_release(lease) FROM llmquota_pick('m', 'group', 0, 0)")
    return clients.at_once(dsn, connections, "SELECT status FROM llmquota_pick('m', 'group', exclude => '{k}')", query)


def exactly(dsn, connections, picks, org, *budget):
    """Reservations of 0.10."""
    connection = configure(dsn, *budget)
    answers = Counter(at_once(dsn, connections, f'SELECT p.status FROM generate_series(1, {picks}) n,'
                                                f" llmquota_pick('m', {org}, 100, 0) p"))
    used, = connection.execute('SELECT max(used)::text FROM llmquota.budget_window').fetchone()
    leases, = connection.execute('SELECT count(*) FROM llmquota.lease').fetchone()
    return {'answers': answers, 'used': used, 'leases': leases}


def org(dsn):
    return exactly(dsn, 1000, 1, "'clinic 0'", 'org', '*', '5.00', 'EUR')


def parent(dsn):
    return exactly(dsn, 250, 4, "'clinic ' || n % 2", 'parent', 'group', '5.00', 'EUR')


def mixed(dsn):
    """Of every size, in another currency: what was granted fits, and of what was refused nothing would have."""
    budget = amount('5000')
    connection = configure(dsn, 'global', '', '5000', 'THB')
    answers = [answer.split() for answer in at_once(
        dsn, 250, "SELECT concat_ws(' ', p.status, c.input, c.output) FROM (SELECT (random() * 4000)::int AS input,"
             " (random() * 1000)::int AS output FROM generate_series(1, 4) OFFSET 0) c,"
             " llmquota_pick('m', 'clinic ' || c.output % 2, c.input, c.output) p")]
    costs = {status: [TARIFF.convert(TARIFF.worst('m', int(input), int(output), 0), 'EUR', 'THB', 0)
                      for given, input, output in answers if given == status]
             for status in {answer[0] for answer in answers}}
    used, = connection.execute('SELECT (used * 1000000000)::bigint FROM llmquota.budget_window').fetchone()
    spent = sum(costs['granted'])
    return {
        'answers': {status: len(of_status) for status, of_status in costs.items()},
        'over': max(spent - budget, 0),
        'room for what was refused': max(budget - spent - min(costs['budget_exceeded']) + 1, 0),
        'unequal': used - spent,
        'left': f'{(budget - spent) / UNIT:.9f}',
    }


if __name__ == '__main__':
    name, dsn = sys.argv[1:]
    print(json.dumps({'org': org, 'parent': parent, 'mixed': mixed}[name](dsn)))
