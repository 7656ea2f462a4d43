"""A conversation: a line of turns with a name, that one response at a time may append to."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from app.domain.turn import Ancestry


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as it is read, without its items."""

    id: UUID
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Lock:
    """The right of one response to append to a conversation."""

    tenant_id: int
    conversation_id: UUID
    response_id: UUID


@dataclass(frozen=True, slots=True)
class Reading:
    """A conversation that was found."""

    is_free: bool
    """False where another response runs in it; nothing of it was read then."""
    ancestry: Ancestry
