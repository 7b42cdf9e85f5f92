"""Conversations: a put and a get against the plain statements that they stand for, and how large the table and its index
become under a million puts that live for a minute."""

import os
import threading
import time

from contestants import DATABASE, MODES
from postgres import Logged, Script
from rates import plural
from shell import Failure
from table import Row, compare, interleave

CLIENTS = (1, 8, 32)
USERS = 10_000
PUT, UPDATE, GET, SELECT = "session put", "UPDATE", "session get", "SELECT"
BAR = 0.5

PUTS = int(os.environ.get("BENCH_PUTS", 1_000_000))
PUT_RATE = int(os.environ.get("BENCH_PUT_RATE", 4000))
TTL_MS = 60_000
AT_MOST = 3
SIZE_DATABASE = "conversations"

USER = f"\\set u random(1, {USERS})\n"
STATE = "jsonb_build_object('step', :u::int, 'messages', repeat('x', 400))"
SCRIPTS = {
    PUT: f"SELECT * FROM llmquota_session_put('clinic', 'whatsapp', 'user ' || :u, {STATE});\n",
    UPDATE: f"UPDATE bench.conversation SET version = version + 1, state = {STATE}, updated_at = clock_timestamp(), "
            "expires_at = clock_timestamp() + interval '30 min' WHERE org = 'clinic' AND channel = 'whatsapp' AND "
            "user_id = 'user ' || :u RETURNING version, expires_at;\n",
    GET: "SELECT * FROM llmquota_session_get('clinic', 'whatsapp', 'user ' || :u);\n",
    SELECT: "SELECT version, state, updated_at, expires_at FROM bench.conversation WHERE org = 'clinic' AND "
            "channel = 'whatsapp' AND user_id = 'user ' || :u AND expires_at > clock_timestamp();\n",
}


def prepare(bench):
    """The same conversations on both sides, and room on the pages, as after a while."""
    put_all = (f"SELECT count(*) FROM generate_series(1, {USERS}) u, llmquota_session_put('clinic', 'whatsapp', "
               f"'user ' || u, {STATE.replace(':u', 'u')})")
    bench.cluster.sql(
        DATABASE, "SET synchronous_commit = off", "DROP TABLE IF EXISTS bench.conversation",
        "CREATE TABLE bench.conversation (org text, channel text, user_id text, version int, state jsonb, "
        "updated_at timestamptz, expires_at timestamptz, PRIMARY KEY (org, channel, user_id)) WITH (fillfactor = 85)",
        put_all, "INSERT INTO bench.conversation SELECT org, channel, user_id, version, state, updated_at, expires_at "
        "FROM llmquota.conversation", "VACUUM ANALYZE bench.conversation", "VACUUM ANALYZE llmquota.conversation")


def rate_of(bench, name, clients, mode):
    return bench.run(Script(name.replace(" ", "_"), USER + SCRIPTS[name]), clients, mode)[0]


def sessions(bench):
    prepare(bench)
    bench.warm_up(*(lambda what=name: rate_of(bench, what, 8, "off") for name in SCRIPTS))
    rows = []
    for mode in MODES:
        for clients in CLIENTS:
            bench.say(f"sessions, {mode}, {plural(clients)}")
            figures = interleave({name: lambda what=name: rate_of(bench, what, clients, mode)
                                  for name in SCRIPTS if mode == "off" or name in (PUT, UPDATE)}, bench.rounds)
            rows += [compare(f"{one}, {mode}, {plural(clients)}", figures, one, other, BAR)
                     for one, other in ((PUT, UPDATE), (GET, SELECT)) if one in figures]
    count = int(bench.cluster.value(DATABASE, "SELECT count(*) FROM llmquota.conversation"))
    if count != USERS:
        raise Failure(f"there are {count} conversations in place of {USERS}")
    return rows


def bytes_of(bench, table):
    return int(bench.cluster.value(SIZE_DATABASE, f"SELECT pg_total_relation_size('{table}')"))


def live_bytes(bench):
    """What the conversations take that have not expired, in a new table with a new index."""
    bench.cluster.sql(SIZE_DATABASE, "DROP TABLE IF EXISTS live", "CREATE TABLE live (LIKE llmquota.conversation)",
                      "INSERT INTO live SELECT * FROM llmquota.conversation WHERE expires_at > clock_timestamp()",
                      "ALTER TABLE live ADD PRIMARY KEY (org, channel, user_id, org_kind)")
    return bytes_of(bench, "live")


def largest(bench, run):
    """The largest multiple of the live data that the table was while the puts went on, but for the first minute, in
    which there is little of it; and what both were then."""
    began = time.monotonic()
    worst = (0, 0, 0)
    while run.process.poll() is None:
        threading.Event().wait(5)
        if time.monotonic() < began + TTL_MS / 1000:
            continue
        live, table = live_bytes(bench), bytes_of(bench, "llmquota.conversation")
        worst = max(worst, (table / live, table, live))
    return worst


def session_size(bench):
    """Each put is of a user who has no conversation or one of an earlier time: as much as there is comes and goes every
    minute. Vacuum is the server's own, as it is configured without a word."""
    seconds = PUTS // PUT_RATE
    bench.make_database(SIZE_DATABASE, keys=1)
    bench.cluster.restart(autovacuum="on")
    users = PUT_RATE * TTL_MS // 1000 * 4
    script = Script("session_size", f"\\set u random(1, {users})\n" + SCRIPTS[PUT].replace(");", f", {TTL_MS});"))
    bench.say(f"session_size: {PUTS:,} puts in {seconds} s")
    run = Logged(bench.env, script, SIZE_DATABASE, 8, PUT_RATE, seconds, "off")
    times, table, live = largest(bench, run)
    done = len(run.transactions())
    bench.cluster.restart()
    if done < 0.9 * PUTS:
        raise Failure(f"only {done} puts in {seconds} s")
    return [Row(f"conversations under {done:,} puts with a ttl of a minute", f"{table / 1e6:,.0f} MB",
                f"live data {live / 1e6:,.0f} MB", f"{times:.2f}", f"<= {AT_MOST:.2f}", times <= AT_MOST)]
