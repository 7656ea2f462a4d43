"""What the statistics come to, as figures for the page: totals, plots and rows of tables. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from app.domain.facts import NANOS
from app.domain.response import Status
from app.store.day_stats import DayCount
from app.store.stats import Group
from app.ui import plots, words
from app.ui.pieces import clipped
from app.ui.plots import Plot, Series, Times
from app.ui.spans import Span, short_words

TOP = 10
"""Rows of a table, before the rest."""

APART = 5
"""Models that a plot tells apart."""

STATUSES: Mapping[Status, str] = {
    Status.COMPLETED: "Completed",
    Status.INCOMPLETE: "Incomplete",
    Status.FAILED: "Failed",
    Status.CANCELLED: "Cancelled",
}
"""How responses end, in the order in which they are stacked."""

SHARES = (0.5, 0.95, 0.99)
"""The percentiles that are shown."""

_SMALLEST_COST = 0.000001
_LEAST_SUM = 0.0001


@dataclass(frozen=True, slots=True)
class Totals:
    """All of it as one."""

    count: int
    input: int
    cached: int
    output: int
    reasoning: int
    cost: str
    """In dollars; empty where nothing is known to have cost anything."""
    failed: str
    """The share of failures, in hundredths; empty for none."""
    percentiles: Sequence[tuple[str, float | None]]
    """In seconds."""


@dataclass(frozen=True, slots=True)
class Row:
    """A group as a row of a table."""

    value: str | None
    name: str
    count: int
    input: int
    output: int
    cost: str
    """In dollars; a dash where nothing is known to have cost anything."""
    seconds: tuple[float | None, ...]
    """For each of `SHARES`."""


def totals(whole: Group, by_status: Iterable[Group]) -> Totals:
    failed = sum(group.count for group in by_status if group.value is Status.FAILED)
    return Totals(
        count=whole.count,
        input=whole.sums["input_tokens"],
        cached=whole.sums["cached_tokens"],
        output=whole.sums["output_tokens"],
        reasoning=whole.sums["reasoning_tokens"],
        cost=sum_words(_dollars(whole)) if whole.sums["cost_nanos"] else "",
        failed=_share(failed, whole.count),
        percentiles=[(f"{share * 100:g} %", _seconds(whole, share)) for share in SHARES],
    )


def row(group: Group, *, nameless: str = "") -> Row:
    """A group as a row; `nameless` is what responses without a value are called."""
    value = None if group.value is None else str(group.value)
    return Row(
        value=value,
        name=nameless if value is None else clipped(value) or nameless,
        count=group.count,
        input=group.sums["input_tokens"],
        output=group.sums["output_tokens"],
        cost=sum_words(_dollars(group)) if group.sums["cost_nanos"] else words.NONE,
        seconds=tuple(_seconds(group, share) for share in SHARES),
    )


def models_apart(by_model: Sequence[Group]) -> list[str]:
    """The models that a plot tells apart, the largest first."""
    return [str(group.value) for group in by_model[:APART]]


def by_status(span: Span, counts: Sequence[DayCount]) -> Plot:
    """Responses in the order of `STATUSES`; those in which none has ended are left out."""
    known = [(status, name, status.wire) for status, name in STATUSES.items()]
    return _counted(span, counts, [each for each in known if any(one.value is each[0] for one in counts)])


def by_model(span: Span, counts: Sequence[DayCount], models: Sequence[str]) -> Plot:
    """Responses of the models that are told apart, and of all others."""
    apart = [(model, clipped(model, 60), f"m{i}") for i, model in enumerate(models, 1)]
    has_others = any(each.value is None for each in counts)
    return _counted(span, counts, [*apart, *([(None, "Others", "others")] if has_others else [])])


def tokens(span: Span, by_day: Sequence[Group]) -> Plot:
    """What was read and written; of both a part is told apart."""

    def less(name: str, part: str) -> list[float]:
        return _summed(span, by_day, lambda group: group.sums[name] - group.sums[part])

    def of(part: str) -> list[float]:
        return _summed(span, by_day, lambda group: group.sums[part])

    series = [
        Series("Input", "input", less("input_tokens", "cached_tokens")),
        Series("Input, cached", "cached", of("cached_tokens")),
        Series("Output", "output", less("output_tokens", "reasoning_tokens")),
        Series("Output, reasoning", "reasoning", of("reasoning_tokens")),
    ]
    return _plot(span, [each for each in series if any(each.values)])


def cost(span: Span, by_day: Sequence[Group]) -> Plot:
    """Dollars, as far as they are known."""
    series = [Series("Cost", "cost", _summed(span, by_day, _dollars))]
    names, short = _names(span)
    return plots.stacked(names, short, series, words.dollars, plots.dollars_mark, least=_SMALLEST_COST)


def times(by_model: Sequence[Group]) -> Times:
    """What the largest groups took."""
    found = list[tuple[str, tuple[float, float, float]]]()
    for group in by_model[:TOP]:
        half, most, nearly_all = (group.percentiles_ms[share] for share in SHARES)
        if half is not None and most is not None and nearly_all is not None:
            found.append((clipped(str(group.value)), (half, most, nearly_all)))
    return plots.times(found)


def _counted(
    span: Span, counts: Sequence[DayCount], kinds: Sequence[tuple[str | Status | None, str, str]]
) -> Plot:
    columns = {value: [0.0] * len(span.columns) for value, _, _ in kinds}
    for each in counts:
        columns[each.value][span.column_of(each.day)] += each.count
    return _plot(span, [Series(name, kind, columns[value]) for value, name, kind in kinds])


def _plot(span: Span, series: Sequence[Series]) -> Plot:
    names, short = _names(span)
    return plots.stacked(names, short, series, lambda value: f"{value:,.0f}", plots.count_mark, least=1.0)


def _names(span: Span) -> tuple[list[str], list[str]]:
    return [_column_words(span, day) for day in span.columns], [short_words(day) for day in span.columns]


def _column_words(span: Span, day: date) -> str:
    last = min(day + timedelta(days=span.step - 1), span.last)
    return Span(day, last).words


def _summed(span: Span, by_day: Sequence[Group], value: Callable[[Group], float]) -> list[float]:
    found = [0.0] * len(span.columns)
    for group in by_day:
        if isinstance(group.value, date):
            found[span.column_of(group.value)] += max(0, value(group))
    return found


def sum_words(dollars: float) -> str:
    """A sum in a column of sums: with as many places as the others."""
    return f"${dollars:.4f}" if _LEAST_SUM <= dollars < 1 else words.dollars(dollars)


def _dollars(group: Group) -> float:
    return group.sums["cost_nanos"] / NANOS


def _seconds(group: Group, share: float) -> float | None:
    found = group.percentiles_ms[share]
    return None if found is None else found / 1000


def _share(part: int, whole: int) -> str:
    """In hundredths; what is little is not rounded to none."""
    if not part:
        return ""
    hundredths = part / whole * 100
    return "under 0.1 %" if hundredths < 0.1 else f"{hundredths:.1f} %".replace(".0 %", " %")
