"""What is played, and what must come of it: each answers rows of (measure, value, bar, whether it is met)."""

from service import WINDOW_MS

# Requests of an account in a window; the demand that this is 120 % of comes from all five.
AMOUNT = 240


def demand(service, share, amount=AMOUNT):
    """Requests a second that are this share of what all accounts allow."""
    return share * len(service.accounts) * amount * 1000 / WINDOW_MS


def attempts(requests):
    return [attempt for request in requests for attempt in request["attempts"] if attempt["status"] == "granted"]


def at_most(measure, value, bar):
    return measure, round(value, 4), f"<= {bar}", value <= bar


def at_least(measure, value, bar):
    return measure, round(value, 4), f">= {bar}", value >= bar


def refusals(calls):
    return sum(call["status"] == 429 for call in calls)


def least_used(service):
    """What an account's limit allows in the windows after the first: the share of it that was used, the smallest of all."""
    shares = [sum(limit["windows"][1:service.windows + 1]) / service.windows / limit["amount"]
              for account in service.report().values() for limit in account["limits"][:1]]
    return min(shares)


def known(service):
    """Demand at 120 % of capacity, limits known."""
    kinds = {"o1": "sliding", "o2": "bucket", "a1": "bucket", "g1": "fixed", "g2": "sliding"}
    service.open_simulator(lambda account: [{"metric": "requests", "kind": kinds[account], "amount": AMOUNT,
                                             "length_ms": WINDOW_MS}])
    service.configure(lambda account: AMOUNT)
    requests = service.drive(seconds=(service.windows + 2) * WINDOW_MS / 1000, rate=demand(service, 1.2))
    calls = service.calls()
    beside = sorted(request["ended_us"] - request["started_us"] - sum(a["http_us"] for a in request["attempts"])
                    for request in requests if request["outcome"] == "ok" and request["picks"] == 1)
    return [at_most("429s of providers", refusals(calls), 0),
            at_least("least used limit of an account", least_used(service), 0.97),
            at_most("time beside the provider's, p95, ms", beside[len(beside) * 95 // 100] / 1000, 50),
            at_most("statements of a request without a retry", max(r["statements"] for r in requests
                                                                   if r["picks"] == 1 and r["outcome"] == "ok"), 2)]


def too_high(service):
    """Limits configured twice as high as they are."""
    service.open_simulator(lambda account: [{"metric": "requests", "kind": "bucket", "amount": AMOUNT,
                                             "length_ms": WINDOW_MS}])
    service.configure(lambda account: AMOUNT * 2)
    requests = service.drive(seconds=(service.windows + 2) * WINDOW_MS / 1000, rate=demand(service, 1.2))
    calls = service.calls()
    first = min(call["received_us"] for call in calls) + WINDOW_MS * 1000
    later = [call for call in calls if call["received_us"] >= first]
    served = [request for request in requests if request["started_us"] >= first and attempts([request])]
    return [at_most("share of 429s after the first minute", refusals(later) / len(later), 0.02),
            at_most("attempts of a request", len(attempts(served)) / len(served), 1.1)]


def told_at(attempts_of_one, i):
    """When the record of an attempt was answered: by itself, or with the retry that came next. None: it never was."""
    attempt = attempts_of_one[i]
    if "record_us" in attempt:
        return attempt["at_us"] + attempt["pick_us"] + attempt["http_us"] + attempt["record_us"]
    following = attempts_of_one[i + 1:i + 2]
    return following[0]["at_us"] + following[0]["pick_us"] if following else None


def picked_after(requests, lost):
    """How many picks were granted to what `lost(attempt)` names after the first record of its loss was answered; -1: no
    record said so."""
    told, granted = [], []
    for request in requests:
        for i, attempt in enumerate(request["attempts"]):
            if attempt["status"] != "granted" or not lost(attempt):
                continue
            granted.append(attempt["at_us"])
            if attempt["http_status"] in (401, 429):
                told.append(told_at(request["attempts"], i))
    first = min((at for at in told if at is not None), default=None)
    return -1 if first is None else sum(at > first for at in granted)


def exhausted(service):
    """One account is out of its day; the server restarts in between."""
    service.open_simulator(lambda account: [{"metric": "requests", "kind": "day", "amount": 100000, "zone": "UTC",
                                             "ends_in_ms": 3600000}])
    service.configure(lambda account: None, steps=(("gemini",), ("openai",)))
    service.control(limits=[{"account": "g1", "name": "requests/day", "used": "all"}])
    before = service.drive(seconds=5, rate=100)
    service.restart_server()
    after = service.drive(seconds=5, rate=100)
    picked = len([attempt for attempt in attempts(after) if attempt["account"] == "g1"])
    found = picked_after(before, lambda attempt: attempt["account"] == "g1")
    return [("picks of it after the first such answer", found, "= 0", found == 0),
            ("picks of it after the restart", picked, "= 0", picked == 0)]


def fallback(service):
    """30 % of the calls to one provider answer 503; a model at a second one is the next step."""
    service.open_simulator(lambda account: [])
    service.configure(lambda account: None, steps=(("openai",), ("anthropic",)))
    service.control(faults=[{"api": "openai", "failure": "unavailable", "share": 0.3}])
    requests = service.drive(requests=3000, rate=100)
    served = [request for request in requests if request["outcome"] == "ok" and len(attempts([request])) <= 3]
    twice = [request for request in requests
             if len({a["model"] for a in attempts([request])}) < len(attempts([request]))]
    return [at_least("requests that succeed within 3 attempts", len(served) / len(requests), 0.999),
            ("requests that tried a model twice", len(twice), "= 0", not twice)]


def revoked(service):
    """A key is revoked."""
    service.open_simulator(lambda account: [])
    service.configure(lambda account: None, steps=(("openai",), ("anthropic",)))
    service.control(faults=[{"key": "o1-1", "failure": "auth"}])
    requests = service.drive(requests=2000, rate=200)
    found = picked_after(requests, lambda attempt: attempt["key"] == "o1-1")
    return [("picks of it after the first such answer", found, "= 0", found == 0)]
