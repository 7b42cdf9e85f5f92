"""The opponents do the job: each of their limits refuses, for the reason it should, and lets go when its time is over."""

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

AGE_ROWS = "UPDATE bench.account SET bucket = bucket - 70; UPDATE bench.org SET bucket = bucket - 70"
AGE_KEYS = """for _, key in ipairs(KEYS) do
    redis.call('SETRANGE', key, 0, struct.pack('<d', struct.unpack('<d', redis.call('GET', key)) - 70))
end"""

PICK = "SELECT status FROM bench.pick('gpt-4o', 'clinic-1', 1200, 500)"


def expect(who, limit, answers, expected):
    if answers != expected:
        raise Failure(f"{who} with {limit} answered {answers} and should have answered {expected}")


def check_redis(redis, limit, expected):
    redis.configure(**limit)
    expect("Redis", limit, [redis.pick_once()[0] for _ in expected], expected)
    if "requests" in limit or "org_requests" in limit:
        redis.command("EVAL", AGE_KEYS, 2, f"pool:{MODEL}", "org:clinic-1")
        expect("Redis, a minute later,", limit, [redis.pick_once()[0] for _ in expected], expected)


def check_plpgsql(cluster, limit, change, expected):
    picks = [PICK] * len(expected)
    later = [AGE_ROWS, *picks] if "requests" in limit or "org_requests" in limit else []
    rows = cluster.sql(DATABASE, "BEGIN", change, *picks, *later, "ROLLBACK")
    expect("PL/pgSQL", limit, [status for status, in rows], expected * (2 if later else 1))


def check(contestants):
    for limit, change, expected in LIMITS:
        check_redis(contestants.redis, limit, expected)
        check_plpgsql(contestants.cluster, limit, change, expected)
    contestants.redis.configure()
