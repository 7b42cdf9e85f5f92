"""The server that is tortured: its cluster, its crashes, and what it shows."""
import os
import pathlib
import random
import signal
import subprocess
import time

import psycopg
from psycopg.rows import namedtuple_row

from book import LIVE, ROW

ROOT = pathlib.Path(os.environ['LLMQ_ROOT'])
HERE = pathlib.Path(__file__).resolve().parent
PATIENCE = 60
PAUSE = 0.005  # between two looks at a condition
SETTINGS = ['max_prepared_transactions = 200', 'restart_after_crash = off', 'max_connections = 50', 'autovacuum = off',
            'max_wal_size = 128MB', 'shared_buffers = 32MB', 'log_statement = none', 'jit = off']


def state_of(pid):
    """The letter that the kernel has for the process; X: there is none."""
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):     # also between open and read
        return 'X'


def gone(pid):
    """Has the process ended? A zombie has."""
    return state_of(pid) in 'ZX'


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(PAUSE)


def send(signal_number, pids):
    for pid in pids:
        try:
            os.kill(pid, signal_number)
        except ProcessLookupError:
            pass


class Server:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)

    def control(self, command, *options):
        subprocess.run([ROOT / 'test/cluster', command, *options, self.directory], check=True,
                       env={**os.environ, 'PGPORT': '5432'})

    def create(self, setup=None):
        self.control('start', '--testing', *[word for line in SETTINGS for word in ('--conf', line)])
        self.dsn = f'host={self.directory}/sock port=5432 user=postgres dbname=postgres'
        for line in (self.directory / 'env').read_text().splitlines():
            if line.startswith('export PGHOST='):
                self.dsn = f"host={line.split('=', 1)[1]} port=5432 user=postgres dbname=postgres"
        self.find_postmaster()
        with self.connect() as connection:
            if setup is not None:
                setup(connection)
            else:
                connection.execute((HERE / 'setup.sql').read_text())

    def connect(self, **options):
        return psycopg.connect(self.dsn, autocommit=True, **options)

    def find_postmaster(self):
        self.postmaster = int((self.directory / 'data/postmaster.pid').read_text().split()[0])

    def children(self):
        try:
            return [int(pid) for pid in
                    pathlib.Path(f'/proc/{self.postmaster}/task/{self.postmaster}/children').read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            return []

    def kill_everything(self):
        """All at once: the postmaster is stopped before, so that it starts no new ones meanwhile. Returns its children."""
        send(signal.SIGSTOP, [self.postmaster])
        wait_until(lambda: state_of(self.postmaster) in 'TZX', 'the postmaster does not stop')
        children = self.children()
        send(signal.SIGKILL, [self.postmaster, *children])
        return children

    def kill_backend(self):
        """One, at which the postmaster ends the others and itself; another one when that has ended by itself just then."""
        while not gone(self.postmaster):
            send(signal.SIGKILL, [random.choice(self.children() or [self.postmaster])])
            end = time.monotonic() + 1
            while not gone(self.postmaster) and time.monotonic() < end:
                time.sleep(PAUSE)

    def crash(self, how):
        """kill -9 of `everything`, of the `postmaster` alone, of one `backend`; or it has been crashed from `inside`."""
        children = self.children()
        if how == 'everything':
            children = self.kill_everything()
        elif how == 'postmaster':
            send(signal.SIGKILL, [self.postmaster])
        elif how == 'backend':
            self.kill_backend()
        wait_until(lambda: all(gone(pid) for pid in [self.postmaster, *children]), 'the server lives on')
        # some containers are slow to collect zombies, which PostgreSQL takes for alive
        for name in ('data/postmaster.pid', 'sock/.s.PGSQL.5432.lock'):
            (self.directory / name).unlink(missing_ok=True)

    def restart(self):
        self.control('restart')
        self.find_postmaster()

    def stop(self):
        self.control('stop')


def show(connection):
    """What the server shows: (quotas, windows, calls, outcomes by lease)."""
    cursor = connection.cursor(row_factory=namedtuple_row)
    quotas = cursor.execute('SELECT id, scope, model, metric FROM llmquota.quota').fetchall()
    windows = cursor.execute("""SELECT quota, scope, subject, model, metric, used FROM llmquota.meter_window
                                 WHERE quota IS NOT NULL""").fetchall()
    calls = cursor.execute("""
        SELECT lease::text AS id, org, provider, account, key, model, reserved_input, reserved_output,
               NULL AS status, NULL::int AS http_status, NULL::bigint AS input, NULL::bigint AS output,
               NULL AS source, NULL AS number
          FROM llmquota.lease
        UNION ALL
        SELECT lease::text, org, provider, account, key, model, reserved_input, reserved_output,
               status, http_status, input_tokens, output_tokens, usage_source, tags ->> 'number'
          FROM llmquota.usage""").fetchall()
    seen = {}
    for call in calls:
        outcome = LIVE if call.status is None else ROW(call.status, call.http_status, call.input, call.output,
                                                       call.source, call.number)
        seen.setdefault(call.id, []).append(outcome)
    return quotas, windows, calls, seen
