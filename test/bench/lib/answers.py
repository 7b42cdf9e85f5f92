"""Answers: a get of a fresh one against the plain SELECT that it stands for, and many who miss one at once."""

from contestants import DATABASE
from postgres import Script
from rates import plural
from shell import Failure
from table import Row, compare, interleave

CLIENTS = (1, 8, 32)
ANSWERS = 10_000
GET, SELECT = "cache get (fresh)", "SELECT"
BAR = 0.5

MANY = 100
KEYS = 10

HASH = f"\\set h random(1, {ANSWERS})\n"
ANSWER = "jsonb_build_object('id', h, 'text', repeat('x', 400))"
SCRIPTS = {
    GET: "SELECT * FROM llmquota_cache_get('faq', 'hash ' || :h, 'clinic');\n",
    SELECT: "SELECT answer, stored_at, fresh_until FROM bench.cached WHERE namespace = 'faq' AND org = 'clinic' AND "
            "hash = 'hash ' || :h AND stale_until > clock_timestamp();\n",
}
MISS = (f"\\set k random(1, {KEYS})\n"
        "INSERT INTO bench.told SELECT :k FROM llmquota_cache_get('faq', 'missing ' || :k, 'clinic') g WHERE g.refresh;\n")


def prepare(bench):
    """The same answers on both sides, fresh for long."""
    bench.cluster.sql(
        DATABASE, "SET synchronous_commit = off", "DROP TABLE IF EXISTS bench.cached, bench.told",
        "CREATE TABLE bench.cached (namespace text, org text, hash text, answer jsonb, stored_at timestamptz, "
        "fresh_until timestamptz, stale_until timestamptz, PRIMARY KEY (namespace, org, hash))",
        f"SELECT count(*) FROM generate_series(1, {ANSWERS}) h, llmquota_cache_put('faq', 'hash ' || h, {ANSWER}, "
        "86400000, org => 'clinic')",
        "INSERT INTO bench.cached SELECT namespace, org, hash, answer, stored_at, fresh_until, stale_until "
        "FROM llmquota.answer", "VACUUM ANALYZE bench.cached", "VACUUM ANALYZE llmquota.answer",
        "CREATE UNLOGGED TABLE bench.told (key int)",
        "UPDATE llmquota.setting SET value = '3600000' WHERE name = 'answer_refresh'")


def rate_of(bench, name, clients):
    return bench.run(Script(name.split(" (")[0].replace(" ", "_"), HASH + SCRIPTS[name]), clients, "off")[0]


def misses(bench):
    """Each of some keys is asked for by everybody all the time, and nobody stores an answer."""
    bench.say(f"answers, {MANY} clients miss {KEYS} keys")
    rate, count = bench.run(Script("cache_miss", MISS), MANY, "off")
    told = [int(row[0]) for row in bench.cluster.sql(DATABASE, "SELECT count(*) FROM bench.told GROUP BY key")]
    exact = told == [1] * KEYS
    return Row(f"cache get of {KEYS} missing keys, {plural(MANY)}", f"{rate:,.0f}/s", f"{count:,} gets",
               f"{sum(told)} refresh", f"{KEYS}", exact)


def answers(bench):
    prepare(bench)
    bench.warm_up(*(lambda what=name: rate_of(bench, what, 8) for name in SCRIPTS))
    rows = []
    for clients in CLIENTS:
        bench.say(f"answers, {plural(clients)}")
        figures = interleave({name: lambda what=name: rate_of(bench, what, clients) for name in SCRIPTS}, bench.rounds)
        rows.append(compare(f"{GET}, {plural(clients)}", figures, GET, SELECT, BAR))
    count = bench.cluster.value(DATABASE, "SELECT count(*) FROM llmquota.answer")
    if int(count) != ANSWERS:
        raise Failure(f"there are {count} answers in place of {ANSWERS}")
    return rows + [misses(bench)]
