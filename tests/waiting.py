"""Waiting for what has to happen, without a guess how long that takes."""

import asyncio
import time
from collections.abc import Awaitable, Callable

PATIENCE_SECONDS = 60
"""What a loaded machine never needs: only what does not happen at all takes as long."""


def patience() -> asyncio.Timeout:
    """A bound that turns a test which would hang into one that fails where it hangs."""
    return asyncio.timeout(PATIENCE_SECONDS)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait for what tells nobody that it has happened."""
    async with patience():
        while not await condition():  # noqa: ASYNC110 - the product has no use for such a signal
            await asyncio.sleep(0.005)


async def happened(holds: Callable[[], object]) -> None:
    """The same, where looking takes no time."""
    async with patience():
        while not holds():  # noqa: ASYNC110 - other processes do it
            await asyncio.sleep(0.01)


def wait_until(holds: Callable[[], object]) -> None:
    """The same, without an event loop."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
