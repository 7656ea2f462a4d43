"""Where the time of a response went, as bars below each other. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from app.ui.words import spoken


@dataclass(frozen=True, slots=True)
class Bar:
    """One stretch of time; its edges are in hundredths of the whole."""

    kind: Literal["waiting", "running", "done", "lost"]
    label: str
    begin: float
    width: float
    seconds: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The bars in the order of their beginnings."""

    seconds: float
    bars: tuple[Bar, ...]
    is_running: bool


_WELL = {"completed", "incomplete"}
_THINNEST = 0.6
"""What was too short to be seen is seen all the same."""


def draw(
    created_at: float, finished_at: float | None, attempts: Sequence[Mapping[str, Any]], *, now: float
) -> Waterfall:
    """The waiting and the attempts of a response between its creation and its end, or now.

    Clocks of several machines are in this: what would lie outside is moved to the edge.
    """
    end = max(created_at, finished_at if finished_at is not None else now)
    whole = max(end - created_at, 0.001)

    def bar(kind: Any, label: str, since: float, until: float, note: str = "") -> Bar:
        since, until = (min(max(at, created_at), end) for at in (since, until))
        begin = min((since - created_at) / whole * 100, 100 - _THINNEST)
        width = max((until - since) / whole * 100, _THINNEST)
        return Bar(
            kind, label, round(begin, 2), round(min(width, 100 - begin), 2), max(until - since, 0.0), note
        )

    def bars() -> Iterator[Bar]:
        if not attempts:
            running = "waiting" if finished_at is None else "done"
            yield bar(running, "Waiting" if finished_at is None else "Generation", created_at, end)
            return
        free_since = created_at
        for each in attempts:
            began, ended = each["started_at"], each["ended_at"]
            yield bar("waiting", "Waiting", free_since, began)
            free_since = end if ended is None else ended
            reason = str(each["reason"] or "")
            kind = "running" if ended is None else "done" if reason in _WELL else "lost"
            yield bar(kind, f"Attempt {each['attempt']}", began, free_since, spoken(reason))
        if finished_at is None and attempts[-1]["ended_at"] is not None:
            yield bar("waiting", "Waiting", free_since, end)

    return Waterfall(whole, tuple(bars()), finished_at is None)
