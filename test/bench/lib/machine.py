"""What was measured where: the heading of the table."""

import os
import pathlib
import re
import time

from postgres import SETTINGS
from shell import first_line

LOAD_BEFORE = os.getloadavg()[0]


def cpu():
    names = re.findall(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    return f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, {names[0] if names else os.uname().machine}"


def memory():
    return int(re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) // 2**20


def heading(bench):
    settings = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
    lease = bench.seconds + 1
    return f"""llmquota bench, {time.strftime('%Y-%m-%d %H:%M %Z')}; load average before: {LOAD_BEFORE:.1f}
machine:  {cpu()}, {memory()} GB, Linux {os.uname().release}
versions: {first_line('postgres', '--version')}; {first_line('redis-server', '--version')}; {first_line('pgbouncer', '--version')}
settings: {settings}, fsync = on; Redis AOF, appendfsync everysec (off) or always (on)
limits:   global concurrency; org requests/minute and concurrency; account-and-model requests/minute, tokens/minute and
          requests/day; 12 keys in 5 accounts, 500 orgs, a random one for each call. The amounts are so high that nothing is
          refused unless the line says so; leases live {lease} s, are never recorded and are ended between runs.
method:   unix socket, prepared statements, all 15 columns fetched, pgbench and the client of Redis with 2 threads; every
          figure the median of {bench.rounds} runs of {bench.seconds} s, the contestants in turn, a ratio the median of the rounds.
          off and on: synchronous_commit. on: Redis syncs its AOF before it answers, and so survives a crash like PostgreSQL
          but for a torn last command; off: Redis loses up to a second or two, PostgreSQL three times wal_writer_delay (0.6 s).
opponents: "empty C function" answers pick's row; Redis and PL/pgSQL (FOR UPDATE SKIP LOCKED) check and charge the same and
          answer the same facts; INSERT writes the ledger row of a record into the same leaf.
"""
