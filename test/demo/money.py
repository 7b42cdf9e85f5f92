"""What calls cost, in the clinics' currency, and what each clinic has spent in a day, by the clients' own logs."""
from collections import defaultdict
from decimal import ROUND_HALF_UP, Decimal

from config import day_of
from oracle import used_by

MILLION = 1_000_000
SMALLEST = Decimal("0.000000001")


class Money:
    def __init__(self, db):
        self.price = {row.model: (row.input, row.output) for row in db.execute("SELECT model, input, output FROM llmquota.price")}
        self.rate = db.execute("SELECT rate FROM llmquota.exchange_rate WHERE currency = 'USD'").fetchone().rate
        self.budgets = {row.subject: row for row in db.execute("SELECT subject, amount, timezone FROM llmquota.budget")}

    def budget(self, org):
        return self.budgets.get(org, self.budgets["*"])

    def cost(self, model, tokens):
        price = self.price[model]
        dollars = sum(count * each for count, each in zip(tokens, price)) / MILLION
        rounded = dollars.quantize(SMALLEST, ROUND_HALF_UP)
        return (rounded * self.rate).quantize(SMALLEST, ROUND_HALF_UP)

    def cost_of(self, call):
        """What a call used, or what it reserved where that is not known or less."""
        reserved, used = self.cost(call.model, call.reserved), used_by(call)
        return reserved if used is None else min(reserved, self.cost(call.model, used))

    def spent(self, calls):
        """{(clinic, day): what its calls cost}."""
        days = defaultdict(Decimal)
        for call in calls:
            if call.outcome != "released":
                day = day_of(self.budget(call.org), call.granted_at)
                days[call.org, day] += self.cost_of(call)
        return days

    def worst(self, calls):
        """The clinic that is furthest over its budget, or nearest to it: (name, amount, spent); and how many are over."""
        uses = [(org, self.budget(org).amount, spent) for (org, _), spent in self.spent(calls).items()]
        return max(uses, key=lambda use: use[2] / use[1]), sum(spent > amount for _, amount, spent in uses)
