"""Plots as shapes with edges in hundredths of their space, so that one drawing fits every screen. Pure."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Anchor = Literal["start", "middle", "end"]
Say = Callable[[float], str]

MOST_STEPS = 4
"""Of a scale: more lines than that are noise."""

_FILLED = 0.78
"""Of the room that a column has."""

_THINNEST = 1.0
"""What is too little to be seen is seen all the same."""

_MOST_INSTANTS = 6
_ENDS: Mapping[float, Anchor] = {0.0: "start", 100.0: "end"}

_INSTANTS_MS = (
    (1.0, "1 ms"), (10.0, "10 ms"), (1e2, "100 ms"), (1e3, "1 s"), (1e4, "10 s"), (6e4, "1 min"),
    (6e5, "10 min"), (3.6e6, "1 h"), (3.6e7, "10 h"), (3.6e8, "100 h"), (3.6e9, "1000 h"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Series:
    """What is stacked: one value for each column."""

    name: str
    kind: str
    """How it is coloured."""
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Box:
    kind: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Column:
    """The boxes of one column, and the words for them."""

    title: str
    left: float
    """Where its room begins; the boxes leave some of that free."""
    room: float
    x: float
    width: float
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis."""

    at: float
    words: str
    anchor: Anchor = "middle"


@dataclass(frozen=True, slots=True)
class Plot:
    """Columns of stacked boxes, and the same as a table."""

    columns: tuple[Column, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    series: tuple[Series, ...]
    rows: tuple[tuple[str, ...], ...]
    """Of each column its name, and each value in words."""


def stacked(
    names: Sequence[str], short: Sequence[str], series: Sequence[Series], say: Say, mark: Say, *, least: float
) -> Plot:
    """Stack the series in their order, from below.

    Args:
        names: what each column is called.
        short: the same for the axis, which shows some of them.
        say: a value in words.
        mark: the same for the axis.
        least: the smallest step of the axis.
    """
    sums = [sum(each.values[i] for each in series) for i in range(len(names))]
    scale = steps(max(sums, default=0.0), least)
    room = 100 / max(1, len(names))
    return Plot(
        columns=tuple(_column(i, room, name, series, scale[-1], say) for i, name in enumerate(names)),
        across=tuple(_across(short)),
        up=tuple(Tick(_rounded(100 - value / scale[-1] * 100), mark(value), "end") for value in scale),
        series=tuple(series),
        rows=tuple((name, *(say(each.values[i]) for each in series)) for i, name in enumerate(names)),
    )


def steps(top: float, least: float) -> list[float]:
    """A scale from nothing to `top` or a little beyond, in steps of one, two or five times a power of ten."""
    if top <= least:
        return [0.0, least]
    size = 10.0 ** math.floor(math.log10(top / MOST_STEPS))
    step = next(size * each for each in (1, 2, 5, 10) if top / (size * each) <= MOST_STEPS)
    step = max(step, least)
    return [step * i for i in range(math.ceil(round(top / step, 9)) + 1)]


def _column(i: int, room: float, name: str, series: Sequence[Series], top: float, say: Say) -> Column:
    here = [(each, each.values[i]) for each in series if each.values[i] > 0]
    said = ", ".join(f"{say(value)} {each.name.lower()}" for each, value in here)
    return Column(
        title=f"{name}: {said or 'nothing'}",
        left=_rounded(i * room),
        room=_rounded(room),
        x=_rounded((i + (1 - _FILLED) / 2) * room),
        width=_rounded(room * _FILLED),
        boxes=tuple(_boxes([(each.kind, value / top * 100) for each, value in here])),
    )


def _boxes(shares: Sequence[tuple[str, float]]) -> Iterator[Box]:
    floor = 100.0
    for kind, share in shares:
        height = min(max(share, _THINNEST), floor)
        floor -= height
        yield Box(kind, _rounded(floor), _rounded(height))


def _across(short: Sequence[str]) -> Iterator[Tick]:
    """A few names below the middles of their columns; at the right edge they stay within."""
    count = len(short)
    for i in _some(count):
        at = _rounded((i + 0.5) / count * 100)
        yield Tick(at, short[i], "end" if at > 94 else "middle")


def _some(count: int) -> range:
    """Up to five places, evenly apart; of days the same ones of the week, if there are many."""
    apart = next((each for each in (1, 2) if count <= 5 * each), 7 * math.ceil(count / 35))
    return range(0, count, apart)


@dataclass(frozen=True, slots=True)
class Reach:
    """Times of one kind: which half of them did not exceed, and which nearly all did not."""

    name: str
    ms: tuple[float, float, float]
    """For half, for 95 and for 99 in a hundred."""
    at: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Times:
    """Times below each other on one scale, each step of which is several times the one before."""

    reaches: tuple[Reach, ...]
    across: tuple[Tick, ...]


def times(found: Sequence[tuple[str, tuple[float, float, float]]]) -> Times:
    """Draw what each kind took, in milliseconds."""
    least = min((ms[0] for _, ms in found), default=1.0)
    most = max((ms[-1] for _, ms in found), default=1.0)
    below = [at for at, _ in _INSTANTS_MS[:-1] if at <= least]
    begin = below[-1] if below else _INSTANTS_MS[0][0]
    end = next((at for at, _ in _INSTANTS_MS if at >= most and at > begin), _INSTANTS_MS[-1][0])

    def place(ms: float) -> float:
        share = math.log(max(ms, begin) / begin) / math.log(end / begin)
        return _rounded(min(share, 1.0) * 100)

    instants = [(at, words) for at, words in _INSTANTS_MS if begin <= at <= end]
    apart = math.ceil(len(instants) / _MOST_INSTANTS)
    return Times(
        tuple(Reach(name, ms, (place(ms[0]), place(ms[1]), place(ms[2]))) for name, ms in found),
        tuple(Tick(place(at), words, _ENDS.get(place(at), "middle")) for at, words in instants[::apart]),
    )


def _rounded(value: float) -> float:
    return round(value, 3)


def count_mark(value: float) -> str:
    """A count as an axis has room for: 1,500 is "1.5k"."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def dollars_mark(value: float) -> str:
    """A sum as an axis has room for."""
    if value >= 1000:
        return f"${count_mark(value)}"
    return f"${value:.6f}".rstrip("0").rstrip(".")
