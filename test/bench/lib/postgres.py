"""The private cluster, its databases, and pgbench against them."""

import os
import re
import shutil
import subprocess

from shell import BUILD, Failure, HERE, ROOT, run

# No checkpoint and no vacuum of the server's own falls into a measure; whatever is dirty is written before it.
SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "32GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "jit": "off",
    "max_connections": "200",
}


class Cluster:
    def __init__(self):
        self.directory = BUILD / "pg"
        self.env = {}

    def start(self):
        """A new cluster. Its library is a copy: what is installed during the measures does not get into them."""
        library = os.path.join(run("pg_config", "--pkglibdir").strip(), "llmquota.so")
        shutil.copy(library, BUILD)
        settings = {**SETTINGS, "dynamic_library_path": f"{BUILD}:$libdir"}
        options = [word for name, value in settings.items() for word in ("--conf", f"{name} = '{value}'")]
        run("test/cluster", "start", *options, self.directory)
        for line in (self.directory / "env").read_text().split("\n"):
            found = re.match(r"export (\w+)='?([^']*)'?$", line)
            if found:
                self.env[found[1]] = found[2]

    def restart(self, **settings):
        """The server again, with other settings than SETTINGS; without arguments, with these."""
        lines = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
        (self.directory / "data" / "postgresql.auto.conf").write_text(lines)
        run("test/cluster", "restart", self.directory)

    def stop(self):
        if self.directory.exists():
            run("test/cluster", "stop", self.directory, check=False)

    def sql(self, database, *statements, variables=None):
        """Runs statements, each in a transaction of its own, and answers their rows as lists of texts."""
        options = [word for name, value in (variables or {}).items() for word in ("-v", f"{name}={value}")]
        out = run("psql", "-XAtq", "-F", "\t", "-v", "ON_ERROR_STOP=1", *options, "-d", database,
                  text=";\n".join(statements) + ";\n", env=self.env)
        return [line.split("\t") for line in out.split("\n") if line]

    def value(self, database, statement):
        return self.sql(database, statement)[0][0]

    def file(self, database, name, **variables):
        self.sql(database, (HERE / "sql" / name).read_text(), variables=variables)

    def checkpoint(self):
        self.sql("postgres", "CHECKPOINT")


class Script:
    """A custom script of pgbench. `variables` are set for every client (and can differ by client_id in the text)."""

    def __init__(self, name, text, **variables):
        self.name = name
        self.variables = variables
        self.path = BUILD / "scripts" / f"{name}.sql"
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(text)


def command_of(script, database, clients, protocol, extra):
    variables = [f"-D{name}={value}" for name, value in script.variables.items()]
    return [str(word) for word in ["pgbench", "-n", "-M", protocol, "-c", clients, "-j", min(2, clients), *variables,
                                   *extra, "-f", script.path, database]]


def pgbench(env, script, database, clients, synchronous_commit, *extra, protocol="prepared"):
    """Runs a script and answers (transactions per second, transactions)."""
    out = run(*command_of(script, database, clients, protocol, extra),
              env={**env, "PGOPTIONS": f"-c synchronous_commit={synchronous_commit}"})
    rate = re.search(r"^tps = ([\d.]+)", out, re.M)
    count = re.search(r"transactions actually processed: (\d+)", out)
    failed = re.search(r"failed transactions: (\d+)", out)
    if not rate or (failed and int(failed[1])):
        raise Failure(f"pgbench with {script.name}: {out[-1000:]}")
    return float(rate[1]), int(count[1])


class Logged:
    """A pgbench under way that logs every transaction."""

    def __init__(self, env, script, database, clients, rate, seconds, synchronous_commit):
        self.prefix = BUILD / "log" / script.name
        self.prefix.parent.mkdir(exist_ok=True)
        for old in self.prefix.parent.glob(f"{script.name}.*"):
            old.unlink()
        extra = ["-T", seconds, "--rate", rate, "--log", "--log-prefix", self.prefix]
        self.process = subprocess.Popen(
            command_of(script, database, clients, "prepared", extra), cwd=ROOT, text=True,
            env={**os.environ, **env, "PGOPTIONS": f"-c synchronous_commit={synchronous_commit}"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def transactions(self):
        """Waits for its end: (end in seconds since 1970, latency in ms from when it was due, of this the delay in ms)
        of every transaction."""
        out = self.process.communicate()[0]
        if self.process.returncode != 0:
            raise Failure(f"pgbench: {out[-1000:]}")
        rows = []
        for log in self.prefix.parent.glob(f"{self.prefix.name}.*"):
            for line in log.read_text().split("\n"):
                word = line.split()
                if word:
                    rows.append((int(word[4]) + int(word[5]) / 1e6, int(word[2]) / 1e3, int(word[6]) / 1e3))
        return rows
