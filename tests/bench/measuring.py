"""What a scenario is made of, and how its series take turns.

A series is one thing that can be measured for a while, and gives figures by their names, which end in
their units. A scenario has several: what is asked of Holdfast, and beside it what it is held against. They
take turns, a span each, and each round begins with another one, so that whatever else the machine does
meets all of them. What compares two series compares those of one round; of all rounds the median counts.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from statistics import median

from tests.bench.spans import Bench, Figures, Span

HOLDFAST = "Holdfast"
WARMING_SECONDS = 0.5


@dataclass(frozen=True)
class Series:
    """One thing that is measured."""

    name: str
    span: Span
    is_warmed: bool = True
    """Whether a first, short span is thrown away."""


@dataclass(frozen=True)
class Against:
    """A figure of a series held against that of another, a further figure of the first."""

    name: str
    figure: str
    of: str
    to: str
    how: Callable[[float, float], float]

    def of_round(self, found: Mapping[str, Figures]) -> float:
        return self.how(found[self.of][self.figure], found[self.to][self.figure])


@dataclass(frozen=True)
class Setup:
    """A scenario that is ready to be measured."""

    series: Sequence[Series]
    against: Sequence[Against] = ()
    is_once: bool = False
    """Whether one round says it all: what counts bytes, or takes its time."""


Scenario = Callable[[Bench], AbstractContextManager[Setup]]

Measured = dict[str, dict[str, list[float]]]
"""Series, figure, and its value in each round."""


def measure(name: str, scenario: Scenario, bench: Bench) -> Measured:
    """Let all series take turns."""
    bench.stack.reset()
    found: Measured = {}
    with scenario(bench) as setup:
        if not bench.is_brief:
            for series in setup.series:
                if series.is_warmed:
                    series.span(WARMING_SECONDS)
        rounds = 1 if setup.is_once else bench.rounds
        for number in range(rounds):
            print(f"{time.strftime('%H:%M:%S')} {name}: round {number + 1} of {rounds}", file=sys.stderr)
            for series, figures in _round(setup, number, bench.seconds).items():
                for figure, value in figures.items():
                    found.setdefault(series, {}).setdefault(figure, []).append(value)
    return found


def _round(setup: Setup, number: int, seconds: float) -> dict[str, Figures]:
    cut = number % len(setup.series)
    by_name = {series.name: series.span(seconds) for series in (*setup.series[cut:], *setup.series[:cut])}
    for each in setup.against:
        # In a short span a process may use less CPU than its clock can tell.
        with suppress(ZeroDivisionError):
            by_name[each.of][each.name] = each.of_round(by_name)
    # In the order of the scenario, not of the round.
    return {series.name: by_name[series.name] for series in setup.series}


def medians(measured: Measured) -> dict[str, Figures]:
    return {
        series: {figure: median(values) for figure, values in figures.items()}
        for series, figures in measured.items()
    }


def percent(one: float, other: float) -> float:
    return 100 * one / other
