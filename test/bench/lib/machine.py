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


def versions():
    redis = re.search(r"v=([\d.]+)", first_line("redis-server", "--version"))
    return "; ".join([first_line("postgres", "--version"), f"Redis {redis[1] if redis else '?'}",
                      first_line("pgbouncer", "--version")])


def heading(bench):
    settings = ", ".join(f"{name} = {value}" for name, value in SETTINGS.items())
    return f"""llmquota bench, {time.strftime('%Y-%m-%d %H:%M %Z')}; load average before: {LOAD_BEFORE:.1f}
machine:   {cpu()}, {memory()} GB, Linux {os.uname().release}
versions:  {versions()}
settings:  {settings},
           fsync = on; Redis: appendonly yes, appendfsync everysec (off) or always (on)
limits:    global concurrency; org requests/minute and concurrency; account-and-model requests/minute, tokens/minute,
           requests/day; 12 keys in 5 accounts, 500 orgs, a random one for each call. The amounts are so high that
           nothing is refused, unless the line says so. Leases live {bench.seconds + 1} s and are not recorded; they are
           ended between the runs.
method:    unix socket, prepared statements, all 15 columns fetched; pgbench and the client of Redis with 2 threads; a
           figure is the median of {bench.rounds} runs of {bench.seconds} s, the contestants in turn; a ratio is the
           median of the rounds'.
off, on:   synchronous_commit. In a crash of the machine "off" loses what PostgreSQL acknowledged in the last 0.6 s
           (three times wal_writer_delay), and Redis what it did in the last 1 to 2 s. "on" loses nothing of either;
           Redis then reads its AOF back to the last whole command, and has no checksum that tells a damaged one.
opponents: "empty C function" answers the row of a pick. Redis (a script) and PL/pgSQL (FOR UPDATE SKIP LOCKED) check
           and charge the same and answer the same facts. INSERT writes the row of a record into the same leaf.
"""
