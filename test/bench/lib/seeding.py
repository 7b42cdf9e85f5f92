"""How long maintenance takes to tell new windows what was used before they began, from a large ledger."""

import os
import re
import statistics

from contestants import ORGS
from shell import Failure, run
from table import Row, limit

DATABASE = "seeding"
ROWS = int(os.environ.get("BENCH_SEED_ROWS", 1_000_000))
LIMIT_MS = 100
MAINTAIN = "SELECT windows_completed FROM llmquota_maintain()"


def fill(bench):
    """Calls of the last 50 minutes, counted by the hour and vacuumed, as maintenance and autovacuum leave them."""
    bench.make_database(DATABASE, keys=12)
    bench.cluster.sql(
        DATABASE,
        "INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org, attempt, route, model, provider, account, "
        "key, status, reserved_input, reserved_output, input_tokens, output_tokens, usage_source, recorded_in) "
        "SELECT gen_random_uuid(), at, at, 'clinic-' || n % "
        f"{ORGS} + 1, 1, 'gpt-4o', 'gpt-4o', 'openai', 'account-' || n % 5 + 1, "
        "'key-' || to_char(n % 12 + 1, 'FM00000'), "
        f"'ok', 1200, 500, 1180, 312, 'reported', 1 FROM generate_series(1, {ROWS}) n, "
        f"LATERAL (SELECT now() - interval '50 minutes' * (1 - n / {ROWS}.0) AS at) t")
    while bench.cluster.value(DATABASE, "SELECT work_left FROM llmquota_maintain()") == "t":
        pass
    bench.cluster.sql(DATABASE, "VACUUM ANALYZE")
    bench.cluster.checkpoint()


def timed(bench, quota, picks):
    """Milliseconds of the maintenance that completes the new windows of a quota; the median over the rounds, in one
    session, after one to get warm. `picks` begins the windows."""
    text = []
    for n in range(bench.rounds + 1):
        text += [f"UPDATE llmquota.quota SET per = interval '{120 + n} minutes' WHERE id = {quota};", f"{picks};",
                 "\\timing on", f"{MAINTAIN};", "\\timing off"]
    out = run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", DATABASE, text="\n".join(text), env=bench.env)
    times = [float(time) for time in re.findall(r"^Time: ([\d.]+) ms", out, re.M)]
    if len(times) != bench.rounds + 1:
        raise Failure(f"seeding: {out[-1000:]}")
    return statistics.median(times[1:])


def new_quota(bench, scope, subject):
    return bench.cluster.value(
        DATABASE, "INSERT INTO llmquota.quota (scope, subject, metric, amount, per) "
                  f"VALUES ('{scope}', '{subject}', 'tokens', 1000000000000, '2 hours') RETURNING id")


def used(bench, quota):
    return int(bench.cluster.value(DATABASE, "SELECT sum(used) FROM llmquota.meter_window "
                                             f"WHERE quota = {quota} AND NOT seeding"))


def seeding(bench):
    bench.say(f"making {ROWS:,} rows")
    fill(bench)
    everything = new_quota(bench, "global", "")
    one = timed(bench, everything, "SELECT status FROM llmquota_pick('gpt-4o', 'clinic-1')")
    by_org = new_quota(bench, "org", "*")
    many = timed(bench, by_org, f"SELECT count(*) FROM generate_series(1, {ORGS}) n, "
                                "llmquota_pick('gpt-4o', 'clinic-' || n)")
    for quota in everything, by_org:
        if used(bench, quota) < ROWS * (1180 + 312):
            raise Failure("a window was not told of all calls")
    return [limit(f"maintenance that completes a new window with {ROWS:,} rows in it", one, "ms", LIMIT_MS),
            Row(f"the same, {ORGS} windows, one for each org, at once", f"{many:,.1f} ms")]
