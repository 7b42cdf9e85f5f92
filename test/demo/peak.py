"""The peak hour against llmquota: clients in several processes, each with a connection of its own, half of which wait
in their calls and half with tickets; progress on the screen; maintenance once a minute of the hour; and in the middle
the server is killed."""
import multiprocessing
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from database import Database
from player import PatientPlayer, Player, RealClock
from traffic import HELD, HOUR, clock

PROCESSES, THREADS = 4, 8
CLIENTS = PROCESSES * THREADS
KILL_AT = HOUR / 2
SHOW_EVERY, MAINTAIN_EVERY, TICK = 5.0, 1.0, 0.1
NOW = """SELECT count(*) FILTER (WHERE kind = 'held') AS held, count(*) FILTER (WHERE kind = 'ticket') AS tickets,
                count(DISTINCT org) AS clinics,
                (SELECT used FROM llmquota.meter_window WHERE scope = 'global') AS in_flight FROM llmquota.waiting"""


def share_of(client, requests):
    """The requests of a client, and how it plays them: every other client waits in its calls."""
    held = client % 2 == 1
    own = [request for request in requests if (request.route in HELD) == held]
    return own[client // 2::CLIENTS // 2], PatientPlayer if held else Player


def play_client(client, requests, conninfo, begin, progress):
    gate = Database(conninfo)
    own, player = share_of(client, requests)
    log = player(own, gate, RealClock, begin, progress).play()
    log.unanswered = gate.unanswered_picks
    return log


def play_process(number, requests, conninfo, begin, progress, results):
    """A process of clients, each a thread."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def play(client):
        return play_client(client, requests, conninfo, begin, progress[client])

    with ThreadPoolExecutor(THREADS) as pool:
        results.send(list(pool.map(play, range(number * THREADS, (number + 1) * THREADS))))


class Peak:
    """cluster is a function that runs a command of test/cluster."""

    def __init__(self, requests, conninfo, cluster):
        context = multiprocessing.get_context("fork")
        self.cluster = cluster
        self.begin = time.time() + 0.5
        self.progress = [context.RawArray("q", 2) for _ in range(CLIENTS)]
        self.shown = [0] * 2
        self.show_at = self.maintain_at = 0.0
        self.killed_at = self.back_at = None
        self.supervisor = Database(f"{conninfo} user=postgres")
        self.running = []
        for number in range(PROCESSES):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=play_process, daemon=True, args=(
                number, requests, f"{conninfo} user=gateway", self.begin, self.progress, sender))
            self.running.append((process, receiver, sender))

    def play(self):
        """Plays to the end; gives the logs of all clients. A process that dies without one is an EOFError."""
        print("                                       in line:")
        print("  time     granted  refused  in flight    held  tickets  clinics")
        for process, _, sender in self.running:
            process.start()
            sender.close()
        logs = []
        while self.running:
            self.tick(time.time() - self.begin)
            time.sleep(TICK)
            done = [entry for entry in self.running if entry[1].poll()]
            for entry in done:
                logs += entry[1].recv()
                entry[0].join()
                self.running.remove(entry)
        return logs

    def tick(self, at):
        if at >= self.show_at:
            self.show(self.show_at)
            self.show_at += SHOW_EVERY
        if at >= self.maintain_at:
            self.maintain()
            self.maintain_at += MAINTAIN_EVERY
        if at >= KILL_AT and self.killed_at is None:
            self.kill()

    def maintain(self):
        self.supervisor.until_answered("SELECT * FROM llmquota_maintain()")

    def show(self, at):
        now = [sum(numbers) for numbers in zip(*self.progress)]
        granted, refused = now[0] - self.shown[0], now[1] - self.shown[1]
        row = self.supervisor.until_answered(NOW)
        print(f"  {clock(at)} {granted:10,} {refused:8,} {row.in_flight or 0:10} {row.held:7} {row.tickets:8} "
              f"{row.clinics:8}", flush=True)
        self.shown = now

    def kill(self):
        print(f"  {clock(KILL_AT)}  kill -9 of the server and all its processes", flush=True)
        self.killed_at = time.time()
        self.cluster("kill")
        self.cluster("restart")
        self.supervisor.until_answered("SELECT 1")
        self.back_at = time.time()
        print(f"  {clock(self.back_at - self.begin)}  it has recovered and answers, after "
              f"{self.back_at - self.killed_at:.1f} s", flush=True)
