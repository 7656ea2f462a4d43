"""What the model sees for one turn, and nothing more."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Context:
    """One turn as a provider needs it.

    Items are JSON objects exactly as they are stored, never decoded on the way: each element of
    `items` is one or more objects joined by commas, oldest first.
    """

    model: str
    """The name the upstream is asked for (aliases are already resolved)."""
    items: tuple[bytes, ...]
    """History, then the new input."""
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The create parameters the client sent, validated, with secrets; `input` is not among them."""
    is_streamed: bool = True
    """Whether somebody listens to deltas; if not, a provider may report whole items only."""

    def joined(self) -> bytes:
        """All items as the inside of a JSON array."""
        return b",".join(blob for blob in self.items if blob)
