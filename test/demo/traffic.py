"""What the clinics ask for between ten and eleven o'clock: the same for whoever answers.

Times are in seconds of the demo, each of which stands for a minute: 0 is 10:00, 60 is 11:00.
"""
import math
import random
from dataclasses import dataclass

HOUR = 60.0
CLINICS = 500
ROUTES = {"chat": 0.45, "summary": 0.40, "consult": 0.15}
FATES = {"ok": 0.945, "error": 0.03, "forgotten": 0.005, "unused": 0.02}
SLOW_FROM, SLOW_UNTIL, SLOWER = 15.0, 25.0, 3.0
BATCH_EVERY, BATCH_SIZE, BATCH_TAKES = 7.0, 40, 0.1
PATIENCE = 0.5
HELD = {"consult"}           # somebody sits in front of it: it waits in its call, and the others with tickets


@dataclass(frozen=True)
class Request:
    number: int
    at: float
    org: str
    route: str
    input_tokens: int
    max_output_tokens: int
    hold: float              # how long the provider takes
    fate: str                # ok, error: the provider fails; forgotten: never recorded; unused: never sent
    used_input: int
    used_output: int


def clock(at):
    """The time of day that a time of the demo stands for."""
    return f"{10 + int(at) // 60}:{int(at) % 60:02}"


def batches():
    """When a clinic sends many at once."""
    begin = BATCH_EVERY / 2
    while begin < HOUR:
        yield begin
        begin += BATCH_EVERY


def arrivals(rng):
    """When requests come, and of which clinic: singly, most of them at half past; and in batches."""
    weights = [1 / (rank + 10) for rank in range(1, CLINICS + 1)]
    clinics = [f"clinic-{number:03}" for number in range(1, CLINICS + 1)]
    at = 0.0
    while at < HOUR:
        yield at, rng.choices(clinics, weights)[0]
        at += rng.expovariate(50 + 70 * math.sin(math.pi * at / HOUR))
    for begin in batches():
        clinic = rng.choice(clinics[10:])
        yield from ((begin + rng.uniform(0, BATCH_TAKES), clinic) for _ in range(BATCH_SIZE))


def request(rng, number, at, org):
    estimate = min(int(rng.lognormvariate(6.3, 0.5)), 3000)
    most = rng.choice([200, 400, 800])
    slower = SLOWER if SLOW_FROM <= at < SLOW_UNTIL else 1.0
    return Request(
        number, at, org, rng.choices(list(ROUTES), list(ROUTES.values()))[0], estimate, most,
        hold=slower * min(rng.lognormvariate(-2.55, 0.5), 0.6),
        fate=rng.choices(list(FATES), list(FATES.values()))[0],
        used_input=int(estimate * rng.uniform(0.8, 1.1)), used_output=int(most * rng.uniform(0.3, 1.0)))


def traffic(seed=1):
    rng = random.Random(seed)
    return [request(rng, number, at, org) for number, (at, org) in enumerate(sorted(arrivals(rng)))]
