"""A gateway that counts in its own memory, exactly: as good as such limiters get, and blind to its neighbours.

Sliding windows keep every call; days and calls in flight are counted; leases expire. There is no race in it and no
rounding. What three of them let through together is the fault of there being three.
"""
import random
from collections import deque

from config import amount_of, day_of
from player import Answer, Call


class Sliding:
    def __init__(self, quota):
        self.quota = quota
        self.entries = deque()
        self.used = 0

    def look(self, now):
        while self.entries and self.entries[0][0] <= now - self.quota.seconds:
            self.used -= self.entries.popleft()[1]
        return self.used

    def charge(self, now, amount):
        self.entries.append([now, amount])
        self.used += amount
        return self.entries[-1]

    def correct(self, entry, amount, now):
        self.look(now)
        if self.entries and entry[0] >= self.entries[0][0]:
            self.used += amount - entry[1]
            entry[1] = amount

    def fits_after(self, now, amount):
        """Seconds until an amount fits."""
        excess = self.look(now) + amount - self.quota.amount
        for at, charged in self.entries:
            excess -= charged
            if excess <= 0:
                return at + self.quota.seconds - now
        return None


class Daily:
    def __init__(self, quota):
        self.quota = quota
        self.day = None
        self.used = 0

    def look(self, now):
        day = day_of(self.quota, now)
        if day != self.day:
            self.day, self.used = day, 0
        return self.used

    def charge(self, now, amount):
        self.used += amount
        return [self.day, amount]

    def correct(self, entry, amount, _):
        if entry[0] == self.day:
            self.used += amount - entry[1]
            entry[1] = amount

    def fits_after(self, _now, _amount):
        return 3600.0


class InFlight:
    """Counts what has neither ended nor expired."""

    def __init__(self, quota):
        self.quota = quota
        self.entries = {}

    def look(self, now):
        self.entries = {number: entry for number, entry in self.entries.items() if entry[0] > now}
        return len(self.entries)

    def charge(self, now, _):
        entry = [now + Gateway.TTL]
        self.entries[id(entry)] = entry
        return entry

    def correct(self, entry, _amount, _now):
        self.entries.pop(id(entry), None)

    def fits_after(self, _now, _amount):
        return 0.1


def new_window(quota):
    kind = InFlight if quota.metric == "concurrency" else Daily if quota.calendar else Sliding
    return kind(quota)


class Gateway:
    TTL = 2.0

    def __init__(self, config, clock, seed):
        self.config = config
        self.clock = clock
        self.rng = random.Random(seed)
        self.windows = {}
        self.charges = {}
        self.leases = 0

    def windows_of(self, call):
        for limit in self.config.limits_of(call):
            if limit not in self.windows:
                self.windows[limit] = new_window(limit.quota)
            yield limit, self.windows[limit]

    def pick(self, request):
        binding = None
        for candidates in self.config.steps[request.route]:
            tried = [self.try_one(request, key, model) for key, model in candidates]
            free = [(room, self.rng.random(), call) for room, call, _ in tried if call is not None]
            if free:
                return Answer(self.grant(max(free)[2]))
            binding = min([refusal for _, _, refusal in tried] + ([binding] if binding else []), key=lambda r: r[0])
        wait, limit = binding
        return Answer(reason=("refused", limit.quota.id), retry_after=wait * self.rng.uniform(1, 1.25))

    def try_one(self, request, key, model):
        """How much room would be left and the call; or what refuses, and for how long."""
        now = self.clock.now()
        call = Call(None, request, request.org, key.account, key.key, model, now, now + self.TTL,
                    (request.input_tokens, request.max_output_tokens))
        room, refusals = 1.0, []
        for limit, window in self.windows_of(call):
            amount = amount_of(limit.quota, call.reserved)
            left = limit.quota.amount - window.look(now) - amount
            room = min(room, left / limit.quota.amount)
            if left < 0:
                refusals.append((window.fits_after(now, amount) or 3600.0, limit))
        if refusals:
            return None, None, max(refusals, key=lambda r: r[0])
        return room, call, None

    def grant(self, call):
        self.leases += 1
        call.lease = (id(self), self.leases)
        self.charges[call.lease] = [
            (limit, window, window.charge(call.granted_at, amount_of(limit.quota, call.reserved)))
            for limit, window in self.windows_of(call)]
        return call

    def settle(self, call, requests, tokens):
        for limit, window, entry in self.charges.pop(call.lease):
            amount = requests if limit.quota.metric == "requests" else amount_of(limit.quota, tokens)
            window.correct(entry, amount, self.clock.now())

    def record(self, call):
        used = (call.request.used_input, call.request.used_output)
        self.settle(call, 1, used if call.request.fate == "ok" else (0, 0))
        return "settled"

    def release(self, call):
        self.settle(call, 0, (0, 0))
        return "released"
