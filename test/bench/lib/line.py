"""Picks that wait in line: slots kept busy, handed over quickly, shared fairly, with a connection and without."""

import collections
import itertools
import os
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass

from pgbouncer import PgBouncer
from postgres import Script, pgbench
from rates import plural
from shell import BUILD, Failure, compile_c, run
from table import Row, compare, interleave, limit

DATABASE = "line"
SLOTS, CALL_MS = 15, 50
EVEN = [5] * 40
FLOOD = [150] + [5] * 9
SECONDS = 5
CONNECTIONS = 20    # that pgbouncer has
HELD_WAIT_MS, TICKET_WAIT_MS = 20_000, 50
TICKETS = 1000
TTL_MS = 120_000
MARGIN = 1_000_000    # microseconds at either end of a run that do not count

# Those who are killed, in a load in which many wait in vain.
GROUPS, GROUP = 4, [5] * 10
SHORT_WAIT_MS, SHORT_TTL_MS = 300, 2000
EXPIRY = 4    # seconds, after which no lease of the killed is left
PAUSE = threading.Event()    # nobody sets it


@dataclass
class Call:
    """One line of line_client."""
    org: int
    asked: int
    shown: int
    granted: int
    got: int
    sent: int
    arrived: int
    ended: int
    answered: int
    claims: int


class Run:
    """What the clients of a run have written down."""

    def __init__(self, out, said=""):
        lines = [line.split() for line in out.splitlines()]
        self.calls = [Call(int(words[1].split("-")[1]), *map(int, words[2:])) for words in lines if words[0] == "call"]
        self.refused = [(int(words[3]) - int(words[2])) / 1000 for words in lines if words[0] == "refused"]
        other = {words[1]: int(words[2]) for words in lines if words[0] == "other"}
        if not self.calls or other:
            raise Failure(f"the line has served {len(self.calls)} calls; answers that should not be: {other} {said}")
        self.begin = min(call.got for call in self.calls) + MARGIN
        self.end = max(call.sent for call in self.calls) - MARGIN

    def within(self, instant):
        return self.begin <= instant <= self.end

    def busy(self, since="got", until="sent"):
        """The share of the time in which a slot has a call, as the clients see it."""
        used = sum(max(0, min(getattr(call, until), self.end) - max(getattr(call, since), self.begin))
                   for call in self.calls)
        return used / SLOTS / (self.end - self.begin)

    def handed_over(self):
        """Milliseconds from a record's end in the server to when the client has its grant whom the slot went to: slots
        are alike, so the grant that follows the n-th end is the n-th one for which there was no slot before."""
        ends = sorted(call.ended for call in self.calls)
        grants = sorted(self.calls, key=lambda call: call.granted)[SLOTS:]
        return [(call.got - end) / 1000 for end, call in zip(ends, grants) if self.within(end)]

    def record_waits(self):
        """Milliseconds that records took to get to the server."""
        return [(call.arrived - call.sent) / 1000 for call in self.calls]

    def jain(self):
        served = collections.Counter(call.org for call in self.calls if self.within(call.got)).values()
        return sum(served) ** 2 / (len(served) * sum(n * n for n in served))

    def most_at_once(self, since):
        """How many calls have had slots at the same time, from then on."""
        changes = sorted([(call.granted, 1) for call in self.calls if call.granted > since] +
                         [(call.arrived, -1) for call in self.calls if call.granted > since])
        return max(itertools.accumulate(change for _, change in changes))


def percentile(figures, share):
    return sorted(figures)[min(len(figures) - 1, int(len(figures) * share))]


def command(kind, orgs, seconds, wait_ms, ttl_ms):
    return [str(word) for word in (BUILD / "line_client", kind, ",".join(map(str, orgs)), seconds, CALL_MS, wait_ms,
                                   ttl_ms)]


def environment(env):
    return {**os.environ, **env, "PGDATABASE": DATABASE, "PGOPTIONS": "-c synchronous_commit=off"}


def play(bench, kind, orgs, wait_ms, env=None):
    settle(bench)
    return Run(run(*command(kind, orgs, SECONDS, wait_ms, TTL_MS), env=environment(env or bench.cluster.env)))


def settle(bench):
    """Nobody waits, and all slots are free."""
    bench.cluster.sql(DATABASE, "SELECT llmquota_release(ticket) FROM llmquota.waiting WHERE ticket IS NOT NULL",
                      "SELECT llmquota_release(lease) FROM llmquota.lease")


def make(bench):
    compile_c("line_client.c", BUILD / "line_client", f"-I{run('pg_config', '--includedir').strip()}", "-lpq")
    bench.cluster.restart(max_connections=300)
    bench.make_database(DATABASE, keys=12)
    bench.cluster.sql(DATABASE, f"UPDATE llmquota.quota SET amount = {SLOTS} WHERE scope = 'global'")


def let_wait(bench, most):
    """So many may wait in their calls."""
    bench.cluster.sql(DATABASE, f"UPDATE llmquota.setting SET value = '{most}' WHERE name = 'max_held_waiters'")


def held(bench):
    """200 who wait with a connection each, and how soon the next one has the slot that somebody gives back."""
    let_wait(bench, sum(EVEN))
    bench.say(f"{sum(EVEN)} held waiters")
    runs = [play(bench, "held", EVEN, HELD_WAIT_MS) for _ in range(bench.rounds)]
    handed_over = [run.handed_over() for run in runs]
    what = f"{sum(EVEN)} held waiters, {SLOTS} slots, calls of {CALL_MS} ms:"
    return [share(f"{what} slots busy", [run.busy() for run in runs], 0.95),
            *(limit(f"{what} from record to grant, {name}", statistics.median(percentile(f, at) for f in handed_over),
                    "ms", bar, digits=2) for name, at, bar in (("p50", 0.5, 1), ("p99", 0.99, 10)))]


def share(measure, figures, bar, note=""):
    figure = statistics.median(figures)
    return Row(measure, f"{100 * figure:.1f} %", note, "", f">= {100 * bar:g} %", figure >= bar)


def tickets(bench):
    """200 who come again with their tickets, through a pool of 20 connections, of which claims that wait have half."""
    let_wait(bench, CONNECTIONS // 2)
    bench.say(f"{sum(EVEN)} tickets through pgbouncer")
    bouncer = PgBouncer(bench.cluster, CONNECTIONS)
    try:
        bouncer.start("off")
        runs = [play(bench, "ticket", EVEN, TICKET_WAIT_MS, bouncer.env) for _ in range(bench.rounds)]
    finally:
        bouncer.stop()
    let_wait(bench, sum(EVEN))
    claims = statistics.mean(call.claims for run in runs for call in run.calls)
    what = f"{sum(EVEN)} tickets, {CONNECTIONS} connections of pgbouncer:"
    return [share(f"{what} slots busy", [run.busy() for run in runs], 0.9, f"{claims:.1f} claims to a call"),
            limit(f"{what} longest wait of a record for a connection", max(max(run.record_waits()) for run in runs),
                  "ms", 100)]


def make_tickets(bench):
    """All slots are taken, and so many tickets wait, whose claims bench.stock() names."""
    settle(bench)
    library = BUILD / "empty.so"
    bench.cluster.sql(
        DATABASE, "UPDATE llmquota.setting SET value = '3600000' WHERE name = 'ticket_ttl'",
        "CREATE SCHEMA bench", "CREATE FUNCTION bench.stock(n bigint) RETURNS uuid LANGUAGE C VOLATILE STRICT "
        f"AS '{library}', 'bench_stock'")
    if bench.picks(DATABASE, SLOTS, ttl_ms=3_600_000) != SLOTS:
        raise Failure("the slots are not free")
    bench.cluster.sql(DATABASE, f"""DO $$ DECLARE file oid; BEGIN
        file := lo_from_bytea(0, (SELECT string_agg(uuid_send(p.lease), '') FROM generate_series(1, {TICKETS}) n,
            llmquota_pick('gpt-4o', 'clinic-' || n % 500 + 1, 1200, 500, queue => true) p));
        PERFORM lo_export(file, 'bench.stock'), lo_unlink(file);
        END $$""")
    if int(bench.cluster.value(DATABASE, "SELECT count(*) FROM llmquota.waiting")) != TICKETS:
        raise Failure(f"not {TICKETS} tickets wait")


def claims(bench):
    """Claims of tickets in a long line, which are answered where they are, against picks where nobody waits."""
    bench.say(f"claims with {TICKETS:,} tickets in line")
    make_tickets(bench)
    script = Script("claim", f"\\set n random(0, {TICKETS - 1})\nSELECT * FROM llmquota_claim(bench.stock(:n));\n")
    rows = []
    for clients in (1, 8):
        measures = {"pick": lambda: bench.pick(clients, "off"),
                    "claim": lambda: bench.run(script, clients, "off", database=DATABASE)[0]}
        bench.warm_up(*measures.values())
        figures = interleave(measures, bench.rounds)
        rows.append(compare(f"claim with {TICKETS:,} tickets in line, off, {plural(clients)}", figures,
                            "claim", "pick", 0.5))
    return rows


def flood(bench):
    bench.say("one org that floods the line")
    jain = statistics.median(play(bench, "held", FLOOD, HELD_WAIT_MS).jain() for _ in range(bench.rounds))
    return [Row(f"Jain's index of calls: an org of {FLOOD[0]} waiters, {len(FLOOD) - 1} of {FLOOD[1]}", f"{jain:.4f}", "", "",
                ">= 0.98", jain >= 0.98)]


class Group:
    """Clients in several processes, which write into files: a pipe would stop them when it is full."""

    def __init__(self, bench, seconds):
        self.files = [BUILD / f"line_client.{number}" for number in range(GROUPS)]
        self.processes = []
        for file in self.files:
            with file.open("w") as out, file.with_suffix(".err").open("w") as err:
                self.processes.append(subprocess.Popen(
                    command("held", GROUP, seconds, SHORT_WAIT_MS, SHORT_TTL_MS), stdout=out, stderr=err,
                    env=environment(bench.cluster.env)))

    def wait_for_calls(self):
        """Until each of them has had a call, and a second more."""
        deadline = time.monotonic() + 30
        while not all("\ncall " in file.read_text() for file in self.files):
            if time.monotonic() > deadline:
                raise Failure("not all clients have had calls")
            PAUSE.wait(0.1)
        PAUSE.wait(1)

    def kill(self, number):
        for process in self.processes[:number]:
            process.kill()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill(GROUPS)

    def finish(self):
        """Waits for the end of all; the last line of those who were killed may be half a line."""
        for process in self.processes:
            process.wait()
        said = "".join(file.with_suffix(".err").read_text() for file in self.files)
        return Run("".join(file.read_text().rpartition("\n")[0] + "\n" for file in self.files), said)


def killed(bench):
    """kill -9 of half of the clients, of which some wait and some hold; then of the server in that load, too."""
    bench.say("kill -9")
    settle(bench)
    with Group(bench, 4 + EXPIRY + 2) as group:
        group.wait_for_calls()
        group.kill(GROUPS // 2)
        since = (time.time() + EXPIRY) * 1e6
        clients_killed = group.finish()
    settle(bench)
    with Group(bench, 60) as group:
        group.wait_for_calls()
        run("test/cluster", "kill", bench.cluster.directory)
        crashed = group.finish()
    run("test/cluster", "restart", bench.cluster.directory)
    begun = time.time()
    with Group(bench, EXPIRY + 2) as group:
        after = group.finish()
    late = max(answered - SHORT_WAIT_MS for run in (clients_killed, crashed, after) for answered in run.refused)
    problems = bench.cluster.sql(DATABASE, "SELECT llmquota_maintain()", "SELECT * FROM llmquota_verify()")[1:]
    if problems:
        raise Failure(f"llmquota_verify: {problems}")
    return [at_least("slots in use after kill -9 of clients and expiry", clients_killed.most_at_once(since), SLOTS),
            at_least("slots in use after kill -9 of the server and expiry",
                     after.most_at_once((begun + EXPIRY) * 1e6), SLOTS),
            limit("longest wait past the deadline in both", late, "ms", 100)]


def at_least(measure, figure, bar):
    return Row(measure, f"{figure}", "", "", f">= {bar}", figure >= bar)


def line(bench):
    make(bench)
    try:
        return held(bench) + tickets(bench) + flood(bench) + killed(bench) + claims(bench)
    finally:
        bench.cluster.restart()
