"""A turn as it is stored: its place in the chain, its bytes, and what continuing it needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from app.domain.gates import Gated
from app.domain.response import Status


@dataclass(frozen=True, slots=True)
class Place:
    """Where a turn stands: a line, a place in it, and the lines that its line came from.

    `forks` are (line, last place taken of it), oldest first; empty on a line that starts at a root.
    """

    chain_id: UUID
    seq: int
    forks: tuple[tuple[UUID, int], ...] = ()

    def next(self) -> "Place":
        """The place of a first child: the same line goes on."""
        return Place(self.chain_id, self.seq + 1, self.forks)

    def elsewhere(self, child: UUID) -> "Place":
        """The same height on a line of its own: for a second child, or one that nobody may chain on."""
        return Place(child, self.seq, (*self.forks, (self.chain_id, self.seq - 1)))


@dataclass(frozen=True, slots=True)
class Continuation:
    """What the next turn must know beside the items."""

    open_calls: Mapping[str, str] = field(default_factory=dict[str, str])
    """Tool calls that wait for an output: call id to item type."""
    upstream: str = ""
    """Who made the output: ids of another upstream mean nothing to this one."""
    upstream_ids: Mapping[str, str] = field(default_factory=dict[str, str])
    """Our item id to the upstream's own: encrypted reasoning is bound to it."""
    orphans: Mapping[str, str] = field(default_factory=dict[str, str])
    """Outputs in a conversation whose calls are not there: call id to item type."""
    is_compacted: bool = False
    """Whether the turn has a compaction item: then what stands before it is not sent."""


_NOTHING = Continuation()


@dataclass(frozen=True, slots=True)
class Ancestry:
    """Everything before a new turn, read in one round trip."""

    parent: UUID | None
    """The response that is continued; None where it is a conversation."""
    place: Place
    """The last turn's; in a conversation without any, the one before the first."""
    status: Status
    turns: tuple[tuple[bytes, Continuation | None], ...]
    """Each turn's items (JSON, joined by commas), oldest first, the parent last.

    Where a budget was given, the oldest may have been left unread.
    """
    is_whole: bool = True
    """Whether the oldest turn that was read is the first there is."""
    tokens: int = 0
    """Estimate of all items up to here, read or not."""
    conversation: UUID | None = None
    """The conversation whose line it stands in."""

    @property
    def continuation(self) -> Continuation:
        """What the last turn left for the next one."""
        return (self.turns[-1][1] if self.turns else None) or _NOTHING


@dataclass(frozen=True, slots=True)
class Turn:
    """One finished response as it is stored."""

    id: UUID
    parent: UUID | None
    place: Place
    status: Status
    model: str
    input_blob: bytes
    input_count: int
    input_gated: Gated
    output_blob: bytes
    output_count: int
    output_gated: Gated
    body: bytes
    """The response object with `"output":[]`; see `with_output`."""
    continuation: Continuation | None = None
    context_tokens: int = 0
    """Estimate of all items from the root to the end of this turn."""
    conversation: UUID | None = None
    """The conversation that it belongs to, or was meant for."""
    aliases: tuple[tuple[int, str], ...] = ()
    """Places of items whose ids do not say where they are, and those ids."""


def without_output(body: bytes) -> bytes:
    """The stored body as a list shows it: without the key, since an empty output would be untrue."""
    return body.replace(_OUTPUT + _NEXT, _NEXT, 1)


def with_output(body: bytes, output_blob: bytes) -> bytes:
    """The whole response object: the stored body with its output put back in its place."""
    return body.replace(_OUTPUT + _NEXT, b'"output":[' + output_blob + b"]," + _NEXT, 1)


_OUTPUT = b'"output":[],'
_NEXT = b'"parallel_tool_calls":'
# Together they name the object's own output: before it stands what an upstream said of its moderation,
# which has an `output` too, but no such neighbour (echo.WIRE_ORDER).
