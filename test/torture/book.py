"""What clients know of leases, and what the server must therefore show: an oracle that has never seen the extension's code.

An outcome is a tuple: LIVE, or what the ledger's row says as ROW. A client keeps for each lease the outcomes that are
possible after all it was told; where a crash left it without an answer there are several. Records carry a number in
their tags, so that a row tells which of several records it is of.
"""
import collections
import dataclasses

LIVE = ('live',)
ROW = collections.namedtuple('ROW', 'status http_status input output source number')
EXPIRED = ROW('expired', None, None, None, 'reserved', None)

# How a fate of a transaction is called. PREPARED: neither lease nor row can be seen.
KEPT, UNDONE = 'kept', 'undone'


@dataclasses.dataclass
class Lease:
    id: str
    input: int
    output: int
    short: bool  # it expires during the round
    may: set

    @classmethod
    def picked(cls, id, input, output, short):
        return cls(id, input, output, short, {LIVE, EXPIRED} if short else {LIVE})


@dataclasses.dataclass
class Attempt:
    """A record or a release: its SQL, and the row that it means."""
    sql: str
    row: ROW

    def told(self):
        return self.row

    def recovered(self):
        """What maintenance writes when the transaction is gone: all but what only the caller knew."""
        if self.row.status == 'released':
            return self.row
        return self.row._replace(source='recovered', number=None)

    def late(self):
        return self.row._replace(source='late')

    def late_recovered(self):
        return self.row._replace(source='late', number=None)


def after(lease, attempt, answer, fate):
    """The outcomes that are possible once the transaction has ended. answer: None when a crash came first."""
    kept, undone = fate in (KEPT, None), fate in (UNDONE, None)
    may = set()
    if answer in ('settled', 'released', None):
        may |= {attempt.told()} if kept else set()
        may |= {attempt.recovered()} if undone else set()
    if answer == 'settled_late' or (answer is None and attempt.row.status != 'released' and lease.short):
        may |= {attempt.late()} if kept else set()
        # when the slot has another lease by then there is only the row, and a rollback leaves that as it was
        may |= {attempt.late_recovered(), EXPIRED} if undone else set()
    if answer in ('already_settled', None):
        may |= lease.may
    return may


def use_of(call):
    """What the windows count for a call: (in flight, requests, least input, most input, least output, most output)."""
    if call.status is None:
        return 1, 1, call.reserved_input, call.reserved_input, call.reserved_output, call.reserved_output
    if call.status == 'released':
        return 0, 0, 0, 0, 0, 0
    refused = call.status == 'error' and call.http_status is not None
    least = [given if given is not None else 0 if refused else reserved
             for given, reserved in ((call.input, call.reserved_input), (call.output, call.reserved_output))]
    most = list(least)
    if call.source == 'late':  # nothing is given back when the slot had another lease
        most = [max(least[0], call.reserved_input), max(least[1], call.reserved_output)]
    return 0, 1, least[0], most[0], least[1], most[1]


def bounds(call, metric):
    in_flight, requests, least_input, most_input, least_output, most_output = use_of(call)
    return {'concurrency': (in_flight, in_flight), 'requests': (requests, requests),
            'input_tokens': (least_input, most_input), 'output_tokens': (least_output, most_output),
            'tokens': (least_input + least_output, most_input + most_output)}[metric]


def disagreements(quotas, windows, calls):
    """What differs between meters on one side, leases and ledger on the other."""
    expected = collections.defaultdict(lambda: [0, 0])
    for call in calls:
        for quota in quotas:
            subject = getattr(call, quota.scope, '')
            least, most = bounds(call, quota.metric)
            sums = expected[quota.id, subject, quota.model and call.model]
            sums[0] += least
            sums[1] += most
    found = []
    for window in windows:
        least, most = expected.pop((window.quota, window.subject, window.model), (0, 0))
        if not least <= window.used <= most:
            found.append(f'{window.scope} {window.subject!r} {window.model or ""} {window.metric}: '
                         f'used {window.used}, expected {least} to {most}')
    found += [f'no window of quota {quota} for {subject!r} {model or ""}, expected {least}'
              for (quota, subject, model), (least, _) in expected.items() if least > 0]
    return found


def wrong_leases(leases, seen, pending):
    """What differs between what clients were told and what the server shows. seen: outcomes by lease, a list each."""
    found = []
    for lease in leases:
        there = seen.get(lease.id, [])
        if len(there) != 1 or there[0] not in lease.may:
            found.append(f'{lease.id}: the server shows {there}, possible is {lease.may}')
    known = {lease.id for lease in leases}
    strangers = [(id, there) for id, there in seen.items() if id not in known]
    found += [f'{id}: {there} are too many' for id, there in strangers if len(there) > 1]
    if len(strangers) > pending:
        found.append(f'{len(strangers)} leases that nobody was told of, {pending} picks without an answer: {strangers}')
    return found
