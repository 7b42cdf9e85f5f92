"""The one table: figures, ratios and bars, and the medians they are made of."""

import statistics
from dataclasses import dataclass


@dataclass
class Row:
    """`ratio` and `bar` are texts already; `met` is None where there is no bar."""
    measure: str
    value: str
    against: str = ""
    ratio: str = ""
    bar: str = ""
    met: bool = None


def interleave(contestants, rounds):
    """Runs every contestant (name: function that answers a figure) once in each round, so that what disturbs the
    machine disturbs all; answers name: figures."""
    figures = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items():
            figures[name].append(measure())
    return figures


def ratio(figures, one, other):
    """The median of the ratios within the rounds."""
    return statistics.median(a / b for a, b in zip(figures[one], figures[other]))


def per_second(figures):
    return f"{statistics.median(figures):,.0f}/s"


def compare(measure, figures, one, against, at_least=None):
    """A row that says how often "one" fits into what "against" needs."""
    times = ratio(figures, one, against)
    return Row(measure, per_second(figures[one]), f"{against} {per_second(figures[against])}", f"{times:.2f}",
               "" if at_least is None else f">= {at_least:.2f}", None if at_least is None else times >= at_least)


def limit(measure, figure, unit, at_most, note="", digits=1):
    """A row for a figure that must not exceed a bar."""
    return Row(measure, f"{figure:,.{digits}f} {unit}", note, "", f"<= {at_most:,g} {unit}", figure <= at_most)


def render(heading, rows):
    columns = [["measure", "value", "against", "ratio", "bar", "met"]]
    for row in rows:
        columns.append([row.measure, row.value, row.against, row.ratio, row.bar,
                        "" if row.met is None else "yes" if row.met else "NO"])
    widths = [max(len(line[i]) for line in columns) for i in range(6)]
    lines = []
    for line in columns:
        cells = [line[0].ljust(widths[0]), line[1].rjust(widths[1]), line[2].ljust(widths[2]), line[3].rjust(widths[3]),
                 line[4].ljust(widths[4]), line[5]]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(len(line) for line in lines))
    judged = [row for row in rows if row.met is not None]
    lines.append(f"{sum(row.met for row in judged)} of {len(judged)} bars met")
    return heading + "\n" + "\n".join(lines) + "\n"
