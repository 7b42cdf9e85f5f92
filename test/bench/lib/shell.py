"""Paths, processes and progress: what every part of the bench stands on."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(os.environ["LLMQ_ROOT"])
HERE = ROOT / "test" / "bench"
BUILD = ROOT / "build" / "bench"


class Failure(Exception):
    """Something the figures cannot be trusted after; the message is for the reader of the bench's output."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(*command, env=None, text=None, check=True):
    """Runs a command to its end and answers what it printed."""
    done = subprocess.run([str(word) for word in command], input=text, text=True, capture_output=True,
                          env={**os.environ, **(env or {})}, cwd=ROOT)
    if check and done.returncode != 0:
        said = "\n".join(["", *(text or "").split("\n")[:5], done.stderr[-2000:]])
        raise Failure(f"{' '.join(str(word) for word in command)[:300]} ended with {done.returncode}: {said}")
    return done.stdout


def compile_c(source, target, *options):
    run("cc", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-o", target, HERE / source, *options)
    return target


def first_line(*command):
    try:
        return run(*command).strip().split("\n")[0]
    except (Failure, FileNotFoundError):
        return "not there"
