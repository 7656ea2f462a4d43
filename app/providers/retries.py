"""How long to wait before a request is sent again. Pure but for the clock and the dice."""

import math
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

MAX_BACKOFF_SECONDS = 8.0
# A longer pause is the client's to make: it is told of it instead of being kept waiting.
MAX_RETRY_AFTER_SECONDS = 30.0

_dice = random.SystemRandom()


def pause_seconds(attempt: int, backoff_seconds: float, asked_seconds: float | None) -> float | None:
    """The pause after `attempt` (0 is the first): what the upstream asked for, else doubling with jitter.

    None says that the pause is too long for anyone to be kept waiting.
    """
    if asked_seconds is not None:
        return asked_seconds if asked_seconds <= MAX_RETRY_AFTER_SECONDS else None
    return min(MAX_BACKOFF_SECONDS, backoff_seconds * 2**attempt) * _dice.uniform(0.5, 1)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Read `retry-after-ms` or `Retry-After`, which is in seconds or a date (RFC 9110 §10.2.3)."""
    millis = _number(headers.get("retry-after-ms", ""))
    if millis is not None:
        return millis / 1000
    text = headers.get("retry-after", "")
    seconds = _number(text)
    return _seconds_until(text) if text and seconds is None else seconds


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def _seconds_until(date: str) -> float | None:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
