"""Plots: whatever is drawn lies within the picture, and the table beside it says the same."""

from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.response import Status
from app.errors import InvalidRequest
from app.store.day_stats import DayCount
from app.store.stats import SHARES, SUMS, Group
from app.ui import figures, plots, spans
from app.ui.plots import Series
from app.ui.spans import Span

DAY = date(2026, 1, 30)
VALUES = st.floats(min_value=0, max_value=1e15) | st.integers(0, 10**12).map(float)
COLUMNS = st.integers(1, 40).flatmap(
    lambda count: st.lists(st.lists(VALUES, min_size=count, max_size=count), min_size=1, max_size=5)
)


def say(value: float) -> str:
    return f"{value:g}"


@settings(max_examples=60, deadline=None)
@given(COLUMNS, st.sampled_from([1.0, 0.000001]))
def test_nothing_leaves_the_picture(values: list[list[float]], least: float) -> None:
    names = [str(i) for i in range(len(values[0]))]
    series = [Series(f"Series {i}", f"m{i}", each) for i, each in enumerate(values)]
    plot = plots.stacked(names, names, series, say, say, least=least)
    for column in plot.columns:
        assert 0 <= column.x <= column.x + column.width <= 100.01
        floor = 100.0
        for box in column.boxes:
            assert box.height >= 0
            assert box.y == pytest.approx(floor - box.height, abs=0.01)
            assert box.y >= -0.01
            floor = box.y
    assert [tick.at for tick in plot.up] == sorted((tick.at for tick in plot.up), reverse=True)
    assert (plot.up[0].at, plot.up[-1].at) == (100, 0)
    assert 1 <= len(plot.across) <= 5
    assert [row[0] for row in plot.rows] == names
    assert [row[1:] for row in plot.rows] == [tuple(map(say, each)) for each in zip(*values, strict=True)]


@pytest.mark.parametrize(
    ("top", "least", "scale"),
    [
        (0, 1, [0, 1]), (1, 1, [0, 1]), (2, 1, [0, 1, 2]), (4, 1, [0, 1, 2, 3, 4]), (7, 1, [0, 2, 4, 6, 8]),
        (9, 1, [0, 5, 10]), (100, 1, [0, 50, 100]), (130, 1, [0, 50, 100, 150]), (0, 1e-6, [0, 1e-6]),
        (0.003, 1e-6, [0, 0.001, 0.002, 0.003]), (0.011, 1e-6, [0, 0.005, 0.01, 0.015]),
    ],
)  # fmt: skip
def test_scales_are_round(top: float, least: float, scale: list[float]) -> None:
    assert plots.steps(top, least) == pytest.approx(scale)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (7, "7"), (1500, "1.5k"), (200_000, "200k"), (3e6, "3M"), (2e9, "2B"), (5e12, "5T")],
)
def test_marks_of_counts(value: float, words: str) -> None:
    assert plots.count_mark(value) == words


@pytest.mark.parametrize(
    ("value", "words"), [(0, "$0"), (0.0005, "$0.0005"), (0.5, "$0.5"), (20, "$20"), (2000, "$2k")]
)
def test_marks_of_dollars(value: float, words: str) -> None:
    assert plots.dollars_mark(value) == words


def test_a_column_says_what_it_is() -> None:
    series = [Series("Completed", "completed", [3, 0]), Series("Failed", "failed", [1, 0])]
    plot = plots.stacked(["1 Jan", "2 Jan"], ["1", "2"], series, say, say, least=1)
    assert [column.title for column in plot.columns] == ["1 Jan: 3 completed, 1 failed", "2 Jan: nothing"]
    assert [box.kind for box in plot.columns[0].boxes] == ["completed", "failed"]
    assert [(box.y, box.height) for box in plot.columns[0].boxes] == [(25, 75), (0, 25)]


def test_what_is_little_is_seen() -> None:
    series = [Series("Completed", "completed", [1e6]), Series("Failed", "failed", [1])]
    [column] = plots.stacked(["x"], ["x"], series, say, say, least=1).columns
    assert column.boxes[1].height > 0
    assert column.boxes[1].y >= 0


TIMES = st.tuples(*[st.floats(0, 5.8e10)] * 3).map(lambda ms: tuple(sorted(ms)))


@settings(max_examples=60, deadline=None)
@given(st.lists(TIMES, max_size=6))
def test_times_lie_on_their_scale(found: list[tuple[float, float, float]]) -> None:
    drawn = plots.times([(str(i), ms) for i, ms in enumerate(found)])
    for reach in drawn.reaches:
        assert 0 <= reach.at[0] <= reach.at[1] <= reach.at[2] <= 100
    assert len(drawn.across) <= 6
    assert all(0 <= tick.at <= 100 for tick in drawn.across)


@pytest.mark.parametrize("days", [1, 2, 7, 30, 90, 93, 94, 366, 731])
def test_a_span_has_a_column_for_each_of_its_days(days: int) -> None:
    span = Span(DAY, DAY + timedelta(days=days - 1))
    places = [span.column_of(DAY + timedelta(days=i)) for i in range(days)]
    assert (places[0], places[-1]) == (0, len(span.columns) - 1)
    assert set(places) == set(range(len(span.columns)))
    assert span.unit == ("day" if days <= 93 else "week")
    assert len(span.columns) <= 105


class TestSpans:
    def test_it_goes_back_from_today(self) -> None:
        span = spans.span(None, None, days=7)
        assert (span.last, span.days, span.is_until_now) == (spans.today(), 7, True)

    def test_it_goes_back_from_a_day(self) -> None:
        assert spans.span(None, DAY, days=30) == Span(date(2026, 1, 1), DAY)

    def test_nothing_is_in_the_future(self) -> None:
        assert spans.span(spans.today(), date.max, days=7) == Span(spans.today(), spans.today())

    def test_the_calendar_has_a_beginning(self) -> None:
        assert spans.span(None, date(1, 1, 3), days=90) == Span(date.min, date(1, 1, 3))

    @pytest.mark.parametrize(
        ("first", "last", "words"),
        [(DAY, date(2026, 1, 1), "is after"), (date.max, None, "is after today"), (date.min, DAY, "at most")],
    )
    def test_what_is_no_span_is_refused(self, first: date, last: date | None, words: str) -> None:
        with pytest.raises(InvalidRequest, match=words):
            spans.span(first, last, days=7)

    @pytest.mark.parametrize(
        ("first", "last", "words"),
        [
            (DAY, DAY, "30 Jan 2026"),
            (date(2026, 1, 1), DAY, "1 Jan to 30 Jan 2026"),
            (date(2025, 12, 31), DAY, "31 Dec 2025 to 30 Jan 2026"),
        ],
    )
    def test_what_it_is_called(self, first: date, last: date, words: str) -> None:
        assert Span(first, last).words == words


def group(value: str | Status | date | None = None, count: int = 1, **sums: int) -> Group:
    return Group(value, count, dict.fromkeys(SUMS, 0) | sums, dict.fromkeys(SHARES, 1500.0))


class TestFigures:
    WEEK = Span(DAY - timedelta(days=6), DAY)

    def test_statuses_without_any_are_left_out(self) -> None:
        counts = [DayCount(DAY, Status.FAILED, 2), DayCount(self.WEEK.first, Status.COMPLETED, 5)]
        plot = figures.by_status(self.WEEK, counts)
        assert [(each.name, each.values) for each in plot.series] == [
            ("Completed", [5, 0, 0, 0, 0, 0, 0]),
            ("Failed", [0, 0, 0, 0, 0, 0, 2]),
        ]

    def test_models_beyond_the_largest_are_together(self) -> None:
        counts = [DayCount(DAY, "a", 2), DayCount(DAY, None, 3), DayCount(DAY, None, 4)]
        plot = figures.by_model(self.WEEK, counts, ["a"])
        assert [(each.name, each.kind, each.values[-1]) for each in plot.series] == [
            ("a", "m1", 2),
            ("Others", "others", 7),
        ]

    def test_parts_of_tokens_are_not_counted_twice(self) -> None:
        day = group(DAY, input_tokens=10, cached_tokens=4, output_tokens=7, reasoning_tokens=9)
        plot = figures.tokens(self.WEEK, [day])
        assert [(each.name, each.values[-1]) for each in plot.series] == [
            ("Input", 6),
            ("Input, cached", 4),
            ("Output, reasoning", 9),
        ]

    def test_weeks_are_summed(self) -> None:
        year = Span(DAY - timedelta(days=364), DAY)
        days = [group(DAY - timedelta(days=i), cost_nanos=10**9) for i in range(365)]
        plot = figures.cost(year, days)
        assert len(plot.columns) == 53
        assert [plot.rows[0][1], plot.rows[-1][1]] == ["$7.00", "$1.00"]
        assert plot.rows[-1][0] == "30 Jan 2026"

    @pytest.mark.parametrize(
        ("failed", "whole", "words"),
        [(0, 10, ""), (1, 3, "33.3 %"), (1, 2, "50 %"), (1, 10**6, "under 0.1 %"), (7, 7, "100 %")],
    )
    def test_the_share_of_failures(self, failed: int, whole: int, words: str) -> None:
        statuses = [group(Status.FAILED, failed), group(Status.COMPLETED, whole - failed)]
        assert figures.totals(group(None, whole), statuses).failed == words

    @pytest.mark.parametrize(
        ("dollars", "words"), [(0.00001, "$0.00001"), (0.5, "$0.5000"), (0.0815, "$0.0815"), (12.3, "$12.30")]
    )
    def test_sums(self, dollars: float, words: str) -> None:
        assert figures.sum_words(dollars) == words
