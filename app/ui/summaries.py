"""What is said of a response beside its items. Pure, and total: upstreams decide some of these fields."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app import ids
from app.domain.echo import WIRE_ORDER
from app.domain.jobs import Mode
from app.domain.response import TERMINAL, Status
from app.ui.pieces import Json, as_text, clipped, field, laid_out
from app.ui.words import minted_at

_ELSEWHERE = frozenset(
    {
        "id", "object", "created_at", "status", "completed_at", "conversation", "error", "incomplete_details",
        "instructions", "model", "output", "previous_response_id", "usage", "metadata",
    }
)  # fmt: skip
"""Fields that have a place of their own on the page."""

_MOST_CHARS = 4000
"""Of one parameter: all of it is in the JSON."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the upstream counted them, and what it charged, if it says so."""

    input: int | None = None
    cached: int | None = None
    output: int | None = None
    reasoning: int | None = None
    total: int | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """A response without its items."""

    id: str
    status: str
    created_at: float
    seconds: float | None
    """From its creation to its end."""
    model: str
    usage: Usage | None
    previous: str
    conversation: str
    error: tuple[str, str] | None
    """Code and message."""
    incomplete: str
    is_background: bool
    instructions: Any
    metadata: Sequence[tuple[str, str]]
    parameters: Sequence[tuple[str, str]]

    @property
    def has_ended(self) -> bool:
        return self.status in _ENDED


_ENDED = frozenset(status.wire for status in TERMINAL)


def summarise(response_id: UUID, body: Json, finished_at: datetime | None = None) -> Summary:
    """Read a response object."""
    created_at = minted_at(response_id)
    error = field(body, "error")
    return Summary(
        id=ids.response_id(response_id),
        status=as_text(body.get("status")),
        created_at=created_at,
        seconds=max(0.0, finished_at.timestamp() - created_at) if finished_at else None,
        model=clipped(as_text(body.get("model"))),
        usage=_usage(field(body, "usage")) if body.get("usage") else None,
        previous=as_text(body.get("previous_response_id")),
        conversation=as_text(field(body, "conversation").get("id")),
        error=(clipped(as_text(error.get("code"))), clipped(as_text(error.get("message")), 2000))
        if error
        else None,
        incomplete=clipped(as_text(field(body, "incomplete_details").get("reason"))),
        is_background=body.get("background") is True,
        instructions=body.get("instructions"),
        metadata=[
            (name, clipped(as_text(value), _MOST_CHARS)) for name, value in field(body, "metadata").items()
        ],
        parameters=_parameters(body),
    )


def can_cancel(status: Status, mode: Mode) -> bool:
    """Whether cancelling would be anything but an error."""
    return Mode.BACKGROUND in mode and status not in TERMINAL


def _parameters(body: Json) -> list[tuple[str, str]]:
    names = [name for name in WIRE_ORDER if name in body and name not in _ELSEWHERE]
    return [(name, clipped(_value(body[name]), _MOST_CHARS)) for name in names]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else laid_out(value)


def _usage(usage: Mapping[str, Any]) -> Usage:
    return Usage(
        input=_number(usage.get("input_tokens")),
        cached=_number(field(usage, "input_tokens_details").get("cached_tokens")),
        output=_number(usage.get("output_tokens")),
        reasoning=_number(field(usage, "output_tokens_details").get("reasoning_tokens")),
        total=_number(usage.get("total_tokens")),
        cost=_cost(usage.get("cost")),
    )


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _cost(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
