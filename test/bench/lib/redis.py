"""A private Redis: the server, the script that picks, and the client that drives it."""

import shutil
import time

from shell import BUILD, Failure, HERE, compile_c, run

MODEL = "gpt-4o"

# Small hashes are searched field by field: shorter ones make the script faster. No measure falls into a rewrite of
# the AOF.
CONFIGURATION = """port 0
unixsocket {0}/sock
dir {0}
pidfile {0}/pid
logfile {0}/log
daemonize yes
save ""
appendonly yes
appendfsync everysec
auto-aof-rewrite-percentage 0
hash-max-listpack-entries 32
"""


class Redis:
    def __init__(self):
        self.directory = BUILD / "redis"
        self.socket = self.directory / "sock"
        self.client = None

    def start(self):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        if len(str(self.socket)) > 100:
            raise Failure(f"the path of the socket is too long: {self.socket}")
        self.client = compile_c("redis_client.c", BUILD / "redis_client", "-lhiredis", "-lpthread")
        configuration = self.directory / "conf"
        configuration.write_text(CONFIGURATION.format(self.directory))
        run("redis-server", configuration)
        deadline = time.monotonic() + 10
        while run("redis-cli", "-s", self.socket, "ping", check=False).strip() != "PONG":
            if time.monotonic() > deadline:
                raise Failure("redis-server does not answer")

    def stop(self):
        if self.socket.exists():
            run("redis-cli", "-s", self.socket, "shutdown", "nosave", check=False)

    def command(self, *words):
        return run("redis-cli", "-s", self.socket, *words).strip()

    def configure(self, flight=10**9, org_requests=10**9, org_flight=10**9, requests=10**9, tokens=10**12, day=10**9):
        """Everything forgotten; 12 keys in 5 accounts with these amounts."""
        self.command("FLUSHALL", "SYNC")
        self.command("--eval", HERE / "redis_fixture.lua", f"config:{MODEL}", ",", MODEL, flight, org_requests,
                     org_flight, requests, tokens, day)

    def durability(self, synchronous_commit):
        self.command("CONFIG", "SET", "appendfsync", "always" if synchronous_commit == "on" else "everysec")

    def pick(self, clients, seconds):
        """Picks per second."""
        words = run(self.client, "pick", self.socket, clients, min(2, clients), seconds, HERE / "pick.lua",
                    (seconds + 1) * 1000).split()
        if int(words[5]) != 0:
            raise Failure(f"the Redis script refused {words[5]} picks of a measure that refuses nothing")
        return float(words[1])

    def allow(self, clients, seconds, subjects):
        """Calls of the script of rate limits per second."""
        words = run(self.client, "rate", self.socket, clients, min(2, clients), seconds, HERE / "rate.lua",
                    subjects).split()
        if int(words[5]) != 0:
            raise Failure(f"the Redis script limited {words[5]} calls of a measure that limits nobody")
        return float(words[1])

    def pick_once(self, org="clinic-1", input_tokens=1200, output_tokens=500):
        """The fields of one answer."""
        return run(self.client, "once", self.socket, HERE / "pick.lua", MODEL, org, input_tokens,
                   output_tokens).split("\n")

    def expire(self, first, last):
        return int(self.command("--eval", HERE / "expire.lua", f"pool:{MODEL}", ",", int(first), int(last)))
