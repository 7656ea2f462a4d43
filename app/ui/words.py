"""Numbers, times and sizes as people read them."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

NONE = "\N{EN DASH}"
"""What stands where there is nothing to say."""

_KIB = 1024


def count(value: Any) -> str:
    """A whole number with its thousands apart; a dash for what is none."""
    return f"{value:,}" if isinstance(value, int) else NONE


def size(number_of_bytes: int) -> str:
    if number_of_bytes < _KIB:
        return f"{number_of_bytes} bytes"
    if number_of_bytes < _KIB * _KIB:
        return f"{number_of_bytes / _KIB:.0f} KB"
    return f"{number_of_bytes / _KIB / _KIB:.1f} MB"


def duration(seconds: float | None) -> str:
    """To two or three places; a dash for what is not known."""
    if seconds is None:
        return NONE
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def dollars(value: Any) -> str:
    """What something cost; a dash where nobody said."""
    if not isinstance(value, int | float):
        return NONE
    if 0 < value < 0.000001:
        return "< $0.000001"
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.6f}".rstrip("0")


def minted_at(value: UUID) -> float:
    """The seconds since 1970, to the millisecond, at which a UUIDv7 was minted."""
    return (value.int >> 80) / 1000


def iso(seconds: float) -> str:
    return _utc(seconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def instant(seconds: float) -> str:
    """In UTC: the page's script says it in the reader's own time."""
    return f"{_utc(seconds):%d %b %Y, %H:%M:%S} UTC"


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def spoken(name: str) -> str:
    """The name of a type or a state as words: `in_progress` is "in progress"."""
    return name.replace("_", " ")
