"""A private pgbouncer in transaction mode before the cluster."""

import os
import pathlib
import shutil
import signal
import time

from shell import BUILD, Failure, run

# Options of the startup packet go no further than pgbouncer: what a measure wants is set when a server connection is
# made.
CONFIGURATION = """[databases]
* = host={host} port={port} user={user} connect_query='SET synchronous_commit = {mode}'
[pgbouncer]
pool_mode = transaction
listen_addr =
listen_port = 6432
unix_socket_dir = {directory}
auth_type = any
default_pool_size = {connections}
max_client_conn = 300
ignore_startup_parameters = extra_float_digits, options
logfile = {directory}/log
pidfile = {directory}/pid
"""


class PgBouncer:
    def __init__(self, cluster, connections=32):
        """With one server connection for each client waiting for connections is not what is measured."""
        self.cluster = cluster
        self.connections = connections
        self.directory = BUILD / "pgbouncer"
        self.env = {**cluster.env, "PGHOST": str(self.directory), "PGPORT": "6432"}

    def start(self, mode):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        configuration = self.directory / "ini"
        server = self.cluster.env
        configuration.write_text(CONFIGURATION.format(directory=self.directory, mode=mode, host=server["PGHOST"],
                                                      port=server["PGPORT"], user=server["PGUSER"],
                                                      connections=self.connections))
        run("pgbouncer", "-d", "-q", configuration)
        deadline = time.monotonic() + 10
        while run("psql", "-XAtc", "SELECT 1", "-d", "postgres", env=self.env, check=False).strip() != "1":
            if time.monotonic() > deadline:
                raise Failure("pgbouncer does not answer")

    def pid(self):
        """The process, unless its number belongs to somebody else by now."""
        try:
            pid = int((self.directory / "pid").read_text())
            return pid if str(self.directory) in pathlib.Path(f"/proc/{pid}/cmdline").read_text() else None
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None

    def stop(self):
        pid = self.pid()
        if pid:
            os.kill(pid, signal.SIGTERM)
        while pid and self.pid():
            time.sleep(0.05)
