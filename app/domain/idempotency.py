"""What an `Idempotency-Key` stands for: one request, told from others by its fingerprint."""

import hashlib
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A key as a client sent it, with what it was sent for."""

    text: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class KeyClaim:
    """The right to be the one response that a key stands for. Its id fences every later write."""

    tenant_id: int
    key: str
    response_id: UUID


@dataclass(frozen=True, slots=True)
class Kept:
    """A key that another request has claimed, or had."""

    fingerprint: bytes
    response_id: UUID | None
    """The response that it stands for, or will; None for what is no response."""
    is_running: bool
    """Whether that is being made; its process renews a lease meanwhile."""
    answer: bytes | None
    """What was answered, where it is no response that could be read again."""


def fingerprint(method: str, target: str, body: Any) -> bytes:
    """Tell requests apart: the same JSON is the same request, however it is spaced and its keys are ordered.

    Args:
        target: path and query.
        body: JSON as it was parsed.
    """
    content = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(b"%s %s\n%s" % (method.encode(), target.encode(), content)).digest()
