"""Read the bodies of an upstream's answers, and never more of them than an answer can need."""

import asyncio
from typing import Any

import aiohttp
import orjson

from app.providers.upstream_errors import UpstreamErrors

MAX_ANSWER_BYTES = 256 * 2**20
"""Of an answer that is not streamed. It may hold several images; more would endanger this process."""
MAX_MODELS_BYTES = 4 * 2**20
"""Of a list of models: the largest catalogues have some thousand entries of a kilobyte at most."""
MAX_ERROR_BYTES = 64 * 1024
# The end of a body trails its terminal event by one packet at most; longer is not worth a connection.
SETTLE_SECONDS = 0.05


async def whole(content: aiohttp.StreamReader, most_bytes: int, errors: UpstreamErrors) -> bytes:
    """The body to its end.

    Raises:
        UpstreamError: the connection broke, fell silent, or carried more than `most_bytes`.
    """
    pieces: list[bytes] = []
    size = 0
    try:
        while piece := await content.readany():
            size += len(piece)
            if size > most_bytes:
                raise errors.broken(f"the answer is longer than {most_bytes} bytes")
            pieces.append(piece)
    except (aiohttp.ClientError, OSError) as error:
        raise errors.raised(error) from error
    return b"".join(pieces)


async def head(content: aiohttp.StreamReader) -> bytes:
    """As much of an error's body as is worth reading."""
    try:
        return await content.readexactly(MAX_ERROR_BYTES)
    except asyncio.IncompleteReadError as ended:
        return ended.partial
    except (aiohttp.ClientError, OSError):
        return b""


async def settle(content: aiohttp.StreamReader) -> None:
    """Read past a finished answer to the end of its body, so that the connection can be used again."""
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while not content.at_eof():
                await content.readany()
    except (aiohttp.ClientError, OSError):
        # The answer is whole; only the connection is lost, and it is closed next.
        return


def parsed(payload: bytes, errors: UpstreamErrors) -> dict[str, Any]:
    """The JSON object that a body or an event is.

    Raises:
        UpstreamError: it is something else.
    """
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise errors.broken(f"not JSON: {payload[:200]!r}") from error
    if not isinstance(value, dict):
        raise errors.broken(f"not a JSON object: {payload[:200]!r}")
    return value
