"""Stream events: numbered, typed, already in their final bytes.

An event's JSON is made once, by the composer. What is stored, what is streamed and what is replayed
are the same bytes (law L1).
"""

from typing import NamedTuple

TERMINAL_EVENTS = frozenset({"response.completed", "response.failed", "response.incomplete"})
"""Exactly one of these ends a stream, and nothing follows it (reference: "Streaming events")."""


class Event(NamedTuple):
    """One stream event."""

    type: str
    sequence_number: int
    data: bytes
    """The JSON object of the `data:` line."""
