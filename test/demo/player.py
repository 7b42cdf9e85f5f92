"""A gateway's day: asks when a request comes, waits when refused, holds what is granted, and says how it ended.

A player serves many requests at once, as a program with an event loop does. It does not know whether its clock is real
and who answers it.
"""
import heapq
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field

from traffic import PATIENCE, Request


@dataclass
class Call:
    """A pick that was granted, as the player knows it."""
    lease: object
    request: Request
    org: str
    account: str
    key: str
    model: str
    granted_at: float
    expires_at: float
    reserved: tuple          # tokens in and out
    downgraded: bool = False
    ended_at: float = None   # when the player began to say how it ended; None: it forgot
    outcome: str = None      # what it was told then


@dataclass
class Log:
    """What a player has seen."""
    calls: list = field(default_factory=list)
    refusals: Counter = field(default_factory=Counter)
    given_up: int = 0
    unanswered: int = 0      # picks that the server had no time to answer

    @classmethod
    def merged(cls, logs):
        """One log out of those of several players."""
        whole = cls()
        for log in logs:
            whole.calls += log.calls
            whole.refusals += log.refusals
            whole.given_up += log.given_up
            whole.unanswered += log.unanswered
        return whole


class RealClock:
    now = staticmethod(time.time)

    @staticmethod
    def wait_until(at):
        delay = at - time.time()
        if delay > 0:
            time.sleep(delay)


class SimulatedClock:
    def __init__(self, at):
        self.at = at

    def now(self):
        return self.at

    def wait_until(self, at):
        self.at = max(self.at, at)


class Player:
    """Plays requests, from the time begin on, against a gate: something with pick, record and release.

    progress is a list of numbers that somebody else may look at: picks granted, picks refused, calls in flight, and
    requests that wait.
    """

    def __init__(self, requests, gate, clock, begin, progress):
        self.gate = gate
        self.clock = clock
        self.progress = progress
        self.log = Log()
        self.order = itertools.count()
        self.agenda = []
        for request in requests:
            self.plan(begin + request.at, self.ask, request, begin + request.at)

    def plan(self, at, step, *args):
        heapq.heappush(self.agenda, (at, next(self.order), step, args))

    def play(self):
        while self.agenda:
            at, _, step, args = heapq.heappop(self.agenda)
            self.clock.wait_until(at)
            step(*args)
        return self.log

    def ask(self, request, came_at):
        answer = self.gate.pick(request)
        if answer.call is None:
            self.refused(request, came_at, answer)
            return
        self.progress[0] += 1
        self.progress[2] += 1
        self.log.calls.append(answer.call)
        self.plan(self.clock.now() + request.hold, self.end, answer.call)

    def refused(self, request, came_at, answer):
        self.progress[1] += 1
        self.log.refusals[answer.reason] += 1
        back_at = None if answer.retry_after is None else self.clock.now() + answer.retry_after
        if back_at is None or back_at > came_at + PATIENCE:
            self.log.given_up += 1
        else:
            self.progress[3] += 1
            self.plan(back_at, self.ask_again, request, came_at)

    def ask_again(self, request, came_at):
        self.progress[3] -= 1
        self.ask(request, came_at)

    def end(self, call):
        self.progress[2] -= 1
        if call.request.fate == "forgotten":
            return
        call.ended_at = self.clock.now()
        call.outcome = self.gate.release(call) if call.request.fate == "unused" else self.gate.record(call)


@dataclass
class Answer:
    """What a gate answers to a pick: a call; or why not, and how many seconds to wait (None: it is of no use)."""
    call: Call = None
    reason: tuple = None
    retry_after: float = None
