"""Words that no text has, and that stand in the index of words for a tenant's spans of time.

That index knows no order. With a word for each span it can be asked for one span after the other, short ones
first and then longer ones: who looks for a page of anything, common or rare, reads little more than the page.
No other tenant's entries are walked, either. Spans are the leading bits of the time in an id, so they need no
calendar and no table.
"""

from uuid import UUID

LEVELS = (20, 23, 26, 29, 32, 35)
"""Spans of 2 to these powers of milliseconds: from 17 minutes to a year, each eight of the one before."""

AT_LEAST = 4
"""So many spans are asked for before longer ones are: none is longer than twice what went before it."""

_MILLIS = 80
"""Bits of an id behind its time."""


def words_of(tenant_id: int, response_id: UUID) -> list[str]:
    """What stands among the words of a response for its tenant and its time."""
    return [_word(tenant_id, level, _span(response_id, level)) for level in LEVELS]


def spans(tenant_id: int, begin: UUID, stop: UUID, end: UUID, *, newest_first: bool) -> list[str]:
    """Spans that lie side by side, from where something has stopped on to the end: of each a tsquery.

    Args:
        begin: where it had begun, as spans grow with the way from there.
        stop: where it has stopped, which is earlier if the newest are wanted first.
        end: what need not be gone beyond.
        newest_first: whether it goes back in time.
    """
    step = -1 if newest_first else 1
    found, at, count, place = list[str](), 0, 0, _span(begin, LEVELS[0])
    while (_span(end, LEVELS[at]) - place) * step >= 0:
        if (place - _span(stop, LEVELS[at])) * step >= 0:
            found.append(f"'{_word(tenant_id, LEVELS[at], place)}'")
        count, place = count + 1, place + step
        is_at_boundary = place % 8 == (7 if step < 0 else 0)
        if is_at_boundary and count >= AT_LEAST and at + 1 < len(LEVELS):
            at, count, place = at + 1, 0, place >> 3
    return found


def _span(response_id: UUID, level: int) -> int:
    return response_id.int >> level + _MILLIS


def _word(tenant_id: int, level: int, span: int) -> str:
    return f"={tenant_id}/{level}/{span:x}"
