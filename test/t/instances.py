"""Four instances of an application that share one conversation, while the server is killed and started again.

instances.py CONNINFO DIRECTORY: delivers every message twice, to whichever instances are free, until DIRECTORY has a
file `enough`; prints what came of it as JSON for instances.pl. Lists of what is wrong are empty when all is well.

An instance that is delivered a message puts it into the conversation, picks for it, asks the provider if it may, records
that, and puts the answer into the conversation. It survives the server: what it has begun it brings to its end.
"""
import collections
import json
import multiprocessing
import os
import sys
import time

import psycopg
from psycopg.types.json import Jsonb

import clients

INSTANCES = 4
WHO = ('clinic', 'whatsapp', '+49 151 1234567')


class Instance:
    def __init__(self, number, dsn, directory, picking):
        self.number = number
        self.dsn = dsn
        self.picking = picking
        self.connection = None
        self.versions = []
        self.conflicts = 0
        self.granted = os.open(f'{directory}/granted', os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.asked = os.open(f'{directory}/asked', os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def query(self, text, arguments):
        """The row that a call answers, on a connection that is there. Raises when that is lost: nobody knows then whether
        the call was done."""
        if self.connection is None:
            self.connection = clients.connect(self.dsn)
        try:
            return self.connection.execute(text, arguments).fetchone()
        except psycopg.Error:
            self.connection.close()
            self.connection = None
            raise

    def insist(self, text, arguments):
        """The same, of a call that may be done twice: until it is answered."""
        end = time.monotonic() + clients.PATIENCE
        while True:
            try:
                return self.query(text, arguments)
            except psycopg.Error:
                if time.monotonic() > end:
                    raise
                time.sleep(clients.PAUSE)

    def add(self, kind, message):
        """Adds something to the conversation, if it is not there: by the version that it was read in."""
        while True:
            status, version, state = self.insist('SELECT status, version, state FROM llmquota_session_get(%s, %s, %s)', WHO)
            state = state or {'questions': [], 'answers': []}
            if message in state[kind]:
                return
            state[kind].append(message)
            status, version = self.insist('SELECT status, version FROM llmquota_session_put(%s, %s, %s, %s, version => %s)',
                                          (*WHO, Jsonb(state), version))
            if status == 'stored':
                self.versions.append(version)
                return
            self.conflicts += 1

    def pick(self, message):
        """The status, and the lease that the call has. What is granted is known to the judge, or this instance's pick is
        known to have been lost."""
        self.picking[self.number] = message
        try:
            status, lease = self.query("SELECT status, lease::text FROM llmquota_pick('m', %s, 10, 10, request_id => %s,"
                                       " session => llmquota_session_id(%s, %s), ttl_ms => 86400000)",
                                       (WHO[0], f'message {message}', *WHO[1:]))
        except psycopg.Error:
            status, lease = 'lost', None
        if status == 'granted':
            os.write(self.granted, f'{lease}\n'.encode())
        self.picking[self.number] = 0
        return status, lease

    def handle(self, message):
        self.add('questions', message)
        status = None
        while status not in ('granted', 'duplicate'):
            status, lease = self.pick(message)
            if status not in ('granted', 'duplicate'):
                time.sleep(clients.PAUSE)
        if status == 'granted':
            os.write(self.asked, f'{message}\n'.encode())
            self.insist('SELECT status FROM llmquota_record(%s, 10, 10)', (lease,))
            self.add('answers', message)


def instance(number, dsn, directory, delivered, picking, pipe):
    """Takes one delivery after the other; two follow one another that are of the same message."""
    me = Instance(number, dsn, directory, picking)
    while True:
        with delivered:
            if delivered.value % 2 == 0 and os.path.exists(f'{directory}/enough'):
                break
            delivered.value += 1
            message = (delivered.value + 1) // 2
        me.handle(message)
    pipe.send((me.versions, me.conflicts))


def lines(directory, name):
    with open(f'{directory}/{name}') as file:
        return file.read().split()


def release_lost(connection, directory, picking):
    """Gives back leases that nobody was told of: their calls are not made. The order of the looks matters."""
    leases = connection.execute("SELECT lease::text, substr(request_id, 9)::int FROM llmquota.lease").fetchall()
    busy = set(picking[:])
    known = set(lines(directory, 'granted'))
    released = 0
    for lease, message in leases:
        if message not in busy and lease not in known:
            released += connection.execute('SELECT llmquota_release(%s)', (lease,)).fetchone() == ('released',)
    return released


def keep_going(dsn, directory, picking, processes):
    """Sees to what was lost until all instances have ended. How many leases that was."""
    lost = 0
    connection = None
    while any(process.is_alive() for process in processes):
        try:
            connection = connection or clients.connect(dsn)
            lost += release_lost(connection, directory, picking)
        except psycopg.Error:
            connection = None
        time.sleep(clients.PAUSE)
    return lost


def more_than_once(items):
    return [item for item, count in collections.Counter(items).items() if count > 1]


def main():
    dsn, directory = sys.argv[1:]
    context = multiprocessing.get_context('fork')
    delivered = context.Value('i', 0)
    picking = context.Array('i', INSTANCES)
    for name in ('granted', 'asked'):
        open(f'{directory}/{name}', 'w').close()
    pipes = [context.Pipe(False) for _ in range(INSTANCES)]
    processes = [context.Process(target=instance, args=(number, dsn, directory, delivered, picking, pipes[number][1]))
                 for number in range(INSTANCES)]
    for process in processes:
        process.start()
    for pipe in pipes:
        pipe[1].close()
    lost = keep_going(dsn, directory, picking, processes)
    told = [pipe[0].recv() for pipe in pipes]
    with clients.connect(dsn) as connection:
        version, state = connection.execute('SELECT version, state FROM llmquota_session_get(%s, %s, %s)', WHO).fetchone()
        in_ledger = [row[0] for row in connection.execute(
            "SELECT substr(request_id, 9)::int FROM llmquota.usage WHERE status = 'ok'").fetchall()]
    everything = set(range(1, delivered.value // 2 + 1))
    asked = [int(message) for message in lines(directory, 'asked')]
    versions = [version for instance_versions, _ in told for version in instance_versions]
    print(json.dumps({
        'messages': len(everything),
        'conflicts': sum(conflicts for _, conflicts in told),
        'lost_grants': lost,
        'asked_twice': more_than_once(asked),
        'not_asked': sorted(everything - set(asked)),
        'questions_twice': more_than_once(state['questions']),
        'questions_lost': sorted(everything - set(state['questions'])),
        'answers_twice': more_than_once(state['answers']),
        'answers_lost': sorted(everything - set(state['answers'])),
        'ledger_twice': more_than_once(in_ledger),
        'ledger_lost': sorted(everything - set(in_ledger)),
        'versions_twice': more_than_once(versions),
        'versions_beyond': [other for other in versions if other > version],
    }))


main()
