"""Concurrent clients for the tests: processes with a connection each, and connections that begin at once."""
import multiprocessing
import os
import random
import resource
import sys
import time
import traceback

import psycopg
from psycopg import pq

PATIENCE = float(os.environ.get('PG_TEST_TIMEOUT_DEFAULT', 180))
PAUSE = 0.005  # between two looks at a condition


def now():
    """The clock that the server reads, too: microseconds since 1970."""
    return time.time_ns() // 1000


def connect(dsn, **options):
    return psycopg.connect(dsn, autocommit=True, **options)


def wait_for(condition, what):
    """Polls until the condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(PAUSE)


def _run(client, number, dsn, pipe, arguments):
    random.seed(number)
    try:
        with connect(dsn) as connection:
            pipe.send(client(connection, number, *arguments))
    except BaseException:
        pipe.send(RuntimeError(f'client {number}: {traceback.format_exc()}'))
    pipe.close()


def start(clients, client, dsn, *arguments):
    """Begins to call client(connection, number, ...) in so many processes."""
    context = multiprocessing.get_context('fork')
    processes = []
    for number in range(clients):
        ours, theirs = context.Pipe(False)
        process = context.Process(target=_run, args=(client, number, dsn, theirs, arguments), daemon=True)
        process.start()
        theirs.close()
        processes.append((process, ours))
    return processes


def finish(processes):
    """Waits for the processes; returns what each call returned. Ends the program when one of them raised."""
    results = []
    for process, pipe in processes:
        results.append(pipe.recv())
        process.join()
    for result in results:
        if isinstance(result, Exception):
            sys.exit(str(result))
    return results


def run(clients, client, dsn, *arguments):
    return finish(start(clients, client, dsn, *arguments))


def at_once(dsn, connections, prepare, query):
    """Runs the query on so many connections, all of which have run another one before, and are held at a gate inside
    the server until every one of them is there. Returns the first column of all that the query answered."""
    gate = 'pg_advisory_lock_shared(7)'
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with connect(dsn) as keeper:
        keeper.execute('SELECT pg_advisory_lock(7)')
        waiting = [pq.PGconn.connect(dsn.encode()) for _ in range(connections)]
        for connection in waiting:
            if connection.status != pq.ConnStatus.OK:
                sys.exit(connection.error_message.decode())
            connection.exec_(prepare.encode())
            connection.send_query(f'SELECT {gate}; {query}'.encode())
        wait_for(lambda: keeper.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                 .fetchone()[0] == connections, 'not all have come to the gate')
        keeper.execute('SELECT pg_advisory_unlock(7)')
        return [answer for connection in waiting for answer in _answers(connection)]


def _answers(connection):
    """The rest of a connection's results, without that of the gate; the connection is closed then."""
    answers = []
    while (result := connection.get_result()) is not None:
        if result.status == pq.ExecStatus.TUPLES_OK:
            answers += [result.get_value(row, 0) for row in range(result.ntuples)]
        elif result.status != pq.ExecStatus.COMMAND_OK:
            sys.exit(result.error_message.decode())
    connection.finish()
    return [answer.decode() for answer in answers[1:]]
