"""A response: its states, the request it comes from, and the object that clients read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any
from uuid import UUID

from app import ids
from app.domain.compaction import Memory
from app.domain.items import InputItems
from app.errors import ServiceError


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
    None: TERMINAL | {Status.QUEUED},  # a foreground response has no row before its end
    Status.QUEUED: frozenset({Status.IN_PROGRESS, Status.CANCELLED}),
    # Back to queued only if nothing of the attempt was shown (decision 11).
    Status.IN_PROGRESS: TERMINAL | {Status.QUEUED},
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
    """As `app.domain.echo.echo` makes it: what follows from the request alone, secrets removed."""
    memory: Memory | None = None
    """What the newest compaction item of the input stands for, if there is one."""

    @property
    def is_stored(self) -> bool:
        return self.params.get("store") is not False

    @property
    def is_background(self) -> bool:
        return self.params.get("background") is True

    @property
    def is_streamed(self) -> bool:
        return self.params.get("stream") is True

    @property
    def previous_response_id(self) -> str | None:
        return self.params.get("previous_response_id")

    @property
    def conversation(self) -> str | None:
        """The id of the conversation, in either of the forms that a request may give it."""
        named = self.params.get("conversation")
        return named["id"] if isinstance(named, dict) else named


def snapshot(
    draft: Draft,
    *,
    status: Status,
    output: Sequence[Mapping[str, Any]] = (),
    usage: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
    incomplete_reason: str | None = None,
    completed_at: int | None = None,
    echo_overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole response object in one state, its keys in the order of the wire.

    What a state does not have is left out whatever is passed: a cancelled response has no output and
    no usage, only a completed one has `completed_at` (reference: "Status machine"; behaviours 59 and
    65). The result shares the draft's echo, so it may be rendered but not changed.

    Args:
        draft: the request that is being answered.
        status: the state to show.
        output: the items so far.
        usage: as the upstream counted; completed here.
        error: `code` and `message` of a failed response.
        incomplete_reason: of `incomplete_details`.
        completed_at: whole seconds since 1970.
        echo_overrides: fields that the upstream decided (`model`, `service_tier`, …), laid over the echo.
    """
    decided = echo_overrides or {}
    is_counted = status in TERMINAL and status is not Status.CANCELLED
    return {
        **draft.echo,
        **decided,
        "id": ids.response_id(draft.id),
        "object": "response",
        "created_at": ids.created_at(draft.id),
        "status": status.wire,
        "completed_at": completed_at if status is Status.COMPLETED else None,
        "error": (error or _UNKNOWN_ERROR) if status is Status.FAILED else None,
        "incomplete_details": {"reason": incomplete_reason} if status is Status.INCOMPLETE else None,
        "output": [] if status is Status.CANCELLED else output,
        "service_tier": _service_tier(draft, status, decided.get("service_tier")),
        "usage": complete_usage(usage) if is_counted and usage is not None else None,
    }


def complete_usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """An upstream's count with every key that the API promises, zero where nothing was said.

    Further keys (`cost`, `is_byok`, `cost_details`, …) are kept, after the promised ones.
    """
    taken, given = usage.get("input_tokens") or 0, usage.get("output_tokens") or 0
    whole = {
        "input_tokens": taken,
        "input_tokens_details": _counts(usage, "input_tokens_details", "cached_tokens", "cache_write_tokens"),
        "output_tokens": given,
        "output_tokens_details": _counts(usage, "output_tokens_details", "reasoning_tokens"),
        "total_tokens": usage.get("total_tokens") or taken + given,
    }
    return {**whole, **usage, **whole}


def _counts(usage: Mapping[str, Any], field: str, *names: str) -> dict[str, Any]:
    details = usage.get(field) or {}
    whole = {name: details.get(name) or 0 for name in names}
    return {**whole, **details, **whole}


def _service_tier(draft: Draft, status: Status, decided: str | None) -> str:
    """`auto` while the response runs, then the tier that was used (behaviour 53).

    An upstream that says nothing is taken to have used the tier it was asked for.
    """
    if status not in TERMINAL:
        return "auto"
    tier = decided or draft.params.get("service_tier") or "auto"
    return _TIERS.get(tier, tier)


_TIERS: Mapping[str, str] = {"auto": "default", "fast": "priority"}
"""Tiers that a request may name but that a finished response never shows, and what it shows instead."""

_UNKNOWN_ERROR: Mapping[str, Any] = {"code": "server_error", "message": ServiceError().message}
