"""Everything at once, and a watchdog: hang.py SECONDS CONNINFO.

Clients pick on random routes, record, release, renew, forget, roll back and maintain, on meters that all of them share.
A client whose call does not return for 5 seconds is stuck: then the program says on what, and ends. Prints as JSON how
many calls of each kind there were, and who is stuck.
"""
import json
import multiprocessing
import random
import sys
import time
from collections import Counter

import clients

CLIENTS = 32
PATIENCE = 5
ROUTES = ('large', 'small', 'haiku', 'haiku', 'any', 'other')
ORGS = 60


class Client:
    """One of the clients: its connection, the leases it holds, and what it has done."""

    def __init__(self, connection, progress, number):
        self.connection, self.progress, self.number = connection, progress, number
        self.held, self.done = [], Counter()

    def call(self, what, query, *arguments):
        row = self.connection.execute(query, arguments).fetchone()
        self.progress[self.number] += 1
        self.done[f'{what}: {row[0]}' if isinstance(row[0], str) else what] += 1
        return row

    def pick(self):
        ttl_ms = random.choice((None, None, 1, 50))
        org, tokens = f'org {random.randrange(ORGS)}', random.randrange(100)
        status, lease = self.call('pick', 'SELECT status, lease FROM llmquota_pick(%s, %s, %s, 10, ttl_ms => %s)',
                                  random.choice(ROUTES), org, tokens, ttl_ms)
        if status == 'granted':
            self.held.append((lease, ttl_ms is None))

    def settle(self):
        """Ends the call of a lease. What may have expired is recorded without figures: they would come too late."""
        lease, certain = self.held.pop(random.randrange(len(self.held)))
        way = random.random()
        if way < 0.1:
            self.call('release', 'SELECT llmquota_release(%s)', lease)
        elif way < 0.2:
            self.call('record', "SELECT status FROM llmquota_record(%s, error => 'cut')", lease)
        elif certain:
            self.call('record', 'SELECT status FROM llmquota_record(%s, %s, 5)', lease, random.randrange(150))
        else:
            self.call('record', 'SELECT status FROM llmquota_record(%s)', lease)

    def renew(self):
        self.call('renew', 'SELECT llmquota_renew(%s, 60000)', random.choice(self.held)[0])

    def transaction(self):
        """A few calls in one transaction, which may be rolled back."""
        with self.connection.transaction() as transaction:
            self.pick()
            if self.held:
                self.settle()
            self.pick()
            transaction.force_rollback = random.random() < 0.5
        self.done['rollback' if transaction.force_rollback else 'commit'] += 1

    def step(self):
        way = random.random()
        if way < 0.01 or self.number == 0 and way < 0.1:
            self.call('maintain', 'SELECT llmquota_maintain() IS NOT NULL')
        elif way < 0.02:
            self.call('read', 'SELECT count(*) FROM llmquota.meter_window UNION ALL SELECT count(*) FROM llmquota.lease')
        elif way < 0.1:
            self.transaction()
        elif way < 0.5 or not self.held:
            self.pick()
        elif way < 0.6:
            self.renew()
        else:
            self.settle()
        if len(self.held) > 20:
            self.settle()


def client(connection, number, progress, end):
    self = Client(connection, progress, number)
    while time.monotonic() < end:
        self.step()
    while self.held:
        self.settle()
    return self.done


def stuck(processes, progress):
    """Waits for the clients; who has not got on for too long, if any. Time in which we were not run does not count."""
    seen, idle, last = list(progress), [0.0] * CLIENTS, time.monotonic()
    while any(process.is_alive() for process, _ in processes):
        multiprocessing.connection.wait([pipe for process, pipe in processes if process.is_alive()], 0.1)
        passed, last = min(time.monotonic() - last, 0.5), time.monotonic()
        for number, (process, pipe) in enumerate(processes):
            moves = progress[number] != seen[number] or pipe.poll() or not process.is_alive()
            idle[number] = 0.0 if moves else idle[number] + passed
            seen[number] = progress[number]
        if all(pipe.poll() for _, pipe in processes):
            break
        if max(idle) > PATIENCE:
            return [number for number in range(CLIENTS) if idle[number] > PATIENCE]
    return []


def activity(connection):
    return [list(row) for row in connection.execute(
        'SELECT pid, wait_event_type, wait_event, state, query FROM pg_stat_activity'
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")]


def main(seconds, dsn):
    connection = clients.connect(dsn)
    progress = multiprocessing.get_context('fork').Array('Q', CLIENTS, lock=False)
    processes = clients.start(CLIENTS, client, dsn, progress, time.monotonic() + seconds)
    who = stuck(processes, progress)
    if who:
        print(json.dumps({'stuck': who, 'calls': list(progress), 'activity': activity(connection)}))
        for process, _ in processes:
            process.kill()
        return
    done = sum(clients.finish(processes), Counter())
    clients.wait_for(lambda: connection.execute('SELECT llmquota_maintain() IS NOT NULL AND NOT EXISTS'
                                                ' (SELECT FROM llmquota.lease)').fetchone()[0], 'leases stay')
    print(json.dumps({'stuck': [], 'calls': done}))


main(float(sys.argv[1]), sys.argv[2])
