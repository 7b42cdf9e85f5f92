"""A gateway's day: asks when a request comes, waits when it has to, holds what is granted, and says how it ended.

A player serves many requests at once, as a program with an event loop does, and waits with tickets; a patient player
serves one after the other, as a thread of a web server does, and waits in its calls. It does not know whether its clock
is real and who answers it; a gate that has no line refuses, and says when to come again.
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
    left_line: Counter = field(default_factory=Counter)   # by clinic: gave up in line
    unanswered: int = 0      # picks that the server had no time to answer

    @classmethod
    def merged(cls, logs):
        """One log out of those of several players."""
        whole = cls()
        for log in logs:
            whole.calls += log.calls
            whole.refusals += log.refusals
            whole.given_up += log.given_up
            whole.left_line += log.left_line
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
    """Plays requests, from the time begin on, against a gate: something with pick, record and release, and where there
    is a line claim and give_back.

    progress is a list of numbers that somebody else may look at: picks granted, and picks refused.
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
        if answer.call is not None:
            self.granted(answer.call)
        elif answer.ticket is not None:
            self.queued(request, came_at, answer, answer.reason)
        else:
            self.refused(request, came_at, answer)

    def granted(self, call):
        self.progress[0] += 1
        self.log.calls.append(call)
        self.hold(call)

    def hold(self, call):
        self.plan(self.clock.now() + call.request.hold, self.end, call)

    def back_at(self, came_at, answer):
        """When to come again; None: there is no patience for it, or no use."""
        back_at = None if answer.retry_after is None else self.clock.now() + answer.retry_after
        return None if back_at is None or back_at > came_at + PATIENCE else back_at

    def refused(self, request, came_at, answer):
        self.progress[1] += 1
        self.log.refusals[answer.reason] += 1
        back_at = self.back_at(came_at, answer)
        if back_at is None:
            self.log.given_up += 1
        else:
            self.plan(back_at, self.ask, request, came_at)

    def queued(self, request, came_at, answer, reason):
        """In line, because of the reason, with a ticket."""
        back_at = self.back_at(came_at, answer)
        if back_at is None:
            self.gate.give_back(answer.ticket)
            self.leave_line(request, reason)
        else:
            self.plan(back_at, self.show_ticket, request, came_at, answer.ticket, reason)

    def show_ticket(self, request, came_at, ticket, reason):
        answer = self.gate.claim(request, ticket)
        if answer.call is not None:
            self.granted(answer.call)
        elif answer.ticket is not None:
            self.queued(request, came_at, answer, reason)
        else:
            self.refused(request, came_at, answer)

    def leave_line(self, request, reason):
        self.log.given_up += 1
        self.log.left_line[request.org] += 1
        self.log.refusals["gave up in line", *reason[1:]] += 1

    def end(self, call):
        if call.request.fate == "forgotten":
            return
        call.ended_at = self.clock.now()
        call.outcome = self.gate.release(call) if call.request.fate == "unused" else self.gate.record(call)


class PatientPlayer(Player):
    """Plays one request after the other, from its pick, which waits in the call, to its end."""

    def ask(self, request, came_at):
        answer = self.gate.pick(request, held=True)
        if answer.call is not None:
            self.granted(answer.call)
        elif answer.ticket is not None:     # as many wait in their calls as may
            self.queued(request, came_at, answer, answer.reason)
        elif answer.waited:
            self.leave_line(request, answer.reason)
        else:
            self.refused(request, came_at - PATIENCE, answer)   # and does not come again

    def hold(self, call):
        self.clock.wait_until(self.clock.now() + call.request.hold)
        self.end(call)


@dataclass
class Answer:
    """What a gate answers to a pick: a call; or why not, how many seconds to wait (None: it is of no use), the ticket
    when it is in line, and whether it has waited there."""
    call: Call = None
    reason: tuple = None
    retry_after: float = None
    ticket: object = None
    waited: bool = False
