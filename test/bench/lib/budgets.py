"""Picks that budgets count: against those that only quotas do."""

from contestants import ORGS
from table import compare, interleave

CLIENTS = 8
BELOW = 10

PRICES = ("INSERT INTO llmquota.model (model, provider) VALUES ('small', 'openai')",
          "INSERT INTO llmquota.price (model, input, output) VALUES ('gpt-4o', 2.5, 10), ('small', 0.1, 0.4)",
          "UPDATE llmquota.model SET downgrade_to = 'small' WHERE model = 'gpt-4o'")


def budget(scope, downgrade_at):
    return ("INSERT INTO llmquota.budget (scope, subject, amount, currency, downgrade_at) "
            f"VALUES ('{scope}', '*', 1000000, 'THB', {downgrade_at})")


def make(bench, database, *statements):
    bench.make_database(database, keys=12)
    bench.cluster.sql(database, *PRICES, "INSERT INTO llmquota.exchange_rate (currency, rate) VALUES ('THB', 0.028)",
                      *statements)
    bench.make_lease_pages(database)


def budgets(bench):
    """An org's budget far from its threshold, one from whose first satang on a smaller model answers, and a parent's too."""
    bench.say("making budgets")
    make(bench, "plain")
    make(bench, "budget", budget("org", 0.8))
    make(bench, "downgrade", budget("org", 0))
    make(bench, "parent", budget("org", 0.8),
         f"INSERT INTO llmquota.org (org) SELECT 'group-' || n FROM generate_series(1, {ORGS // BELOW}) n",
         f"UPDATE llmquota.org SET parent = 'group-' || (split_part(org, '-', 2)::int - 1) / {BELOW} + 1 "
         "WHERE org LIKE 'clinic-%'",
         "INSERT INTO llmquota.budget (scope, subject, amount, currency) "
         "SELECT 'parent', org, 1000000, 'THB' FROM llmquota.org WHERE org LIKE 'group-%'")
    measures = {name: lambda name=name: bench.pick(CLIENTS, "off", database=name)
                for name in ("plain", "budget", "downgrade", "parent")}
    bench.warm_up(*measures.values())
    figures = interleave(measures, bench.rounds)
    what = f"off, {CLIENTS} clients"
    return [compare(f"pick with an org's budget, {what}", figures, "budget", "plain", 0.85),
            compare(f"pick that is downgraded, {what}", figures, "downgrade", "plain", 0.85),
            compare(f"pick with an org's budget and its parent's, {what}", figures, "parent", "plain", 0.7)]
