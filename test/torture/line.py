"""Those who wait in line are killed, and the server is, again and again: no slot is lost, and none is made."""
import tempfile

import line_kill

ROUNDS_PER_CLUSTER = 10


def setup(connection):
    connection.execute('CREATE EXTENSION llmquota')
    connection.execute(line_kill.SETUP)


def crash(server, directory, name):
    """Kills the server in mid-load, and starts it again."""
    crowd = line_kill.Crowd(server.dsn, directory, name)
    crowd.wait_for_calls()
    server.crash('everything')
    for process in crowd.processes:
        process.join()
    server.restart()
    return crowd.finish()


def wait_in_line(server, rounds, verify):
    """So many crashes, after each of which half of the clients are killed, too; then all slots are free, no more."""
    calls = 0
    for number in range(rounds):
        if number % ROUNDS_PER_CLUSTER == 0:
            server.create(setup)
        with tempfile.TemporaryDirectory() as directory:
            results = [crash(server, directory, f'crash {number}'),
                       line_kill.kill_clients(server.dsn, directory, f'kill {number}')]
        calls += sum(result['answers']['settled'] for result in results)
        free = line_kill.free_slots(server.dsn)
        with server.connect() as connection:
            problems = verify(connection)
        if free != line_kill.SLOTS or problems:
            print(f'round {number} of the line: {free} of {line_kill.SLOTS} slots are free; {problems}')
            return False
    print(f'{rounds} crashes in which many waited in line, {calls} calls: no slot lost', flush=True)
    return True
