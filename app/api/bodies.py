"""Read a request's body, but never more of it than allowed, and never for longer."""

import asyncio
from typing import Protocol

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.errors import RequestError

MIB = 1024 * 1024


class BodyTooLarge(RequestError):
    """The request body is too large."""

    status = 413


class BodyTooSlow(RequestError):
    """The request body did not arrive in time."""

    status = 408


class ClientGone(RequestError):
    """The client closed the connection."""

    status = 499


class Limits(Protocol):
    """What the settings say of bodies."""

    @property
    def max_body_bytes(self) -> int: ...
    @property
    def body_timeout_seconds(self) -> float: ...


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body.

    The time is for each MiB of it: a large body may take long, and no body may trickle.

    Raises:
        BodyTooLarge: more than `max_body_bytes` was announced or sent; the rest is not read.
        BodyTooSlow: some part took longer than `body_timeout_seconds`; the rest is not read.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.max_body_bytes:
        raise _too_large(limits.max_body_bytes)
    pieces, size = list[bytes](), 0
    try:
        async with asyncio.timeout(limits.body_timeout_seconds) as patience:
            async for piece in request.stream():
                if size // MIB < (size + len(piece)) // MIB:
                    patience.reschedule(asyncio.get_running_loop().time() + limits.body_timeout_seconds)
                size += len(piece)
                if size > limits.max_body_bytes:
                    raise _too_large(limits.max_body_bytes)
                pieces.append(piece)
    except ClientDisconnect as gone:
        raise ClientGone from gone
    except TimeoutError:
        raise BodyTooSlow(code="request_timeout") from None
    return b"".join(pieces)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"Request body is larger than {max_bytes} bytes.", code="request_too_large")
