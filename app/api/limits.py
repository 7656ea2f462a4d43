"""What one request may bring, and what a tenant may do: checked before anything is stored or locked."""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import orjson

from app.api.arrival import Arrival
from app.api.schemas import refusals
from app.domain.response import Draft
from app.domain.tenancy import Caller
from app.errors import InvalidRequest
from app.generation.rate_limits import OverLimit, Standing, go_duration, use
from app.resources import Resources


class ItemLimits(Protocol):
    """What the settings say of a request's items."""

    @property
    def max_input_items(self) -> int: ...
    @property
    def max_item_bytes(self) -> int: ...


def check_items(param: str, items: Any, body: bytes, limits: ItemLimits) -> None:
    """Refuse too many items, or one too large, before any of them is looked into. A string is one item.

    Raises:
        InvalidRequest: it is so, and here is which. What is neither list nor string is refused elsewhere.
    """
    if isinstance(items, list) and len(items) > limits.max_input_items:
        raise refusals.too_long(param, "array", len(items), limits.max_input_items)
    if len(body) <= limits.max_item_bytes:
        return
    if isinstance(items, str):
        _check_size(param, items, limits.max_item_bytes)
    for place, item in enumerate(items if isinstance(items, list) else ()):
        _check_size(f"{param}[{place}]", item, limits.max_item_bytes)


def _check_size(path: str, item: Any, max_bytes: int) -> None:
    size = len(orjson.dumps(item))
    if size > max_bytes:
        raise InvalidRequest(
            f"Invalid '{path}': item too large. Expected an item of at most {max_bytes} bytes of JSON, "
            f"but got one of {size} bytes instead.",
            code="item_above_max_size",
            param=path,
        )


async def admit(arrival: Arrival, draft: Draft, caller: Caller, it: Resources) -> None:
    """Let a create in, and count it. Every answer to it says from now on how its tenant stands.

    Raises:
        RateLimited: too many streams are open, or a limit per minute is used up.
    """
    if draft.is_streamed:
        open_stream(caller, it)
    try:
        standings = await use(it.db, caller, it.limits, draft)
    except OverLimit as refusal:
        # Where no time will help, SDKs would come back all the same, as with any 429.
        stays_away = [(b"x-should-retry", b"false")] if refusal.retry_after_seconds is None else []
        arrival.tell([*_told(refusal.standings), *stays_away])
        raise
    arrival.tell(_told(standings))


def open_stream(caller: Caller, it: Resources) -> None:
    """Count a stream from now until the request's own task has ended, however it ends.

    Raises:
        RateLimited: the tenant has as many open as it may.
    """
    # A request is served by a task of its own.
    if task := asyncio.current_task():
        it.open_streams.open(caller.tenant_id)
        task.add_done_callback(lambda _: it.open_streams.close(caller.tenant_id))


def _told(standings: Sequence[Standing]) -> list[tuple[bytes, bytes]]:
    """How a tenant stands, as headers of an answer."""
    return [
        (f"x-ratelimit-{what}-{each.kind}".encode(), value.encode())
        for each in standings
        for what, value in (
            ("limit", str(each.limit)),
            ("remaining", str(each.remaining)),
            ("reset", go_duration(each.reset_seconds)),
        )
    ]
