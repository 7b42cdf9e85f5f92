"""Clients that wait in line, held or with tickets, and are killed: line_kill.py CONNINFO DIRECTORY setup|server|clients

`server`: they go on until the server has gone; the file "ready" says that they have had calls. `clients`: half of them
are killed, and the others go on until nothing is left of those and of whoever was there before. Prints as JSON what
they were answered, how long waits in vain took past their deadlines (milliseconds), how many slots are free at the end,
and how long a wait of 100 ms takes that is alone in the line.
"""
import json
import multiprocessing
import os
import pathlib
import random
import sys
import time
from collections import Counter

import psycopg

import clients

CLIENTS = 16
SLOTS = 4
CALL_MS, WAIT_MS, TTL_MS = 20, 60, 1000
CALLS = 60  # that all have had, before anybody is killed

SETUP = f"""
    INSERT INTO llmquota.provider (provider, adapter) VALUES ('p', 'openai');
    INSERT INTO llmquota.account (account, provider) VALUES ('a', 'p');
    INSERT INTO llmquota.key (key, account) VALUES ('k1', 'a'), ('k2', 'a');
    INSERT INTO llmquota.model (model, provider) VALUES ('m', 'p');
    INSERT INTO llmquota.quota (scope, subject, metric, amount) VALUES
        ('global', '', 'concurrency', {SLOTS}), ('org', '*', 'concurrency', {SLOTS - 1});
    UPDATE llmquota.setting SET value = '1000' WHERE name = 'ticket_ttl';
    UPDATE llmquota.setting SET value = '{CLIENTS}' WHERE name = 'max_held_waiters'"""

PICK = ("SELECT status, lease, retry_after_ms FROM llmquota_pick('m', %s, 1, 1, session => %s, ttl_ms => %s,"
        ' wait_ms => %s, queue => %s)')
CLAIM = 'SELECT status, lease, retry_after_ms FROM llmquota_claim(%s, wait_ms => 20)'
RECORD = 'SELECT status FROM llmquota_record(%s, 1, 1)'
WAIT = "SELECT status FROM llmquota_pick('m', 'late', wait_ms => %s)"
# Who was killed while he was granted a slot has it until it expires.
ALL_LEFT = 'SELECT (SELECT count(*) FROM llmquota.lease) + (SELECT count(*) FROM llmquota.waiting)'
LEFT = 'SELECT count(*) FROM llmquota.lease WHERE session <> ALL (%s)'


class Client:
    """One that waits for a slot, calls, and records, again and again."""

    def __init__(self, connection, name, number, log):
        self.connection, self.name, self.log = connection, name, log
        self.org, self.with_ticket = f'org {number % 3}', number % 2 == 1

    def ask(self, query, *arguments):
        return self.connection.execute(query, arguments).fetchone()

    def say(self, *words):
        os.write(self.log, (json.dumps(words) + '\n').encode())

    def call(self):
        """A call, if there is a slot in time."""
        asked = time.monotonic()
        status, lease, retry_ms = self.ask(PICK, self.org, self.name, TTL_MS, None if self.with_ticket else WAIT_MS,
                                           self.with_ticket)
        while status == 'queued':
            time.sleep(retry_ms / 1000)
            status, lease, retry_ms = self.ask(CLAIM, lease)
        late = (time.monotonic() - asked) * 1000 - WAIT_MS
        self.say(status, None if self.with_ticket or status == 'granted' else late)
        if status == 'granted':
            time.sleep(CALL_MS / 1000)
            self.say(self.ask(RECORD, lease)[0], None)


def live(dsn, name, number, file, stop):
    random.seed()
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        with clients.connect(dsn) as connection:
            client = Client(connection, name, number, log)
            while not stop.is_set():
                client.call()
    except psycopg.OperationalError:
        os.write(log, b'["gone", null]\n')  # the server was killed


class Crowd:
    """All clients of one round, each a process with a log."""

    def __init__(self, dsn, directory, name):
        context = multiprocessing.get_context('fork')
        self.stop = context.Event()
        self.names = [f'{name} {number}' for number in range(CLIENTS)]
        self.files = [pathlib.Path(directory) / f'{name} {number}' for number in range(CLIENTS)]
        self.processes = [context.Process(target=live, daemon=True,
                                          args=(dsn, self.names[number], number, self.files[number], self.stop))
                          for number in range(CLIENTS)]
        for process in self.processes:
            process.start()

    def said(self):
        """What was written down; of who was killed the last line may be half a line."""
        texts = [file.read_text() if file.exists() else '' for file in self.files]
        return [json.loads(line) for text in texts for line in text.split('\n')[:-1]]

    def wait_for_calls(self, calls=CALLS):
        clients.wait_for(lambda: sum(status == 'settled' for status, _ in self.said()) >= calls, 'no calls are made')

    def kill_some(self):
        """kill -9 of half of them, who wait or hold a slot; their names."""
        victims = random.sample(range(CLIENTS), CLIENTS // 2)
        for number in victims:
            self.processes[number].kill()
        return [self.names[number] for number in victims]

    def finish(self):
        self.stop.set()
        for process in self.processes:
            process.join()
        said = self.said()
        return {'answers': Counter(status for status, _ in said),
                'late': [late for _, late in said if late is not None]}


def kill_clients(dsn, directory, name):
    """Kills half of the clients; the others go on until no slot is anybody's who is not there."""
    crowd = Crowd(dsn, directory, name)
    crowd.wait_for_calls()
    victims = crowd.kill_some()
    alive = [name for name in crowd.names if name not in victims]
    with clients.connect(dsn) as connection:
        clients.wait_for(lambda: connection.execute(LEFT, (alive,)).fetchone()[0] == 0,
                         'leases of those who were killed stay')
    crowd.wait_for_calls(3 * CALLS)
    return crowd.finish()


def kill_server(dsn, directory, name):
    """Goes on until somebody has killed the server, who is told by the file when to."""
    crowd = Crowd(dsn, directory, name)
    crowd.wait_for_calls()
    (pathlib.Path(directory) / 'ready').touch()
    for process in crowd.processes:
        process.join()
    return crowd.finish()


def free_slots(dsn):
    """How many picks are granted at once when nobody waits any more; they are given back."""
    with clients.connect(dsn) as connection:
        clients.wait_for(lambda: connection.execute(ALL_LEFT).fetchone()[0] == 0, 'somebody not there is in line')
        leases = [connection.execute("SELECT status, lease FROM llmquota_pick('m', %s)", (f'last {number}',)).fetchone()
                  for number in range(2 * SLOTS)]
        granted = [lease for status, lease in leases if status == 'granted']
        for lease in granted:
            connection.execute('SELECT llmquota_release(%s)', (lease,))
        return len(granted)


def lone_wait(dsn, wait_ms=100):
    """Milliseconds that a wait in vain took who was alone in the line: the shortest of a few."""
    with clients.connect(dsn) as connection:
        holders = [connection.execute("SELECT lease FROM llmquota_pick('m', %s)", (f'holder {number}',)).fetchone()[0]
                   for number in range(SLOTS)]
        took = []
        for _ in range(5):
            begun = time.monotonic()
            status, = connection.execute(WAIT, (wait_ms,)).fetchone()
            assert status == 'over_capacity', status
            took.append((time.monotonic() - begun) * 1000)
        for lease in holders:
            connection.execute('SELECT llmquota_release(%s)', (lease,))
        return min(took)


def main(dsn, directory, what):
    if what == 'setup':
        with clients.connect(dsn) as connection:
            connection.execute(SETUP)
    elif what == 'server':
        print(json.dumps(kill_server(dsn, directory, what)))
    else:
        result = kill_clients(dsn, directory, what)
        print(json.dumps({**result, 'free': free_slots(dsn), 'alone': lone_wait(dsn)}))


if __name__ == '__main__':
    main(*sys.argv[1:])
