"""The configuration that the torture of budgets plays with: models of dated prices in three currencies, and for each
scope a family of models whose calls it has tight budgets for. Beside those, budgets that nobody reaches count all there
is, to be compared with the ledger.
"""
import datetime
import zoneinfo
from fractions import Fraction

from audit import Audit, Budget
from tariff import ALWAYS, UNIT, Price, Tariff, amount

FAMILIES = ('org', 'parent', 'key', 'account', 'global')
DEARNESS = {'dear': 2, 'small': 1, 'free': 0}
GROUPS = {'clinic': 'group', 'branch': 'trust'}
CLINICS = 2  # of a group
TRUSTS = 1000  # where the numbers of the trusts' budgets begin
KEYS = {'a1/1': 'a1', 'a1/2': 'a1', 'a2/1': 'a2', 'a2/2': 'a2'}
PLENTY = 9_000_000_000
ZONES = ('UTC', 'Asia/Bangkok', 'Pacific/Auckland', 'America/Los_Angeles')
CHANGES = 80  # of prices and rates, one every so many microseconds
CHANGE_EVERY = 1_700_000


def zone_at_noon(at):
    """A time zone in which no day ends soon."""
    return min(ZONES, key=lambda zone: abs(at.astimezone(zoneinfo.ZoneInfo(zone)).hour - 11))


class Economy:
    """start: microseconds since 1970; clinics come in generations of so many seconds, each with budgets of its own."""

    def __init__(self, start, seconds, generation=2):
        self.start = start
        self.generation_us = generation * 1_000_000
        self.generations = int(seconds / generation) + 3
        self.tariff = Tariff(self.prices(), self.rates())
        self.zone = zone_at_noon(datetime.datetime.fromtimestamp(start / 1e6, datetime.timezone.utc))
        self.budgets = list(self.tight()) + list(self.roomy())

    def moments(self, first):
        return [self.start + first + i * CHANGE_EVERY for i in range(CHANGES)]

    def prices(self):
        prices = {}
        for family in FAMILIES:
            prices[f'{family}-dear'] = [(ALWAYS, Price('2.5', '10', 'USD', '1.25', '3.125', '12.123456789'))] + [
                (at, Price('2.4', '9.87654321', 'USD', '1.2', '3', '11.1') if i % 2 else
                 Price('71.7', '312.000000001', 'THB', cache_write='89.625'))
                for i, at in enumerate(self.moments(400_000))]
            prices[f'{family}-small'] = [(ALWAYS, Price('0.15', '0.623456789', 'EUR', reasoning='0.7'))]
            prices[f'{family}-free'] = [(ALWAYS, Price('0', '0', 'EUR'))]
        return prices

    def rates(self):
        return {'THB': [(ALWAYS, '0.027913579246')] + [(at, f'0.0279{i:03}1357')
                                                       for i, at in enumerate(self.moments(900_000))],
                'EUR': [(ALWAYS, '1.083712345678')] + [(at, f'1.08{i:03}7')
                                                       for i, at in enumerate(self.moments(1_300_000))]}

    def tight(self):
        def budget(id, scope, currency, written, **options):
            return Budget(id, scope, currency, amount(written), scope, **options)

        yield budget(1, 'org', 'THB', '4', free_when_spent=True,
                     steps=((Fraction(4, 5), 'org-small'), (Fraction(19, 20), 'org-free')))
        yield budget(2, 'org', 'USD', '0.5', refuses=False)  # only observes
        yield budget(4, 'key', 'THB', '3', length=5_000_000)
        yield budget(5, 'account', 'USD', '0.2', length=5_000_000)
        yield budget(6, 'global', 'EUR', '0.8', length=4_000_000, free_when_spent=True,
                     steps=((Fraction(1, 2), 'global-small'),))
        # of all models: a pick may have to charge so many meters of the scope parent, and no more
        for generation in range(self.generations):
            yield Budget(TRUSTS + generation, 'parent', 'EUR', amount('0.15'), subject=f'trust-{generation}')

    def roomy(self):
        for id, scope, currency in ((11, 'global', 'USD'), (12, 'global', 'THB'), (13, 'org', 'THB'), (14, 'org', 'EUR'),
                                    (15, 'parent', 'USD'), (16, 'parent', 'THB'), (17, 'key', 'EUR'),
                                    (18, 'account', 'THB')):
            yield Budget(id, scope, currency, PLENTY * UNIT, 'account' if scope == 'account' else None)

    def parents(self, org):
        kind, generation, _ = f'{org}-'.split('-', 2)
        return [org] if kind not in GROUPS else [org, f'{GROUPS[kind]}-{generation}', 'everybody']

    def audit(self):
        return Audit(self.tariff, self.budgets, lambda model: model.split('-')[0], self.parents,
                     {model: DEARNESS[model.split('-')[1]] for model in self.tariff.prices})

    def generation(self, at):
        return min(int((at - self.start) / self.generation_us), self.generations - 1)

    def orgs(self, at, family=None, behind=0):
        """Whose time it is; or was, so many generations ago."""
        generation = max(self.generation(at) - behind, 0)
        branches = [f'branch-{generation}-{n}' for n in range(CLINICS)]
        clinics = [f'clinic-{generation}-{n}' for n in range(CLINICS)] + [f'visitor-{generation}']
        return branches if family == 'parent' else clinics if family is not None else branches + clinics

    # the same for the server

    def setup(self, connection):
        connection.execute('CREATE EXTENSION llmquota')
        connection.execute("""INSERT INTO llmquota.provider (provider, adapter, breaker_failures, breaker_min_calls)
                              VALUES ('p', 'openai', 1000000, 1000000)""")
        connection.execute("INSERT INTO llmquota.account (account, provider) VALUES ('a1', 'p'), ('a2', 'p')")
        self.insert(connection, 'key (key, account)', KEYS.items())
        self.insert(connection, 'model (model, provider, family, downgrade_to)',
                    [(f'{family}-{name}', 'p', family, below and f'{family}-{below}')
                     for family in FAMILIES for name, below in (('free', None), ('small', 'free'), ('dear', 'small'))])
        self.insert(connection, 'price (model, valid_from, input, output, cached_input, cache_write, reasoning, currency)',
                    [(model, since(at), price.input, price.output, price.cached, price.cache_write, price.reasoning,
                      price.currency) for model, dated in self.tariff.prices.items() for at, price in dated])
        self.insert(connection, 'exchange_rate (currency, valid_from, rate)',
                    [(currency, since(at), rate) for currency, dated in self.tariff.rates.items() if currency != 'USD'
                     for at, rate in dated])
        self.insert(connection, 'org (org, parent)', [('everybody', None)] + [
            (f'{group}-{n}', 'everybody') for n in range(self.generations) for group in GROUPS.values()] + [
            (f'{kind}-{n}-{i}', f'{group}-{n}') for n in range(self.generations) for i in range(CLINICS)
            for kind, group in GROUPS.items()])
        self.insert(connection, 'quota (scope, subject, metric, amount)',
                    [('global', '', 'concurrency', 1_000_000), ('org', '*', 'concurrency', 1_000_000)])
        for budget in self.budgets:
            self.insert_budget(connection, budget)
        # expired leases lose their slots soon, so that late records find the ledger only
        connection.execute("UPDATE llmquota.setting SET value = '800' WHERE name = 'max_leases'")
        # it has had its configuration for long: llmquota_verify() is strict then
        connection.execute("SELECT setval('llmquota.config_time', 1)")

    def insert_budget(self, connection, budget):
        # the roomy ones: one of a pair counts a day, the other all that ever was
        calendar = None if budget.length else 'total' if budget.id in (12, 14, 15, 17) else 'day'
        connection.execute(
            'INSERT INTO llmquota.budget (id, scope, subject, family, amount, currency, calendar, per, timezone,'
            ' downgrade_at, free_when_spent, mode) OVERRIDING SYSTEM VALUE'
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s * interval '1 microsecond', %s, NULL, %s, %s)",
            (budget.id, budget.scope, '' if budget.scope == 'global' else budget.subject, budget.family,
             as_numeric(budget.amount), budget.currency, calendar, budget.length, self.zone if calendar == 'day' else None, budget.free_when_spent,
             'enforce' if budget.refuses else 'observe'))
        self.insert(connection, 'budget_step (budget, at, model)',
                    [(budget.id, as_numeric(int(at * UNIT)), model) for at, model in budget.steps])

    @staticmethod
    def insert(connection, into, rows):
        rows = list(rows)
        with connection.cursor() as cursor:
            if rows:
                cursor.executemany(f"INSERT INTO llmquota.{into} VALUES ({', '.join(['%s'] * len(rows[0]))})", rows)


def as_numeric(billionths):
    """An amount as it is written."""
    return f'{billionths // UNIT}.{billionths % UNIT:09}'


def since(at):
    return '-infinity' if at == ALWAYS else datetime.datetime.fromtimestamp(at / 1e6, datetime.timezone.utc).isoformat()
