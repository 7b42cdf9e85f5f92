"""A client that picks, records and releases in every kind of transaction, and keeps book of what it was told."""
import random

import psycopg

from book import KEPT, LIVE, UNDONE, Attempt, Lease, ROW, after

ROUTES = ['large', 'small', 'haiku']
MOST_HELD = 12
KEEP_ENDED = 30  # leases that have ended and are recorded once more now and then
MOST_PREPARED = 3


class Gone(Exception):
    """The server is gone, before it answered."""


class Transaction:
    """What was done in a transaction, in order, and how far it is undone already."""

    def __init__(self):
        self.done = []  # [lease, attempt, answer, fate]
        self.marks = []

    def savepoint(self):
        self.marks.append(len(self.done))

    def rollback_to(self):
        for entry in self.done[self.marks[-1]:]:
            entry[3] = UNDONE

    def end(self, fate):
        """Writes into the leases what is possible now. fate: None when nobody knows."""
        for lease, attempt, answer, undone in self.done:
            lease.may = after(lease, attempt, answer, undone or fate)


class Player:
    def __init__(self, connection, number, round_number, leases):
        self.connection = connection
        self.name = f'{round_number}-{number}'
        self.orgs = [f'clinic-{n}' for n in range(30)] + [f'visitor-{self.name}']
        self.leases = leases  # all that this client is to answer for
        self.held = list(leases)
        self.ended = []
        self.prepared = {}  # gid: transaction
        self.undecided = {}  # gid: (transaction, what was asked for) without an answer
        self.attempts = 0
        self.pending = 0  # picks without an answer
        self.undone = 0  # rollbacks of any kind, and prepared transactions
        self.unexpected = []

    def ask(self, sql, *values):
        try:
            cursor = self.connection.execute(sql, values or None, prepare=False)
            return cursor.fetchone() if cursor.description else None
        except psycopg.OperationalError as error:
            if error.sqlstate is None or error.sqlstate.startswith('57P'):
                raise Gone from error
            raise

    def play(self, stopped):
        """Acts until told to stop, or the server is gone."""
        try:
            while not stopped():
                self.act()
        except Gone:
            pass
        except psycopg.Error as error:
            self.unexpected.append(f'{error.sqlstate} {error}')
        return self

    def act(self):
        if self.prepared and (len(self.prepared) > MOST_PREPARED or random.random() < 0.1):
            self.resolve()
        elif len(self.held) < MOST_HELD and random.random() < 0.5:
            self.pick()
        else:
            random.choice([self.alone, self.alone, self.transaction, self.transaction, self.caught, self.once_more,
                           self.renew])()

    def pick(self):
        input, output, short = random.randrange(1, 5000), random.randrange(1, 2000), random.random() < 0.2
        pick = (f"SELECT status, lease::text FROM llmquota_pick('{random.choice(ROUTES)}', '{random.choice(self.orgs)}', "
                f"{input}, {output}, ttl_ms => {random.randrange(20, 300) if short else 3600000})")
        begin, end = random.choice([('', ''), ('', ''), ('BEGIN', 'ROLLBACK'), ('BEGIN; SAVEPOINT s', 'ROLLBACK TO s; COMMIT')])
        if begin:
            self.ask(begin)
        self.pending += 1
        status, id = self.ask(pick)
        self.pending -= 1
        if status == 'granted':
            lease = Lease.picked(id, input, output, short)
            self.leases.append(lease)
            self.held.append(lease)
        elif status != 'unavailable':  # for a millisecond after a 429
            self.unexpected.append(f'pick: {status}')
        if end:
            self.undone += 1
            self.ask(end)

    def attempt(self, lease):
        """A way to end the lease, by chance."""
        self.attempts += 1
        number = f'{self.name}-{self.attempts}'
        tags = f"""tags => '{{"number": "{number}"}}'"""
        input, output = random.randrange(6000), random.randrange(3000)
        kind = random.randrange(6)
        if kind == 0:
            return Attempt(f"SELECT llmquota_release('{lease.id}')", ROW('released', None, None, None, None, None))
        if kind == 1:
            arguments, row = '', ROW('ok', None, None, None, 'reserved', number)
        elif kind == 2:
            arguments = "http_status => 429, error => 'slow down', headers => '{\"retry-after-ms\": \"1\"}', "
            row = ROW('error', 429, None, None, 'reported', number)
        elif kind == 3:
            arguments, row = "error => 'timeout', ", ROW('error', None, None, None, 'reserved', number)
        else:
            arguments = f'input_tokens => {input}, output_tokens => {output}, '
            row = ROW('ok', None, input, output, 'reported', number)
        return Attempt(f"SELECT status FROM llmquota_record('{lease.id}', {arguments}{tags})", row)

    def settle(self, transaction, lease, sql='{}', fate=None):
        """Settles a lease inside a transaction that has begun."""
        attempt = self.attempt(lease)
        entry = [lease, attempt, None, fate]
        transaction.done.append(entry)
        entry[2] = self.ask(sql.format(attempt.sql))[0]
        if entry[2] not in ('settled', 'settled_late', 'already_settled', 'released'):
            self.unexpected.append(f'{attempt.sql}: {entry[2]}')

    def choose(self):
        """A lease that was not ended yet, or not for good."""
        if not self.held:
            return None
        lease = random.choice(self.held)
        if random.random() < 0.8:
            self.held.remove(lease)
            self.ended = (self.ended + [lease])[-KEEP_ENDED:]
        return lease

    def alone(self, lease=None):
        lease = lease or self.choose()
        if lease is not None:
            transaction = Transaction()
            try:
                self.settle(transaction, lease)
            except Gone:
                transaction.end(None)
                raise
            transaction.end(KEPT)

    def once_more(self):
        if self.ended:
            self.alone(random.choice(self.ended))

    def caught(self):
        """In a PL/pgSQL block whose exception is caught: the record is undone, its answer stays."""
        lease = self.choose()
        if lease is None:
            return
        transaction = Transaction()
        self.undone += 1
        try:
            self.settle(transaction, lease, 'SELECT undone($${}$$)', UNDONE)
        except Gone:
            transaction.end(None)
            raise
        transaction.end(KEPT)

    def renew(self):
        lease = random.choice(self.held) if self.held else None
        if lease is not None and not lease.short and lease.may == {LIVE}:
            if self.ask(f"SELECT llmquota_renew('{lease.id}', 3600000)")[0] is None:
                self.unexpected.append(f'{lease.id} cannot be renewed')

    def transaction(self):
        """A block of records and savepoints by chance, ended by chance."""
        transaction = Transaction()
        try:
            self.ask('BEGIN')
            for _ in range(random.randrange(1, 5)):
                self.step(transaction)
        except Gone:
            transaction.end(UNDONE)  # COMMIT was never sent
            raise
        # what a late record exceeds its reservation by may be charged when it is prepared
        late = any(answer == 'settled_late' for _, _, answer, _ in transaction.done)
        self.finish(transaction, random.choice(['COMMIT', 'COMMIT', 'ROLLBACK', 'ROLLBACK' if late else 'PREPARE']))

    def step(self, transaction):
        what = random.random()
        if what < 0.25:
            self.ask('SAVEPOINT s')
            transaction.savepoint()
        elif what < 0.45 and transaction.marks:
            transaction.rollback_to()
            self.undone += 1
            self.ask('ROLLBACK TO s')
        elif what < 0.55 and transaction.marks:
            self.ask('RELEASE s')
            transaction.marks.pop()
        else:
            lease = self.choose() if what < 0.9 or not transaction.done else transaction.done[-1][0]
            if lease is not None:
                self.settle(transaction, lease)

    def finish(self, transaction, how):
        gid = f'{self.name}-{self.attempts}-{random.random()}'
        self.undone += how != 'COMMIT'
        try:
            self.ask(f"PREPARE TRANSACTION '{gid}'" if how == 'PREPARE' else how)
        except Gone:
            if how == 'PREPARE':
                self.undecided[gid] = (transaction, UNDONE)
            else:
                transaction.end(None if how == 'COMMIT' else UNDONE)
            raise
        if how == 'PREPARE':
            self.prepared[gid] = transaction
            for lease in {id(entry[0]): entry[0] for entry in transaction.done}.values():
                self.forget(lease)
        else:
            transaction.end(KEPT if how == 'COMMIT' else UNDONE)

    def forget(self, lease):
        """Leaves a lease alone: others' turn."""
        self.held = [other for other in self.held if other is not lease]
        self.ended = [other for other in self.ended if other is not lease]

    def resolve(self):
        gid = random.choice(list(self.prepared))
        fate = random.choice([KEPT, UNDONE])
        transaction = self.prepared.pop(gid)
        self.undecided[gid] = (transaction, fate)
        self.ask(f"{'COMMIT' if fate == KEPT else 'ROLLBACK'} PREPARED '{gid}'")
        del self.undecided[gid]
        transaction.end(fate)
