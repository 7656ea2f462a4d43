"""A response: its states, the request it comes from, and the object that clients read."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any
from uuid import UUID

from app.domain.items import InputItems


class Status(IntEnum):
    """The states of a response, as stored; `wire` is the API's word."""

    QUEUED = 0
    IN_PROGRESS = 1
    COMPLETED = 2
    INCOMPLETE = 3
    FAILED = 4
    CANCELLED = 5

    @property
    def wire(self) -> str:
        return self.name.lower()


TERMINAL = frozenset({Status.COMPLETED, Status.INCOMPLETE, Status.FAILED, Status.CANCELLED})
"""No transition leaves these."""

CHAINABLE = frozenset({Status.COMPLETED, Status.INCOMPLETE})
"""A response in any other state cannot be a `previous_response_id` (behaviours 13-15)."""

TRANSITIONS: Mapping[Status | None, frozenset[Status]] = {
    None: TERMINAL,  # a foreground response has no row before its end
}
"""From where to where a stored status may go; None is "no row yet"."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A validated request, not yet stored: one value, never taken apart into arguments again (law L5)."""

    id: UUID
    model: str
    """As the client named it, or the server's default."""
    params: Mapping[str, Any]
    """The create parameters as sent, without `input`; secrets of tools included, so never stored."""
    input: InputItems
    echo: Mapping[str, Any]
    """The response object's fields that follow from the request alone, secrets removed."""

    @property
    def is_stored(self) -> bool:
        return self.params.get("store") is not False

    @property
    def is_streamed(self) -> bool:
        return self.params.get("stream") is True

    @property
    def previous_response_id(self) -> str | None:
        return self.params.get("previous_response_id")

    @property
    def include(self) -> frozenset[str]:
        return frozenset(self.params.get("include") or ())
