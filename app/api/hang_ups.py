"""Clients that hang up. Our HTTP protocol tells by a call; listening by `receive` takes a task each.

An extension of the ASGI scope (spec, "Extensions"), put there by `app.embedded.http_protocol`.
"""

from collections.abc import Callable, Generator, MutableMapping
from contextlib import contextmanager
from typing import Any

WHEN_GONE = "holdfast.when_gone"

Callback = Callable[[], object]


def tell(scope: MutableMapping[str, Any], callback: Callback) -> Callback:
    """Have it called, once, if the client's connection is lost; gives back how to forget it again."""
    take_back: Callback = scope["extensions"][WHEN_GONE](callback)
    return take_back


@contextmanager
def when_gone(scope: MutableMapping[str, Any], callback: Callback) -> Generator[None]:
    """Have it called, once, if the client's connection is lost before the block ends."""
    take_back = tell(scope, callback)
    try:
        yield
    finally:
        take_back()
