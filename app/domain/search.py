"""What responses can be searched for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.domain.response import Status

MAX_PAGE = 100
"""The most objects of one page of a list."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions that all have to hold. Whatever is not given holds for every response."""

    model: str | None = None
    status: Status | None = None
    created_after: datetime | None = None
    """Inclusive, to the millisecond."""
    created_before: datetime | None = None
    """Exclusive."""
    conversation: UUID | None = None
    previous: UUID | None = None
    """The response that it was chained on."""
    root: UUID | None = None
    """The first response, or the conversation, that it goes back to; itself included."""
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    is_background: bool | None = None
    error_code: str | None = None
    tool: str | None = None
    """A function's name, or the word before `_call` of a provider's tool; called at least once."""
    attempts_over: int | None = None
    words: str | None = None
    """As a search engine takes them: all of them, `"a phrase"`, `or`, `-not`."""

    @property
    def is_any(self) -> bool:
        """Whether anything but the time is asked for, which the primary key alone answers."""
        return any(
            value not in (None, {})
            for value in (
                self.model, self.status, self.conversation, self.previous, self.root, self.user,
                self.safety_identifier, self.metadata, self.is_background, self.error_code, self.tool,
                self.attempts_over, self.words,
            )
        )  # fmt: skip


def first_id(at: datetime | None) -> UUID | None:
    """The smallest id that can have been minted in this millisecond (RFC 9562 §5.7)."""
    if at is None:
        return None
    # Not by way of a float, which is a millisecond off now and then.
    millis = (at - _EPOCH) // timedelta(milliseconds=1)
    return UUID(int=max(0, min(millis, (1 << 48) - 1)) << 80)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
