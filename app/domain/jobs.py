"""Background responses as work: who may do it, in what order, and what becomes of it when they vanish."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntFlag
from typing import Literal
from uuid import UUID

from app.domain.response import Status
from app.domain.turn import Place, Turn


class Mode(IntFlag):
    """How a response was asked for, as stored."""

    FOREGROUND = 0
    BACKGROUND = 1
    STREAMED = 2
    """Its events are journalled, so that followers may resume."""
    EPHEMERAL = 4
    """`store` was false: the result can be polled for a while, is in no list and is nobody's parent."""
    ITEMS = 8
    """Not a response at all: items that were added to a conversation, or a note on its line."""


PRIORITIES: Mapping[str | None, int] = {"priority": -1, "fast": -1, "flex": 1}
"""Where a `service_tier` puts a response in the queue, lower first; all others are in the middle."""

SHOWN_BY_QUEUEING = 2
"""Events that say nothing of the output: `response.created` and `response.queued`."""

SHOWN_BEFORE_OUTPUT = 3
"""The same with `response.in_progress`: an attempt that showed no more can be made again unnoticed."""

Rerun = Literal["if_no_output", "never", "always"]


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to generate one response, won by one attempt. Its number fences every later write."""

    tenant_id: int
    response_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed response with all that its generation needs."""

    claim: Claim
    mode: Mode
    event_count: int
    """Events that followers have been shown already, by the API or by an earlier attempt."""
    parent: UUID | None
    place: Place
    request: bytes
    """The create parameters, JSON; empty if the row could not be read, which fails the attempt."""
    input_blob: bytes
    context_tokens: int
    """Estimate of the history and the new input together."""
    secrets: bytes | None = None
    """The secrets of the tools, sealed; they are not in `request`."""


class Verdict(Enum):
    """What becomes of a response whose attempt has vanished."""

    REQUEUE = "requeue"
    FAIL = "fail"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class Expired:
    """What the reaper knows of a response whose lease may have run out."""

    status: Status
    is_lease_over: bool
    attempt: int
    event_count: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How a claimed response ends, and its attempt with it."""

    claim: Claim
    turn: Turn
    event_count: int
    shape: bytes | None
    """In which steps its stream said the output, if it had one."""
    ttl_seconds: float
    """How long the result of what was not to be stored is kept."""
    upstream_id: str | None = None
    usage: bytes | None = None
    """What the attempt used, JSON."""


@dataclass(frozen=True, slots=True)
class Ended:
    """That a response was ended by this run."""

    deliveries: int
    """How many webhooks are to be told of it."""


def decide(found: Expired, *, max_attempts: int, rerun: Rerun) -> Verdict:
    """Return work to the queue, or end it (design, decision 4).

    Output that followers have seen is never contradicted by a second generation, unless the operator
    chose `always`; work that showed nothing is done again, up to `max_attempts`.
    """
    if found.status is not Status.IN_PROGRESS or not found.is_lease_over:
        return Verdict.LEAVE
    if rerun == "never" or found.attempt >= max_attempts:
        return Verdict.FAIL
    if rerun == "if_no_output" and found.event_count > SHOWN_BEFORE_OUTPUT:
        return Verdict.FAIL
    return Verdict.REQUEUE


@dataclass(frozen=True, slots=True)
class NewJob:
    """A queued response as it is stored."""

    turn: Turn
    mode: Mode
    priority: int
    event_count: int
    request: bytes
    """The create parameters, without secrets."""
    secrets: bytes | None = None
    """Those, sealed."""
    key_id: UUID | None = None
    """Whose doing it is, where that is not the transaction's."""
    frames: bytes = b""
    """What its stream says first, if it has one."""
