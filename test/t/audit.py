"""Holds what was granted and settled against budgets, from the clients' own logs, by definition: nothing here knows how
the server counts.

A call is charged from the instant it was granted with the most that it may cost, and from the instant it was settled
with what it did cost. Where a log cannot tell when or whether a change took place (its transaction was rolled back, so
that no row tells the time) there are two sums: the least and the most that can be charged. A budget is kept when with
the least sum each call fitted that was granted; the server must show a sum between the two.

Run as a program, it shows that it notices what it is to notice.
"""
import heapq
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field

from tariff import Tariff, Tokens

REMEMBERED = 400  # sums of a window, for what it came to lately


@dataclass(frozen=True)
class Budget:
    id: int
    scope: str
    currency: str
    amount: int
    family: str = None
    subject: str = '*'  # each by itself
    length: int = None  # of a sliding window, in microseconds; None: of a calendar
    refuses: bool = True
    free_when_spent: bool = False
    steps: tuple = ()  # (fraction of the amount as Fraction, model)


@dataclass
class End:
    """A record or a release, as it was asked for and answered."""
    way: str  # tokens, input, nothing, cost, refused, released
    number: str = None  # in the tags of its row
    tokens: Tokens = None
    cost: int = None
    sent: int = None
    answered: int = None
    closed: int = None  # its transaction
    status: str = None
    told: tuple = None  # (cost, currency)
    kept: bool = True  # by its transaction


@dataclass
class Lease:
    id: str
    org: str
    key: str
    account: str
    requested: str
    model: str
    input: int
    output: int
    max_cost: int
    sent: int
    granted_at: int
    short: bool = False  # it expires before it is recorded
    ends: list = field(default_factory=list)


def cost_of(tariff, lease, end=None):
    """What a call is charged in the currency of its price: when it was granted, or has ended so."""
    at = lease.granted_at
    if end is None or end.way == 'nothing':
        return tariff.worst(lease.model, lease.input, lease.output, at) if lease.max_cost is None else lease.max_cost
    if end.way == 'input' and lease.output > 0:
        return tariff.worst(lease.model, 0, lease.output, at, end.tokens)
    if end.way in ('tokens', 'input'):
        return tariff.cost(lease.model, end.tokens, at)
    return end.cost if end.way == 'cost' else 0


def is_effective(end):
    return end.status in ('settled', 'settled_late', 'released')


def possible_costs(tariff, lease):
    """What the ledger may have, once maintenance has been there. An end without an answer may have been or not."""
    costs = {cost_of(tariff, lease)}
    for end in lease.ends:
        if end.status is None or (end.status == 'settled_late' and not end.kept):
            costs.add(cost_of(tariff, lease, end))
        elif is_effective(end):
            costs = {cost_of(tariff, lease, end)}
    return costs


class Window:
    """What one budget has counted of one subject: the least and the most that it may be."""

    def __init__(self, budget, subject):
        self.budget, self.subject = budget, subject
        self.sum = [0, 0]
        self.excess = 0  # of what was settled since something was last granted
        self.entries = []  # of a sliding window, a heap: [at, number, amount, lease]
        self.of_lease = defaultdict(list)  # its entries: what was reserved, what it exceeded that by
        self.number = 0
        self.recent = deque([(0, 0)], REMEMBERED)  # (when, the most) of a calendar
        self.looks = []

    def advance(self, at):
        while self.entries and self.entries[0][0] < at - self.budget.length:
            entry = heapq.heappop(self.entries)
            self.sum[0] -= entry[2]
            self.of_lease[entry[3]].remove(entry)
            if not self.of_lease[entry[3]]:
                del self.of_lease[entry[3]]

    def enter(self, at, charge, lease):
        self.number += 1
        entry = [at, self.number, charge, lease]
        heapq.heappush(self.entries, entry)
        self.of_lease[lease].append(entry)

    def take_back(self, lease, amount):
        """What of it still counts, the last first: when the server has taken it back elsewhere it counts no less."""
        taken = 0
        for entry in reversed(self.of_lease.get(lease, [])):
            part = min(amount - taken, entry[2])
            entry[2] -= part
            taken += part
        return taken

    def admits(self, charge):
        budget = self.budget
        if not budget.refuses or (budget.free_when_spent and charge == 0):
            return True
        return self.sum[0] + max(charge, 1) <= budget.amount

    def add(self, at, bound, charge):
        self.sum[bound] += charge
        if bound == 1:
            self.recent.append((at, self.sum[1]))
        for look in self.looks:
            look.note(self)

    def grant(self, at, lease, charge):
        for bound in (0, 1):
            self.add(at, bound, charge)
        if charge:
            self.excess = 0
        if self.budget.length:
            self.enter(at, charge, lease)

    def change(self, at, bound, lease, charge, since):
        """since: when what it is charged more counts at least. False when the budget is overdrawn by more than calls in flight have come to cost."""
        if self.budget.length and bound == 1:
            return True
        if self.budget.length and charge < 0:
            charge = -self.take_back(lease, -charge)
        elif self.budget.length and since < at - self.budget.length:
            return True
        elif self.budget.length:
            self.enter(since, charge, lease)
        self.add(at, bound, charge)
        if bound == 0 and charge > 0:
            self.excess += charge
        return not self.budget.refuses or self.sum[0] <= self.budget.amount + self.excess

    def steps(self, most=None):
        """How many steps were certainly reached; or with the most that it came to."""
        used = self.sum[0] if most is None else most
        return sum(used > 0 and used >= self.budget.amount * at for at, _ in self.budget.steps)

    def most_since(self, at):
        most = self.sum[1]
        for when, amount in reversed(self.recent):
            most = max(most, amount)
            if when < at:
                return most
        return most


class Look:
    """What windows came to while somebody looked."""

    def __init__(self, used):
        self.used, self.range = used, {}

    def note(self, window):
        least, most = self.range.get(window, window.sum)
        self.range[window] = (min(least, window.sum[0]), max(most, window.sum[1]))


class Audit:
    """family: of a model by name; parents: of an org itself and those above it; dearness: a number by model."""

    def __init__(self, tariff, budgets, family, parents, dearness):
        self.tariff, self.family, self.parents, self.dearness = tariff, family, parents, dearness
        self.budgets = defaultdict(list)
        for budget in budgets:
            self.budgets[budget.scope, budget.subject].append(budget)
        self.windows = {}
        self.counts = Counter()
        self.problems = []

    def window(self, budget, subject):
        if (budget.id, subject) not in self.windows:
            self.windows[budget.id, subject] = Window(budget, subject)
        return self.windows[budget.id, subject]

    def windows_of(self, lease):
        subjects = {'global': [''], 'org': [lease.org], 'key': [lease.key], 'account': [lease.account],
                    'parent': self.parents(lease.org)}
        family = self.family(lease.model)
        return [self.window(budget, subject) for scope, names in subjects.items() for subject in names
                for budget in self.budgets[scope, '*'] + self.budgets.get((scope, subject), [])
                if budget.family in (None, family)]

    def complain(self, lease, what):
        self.problems.append(f'{lease.id} of {lease.org}, {lease.model} at {lease.granted_at}: {what}')

    # what a log says, as events: (when, before others of that instant, what to do, arguments)

    def events_of(self, lease, recorded):
        """recorded: (when, number) of the lease's row; both None where there is none yet."""
        windows = self.windows_of(lease)
        currency = self.tariff.currency(lease.model, lease.granted_at)
        charged = [cost_of(self.tariff, lease)] * 2
        yield lease.granted_at, 1, self.grant, (lease, windows, self.in_all(lease, windows, charged[0], currency))
        for end in lease.ends:
            if not is_effective(end):
                continue
            now = cost_of(self.tariff, lease, end)
            if end.status != 'released' and end.told != (now, currency):
                self.complain(lease, f'{end} should cost {now} {currency}')
            for bound in (0, 1):
                at = self.when(lease, end, recorded, bound, now < charged[bound])
                if at is not None:
                    # a late record may have been given back before what it is charged now, or not
                    since = lease.granted_at if lease.short else end.sent if at == end.answered else at
                    yield at, 0, self.change, (lease, bound, since, windows, self.in_all(lease, windows, now, currency), [
                        -charge for charge in self.in_all(lease, windows, charged[bound], currency)])
                    charged[bound] = now

    def in_all(self, lease, windows, cost, currency):
        converted = {to: self.tariff.convert(cost, currency, to, lease.granted_at)
                     for to in {window.budget.currency for window in windows}}
        return [converted[window.budget.currency] for window in windows]

    def when(self, lease, end, recorded, bound, is_less):
        """When a change is in the least sum (bound 0), or in the most (1); None: never."""
        at, number = recorded
        if end.status != 'settled_late' and end.kept and number == end.number and at is not None:
            if not end.sent <= at <= end.closed:
                self.complain(lease, f'recorded at {at}, which is not while {end}')
            return at
        if is_less == (bound == 0):
            return end.sent
        if end.status != 'settled_late':
            return end.answered
        # less is given back only where the slot is there still; of a rollback nobody knows
        return end.closed if end.kept and not is_less else None

    # what is done with them

    def grant(self, at, lease, windows, charges):
        self.counts['grants'] += 1
        for window, charge in zip(windows, charges):
            if window.budget.length:
                window.advance(at)
            if not window.admits(charge):
                self.complain(lease, f'{charge} was granted with {window.sum[0]} of {window.budget} {window.subject!r}')
        self.judge_model(at, lease, windows)
        for window, charge in zip(windows, charges):
            window.grant(at, lease.id, charge)

    def judge_model(self, at, lease, windows):
        """No dearer model than the steps say that were reached, and no cheaper one than they said lately."""
        dearness = self.dearness[lease.model]
        for window in windows:
            steps, budget = window.steps(), window.budget
            if steps and dearness > self.dearness[budget.steps[steps - 1][1]]:
                self.complain(lease, f'too dear with {window.sum[0]} of {budget} {window.subject!r}')
        if dearness == self.dearness[lease.requested]:
            return
        self.counts[f'downgraded to {lease.model}'] += 1
        stepped = [window for window in windows if window.budget.steps]
        if any(window.budget.length for window in stepped):
            return
        for window in stepped:
            steps = window.steps(window.most_since(lease.sent))
            if steps and dearness >= self.dearness[window.budget.steps[steps - 1][1]]:
                return
        self.complain(lease, f'downgraded for {[(window.sum, window.budget) for window in stepped]}')

    def change(self, at, lease, bound, since, windows, after, before):
        for window, charge in zip(windows, map(sum, zip(after, before))):
            if charge == 0:
                continue
            if window.budget.length:
                window.advance(at)
            if not window.change(at, bound, lease.id, charge, since):
                self.complain(lease, f'{window.sum[0]} of {window.budget} {window.subject!r} is more than what calls in '
                                     f'flight exceeded')
            if bound == 0 and window.budget.refuses and window.sum[0] > window.budget.amount:
                self.counts['debts'] += 1

    def look_begins(self, at, look):
        for window in look.used:
            look.note(window)
            window.looks.append(look)

    def look_ends(self, at, look):
        self.counts['looks'] += 1
        for window, amount in look.used.items():
            window.looks.remove(look)
            least, most = look.range[window]
            if not least <= amount <= most:
                self.problems.append(f'{window.budget} {window.subject!r} showed {amount}, the log says {least} to {most}')

    def look_events(self, sent, answered, used):
        look = Look({self.window(budget, subject): amount for budget, subject, amount in used})
        yield sent, -1, self.look_begins, (look,)
        yield answered, 2, self.look_ends, (look,)

    def replay(self, leases, recorded, looks=()):
        """leases: all that were granted; recorded: {lease: (when, number)}; looks: (sent, answered, [(budget, subject,
        used)]) of calendars."""
        events = [event for lease in leases for event in self.events_of(lease, recorded.get(lease.id, (None, None)))]
        events += [event for look in looks for event in self.look_events(*look)]
        for at, _, act, arguments in sorted(events, key=lambda event: event[:2]):
            act(at, *arguments)

    def compare(self, used):
        """With what the server shows when nothing is under way, {(budget's id, subject): used}; that is then taken for
        what is."""
        for (budget, subject), window in self.windows.items():
            amount = used.get((budget, subject), 0)
            if window.budget.length:
                continue
            if not window.sum[0] <= amount <= window.sum[1]:
                self.problems.append(f'{window.budget} {subject!r} shows {amount}, the log says {window.sum}')
            window.sum = [amount, amount]


def check():
    from fractions import Fraction

    from tariff import ALWAYS, Price

    tariff = Tariff({'dear': [(ALWAYS, Price('10', '0'))], 'free': [(ALWAYS, Price('0', '0'))]}, {})
    steps = ((Fraction(4, 5), 'free'),)

    def problems(budget, *calls, looks=()):
        audit = Audit(tariff, [budget], lambda model: None, lambda org: [org], {'dear': 1, 'free': 0})
        audit.replay(calls, {call.id: (call.ends[-1].sent + 1, '1') for call in calls if call.ends},
                     [(sent, answered, [(budget, 'o', amount)]) for sent, answered, amount in looks])
        return len(audit.problems)

    def call(number, at, input, model='dear', requested='dear', end=None, **how):
        lease = Lease(str(number), 'o', 'k', 'a', requested, model, input, 0, None, at - 5, at)
        if end is not None:
            tokens = {'sent': at + 10, 'answered': at + 12, 'closed': at + 12, 'number': '1', 'tokens': Tokens(end),
                      'status': 'settled', 'told': (end * 10_000, 'USD'), **how}
            lease.ends.append(End('tokens', **tokens))
        return lease

    day = Budget(1, 'org', 'USD', 1_000_000)
    assert not problems(day, call(1, 100, 60), call(2, 101, 40))
    assert problems(day, call(1, 100, 60), call(2, 101, 41))
    assert problems(day, call(1, 100, 100), call(2, 101, 0, 'free')), 'what is free needs something to be left'
    assert not problems(day, call(1, 100, 100, end=50), call(2, 111, 50)), 'settled for less at 111'
    assert problems(day, call(1, 100, 100, end=50), call(2, 110, 50))
    assert not problems(day, call(1, 100, 90, end=200)), 'a debt of what was in flight'
    assert problems(day, call(1, 100, 90, end=200), call(2, 111, 1))
    assert problems(day, call(1, 100, 50, end=60, told=(1, 'USD')))
    assert not problems(day, call(1, 100, 100, end=0, kept=False), call(2, 111, 100)), 'it may have been before'
    assert not problems(day, call(1, 100, 50), looks=[(99, 101, 500_000), (99, 101, 0), (101, 102, 500_000)])
    assert problems(day, call(1, 100, 50), looks=[(99, 101, 250_000)]) == 0, 'between the two'
    assert problems(day, call(1, 100, 50), looks=[(101, 102, 499_999)])
    sliding = Budget(1, 'org', 'USD', 1_000_000, length=50)
    assert problems(sliding, call(1, 100, 60), call(2, 150, 41)), 'both ends belong to an interval'
    assert not problems(sliding, call(1, 100, 60), call(2, 151, 41))
    assert problems(sliding, call(1, 100, 10, end=100), call(2, 151, 11)), 'an excess counts from its settlement'
    downgrading = Budget(1, 'org', 'USD', 1_000_000, steps=steps, free_when_spent=True)
    assert not problems(downgrading, call(1, 100, 79), call(2, 101, 1), call(3, 102, 9, 'free'))
    assert problems(downgrading, call(1, 100, 79), call(2, 101, 1), call(3, 102, 1)), 'too dear'
    assert problems(downgrading, call(1, 100, 79), call(2, 101, 9, 'free')), 'too cheap'
    assert not problems(downgrading, call(1, 100, 90, end=0), call(2, 114, 9, 'free')), 'it was reached when it began'
    assert not problems(downgrading, call(1, 100, 90, end=0), call(2, 112, 9))


if __name__ == '__main__':
    check()
    print('ok')
