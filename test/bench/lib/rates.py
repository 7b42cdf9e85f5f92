"""What a pick and a record cost, against the opponents."""

from contestants import DATABASE, MODES
from postgres import Script, pgbench
from shell import Failure
from table import compare, interleave

CLIENTS = (1, 8, 32)
PICK, EMPTY, ONE = "pick", "empty C function", "SELECT 1"
REDIS, PLPGSQL, INSERT = "Redis", "PL/pgSQL", "INSERT"
RECORD = "record"

# (one, against): bar at (mode, clients); elsewhere the ratio is reported without one.
BARS = {
    (PICK, EMPTY): {("off", 8): 0.35, ("off", 32): 0.35},
    (PICK, ONE): {("off", 8): 0.22, ("off", 32): 0.22},
    (PICK, REDIS): {("off", 8): 1.2, ("off", 32): 1.2, ("on", 8): 1.0, ("on", 32): 1.0},
    (PICK, PLPGSQL): {("off", 8): 3.0, ("off", 32): 3.0, ("on", 8): 1.2},
    (PICK, INSERT): {("on", 8): 0.6, ("on", 32): 0.6},
    (REDIS, ONE): {("off", 8): 0.15, ("off", 32): 0.15},
    (PLPGSQL, ONE): {("off", 8): 0.08, ("off", 32): 0.08},
}


def plural(clients):
    return f"{clients} client{'s' if clients > 1 else ''}"


def contest(bench, measures, mode, clients):
    """One figure of every measure in every round. Durability is nothing to SELECT 1 and to the empty function."""
    return interleave({name: lambda measure=measure: measure(clients, mode) for name, measure in measures.items()
                       if mode == "off" or name not in (ONE, EMPTY)}, bench.rounds)


def rows_of(figures, mode, clients, what="", bars=True):
    return [compare(f"{one}{what}, {mode}, {plural(clients)}", figures, one, against,
                    bar.get((mode, clients)) if bars else None)
            for (one, against), bar in BARS.items() if one in figures and against in figures]


def pick(bench):
    measures = {ONE: bench.select_one, EMPTY: bench.empty, PICK: bench.pick, REDIS: bench.redis_pick,
                PLPGSQL: bench.plpgsql, INSERT: bench.insert}
    bench.warm_up(*(lambda measure=measure: measure(8, "off") for measure in measures.values()))
    rows = []
    for mode in MODES:
        for clients in CLIENTS:
            bench.say(f"{mode}, {plural(clients)}")
            rows += rows_of(contest(bench, measures, mode, clients), mode, clients)
    return rows


def pooled(bench):
    """Reported without bars: what is left of the differences behind a pooler that costs more than a pick."""
    measures = {ONE: bench.select_one, EMPTY: bench.empty, PICK: bench.pick, PLPGSQL: bench.plpgsql,
                INSERT: bench.insert}
    rows = []
    for mode in MODES:
        with bench.through_pgbouncer(mode):
            for clients in CLIENTS:
                bench.say(f"through pgbouncer, {mode}, {plural(clients)}")
                figures = contest(bench, measures, mode, clients)
                rows += rows_of(figures, mode, clients, " through pgbouncer", bars=False)
    return rows


class Stock:
    """Leases granted beforehand, one for each transaction of a run: client c settles number c * share and those
    after it."""

    NEXT = "\\set i :i + 1\n\\set n :client_id * :share + :i\n"

    def __init__(self, bench, clients, mode):
        self.bench = bench
        self.clients = clients
        self.mode = mode
        rate, _ = bench.run(bench.insert_script(), clients, mode)
        self.share = max(100, int(rate * bench.seconds / clients))

    def fill(self):
        self.bench.free_leases()
        self.bench.cluster.sql(DATABASE, "SET synchronous_commit = off", f"""DO $$ DECLARE file oid; BEGIN
            file := lo_from_bytea(0, (SELECT string_agg(uuid_send(p.lease), '')
                FROM generate_series(1, {self.share * self.clients}) n,
                    llmquota_pick('gpt-4o', 'clinic-' || n % 500 + 1, 1200, 500, ttl_ms => 600000) p));
            PERFORM lo_export(file, 'bench.stock'), lo_unlink(file);
            END $$""")

    def run(self, script):
        rate, count = pgbench(self.bench.env, script, DATABASE, self.clients, self.mode, "-t", self.share)
        rows = int(self.bench.cluster.value(DATABASE, f"SELECT count(*) FROM {self.bench.leaf} WHERE status = 'ok'"))
        if rows != count:
            raise Failure(f"{script.name} has put {rows} rows into {self.bench.leaf} in {count} transactions")
        return rate

    def insert(self):
        self.bench.cluster.sql(DATABASE, "TRUNCATE llmquota.usage")
        return self.run(self.bench.insert_script("bench.stock(:n)", "insert_stock", self.NEXT, i=-1, share=self.share))

    def record(self):
        self.fill()
        text = "SELECT * FROM llmquota_record(bench.stock(:n), 1180, 312);\n"
        return self.run(Script("record", self.NEXT + text, i=-1, share=self.share))


def record(bench):
    """A record against an INSERT of the same row, with the same lease, into the same leaf."""
    rows = []
    for mode in MODES:
        for clients in CLIENTS:
            bench.say(f"record, {mode}, {plural(clients)}")
            stock = Stock(bench, clients, mode)
            stock.record()
            figures = interleave({INSERT: stock.insert, RECORD: stock.record}, bench.rounds)
            rows.append(compare(f"record, {mode}, {plural(clients)}", figures, RECORD, INSERT, 0.5))
    return rows
