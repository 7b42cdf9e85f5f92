"""Refusals, crowds, pools of keys and of leases, chains that are cooling: picks that look further than for one of 12 keys,
or a free slot."""

import statistics

from shell import Failure
from table import Row, compare, interleave, per_second

CLIENTS = 8
CROWD, FREE = 10_000, 10
POOLS = (10, 1_000, 10_000)
SLOTS, TIMED = 100_000, 100
CANDIDATES = 100


def make_single(bench):
    """One key, whose account has had its one request of the day."""
    bench.make_database("single", keys=1, accounts=1)
    bench.cluster.sql("single", "UPDATE llmquota.quota SET amount = 1 WHERE scope = 'account' AND calendar = 'day'")
    exhaust(bench, "single", "gpt-4o", 1)


def make_crowd(bench):
    """Two models: "gpt-4o" is served by all keys, "spent" by all but the free ones; a key has one request a day."""
    bench.make_database("crowd", keys=CROWD)
    bench.cluster.sql(
        "crowd",
        "INSERT INTO llmquota.model (model, provider) VALUES ('spent', 'openai')",
        "INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES ('key', '*', 'requests', 1, '1 day')",
        "INSERT INTO llmquota.quota (scope, subject, metric, amount, per) "
        f"SELECT 'key', key, 'requests', 1000000000, '1 day' FROM llmquota.key ORDER BY key LIMIT {FREE}",
        f"UPDATE llmquota.key SET models = '{{gpt-4o}}' WHERE key <= 'key-{FREE:05}'")
    exhaust(bench, "crowd", "spent", CROWD - FREE)


def exhaust(bench, database, model, keys):
    """Picks until nothing is left: as often as there are keys, then refused."""
    granted = bench.picks(database, keys, model)
    spent = bench.cluster.value(database, f"SELECT status FROM llmquota_pick('{model}', 'clinic-1')")
    if spent != "over_capacity" or granted != keys:
        raise Failure(f"{keys} keys of {database} granted {granted} picks, and another was answered {spent}")


def refused(bench, database, model):
    """Rate of picks that are all refused."""
    before = bench.in_flight(database)
    rate, _ = bench.run(bench.pick_script(database, model), CLIENTS, "off", database=database)
    if bench.in_flight(database) > before:
        raise Failure(f"a pick for {model} in {database} was granted")
    return rate


def refusals(bench):
    bench.say("making 10,000 keys and exhausting 9,990")
    make_single(bench)
    make_crowd(bench)
    granted, one = "granted of 12", "refused, one candidate"
    find, none = "free one of 10,000", "refused, 10,000 exhausted"
    measures = {granted: lambda: bench.pick(CLIENTS, "off"),
                one: lambda: refused(bench, "single", "gpt-4o"),
                find: lambda: bench.pick(CLIENTS, "off", database="crowd"),
                none: lambda: refused(bench, "crowd", "spent")}
    bench.warm_up(*measures.values())
    bench.say("refusals")
    figures = interleave(measures, bench.rounds)
    return [compare(f"pick {name}, off, {CLIENTS} clients", figures, name, granted, bar)
            for name, bar in ((one, 1.0), (find, 0.3), (none, 0.5))]


def make_pool(bench, keys):
    """A pool of keys with a limit each, all of whose meters exist."""
    database = f"pool{keys}"
    bench.make_database(database, keys=keys, limited=("key",))
    bench.make_lease_pages(database)
    return database


def pools(bench):
    bench.say("making pools of keys")
    databases = {keys: make_pool(bench, keys) for keys in POOLS}
    measures = {keys: lambda database=database: bench.pick(CLIENTS, "off", database=database)
                for keys, database in databases.items()}
    bench.warm_up(*measures.values())
    megabytes = 2 * max(bench.live_bytes(database) for database in databases.values()) // 2**20 + 1
    bench.say(f"pools, shared_buffers = {megabytes} MB")
    bench.cluster.restart(shared_buffers=f"{megabytes}MB")
    bench.warm_up(*measures.values())
    figures = interleave(measures, bench.rounds)
    bench.cluster.restart()
    rates = {keys: statistics.median(figures[keys]) for keys in POOLS}
    share = statistics.median(min(r) / max(r) for r in zip(*figures.values()))
    slowest, fastest = min(rates, key=rates.get), max(rates, key=rates.get)
    return [Row(f"pick, slowest of pools of 10, 1,000 and 10,000 keys, off, {CLIENTS} clients",
                f"{slowest:,} keys {per_second(figures[slowest])}",
                f"{fastest:,} keys {per_second(figures[fastest])}", f"{share:.2f}", ">= 0.70", share >= 0.7)]


def make_slots(bench, database, free):
    """A pool of leases with all its pages, of which those are free that the condition on n says."""
    bench.make_database(database, keys=12)
    bench.cluster.sql(
        database, f"UPDATE llmquota.setting SET value = '{SLOTS}' WHERE name = 'max_leases'",
        """CREATE FUNCTION timed(picks int, expected text) RETURNS double precision LANGUAGE plpgsql AS $$
           DECLARE
               began CONSTANT timestamptz := clock_timestamp();
           BEGIN
               ASSERT picks = (SELECT count(*) FROM generate_series(1, picks) n, llmquota_pick('gpt-4o', 'timed',
                   session => n::text, ttl_ms => 86400000) p WHERE p.status = expected), 'not ' || expected;
               RETURN picks / extract(epoch FROM clock_timestamp() - began);
           END $$""")
    if bench.picks(database, SLOTS, ttl_ms=86_400_000) != SLOTS:
        raise Failure(f"{database} does not have {SLOTS} slots")
    bench.cluster.sql(database, "SET synchronous_commit = off", "SELECT count(llmquota_release(lease)) FROM (SELECT "
                      f"lease, row_number() OVER (ORDER BY lease) n FROM llmquota.lease) l WHERE {free}")


def timed(bench, database, expected):
    """Rate of picks in a session that knows where the pages are; the pool is as full as before when they have ended."""
    rows = bench.cluster.sql(database, "SET synchronous_commit = off", "SELECT count(*) FROM llmquota.lease",
                             f"SELECT timed(10, '{expected}')", f"SELECT timed({TIMED}, '{expected}')")
    bench.cluster.sql(database, "SELECT count(llmquota_release(lease)) FROM llmquota.lease WHERE org = 'timed'")
    return float(rows[-1][0])


def slots(bench):
    pools = {"empty": "true", "spread": "n % 20 = 0", "together": f"n > {SLOTS} * 0.95", "full": "false"}
    bench.say(f"filling pools of {SLOTS:,} leases")
    for name, free in pools.items():
        make_slots(bench, f"slots_{name}", free)
    measures = {name: lambda name=name: timed(bench, f"slots_{name}", "no_lease_slot" if name == "full" else "granted")
                for name in pools}
    bench.warm_up(*measures.values())
    figures = interleave(measures, 3 * bench.rounds)
    what = "pick in a pool of leases 95 % full, free ones"
    return [compare(f"{what} {name}, off, 1 session", figures, name, "empty", 0.5)
            for name in ("spread", "together")] + [
        compare("refused pick in a pool of leases all taken, off, 1 session", figures, "full", "empty")]


def make_chain(bench, database, cooling):
    """A route of three steps with 34, 33 and 33 keys in 20 accounts; the pairs of account and step cool for a day that the
    condition on the number of the account and the step says. They must be half of the keys."""
    bench.make_database(database, keys=CANDIDATES, accounts=20)
    bench.make_lease_pages(database)
    bench.cluster.sql(
        database,
        "INSERT INTO llmquota.model (model, provider) SELECT 'step-' || n, 'openai' FROM generate_series(1, 3) n",
        "INSERT INTO llmquota.route (route, step, model) SELECT 'chain', n, 'step-' || n FROM generate_series(1, 3) n",
        "UPDATE llmquota.key SET models = ARRAY['step-' || (right(key, 5)::int - 1) % 3 + 1]",
        "CREATE VIEW chain AS SELECT key, account, replace(account, 'account-', '')::int AS n, models[1] AS model, "
        "right(models[1], 1)::int AS step FROM llmquota.key",
        "SELECT r.* FROM (SELECT account, model, array_agg(key) AS keys FROM chain "
        f"WHERE {cooling} GROUP BY 1, 2) c, llmquota_pick(c.model, exclude => ARRAY(SELECT key FROM chain WHERE key <> ALL "
        "(c.keys))) p, llmquota_record(p.lease, http_status => 429, headers => '{\"retry-after\": \"86400\"}') r")
    cool = int(bench.cluster.value(database, f"SELECT count(*) FROM chain WHERE {cooling}"))
    if not 0.49 <= cool / CANDIDATES <= 0.51:
        raise Failure(f"{cool} of the keys of {database} are cooling")


def cooling(bench):
    chains = {"of each step": "n <= 10", "the first of the chain": "step = 1 OR step = 2 AND n <= 10"}
    bench.say(f"making chains of {CANDIDATES} keys, half of them cooling")
    measures = {"plain": lambda: bench.pick(CLIENTS, "off")}
    for number, (name, condition) in enumerate(chains.items()):
        database = f"chain{number}"
        make_chain(bench, database, condition)
        measures[name] = lambda database=database: bench.pick(CLIENTS, "off", database=database, model="chain")
    bench.warm_up(*measures.values())
    figures = interleave(measures, bench.rounds)
    return [compare(f"pick, 3 steps, {CANDIDATES} keys, half cooling: {name}, off, {CLIENTS} clients", figures, name, "plain",
                    0.6) for name in chains]
