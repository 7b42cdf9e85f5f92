"""A pick that names its request, so that it is made once, against one that does not."""

from contestants import DATABASE, MODES, RANDOM_ORG
from postgres import Script
from rates import PICK, plural
from shell import Failure
from table import compare, interleave

CLIENTS = (1, 8, 32)
ONCE = "pick with request_id"
REQUEST = "\\set q random(100000000000, 999999999999)\n"
BAR = 0.8
LONGER = 3  # times as long as other runs: each connection has seen most of the cells then, as those of a pool have


def granted(bench, name, request, clients, mode):
    bench.free_leases()
    ttl_ms = bench.seconds * 1000 + 1000
    text = f"SELECT * FROM llmquota_pick('gpt-4o', 'clinic-' || :r, 1200, 500, {request}ttl_ms => {ttl_ms});\n"
    rate, count = bench.run(Script(name.replace(" ", "_"), RANDOM_ORG + REQUEST + text), clients, mode)
    leases = bench.in_flight()
    if leases < count:
        raise Failure(f"of {count} picks by {name} only {leases} were granted")
    return rate


def once(bench):
    """The window is that of a run: places are used again, as they are in a day, and cells are there beforehand."""
    bench.seconds *= LONGER
    window = 1000 * bench.seconds
    bench.cluster.sql(DATABASE, f"UPDATE llmquota.setting SET value = '{window}' WHERE name = 'idempotency_window'")
    measures = {PICK: "session => 'deadbeef-0000-4000-8000-' || :q, ",
                ONCE: "request_id => 'deadbeef-0000-4000-8000-' || :q, "}
    rows = []
    for mode in MODES:
        for clients in CLIENTS:
            bench.say(f"once, {mode}, {plural(clients)}")
            contestants = {name: lambda what=(name, text): granted(bench, *what, clients, mode)
                           for name, text in measures.items()}
            interleave(contestants, 1)
            figures = interleave(contestants, bench.rounds)
            rows.append(compare(f"{ONCE}, {mode}, {plural(clients)}", figures, ONCE, PICK, BAR))
    cells = int(bench.cluster.value(DATABASE, "SELECT count(*) FROM llmquota.request_page"))
    bench.say(f"once: {cells} cells of requests by now")
    bench.seconds //= LONGER
    return rows
