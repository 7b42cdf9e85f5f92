"""A private cluster, the provider simulator, and the clients of the load driver."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.request

ROOT = pathlib.Path(os.environ["LLMQ_ROOT"])
BUILD = pathlib.Path(os.environ["LLMQ_RUN"]) / "scenarios"
PROGRAMS = ROOT / "build" / "testing"
DATABASE = "postgres"

# A provider's minute, in milliseconds; in proportion the 50 that calls may be late are no more than some 250 of a real one.
WINDOW_MS = int(os.environ.get("SCENARIO_MINUTE_MS", 12000))

BASES = {"openai": "/v1", "anthropic": "/v1", "gemini": "/v1beta"}


class Failure(Exception):
    """Something that keeps the scenarios from being played; the message is for people."""


class Service:
    """12 keys in 5 accounts of three providers, which the database knows and the simulator enforces."""

    accounts = {"o1": ("openai", 3), "o2": ("openai", 3), "a1": ("anthropic", 2), "g1": ("gemini", 2),
                "g2": ("gemini", 2)}

    def __init__(self, windows):
        self.windows = windows
        self.env = {}
        self.simulator = None
        self.url = None

    # the database

    def start(self):
        shutil.rmtree(BUILD, ignore_errors=True)
        BUILD.mkdir(parents=True)
        self.command("test/cluster", "start", "--conf", "max_connections = 200", BUILD / "pg")
        for line in (BUILD / "pg" / "env").read_text().split("\n"):
            found = re.match(r"export (\w+)='?([^']*)'?$", line)
            if found:
                self.env[found[1]] = found[2]

    def stop(self):
        self.close_simulator()
        if (BUILD / "pg").exists():
            subprocess.run(["test/cluster", "stop", BUILD / "pg"], cwd=ROOT, check=False, capture_output=True)

    def command(self, *words, check=True):
        done = subprocess.run([str(word) for word in words], cwd=ROOT, env={**os.environ, **self.env}, text=True,
                              capture_output=True)
        if check and done.returncode != 0:
            named = " ".join(str(word) for word in words)[:200]
            raise Failure(f"{named} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def sql(self, statement):
        return self.command("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", DATABASE, "-c", statement).strip()

    def restart_server(self):
        self.command("test/cluster", "restart", BUILD / "pg")

    def verified(self):
        """How many disagreements llmquota_verify() shows once maintenance has nothing left to do."""
        while self.sql("SELECT work_left FROM llmquota_maintain()") == "t":
            pass
        found = int(self.sql("SELECT count(*) FROM llmquota_verify()"))
        return found, "= 0", found == 0

    # the provider

    def open_simulator(self, limits, **more):
        """Starts it with these limits for each account, `limits(account)`; `more` are members of each account."""
        accounts = [{"account": account, "api": api, "keys": {f"{account}-{i}": f"{account}-{i}" for i in range(keys)},
                     "latency_ms": [20, 60], "limits": limits(account), **more}
                    for account, (api, keys) in self.accounts.items()]
        (BUILD / "simulator.json").write_text(json.dumps({"accounts": accounts}))
        (BUILD / "calls.jsonl").unlink(missing_ok=True)
        self.simulator = subprocess.Popen([PROGRAMS / "simulator", BUILD / "simulator.json", BUILD / "calls.jsonl"],
                                          stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{self.simulator.stdout.readline().split()[1]}"

    def close_simulator(self):
        if self.simulator is not None:
            self.simulator.terminate()
            self.simulator.wait()
            self.simulator = None

    def control(self, **members):
        request = urllib.request.Request(f"{self.url}/_control", json.dumps(members).encode(), method="POST")
        with urllib.request.urlopen(request) as answer:
            answer.read()

    def report(self):
        with urllib.request.urlopen(f"{self.url}/_report") as answer:
            return {account["account"]: account for account in json.load(answer)["accounts"]}

    def calls(self):
        return [json.loads(line) for line in (BUILD / "calls.jsonl").read_text().splitlines()]

    # the configuration

    def configure(self, requests, steps=(("openai", "anthropic", "gemini"),)):
        """A new extension: one model to a provider, the route `chat` over steps of providers, and for each account so
        many requests a window, `requests(account)`; None: no quota."""
        self.sql("DROP EXTENSION IF EXISTS llmquota CASCADE; CREATE EXTENSION llmquota")
        # calls reach the simulator up to 50 ms late, and later on a busy machine; the default would be a 48th of so short a
        # minute
        self.sql("UPDATE llmquota.setting SET value = '100' WHERE name = 'arrival_slack'")
        # each run of the driver numbers its requests from 1
        self.sql("UPDATE llmquota.setting SET value = '0' WHERE name = 'idempotency_window'")
        for api, base in BASES.items():
            self.sql("INSERT INTO llmquota.provider (provider, adapter, base_url) VALUES "
                     f"('{api}', '{api}', '{self.url}{base}');"
                     f"INSERT INTO llmquota.model (model, provider) VALUES ('m-{api}', '{api}')")
        for number, step in enumerate(steps, start=1):
            for api in step:
                self.sql(f"INSERT INTO llmquota.route (route, step, model) VALUES ('chat', {number}, 'm-{api}')")
        for account, (api, keys) in self.accounts.items():
            self.sql(f"INSERT INTO llmquota.account (account, provider) VALUES ('{account}', '{api}');"
                     f"INSERT INTO llmquota.key (key, account) SELECT '{account}-' || i, '{account}' "
                     f"FROM generate_series(0, {keys - 1}) i")
            if requests(account) is not None:
                self.sql("INSERT INTO llmquota.quota (scope, subject, metric, amount, per) VALUES "
                         f"('account', '{account}', 'requests', {requests(account)}, '{WINDOW_MS} milliseconds')")

    # the clients

    def drive(self, **members):
        """3 processes of 30 threads, for 200 orgs; the requests that they made."""
        config = {"conninfo": f"host={self.env['PGHOST']} port={self.env['PGPORT']} user=postgres dbname={DATABASE}",
                  "processes": 3, "threads": 30, "deadline_ms": 8000,
                  "kinds": [{"route": "chat", "org": "org-", "orgs": 200}], **members}
        (BUILD / "drive.json").write_text(json.dumps(config))
        self.command(PROGRAMS / "drive", BUILD / "drive.json", BUILD / "requests.jsonl")
        return [json.loads(line) for line in (BUILD / "requests.jsonl").read_text().splitlines()]
