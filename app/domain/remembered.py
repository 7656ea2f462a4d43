"""A response that is in no store, as the connection that asked for it remembers it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.domain.items import split
from app.domain.response import Status
from app.domain.turn import Ancestry, Continuation, Place

RememberedTurn = tuple[bytes, Continuation | None]
"""Items and what they left for the next turn, as in `Ancestry.turns`."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """All that continuing it needs, its own turn last."""

    id: UUID
    status: Status
    stored: Ancestry | None
    """What the store has before the first turn that it has not; without turns where it was compacted."""
    turns: tuple[RememberedTurn, ...]
    """What is in no store."""
    tokens: int
    """Estimate of all items up to here."""

    @property
    def size_bytes(self) -> int:
        """What it holds in memory, but for small change."""
        stored = self.stored.turns if self.stored else ()
        return sum(len(blob) for blob, _ in (*stored, *self.turns))

    @property
    def items(self) -> list[dict[str, Any]]:
        """What no store has."""
        return [item for blob, _ in self.turns for item in split(blob)]

    def upstream_ids(self, upstream: str) -> Mapping[str, str]:
        """Our ids of those items to this upstream's own."""
        return {
            ours: theirs
            for _, left in self.turns
            if left and left.upstream == upstream
            for ours, theirs in left.upstream_ids.items()
        }

    def ancestry(self) -> Ancestry:
        """Everything before a turn that will be in no store either."""
        before = self.stored
        return Ancestry(
            parent=None,
            place=before.place if before else Place(self.id, 0),
            status=self.status,
            turns=(*(before.turns if before else ()), *self.turns),
            is_whole=before.is_whole if before else True,
            tokens=self.tokens,
            conversation=before.conversation if before else None,
        )
