"""What a log of calls says of a limit, by definition and without the server: nothing here knows how it counts.

Times are microseconds. Run as a program, it shows that it notices what it is to notice.
"""


def fullest_interval(charges, length):
    """The most that was charged in any closed interval of this length. charges: (time, weight), in any order."""
    charges = sorted(charges)
    most = total = oldest = 0
    for time, weight in charges:
        total += weight
        while charges[oldest][0] < time - length:
            total -= charges[oldest][1]
            oldest += 1
        most = max(most, total)
    return most


def most_at_once(intervals):
    """The largest number of intervals [begin, end) that have an instant in common."""
    steps = sorted([(end, -1) for begin, end in intervals if end > begin]
                   + [(begin, 1) for begin, end in intervals if end > begin])
    most = present = 0
    for _, step in steps:
        present += step
        most = max(most, present)
    return most


def by_definition(charges, length):
    """fullest_interval(), slowly: every interval that begins with a charge, every charge in it."""
    return max((sum(weight for time, weight in charges if begin <= time <= begin + length)
                for begin, _ in charges), default=0)


def check():
    import random

    random.seed(1)
    for _ in range(300):
        charges = [(random.randrange(60), random.randrange(4)) for _ in range(random.randrange(30))]
        length = random.randrange(20)
        assert fullest_interval(charges, length) == by_definition(charges, length), (charges, length)
    assert fullest_interval([(0, 1), (10, 1)], 10) == 2, 'both ends belong to an interval'
    assert fullest_interval([(0, 1), (11, 1)], 10) == 1
    assert most_at_once([(0, 5), (5, 9), (4, 6), (7, 7)]) == 2, 'an interval lacks its end, an empty one everything'
    assert most_at_once([(0, 9), (1, 9), (2, 9)]) == 3
    assert most_at_once([]) == 0


if __name__ == '__main__':
    check()
    print('ok')
