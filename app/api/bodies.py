"""Read a request's body, but never more of it than allowed."""

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.errors import RequestError


class BodyTooLarge(RequestError):
    """The request body is too large."""

    status = 413


class ClientGone(RequestError):
    """The client closed the connection."""

    status = 499


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        BodyTooLarge: more than `max_bytes` was announced or sent; the rest is not read.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    pieces, size = list[bytes](), 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > max_bytes:
                raise _too_large(max_bytes)
            pieces.append(piece)
    except ClientDisconnect as gone:
        raise ClientGone from gone
    return b"".join(pieces)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"Request body is larger than {max_bytes} bytes.", code="request_too_large")
