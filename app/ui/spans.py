"""Stretches of whole days (UTC): as addresses name them, as readers call them, and cut up for plots."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from app.errors import InvalidRequest

MOST_DAYS = 731
"""Two years: what is asked of more days than that is for the API."""

MOST_COLUMNS = 93
"""Of a plot; more days than that are shown by weeks."""

_WEEK = 7


@dataclass(frozen=True, slots=True)
class Span:
    """All days from the first to the last, both included."""

    first: date
    last: date

    @property
    def end(self) -> date:
        """The day after."""
        return self.last + timedelta(days=1)

    @property
    def days(self) -> int:
        return (self.end - self.first).days

    @property
    def is_until_now(self) -> bool:
        return self.last >= today()

    @property
    def step(self) -> int:
        """How many days a column of a plot stands for."""
        return 1 if self.days <= MOST_COLUMNS else _WEEK

    @property
    def unit(self) -> str:
        return "day" if self.step == 1 else "week"

    @property
    def columns(self) -> list[date]:
        """The day on which each column begins."""
        return [self.first + timedelta(days=i) for i in range(0, self.days, self.step)]

    def column_of(self, day: date) -> int:
        return (day - self.first).days // self.step

    @property
    def words(self) -> str:
        return day_words(self.first) if self.days == 1 else f"{_from(self)} to {day_words(self.last)}"


def span(first: date | None, last: date | None, *, days: int) -> Span:
    """From the first to the last day: without the one `days` before the other, without the other today.

    Raises:
        InvalidRequest: it would end before it begins, or is too long.
    """
    until = min(last or today(), today())
    since = first or date.fromordinal(max(1, until.toordinal() - days + 1))
    if since > until:
        said = "the last day" if last else "today"
        raise InvalidRequest(f"Invalid 'from': {since} is after {said}, {until}.", param="from")
    if (until - since).days >= MOST_DAYS:
        raise InvalidRequest(f"Invalid 'from': at most {MOST_DAYS} days can be shown at once.", param="from")
    return Span(since, until)


def today() -> date:
    return datetime.now(UTC).date()


def day_words(day: date) -> str:
    return f"{day.day} {day:%b} {day.year}"


def short_words(day: date) -> str:
    return f"{day.day} {day:%b}"


def _from(span: Span) -> str:
    return short_words(span.first) if span.first.year == span.last.year else day_words(span.first)
