"""Holds what was let through against the limits, from the players' own logs: nothing in it asks the server.

A call counts from the instant it was granted: one request, and what it used where that is known and no more than was
reserved, else what was reserved. A failed call used no tokens, a released one was no call. A limit is kept when no
interval as long as its window, wherever it begins, holds more than the amount.
"""
from collections import defaultdict

from config import amount_of, day_of


def microseconds(at):
    return round(at * 1_000_000)


def used_by(call):
    """What a call used; None: nobody said so."""
    if call.outcome not in ("settled", "settled_late"):
        return None
    return {"ok": (call.request.used_input, call.request.used_output), "error": (0, 0)}.get(call.request.fate)


def tokens_of(call):
    used = used_by(call)
    return call.reserved if used is None or sum(used) > sum(call.reserved) else used


def highest_in_flight(calls):
    """How many calls there were at once, each from its grant until its player began to say how it ended."""
    changes = []
    for call in calls:
        end = call.expires_at if call.ended_at is None else min(call.ended_at, call.expires_at)
        changes += [(call.granted_at, 1), (max(end, call.granted_at), -1)]
    highest = now = 0
    for _, change in sorted(changes):
        now += change
        highest = max(highest, now)
    return highest


def highest_in_any(seconds, amounts):
    """The most in any interval of so many seconds, its end not included; amounts: (time, amount) in order."""
    highest = total = first = 0
    for at, amount in amounts:
        total += amount
        while amounts[first][0] <= at - microseconds(seconds):
            total -= amounts[first][1]
            first += 1
        highest = max(highest, total)
    return highest


def highest_in_a_day(quota, calls):
    days = defaultdict(int)
    for call in calls:
        days[day_of(quota, call.granted_at)] += amount_of(quota, tokens_of(call))
    return max(days.values(), default=0)


def highest(quota, calls):
    if quota.metric == "concurrency":
        return highest_in_flight(calls)
    calls = [call for call in calls if call.outcome != "released"]
    if quota.calendar:
        return highest_in_a_day(quota, calls)
    return highest_in_any(quota.seconds, sorted((microseconds(call.granted_at), amount_of(quota, tokens_of(call)))
                                                for call in calls))


def judge(config, calls):
    """For each limit that counted something, the highest use: {limit: use}."""
    counted = defaultdict(list)
    for call in calls:
        for limit in config.limits_of(call):
            counted[limit].append(call)
    return {limit: highest(limit.quota, calls) for limit, calls in counted.items()}
