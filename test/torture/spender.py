"""A client that spends: picks of every size, ended in every way and kind of transaction, and a log of all of it."""
import random
import time

import psycopg

from audit import End, Lease, cost_of
from economy import FAMILIES, as_numeric
from player import Gone
from tariff import Tokens, amount

MOST_HELD = 4
MOST_TO_REPEAT = 20  # leases whose records were rolled back, and may be recorded again
EXPIRED_AFTER = 0.3  # seconds, by then maintenance has been there for what lives for a millisecond
PICK = """
SELECT p.status, p.lease::text, p.key, p.account, p.model, (EXTRACT(epoch FROM p.granted_at) * 1000000)::bigint,
       p.refusal
  FROM llmquota_pick(%s, %s, %s::bigint, %s::bigint, ttl_ms => %s::int, max_cost => %s::numeric) p"""
RECORD = """
SELECT r.status, r.cost, r.currency
  FROM llmquota_record(%s::uuid, %s::bigint, %s::bigint, %s::bigint, %s::bigint, %s::bigint, http_status => %s::int,
                       error => %s, cost => %s::numeric, tags => jsonb_build_object('number', %s::text)) r"""
RELEASE = 'SELECT llmquota_release(%s::uuid), NULL, NULL'
LOOK = """
SELECT budget, subject, (used * 1000000000)::bigint FROM llmquota.budget_window
 WHERE budget = ANY (%s) AND subject = ANY (%s)"""


def now():
    """The clock that the server reads, too."""
    return time.time_ns() // 1000


class Spender:
    """exact: nothing is recorded of which only the server can know whether it was charged."""

    def __init__(self, connection, name, economy, exact):
        self.connection, self.name, self.economy, self.exact = connection, name, economy, exact
        self.leases, self.held, self.short, self.repeated, self.looks = [], [], [], [], []
        self.refusals, self.unexpected = [], []
        self.operations = 0
        self.calendars = [budget.id for budget in economy.budgets if not budget.length]

    def ask(self, sql, *values):
        rows = self.ask_all(sql, *values)
        return rows[0] if rows else None

    def ask_all(self, sql, *values):
        try:
            cursor = self.connection.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else None
        except psycopg.OperationalError as error:
            if error.sqlstate is None or error.sqlstate.startswith('57P'):
                raise Gone from error
            raise

    def play(self, stopped):
        """Acts until told to stop, or the server is gone; in the first case ends what it holds."""
        try:
            while not stopped():
                self.act()
            while self.held:
                self.alone(self.held.pop())
            while self.short:
                self.alone(self.short.pop()[1], True)
        except Gone:
            pass
        except psycopg.Error as error:
            self.unexpected.append(f'{error.sqlstate} {error}')
        self.connection = None
        return self

    def act(self):
        chance = random.random()
        if chance < 0.002:
            self.look()
        elif len(self.held) < MOST_HELD and chance < 0.55:
            self.pick()
        elif self.short and time.monotonic() > self.short[0][0]:
            self.in_some_way(self.short.pop(0)[1], True)
        elif self.held:
            self.in_some_way(self.held.pop(random.randrange(len(self.held))), False)
        elif self.repeated:
            self.alone(self.repeated.pop())

    # picks

    def pick(self):
        family = random.choice(FAMILIES)
        at = now()
        org = random.choice(self.economy.orgs(at, family, 0 if random.random() < 0.9 else random.randrange(4)))
        input, output = random.choice([(random.randrange(300), random.randrange(100)),
                                       (random.randrange(4000), random.randrange(1500))])
        max_cost = None if random.random() < 0.95 else random.randrange(amount('0.02'))
        ttl_ms = random.choice([None] * 20 + [1, 20])
        begin, end = random.choice([('', '')] * 6 + [('BEGIN', 'ROLLBACK'), ('BEGIN; SAVEPOINT s', 'ROLLBACK TO s; COMMIT')])
        if begin:
            self.ask(begin)
        sent = now()
        row = self.ask(PICK, f'{family}-dear', org, input, output, ttl_ms, None if max_cost is None else as_numeric(max_cost))
        answered = now()
        if end:
            self.ask(end)
        self.operations += 1
        status, id, key, account, model, granted_at, refusal = row
        if status == 'granted':
            lease = Lease(id, org, key, account, f'{family}-dear', model, input, output, max_cost, sent, granted_at)
            if not sent <= granted_at <= answered:
                self.unexpected.append(f'{lease} was granted when nobody asked')
            self.keep(lease, ttl_ms)
        elif status == 'budget_exceeded':
            self.refusals.append((sent, answered, refusal, max_cost))
        else:
            self.unexpected.append(f'pick: {status} {refusal}')

    def keep(self, lease, ttl_ms):
        self.leases.append(lease)
        if ttl_ms is None:
            self.held.append(lease)
        elif ttl_ms == 1:
            lease.short = True
            self.short.append((time.monotonic() + EXPIRED_AFTER, lease))

    # ends of leases

    def ending(self, lease, late):
        """A way for it to end, and the arguments of its record; None for a release."""
        way = random.choices(('less', 'same', 'more', 'input', 'nothing', 'cost', 'refused', 'cut', 'released'),
                             (40, 10, 15, 5, 8, 6, 6, 4, 6))[0]
        if late:
            way = 'cost' if self.exact else 'more' if way == 'released' else way
        number = f'{self.name}-{self.operations}'
        if way == 'released':
            return End(way), None
        if way in ('nothing', 'cut'):
            return End('nothing', number), ((None,) * 6 + ('connection reset' if way == 'cut' else None, None, number))
        if way == 'refused':
            return End(way, number), ((None,) * 5 + (400, 'no such parameter', None, number))
        if way == 'cost':
            cost = random.randrange(amount('0.03')) + (cost_of(self.economy.tariff, lease) if late else 0)
            return End(way, number, cost=cost), ((None,) * 7 + (as_numeric(cost), number))
        tokens = self.tokens(lease, way)
        if way == 'input':
            return End(way, number, tokens), ((tokens.input, None, tokens.cached) + (None,) * 5 + (number,))
        return End('tokens', number, tokens), (
            (tokens.input, tokens.output, tokens.cached, tokens.cache_write, tokens.reasoning) + (None,) * 3 + (number,))

    def tokens(self, lease, way):
        input, output = lease.input, lease.output
        if way == 'less':
            input, output = random.randrange(input + 1), random.randrange(output + 1)
        elif way == 'more':
            input, output = input + random.randrange(3000), output + random.randrange(1000)
        if way in ('input', 'same') or random.random() < 0.5:
            return Tokens(input, output if way != 'input' else 0)
        cached = random.randrange(input // 2 + 1) if way == 'less' else 0
        return Tokens(input, output, cached, random.randrange((input - cached) // 2 + 1) if way == 'less' else 0,
                      random.randrange(output + 1))

    def settle(self, lease, late=False):
        """Ends it once; the end is kept unless somebody says otherwise."""
        end, arguments = self.ending(lease, late)
        self.operations += 1
        lease.ends.append(end)
        end.sent = now()
        status, cost, currency = self.ask(*((RELEASE, lease.id) if arguments is None else (RECORD, lease.id, *arguments)))
        end.answered = end.closed = now()
        end.status = status
        end.told = None if cost is None else (amount(cost), currency)
        if status not in ('settled', 'settled_late', 'already_settled', 'released', 'unknown_lease'):
            self.unexpected.append(f'{lease}: {status}')
        return end

    def in_some_way(self, lease, late):
        if late and self.exact:
            return self.alone(lease, late)
        return random.choice([self.alone, self.alone, self.in_transaction, self.at_savepoint])(lease, late)

    def alone(self, lease, late=False):
        self.settle(lease, late)

    def in_transaction(self, lease, late):
        """Several in one transaction, which commits or does not."""
        leases = [lease] + [self.held.pop() for _ in range(random.randrange(3)) if self.held and not late]
        kept = random.random() < 0.5
        self.ask('BEGIN')
        ends = [self.settle(lease, late) for lease in leases]
        self.ask('COMMIT' if kept else 'ROLLBACK')
        for end in ends:
            end.closed, end.kept = now(), kept
        if not kept:
            self.repeat(leases)

    def at_savepoint(self, lease, late):
        """Undone at a savepoint, and then perhaps once more in the same transaction."""
        again = random.random() < 0.6
        self.ask('BEGIN; SAVEPOINT s')
        undone = self.settle(lease, late)
        undone.kept = False
        self.ask('ROLLBACK TO s')
        end = self.settle(lease, late) if again else undone
        self.ask('COMMIT')
        undone.closed = end.closed = now()
        if not again:
            self.repeat([lease])

    def repeat(self, leases):
        """What was rolled back is recorded again, or left to maintenance."""
        self.repeated = (self.repeated + [lease for lease in leases if random.random() < 0.5])[-MOST_TO_REPEAT:]

    def look(self):
        orgs = self.economy.orgs(now()) + ['']
        sent = now()
        rows = self.ask_all(LOOK, self.calendars, orgs)
        self.looks.append((sent, now(), rows))
