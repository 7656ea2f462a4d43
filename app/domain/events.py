"""Stream events: numbered, typed, already in their final bytes.

An event's JSON is made once, by the composer. What is stored, what is streamed and what is replayed
are the same bytes (law L1).
"""

from collections.abc import Mapping
from typing import NamedTuple

import orjson

from app.domain.response import Status
from app.errors import ServiceError


class Event(NamedTuple):
    """One stream event."""

    type: str
    sequence_number: int
    data: bytes
    """The JSON object of the `data:` line."""

    @property
    def frame(self) -> bytes:
        """The event on the wire: LF only, one `data:` line, no `id:` (surface notes §8.1)."""
        return b"event: %s\ndata: %s\n\n" % (self.type.encode(), self.data)


_TERMINAL: Mapping[Status, str] = {
    Status.COMPLETED: "response.completed",
    Status.INCOMPLETE: "response.incomplete",
    Status.FAILED: "response.failed",
    # There is no event of its own; the response inside says `cancelled` (behaviour 84).
    Status.CANCELLED: "response.failed",
}


def terminal_event(status: Status, sequence_number: int, response: bytes) -> Event:
    """The one event that ends a stream. It follows from the stored response alone, live or replayed."""
    kind = _TERMINAL[status]
    data = b'{"type":"%s","sequence_number":%d,"response":%s}' % (kind.encode(), sequence_number, response)
    return Event(kind, sequence_number, data)


def error_event(error: ServiceError, sequence_number: int) -> Event:
    """The event for a stream that must stop without an outcome.

    It carries the documented flat keys and the nested ones that SDKs look for (surface notes §8.5).
    """
    nested = error.envelope()["error"]
    flat = {key: nested[key] for key in ("code", "message", "param")}
    said = {"type": "error", "sequence_number": sequence_number, **flat, "error": nested}
    return Event("error", sequence_number, orjson.dumps(said))
