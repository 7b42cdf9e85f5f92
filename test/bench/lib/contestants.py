"""Those who are measured against each other. Each run starts from the same state, and one that refused anything, or
granted less than it was asked for, is an error and no figure."""

import contextlib
import time

from pgbouncer import PgBouncer
from postgres import Cluster, Script, pgbench
from redis import Redis
from shell import BUILD, Failure, compile_c, run, say

ORGS = 500
MODES = ("off", "on")
DATABASE = "bench"

RANDOM_ORG = f"\\set r random(1, {ORGS})\n"

# What a row of the ledger holds after a record, in the columns the ledger may have.
LEDGER_VALUES = {
    "lease": "{lease}", "picked_at": "'{picked_at}'", "recorded_at": "now()", "org": "'clinic-' || :r",
    "attempt": "1", "route": "'gpt-4o'", "model": "'gpt-4o'", "provider": "'openai'", "account": "'account-1'",
    "key": "'key-00007'", "status": "'ok'", "reserved_input": "1200", "reserved_output": "500",
    "input_tokens": "1180", "output_tokens": "312", "usage_source": "'reported'"
}


class Contestants:
    def __init__(self, seconds, rounds):
        self.seconds = seconds
        self.rounds = rounds
        self.cluster = Cluster()
        self.redis = Redis()
        self.env = self.cluster.env
        self.protocol = "prepared"
        self.leaf = None
        self.insert_text = None

    def start(self):
        self.cluster.start()
        self.redis.start()
        self.make_database(DATABASE, keys=12)
        self.make_lease_pages(DATABASE)
        include = run("pg_config", "--includedir-server").strip()
        library = compile_c("empty.c", BUILD / "empty.so", "-fPIC", "-shared", f"-I{include}")
        self.cluster.file(DATABASE, "opponent.sql", library=library)
        # Four times what a run can take: a free slot is found at once.
        self.cluster.file(DATABASE, "opponent_fixture.sql", orgs=ORGS, slots=max(100_000, 80_000 * self.seconds))
        self.redis.configure()
        self.find_leaf()

    def stop(self):
        self.redis.stop()
        self.cluster.stop()

    def make_database(self, name, keys, accounts=5, limited=()):
        """llmquota with the configuration of the measures, and requests/minute at the scopes "limited" as well."""
        self.cluster.sql("postgres", f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}")
        self.cluster.file(name, "llmquota_fixture.sql", keys=keys, accounts=accounts, orgs=ORGS)
        for scope in limited:
            self.cluster.sql(name, "INSERT INTO llmquota.quota (scope, subject, metric, amount, per) "
                                   f"VALUES ('{scope}', '*', 'requests', 1000000000, '1 minute')")

    def picks(self, database, count, model="gpt-4o", ttl_ms=1000):
        """Picks in one statement, each of the orgs in turn; answers how many were granted."""
        (granted,), = self.cluster.sql(
            database, "SET synchronous_commit = off", "SELECT count(*) FILTER (WHERE p.status = 'granted') FROM "
            f"generate_series(1, {count}) n, "
            f"llmquota_pick('{model}', 'clinic-' || n % {ORGS} + 1, ttl_ms => {ttl_ms}) p")
        return int(granted)

    def make_lease_pages(self, database):
        """As many slots as a run may need: in a measure, leases are put where others have been before."""
        self.picks(database, 40_000 * (self.seconds + 1))

    def find_leaf(self):
        """The leaf of the ledger that today's records go to, and an INSERT into it of what a record writes."""
        columns = [name for name, in self.cluster.sql(
            DATABASE, "SELECT attname FROM pg_attribute WHERE attrelid = 'llmquota.usage'::regclass AND attnum > 0 "
                      "AND NOT attisdropped ORDER BY attnum") if name in LEDGER_VALUES]
        values = ", ".join(LEDGER_VALUES[name] for name in columns)
        row = values.replace("{lease}", "gen_random_uuid()").replace("{picked_at}", "now").replace(":r", "1")
        self.leaf, picked_at = self.cluster.sql(
            DATABASE, f"INSERT INTO llmquota.usage ({', '.join(columns)}) VALUES ({row}) "
                      "RETURNING tableoid::regclass, picked_at")[0]
        if self.leaf == "llmquota.usage_default":
            raise Failure("llmquota_maintain() has made no partition for today")
        values = values.replace("{picked_at}", picked_at)
        self.insert_text = RANDOM_ORG + f"INSERT INTO {self.leaf} ({', '.join(columns)}) VALUES ({values});\n"

    # Scripts

    def pick_script(self, database=DATABASE, model="gpt-4o", ttl_ms=None):
        ttl_ms = ttl_ms or self.seconds * 1000 + 1000
        text = f"SELECT * FROM llmquota_pick('{model}', 'clinic-' || :r, 1200, 500, ttl_ms => {ttl_ms});\n"
        return Script(f"pick_{database}_{model}", RANDOM_ORG + text)

    def insert_script(self, lease="gen_random_uuid()", name="insert", before="", **variables):
        return Script(name, before + self.insert_text.replace("{lease}", lease), **variables)

    # The state before a run

    def free_leases(self, database=DATABASE):
        """Ends what earlier runs left in flight, as maintenance does, and empties the ledger."""
        deadline = time.monotonic() + 60 + self.seconds
        while int(self.in_flight(database)) > 0:
            if time.monotonic() > deadline:
                raise Failure(f"leases in {database} do not expire")
            self.cluster.sql(database, "SELECT * FROM llmquota_maintain()")
        self.cluster.sql(database, "TRUNCATE llmquota.usage")

    def live_bytes(self, database):
        return int(self.cluster.value(database, "SELECT sum(pg_total_relation_size(t)) FROM "
                                      "unnest('{llmquota.meter,llmquota.lease_page,llmquota.name}'::regclass[]) t"))

    def in_flight(self, database=DATABASE):
        return int(self.cluster.value(database, "SELECT count(*) FROM llmquota.lease"))

    def free_slots(self):
        self.cluster.sql(DATABASE, "UPDATE bench.slot SET expires_at = '-infinity' WHERE lease IS NOT NULL",
                         "SELECT bench.expire()", "VACUUM ANALYZE bench.slot",
                         *(f"VACUUM FULL ANALYZE bench.{table}" for table in ("account", "org", "ring")))

    # Runs: what each does in a second

    def run(self, script, clients, mode, *extra, database=DATABASE):
        return pgbench(self.env, script, database, clients, mode, "-T", self.seconds, *extra, protocol=self.protocol)

    @contextlib.contextmanager
    def through_pgbouncer(self, mode):
        """Runs in between go through pgbouncer, with parameters and unprepared, as drivers have to go there."""
        bouncer = PgBouncer(self.cluster)
        self.env, self.protocol = bouncer.env, "extended"
        try:
            bouncer.start(mode)
            yield
        finally:
            bouncer.stop()
            self.env, self.protocol = self.cluster.env, "prepared"

    def select_one(self, clients, mode):
        return self.run(Script("select_one", RANDOM_ORG + "SELECT 1;\n"), clients, mode)[0]

    def empty(self, clients, mode):
        text = "SELECT * FROM bench.empty('gpt-4o', 'clinic-' || :r, 1200, 500, ttl_ms => 4000);\n"
        return self.run(Script("empty", RANDOM_ORG + text), clients, mode)[0]

    def pick(self, clients, mode, database=DATABASE, model="gpt-4o"):
        self.free_leases(database)
        rate, count = self.run(self.pick_script(database, model), clients, mode, database=database)
        granted = self.in_flight(database)
        if granted < count:
            raise Failure(f"of {count} picks in {database} only {granted} were granted")
        return rate

    def plpgsql(self, clients, mode):
        self.free_slots()
        ttl_ms = self.seconds * 1000 + 1000
        text = f"SELECT * FROM bench.pick('gpt-4o', 'clinic-' || :r, 1200, 500, ttl_ms => {ttl_ms});\n"
        rate, count = self.run(Script("plpgsql", RANDOM_ORG + text), clients, mode)
        granted = int(self.cluster.value(DATABASE, "SELECT count(*) FROM bench.slot WHERE lease IS NOT NULL"))
        if granted < count:
            raise Failure(f"of {count} picks of PL/pgSQL only {granted} were granted")
        return rate

    def insert(self, clients, mode):
        self.cluster.sql(DATABASE, "TRUNCATE llmquota.usage")
        return self.run(self.insert_script(), clients, mode)[0]

    def redis_pick(self, clients, mode):
        self.redis.configure()
        self.redis.durability(mode)
        return self.redis.pick(clients, self.seconds)

    def warm_up(self, *measures):
        """Everything written out and everything touched once: no figure pays for a checkpoint."""
        self.cluster.checkpoint()
        seconds, self.seconds = self.seconds, 1
        for measure in measures:
            measure()
        self.seconds = seconds

    def say(self, text):
        say(f"  {text}")
