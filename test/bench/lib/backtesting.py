"""How long the replay of a large ledger under a proposed limit takes."""

import os
import re
import statistics

from contestants import ORGS
from shell import Failure, run
from table import limit

DATABASE = "backtesting"
ROWS = int(os.environ.get("BENCH_BACKTEST_ROWS", 10_000_000))
DAYS = 5                       # of those that maintenance has made leaves for
LIMIT_S = 60

# Some of what an org uses in an hour, and spends in a day: 1350 tokens and more than half a cent to a call.
QUOTA = ('{"scope": "org", "subject": "*", "metric": "tokens", "per": "1 hour", '
         f'"amount": {ROWS // DAYS // 24 // ORGS * 1000}}}')
BUDGET = ('{"subject": "*", "currency": "USD", "downgrade_to": "gpt-4o-mini", '
          f'"amount": {ROWS / DAYS / ORGS * 0.003:.4f}}}')

# A day of calls, each recorded after up to nine seconds; the order in the ledger is that of the records.
CALLS = """INSERT INTO llmquota.usage (lease, picked_at, recorded_at, org, attempt, route, model, provider, account, key,
	status, http_status, reserved_input, reserved_output, input_tokens, output_tokens, usage_source, latency_ms, cost,
	currency, cost_base, recorded_in)
SELECT gen_random_uuid(), at - lasted, at, 'clinic-' || n % {orgs} + 1, 1, 'gpt-4o', 'gpt-4o', 'openai',
	'account-' || n % 5 + 1, 'key-' || to_char(n % 12 + 1, 'FM00000'), 'ok', 200, 1200, 500, 900 + n % 300, 100 + n % 400,
	'reported', 1000, cost, 'USD', cost, 1
  FROM generate_series(1, {rows}) n,
	LATERAL (SELECT date_trunc('day', now(), 'UTC') + interval '1 day' * ({day} + n / {rows}.0) AS at,
					interval '0.1 s' + interval '9 s' * random() AS lasted,
					(900 + n % 300) * 0.0000025 + (100 + n % 400) * 0.00001 AS cost) t"""


def fill(bench):
    bench.make_database(DATABASE, keys=12)
    bench.cluster.sql(
        DATABASE,
        "INSERT INTO llmquota.model (model, provider) VALUES ('gpt-4o-mini', 'openai')",
        "INSERT INTO llmquota.price (model, input, output) VALUES ('gpt-4o', 2.5, 10), ('gpt-4o-mini', 0.15, 0.6)")
    for day in range(1, DAYS + 1):
        bench.cluster.sql(DATABASE, CALLS.format(orgs=ORGS, rows=ROWS // DAYS, day=day))
        bench.cluster.checkpoint()
    bench.cluster.sql(DATABASE, "VACUUM ANALYZE")
    bench.cluster.checkpoint()


def timed(bench, rule):
    """Seconds of a replay; the median over the rounds."""
    query = f"SELECT calls, refused + downgraded > 0 FROM llmquota_backtest('{rule}') WHERE hour IS NULL;"
    times = []
    for _ in range(bench.rounds):
        out = run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", DATABASE, text=f"\\timing on\n{query}\n", env=bench.env)
        found = re.search(r"^Time: ([\d.]+) ms", out, re.M)
        if not found or f"{ROWS // DAYS * DAYS}|t" not in out:
            raise Failure(f"backtest: {out[-1000:]}")
        times.append(float(found[1]) / 1000)
    return statistics.median(times)


def backtest(bench):
    bench.say(f"making {ROWS:,} rows")
    fill(bench)
    rows = [limit(f"replay of {ROWS:,} rows of the ledger under a quota of each org", timed(bench, QUOTA), "s", LIMIT_S),
            limit("the same, under a budget of each org that downgrades", timed(bench, BUDGET), "s", LIMIT_S)]
    bench.cluster.sql("postgres", f"DROP DATABASE {DATABASE}")
    return rows
