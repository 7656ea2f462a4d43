"""Webhooks: what is told to whom, how it is said, and when it is tried again (docs/decisions/0028)."""

import base64
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from http import HTTPStatus
from typing import Any
from uuid import UUID

import orjson

from app import ids
from app.domain.response import Status

PREFIX = "whsec_"
SECRET_BYTES = 32
SEALED_FOR = b"holdfast:webhook_endpoints.secret"
"""What a signing secret is sealed for, with its tenant and endpoint: nowhere else it can be opened."""

OVERLAP_SECONDS = 86_400
"""How long an old secret signs beside the new one, where that was asked for (surface notes §1.4)."""

LONGEST_PAUSE_SECONDS = 8 * 3600.0
"""Between two tries: also who was away for a day is told a third of a day later at most."""

RESTS_AFTER = 3
"""So many failures after each other, of whichever events, and an endpoint is left alone for a while."""

LONGEST_REST_SECONDS = 60.0
"""What a receiver that is back may still have to wait for."""

LONGEST_ASKED_SECONDS = 3600.0
"""What a receiver may ask for by `Retry-After`: an hour is its affair, our queue is not."""

SLOW_SECONDS = 2.0
"""An endpoint has only to note the event: whoever takes longer holds places that others wait for."""

MOST_DOUBLINGS = 30


def event_of(status: Status) -> str:
    """The event that a response's end is."""
    return f"response.{status.wire}"


EVENT_TYPES = tuple(
    event_of(status) for status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.INCOMPLETE)
)
"""What can be subscribed to. OpenAI has more, of things that are not here."""


class State(IntEnum):
    """Where a delivery stands. Stored as a number, so values stay what they are."""

    PENDING = 0
    DELIVERED = 1
    FAILED = 2
    """Given up: nobody answered with 2xx in all its time."""

    @property
    def word(self) -> str:
        return self.name.lower()


class Standing(IntEnum):
    """What an endpoint did the last time. Stored as a number, and greater is better."""

    FAILING = 0
    """Or it took its time to answer."""
    NEW = 1
    """It was never tried, or not where it is now."""
    ANSWERING = 2


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a tenant wants to be told of what."""

    id: UUID
    name: str
    url: str
    event_types: tuple[str, ...]
    updated_at: datetime
    secret_hint: str
    is_disabled: bool
    """Its receiver answered 410: it is told nothing until its URL is given again, or a delivery replayed."""

    def shown(self, secret: str | None = None) -> dict[str, Any]:
        """The endpoint as it is answered; with its secret where it has just been made."""
        told = {
            "id": ids.webhook_endpoint_id(self.id),
            "object": "webhook_endpoint",
            "name": self.name,
            "url": self.url,
            "event_types": list(self.event_types),
            "created_at": ids.created_at(self.id),
            "updated_at": int(self.updated_at.timestamp()),
            "signing_secret_hint": self.secret_hint,
            "status": "disabled" if self.is_disabled else "enabled",
        }
        return told | ({"signing_secret": secret} if secret else {})


@dataclass(frozen=True, slots=True)
class Event:
    """That a response has ended. It ends once, so its id is the event's."""

    id: UUID
    type: str
    created_at: int

    @property
    def name(self) -> str:
        """The id as receivers see it, in the body and as `webhook-id`: the same in every attempt."""
        return ids.event_id(self.id)

    @property
    def body(self) -> bytes:
        """What is sent: the response's id alone, by which its receiver may read it (behaviour 90)."""
        return orjson.dumps(
            {
                "id": self.name,
                "object": "event",
                "created_at": self.created_at,
                "type": self.type,
                "data": {"id": ids.response_id(self.id)},
            }
        )


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one endpoint, as its tenant sees it."""

    endpoint_id: UUID
    event: Event
    state: State
    attempts: int
    due_at: datetime | None
    ended_at: datetime | None

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.event.name,
            "object": "webhook_delivery",
            "webhook_endpoint_id": ids.webhook_endpoint_id(self.endpoint_id),
            "event_type": self.event.type,
            "response_id": ids.response_id(self.event.id),
            "status": self.state.word,
            "created_at": self.event.created_at,
            "attempt_count": self.attempts,
            "due_at": self.due_at.timestamp() if self.due_at else None,
            "ended_at": self.ended_at.timestamp() if self.ended_at else None,
        }


@dataclass(frozen=True, slots=True)
class DeliveryClaim:
    """The right to try a delivery once, for the length of a lease; its number fences what it writes."""

    tenant_id: int
    endpoint_id: UUID
    event_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True)
class DeliveryJob:
    """A claimed delivery with all that sending it takes."""

    claim: DeliveryClaim
    event: Event
    tries: int
    """Since it was queued or replayed, this one among them."""
    waited_seconds: float
    """Since then."""
    standing: Standing
    """Of the endpoint, before this attempt."""
    url: str = field(repr=False)
    sealed: tuple[bytes, ...] = field(repr=False)
    """The secrets that sign, the newest first."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    reason: str
    """`delivered`, or why not: a word, and never what the receiver said."""
    status_code: int | None = None
    is_slow: bool = False
    asked_seconds: float | None = None
    """How long it asked to be left alone."""

    @property
    def is_delivered(self) -> bool:
        return self.reason == "delivered"

    @property
    def is_gone(self) -> bool:
        """Whether it wants nothing any more, as Standard Webhooks has it."""
        return self.status_code == HTTPStatus.GONE

    @property
    def standing(self) -> Standing:
        """What it makes of the endpoint."""
        return Standing.ANSWERING if self.is_delivered and not self.is_slow else Standing.FAILING


def mint_secret() -> str:
    """A signing secret as Standard Webhooks has them. It is shown once, and never logged."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def hint_of(secret: str) -> str:
    """What may be shown of a secret, to tell it from others."""
    # The very last is padding.
    return f"{PREFIX}****{secret[-5:-1]}"


def pause_seconds(tries: int, *, first_seconds: float, chance: float) -> float:
    """How long to wait after the so manieth try in vain: twice as long each time, a little more or less.

    Args:
        tries: 1 after the first.
        chance: from 0 to 1; those who failed together shall not come again together.
    """
    doubled = first_seconds * 2.0 ** min(tries - 1, MOST_DOUBLINGS)
    return min(doubled, LONGEST_PAUSE_SECONDS) * (0.75 + chance / 2)
