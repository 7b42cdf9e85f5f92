"""Budgets under random load: nothing is spent over a budget at admission, and what the ledger adds up to is what the
meters show, whatever was rolled back or crashed.
"""
import collections
import multiprocessing
import random
import time

import psycopg

from audit import cost_of, is_effective, possible_costs
from economy import TRUSTS, Economy
from spender import Spender, now

CLIENTS = 32
SEGMENT = 20  # seconds of load, and then everything is compared
SEGMENTS_PER_CLUSTER = 6
LEAST = 100  # operations of each client in a segment, however slow the machine is
CRASH_EVERY = 20_000  # operations; when there are few, twice
CRASHES_PER_CLUSTER = 5
POINTS = ['grant-record', 'settle-record', 'settled', 'ledger-row']
PAUSE = 0.01  # seconds between two looks at a condition
MAINTENANCE_EVERY = 0.05
START_UP = 2_000_000  # microseconds from the clock of a configuration to the first call

context = multiprocessing.get_context('fork')

# What every budget must have counted, by the ledger alone. Rates are whole numbers of 1e-12, so that a quotient is
# rounded once, half away from zero.
EXPECTED = """
WITH RECURSIVE tree AS (
    SELECT org, org AS subject FROM (SELECT DISTINCT org FROM llmquota.usage) o
    UNION
    SELECT t.org, o.parent FROM tree t JOIN llmquota.org o ON o.org = t.subject WHERE o.parent IS NOT NULL
), rates AS MATERIALIZED (
    SELECT currency, array_agg(valid_from ORDER BY valid_from) AS since,
           array_agg(rate * 1e12 ORDER BY valid_from) AS rate
      FROM llmquota.exchange_rate GROUP BY currency
    UNION ALL
    SELECT 'USD', '{-infinity}', '{1e12}'
), call AS MATERIALIZED (
    SELECT u.org, u.key, u.account, m.family, r.currency, div(2 * u.cost * 1e9 * r.paid + r.rate, 2 * r.rate) AS cost
      FROM llmquota.usage u
      JOIN llmquota.model m USING (model)
      JOIN rates paid USING (currency)
     CROSS JOIN LATERAL (SELECT b.currency, b.rate[width_bucket(u.picked_at, b.since)] AS rate,
                                paid.rate[width_bucket(u.picked_at, paid.since)] AS paid FROM rates b) r
     WHERE u.cost <> 0
), expected AS (
    SELECT b.id, s.subject, sum(c.cost) AS cost
      FROM call c
      JOIN llmquota.budget b ON b.currency = c.currency AND (b.family IS NULL OR b.family = c.family) AND b.per IS NULL
     CROSS JOIN LATERAL (SELECT subject FROM tree WHERE tree.org = c.org AND b.scope = 'parent'
                         UNION ALL
                         SELECT CASE b.scope WHEN 'org' THEN c.org WHEN 'key' THEN c.key WHEN 'account' THEN c.account
                                ELSE '' END WHERE b.scope <> 'parent') s
     WHERE b.subject IN (s.subject, '*')
     GROUP BY b.id, s.subject
)
SELECT coalesce(e.id, w.budget), coalesce(e.subject, w.subject), coalesce(e.cost, 0)::bigint,
       coalesce(w.used * 1e9, 0)::bigint
  FROM expected e
  FULL JOIN (SELECT * FROM llmquota.budget_window WHERE period_start IS NOT NULL OR period = 'total') w
    ON w.budget = e.id AND w.subject = e.subject"""

LEDGER = """
SELECT lease::text, (EXTRACT(epoch FROM recorded_at) * 1000000)::bigint, tags ->> 'number', (cost * 1000000000)::bigint,
       currency, status
  FROM llmquota.usage WHERE picked_at >= %s::timestamptz"""


def play(load, number, exact, inject, pipe):
    random.seed(f'{load.name} {number}')
    spender = Spender(None, f'{load.name}-{number}', load.economy, exact)

    def stopped():
        load.operations[number] = spender.operations
        return load.stop.is_set() and spender.operations >= LEAST
    try:
        spender.connection = load.server.connect()
        if inject:
            spender.connection.execute(f"SET llmquota.inject = '{inject}'")
        spender.play(stopped)
    except psycopg.OperationalError:
        pass  # it was too late to connect
    spender.connection = None
    pipe.send(spender)


def maintain(server, stop):
    """Maintenance goes on meanwhile, in transactions that commit or not."""
    try:
        with server.connect() as connection:
            while not stop.is_set():
                connection.execute(random.choice(['SELECT llmquota_maintain()'] * 4 + [
                    'BEGIN; SELECT llmquota_maintain(); ROLLBACK']))
                time.sleep(MAINTENANCE_EVERY)
    except psycopg.OperationalError:
        pass


class Load:
    """The clients of one segment, each a process."""

    def __init__(self, server, economy, exact=False, inject=None):
        self.server, self.economy, self.name = server, economy, random.random()
        self.stop = context.Event()
        self.operations = context.Array('q', CLIENTS, lock=False)
        self.clients = []
        for number in range(CLIENTS):
            ours, theirs = context.Pipe(False)
            arguments = (self, number, exact, inject if number == 0 else None, theirs)
            process = context.Process(target=play, daemon=True, args=arguments)
            process.start()
            theirs.close()
            self.clients.append((process, ours))
        self.maintenance = context.Process(target=maintain, args=(server, self.stop), daemon=True)
        self.maintenance.start()

    def ended(self):
        return any(not process.is_alive() or ours.poll() for process, ours in self.clients)

    def finish(self):
        """Waits for the clients to end; what each of them knows."""
        self.stop.set()
        spenders = []
        for process, ours in self.clients:
            spenders.append(ours.recv())
            process.join()
        self.maintenance.join()
        return spenders


def settle_down(connection):
    """Until no lease is left and maintenance has nothing to do."""
    while connection.execute('SELECT work_left FROM llmquota_maintain()').fetchone()[0] or \
            connection.execute('SELECT EXISTS (SELECT FROM llmquota.lease)').fetchone()[0]:
        time.sleep(PAUSE)


def verify(connection):
    return [f'verify: {row}' for row in connection.execute('SELECT * FROM llmquota_verify()')]


def unequal(connection, doubtful=collections.Counter()):
    """Budgets whose meters are not what the ledger adds up to. doubtful: what more they may have, {(id, subject): most}."""
    return [f'budget {id} {subject!r}: used {used}, the ledger has {expected}'
            for id, subject, expected, used in connection.execute(EXPECTED)
            if not expected <= used <= expected + doubtful[id, subject]]


def refusal_looks(economy, spenders, problems):
    """What refusals said of calendar budgets, as looks at them."""
    budgets = {budget.id: budget for budget in economy.budgets}
    for spender in spenders:
        for sent, answered, refusal, max_cost in spender.refusals:
            budget = budgets[refusal['budget']]
            used, requested = round(refusal['used'] * 1e9), round(refusal['requested'] * 1e9)
            downgrades = budget.steps and used >= budget.amount * budget.steps[0][0]
            if not budget.refuses or (budget.free_when_spent and downgrades and max_cost is None):
                problems.append(f'{budget} should not refuse: {refusal}')
            if used + max(requested, 1) <= budget.amount:
                problems.append(f'there was room: {refusal}')
            if not budget.length:
                yield sent, answered, [(budget, refusal['subject'], used)]


def wrong_rows(audit, leases, rows, released=False):
    """What differs between the ledger and what clients were told. released: so was what they had not ended."""
    for lease in leases:
        _, _, cost, currency, status = rows.get(lease.id, (None,) * 5)
        expected = audit.tariff.currency(lease.model, lease.granted_at)
        may = possible_costs(audit.tariff, lease)
        if released and not any(map(is_effective, lease.ends)):
            may.add(0)
        if cost not in may or currency != expected:
            yield f'{lease}: the ledger has {cost} {currency} ({status}), not one of {may} {expected}'


def judge_load(connection, economy, audit, spenders, began):
    """Everything that is wrong after a segment."""
    problems = [problem for spender in spenders for problem in spender.unexpected]
    settle_down(connection)
    budgets = {budget.id: budget for budget in economy.budgets}
    leases = [lease for spender in spenders for lease in spender.leases]
    rows = {row[0]: row[1:] for row in connection.execute(LEDGER, (began,))}
    looks = [(sent, answered, [(budgets[id], subject, used) for id, subject, used in seen])
             for spender in spenders for sent, answered, seen in spender.looks]
    looks += refusal_looks(economy, spenders, problems)
    audit.replay(leases, {id: row[:2] for id, row in rows.items()}, looks)
    audit.compare({(id, subject): used for id, subject, _, used in connection.execute(EXPECTED)})
    problems += audit.problems
    problems += wrong_rows(audit, leases, rows)
    return problems + verify(connection)


def doubtful_of(audit, leases):
    """What meters may have more than the ledger: a late record whose slot is gone charges its excess just before it
    commits, and a crash may come between."""
    doubtful = collections.Counter()
    for lease in leases:
        if not lease.short or not lease.ends or lease.ends[-1].status is not None:
            continue
        windows = audit.windows_of(lease)
        currency = audit.tariff.currency(lease.model, lease.granted_at)
        costs = [audit.in_all(lease, windows, cost_of(audit.tariff, lease, end), currency)
                 for end in (lease.ends[-1], None)]
        for window, late, reserved in zip(windows, *costs):
            doubtful[window.budget.id, window.subject] += max(late - reserved, 0)
    return doubtful


def crash_once(server, economy, audit, operations):
    """Load, and a crash in the midst of it: what is wrong afterwards, how many operations there were, and what may be
    more."""
    how = random.choice(['everything', 'everything', 'postmaster', 'backend', 'inside'])
    inject = f'{random.choice(POINTS)}:{random.randrange(1, 200)}' if how == 'inside' else None
    load = Load(server, economy, True, inject)
    while sum(load.operations) < operations and not load.ended():
        time.sleep(PAUSE)
    server.crash('everything' if inject and not load.ended() else how)
    spenders = load.finish()
    server.restart()
    leases = [lease for spender in spenders for lease in spender.leases]
    problems = [problem for spender in spenders for problem in spender.unexpected]
    with server.connect() as connection:
        connection.execute('SELECT count(llmquota_release(lease)) FROM llmquota.lease')
        settle_down(connection)
        rows = {row[0]: row[1:] for row in connection.execute(LEDGER, ('-infinity',))}
    problems += wrong_rows(audit, leases, rows, released=True)
    return problems, sum(load.operations), doubtful_of(audit, leases)


def add_up(server, operations):
    """So many operations, with crashes and rollbacks: budgets are what the ledger adds up to."""
    done = crashes = 0
    crash_every = min(CRASH_EVERY, operations // 2)
    while done < operations:
        if crashes % CRASHES_PER_CLUSTER == 0:
            economy = Economy(now() + START_UP, 60)
            server.create(economy.setup)
            audit, doubtful = economy.audit(), collections.Counter()
        problems, more, unsure = crash_once(server, economy, audit, crash_every)
        crashes += 1
        done += more
        doubtful += unsure
        with server.connect() as connection:
            problems += unequal(connection, doubtful) + verify(connection)
        if problems:
            complain(f'sums, after crash {crashes}', problems)
            return False
    print(f'{done} operations, {crashes} crashes: every budget has counted what the ledger adds up to', flush=True)
    return True


def complain(what, problems):
    print(f'{what}: {len(problems)} wrong')
    for problem in problems[:20]:
        print(f'  {problem[:1000]}')


def spend(server, seconds):
    """Random load for so many seconds."""
    segments = [min(SEGMENT, seconds - done) for done in range(0, seconds, SEGMENT)]
    counts, refused = collections.Counter(), collections.Counter()
    for number, length in enumerate(segments):
        if number % SEGMENTS_PER_CLUSTER == 0:
            economy = Economy(now() + START_UP, 2 * sum(segments[number:number + SEGMENTS_PER_CLUSTER]) + 20)
            server.create(economy.setup)
            audit = economy.audit()
        with server.connect() as connection:
            began = connection.execute('SELECT now()').fetchone()[0]
            load = Load(server, economy)
            time.sleep(length)
            spenders = load.finish()
            problems = judge_load(connection, economy, audit, spenders, began)
        if problems:
            complain(f'load, segment {number}', problems)
            return False
        refused.update(min(refusal[2]['budget'], TRUSTS) for spender in spenders for refusal in spender.refusals)
        if (number + 1) % SEGMENTS_PER_CLUSTER == 0 or number + 1 == len(segments):
            counts.update(audit.counts)
    print(f"{seconds} seconds, {counts['grants']} calls, refused by budgets {dict(sorted(refused.items()))}, "
          f"{dict(counts)}: nothing was over at admission", flush=True)
    missing = [id for id in (4, 5, TRUSTS) if not refused[id]] + [
        what for what in ('debts', 'looks', 'downgraded to org-small', 'downgraded to org-free', 'downgraded to global-small')
        if not counts[what]]
    if missing:
        print(f'too little came of it: nothing of {missing}')
    return not missing
