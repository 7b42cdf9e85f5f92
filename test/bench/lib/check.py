"""The opponents do the job: each of their limits refuses, for the right reason, and lets go when its time is over."""

import time

from contestants import DATABASE
from redis import MODEL
from shell import Failure

SIXTH = ["granted"] * 5 + ["over_capacity"]
THIRD = ["granted"] * 2 + ["rate_limited"]

# The limit as Redis and as PL/pgSQL are told of it, and what a row of picks for one org is answered.
LIMITS = [
    ({"requests": 1}, "UPDATE bench.account SET req_amount = 1", SIXTH),
    ({"tokens": 1700}, "UPDATE bench.account SET tok_amount = 1700", SIXTH),
    ({"day": 1}, "UPDATE bench.account SET day_amount = 1", SIXTH),
    ({"org_requests": 2}, "UPDATE bench.org SET req_amount = 2", THIRD),
    ({"org_flight": 2}, "UPDATE bench.org SET flight_amount = 2", THIRD),
    ({"flight": 2}, "UPDATE bench.account SET slots = 2; DELETE FROM bench.slot WHERE id > 2",
     ["granted"] * 2 + ["over_capacity"]),
]
BY_THE_MINUTE = ("requests", "tokens", "org_requests")
IN_FLIGHT = ("org_flight", "flight")

AGE_ROWS = "UPDATE bench.account SET bucket = bucket - 70; UPDATE bench.org SET bucket = bucket - 70"
EXPIRE_ROWS = ("UPDATE bench.slot SET expires_at = '-infinity' WHERE lease IS NOT NULL; "
               "DO 'BEGIN PERFORM bench.expire(); END'")
AGE_KEYS = """for _, key in ipairs(KEYS) do
    redis.call('SETRANGE', key, 0, struct.pack('<d', struct.unpack('<d', redis.call('GET', key)) - 70))
end"""

PICK = "SELECT status FROM bench.pick('gpt-4o', 'clinic-1', 1200, 500)"


def expect(who, limit, answers, expected):
    if answers != expected:
        raise Failure(f"{who} with {limit} answered {answers} and should have answered {expected}")


def expected_twice(limit, expected):
    """The answers at once, and those after a minute or after the expiry of the leases: the day's stay as they are."""
    again = expected if next(iter(limit)) in BY_THE_MINUTE + IN_FLIGHT else expected[-1:] * len(expected)
    return expected + again


def check_redis(redis, limit, expected):
    redis.configure(**limit)
    answers = [redis.pick_once()[0] for _ in expected]
    if next(iter(limit)) in BY_THE_MINUTE:
        redis.command("EVAL", AGE_KEYS, 2, f"pool:{MODEL}", "org:clinic-1")
    elif next(iter(limit)) in IN_FLIGHT:
        redis.expire(time.time(), time.time() + 600)
    answers += [redis.pick_once()[0] for _ in expected]
    expect("Redis", limit, answers, expected_twice(limit, expected))


def check_plpgsql(cluster, limit, change, expected):
    picks = [PICK] * len(expected)
    later = [AGE_ROWS] if next(iter(limit)) in BY_THE_MINUTE else [EXPIRE_ROWS]
    rows = cluster.sql(DATABASE, "BEGIN", change, *picks, *later, *picks, "ROLLBACK")
    expect("PL/pgSQL", limit, [status for status, in rows], expected_twice(limit, expected))


def check(contestants):
    for limit, change, expected in LIMITS:
        check_redis(contestants.redis, limit, expected)
        check_plpgsql(contestants.cluster, limit, change, expected)
    contestants.redis.configure()
