"""Responses in conversations, as tests begin them, watch them and break them off."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from tests.api.asking import CREATE, create, invalid
from tests.api.connection import Connection, post
from tests.api.conversing import path_of, said

ENDLESS = "::words 1000 60"
"""Has the offline model talk for a minute."""
LOCKED = invalid(
    "Another process is currently operating on this conversation. Please retry in a few seconds.",
    code="conversation_locked",
    param="conversation",
)


def turn(api: httpx2.Client, name: str, given: Any = "hi", **params: Any) -> dict[str, Any]:
    """A response in a conversation, waited for."""
    return create(api, given, conversation=name, **params)


def attempt(
    api: httpx2.Client, name: str, given: Any = "hi", *, headers: dict[str, str] | None = None, **params: Any
) -> httpx2.Response:
    """The same, whatever comes of it."""
    body = {"model": "offline", "input": given, "conversation": name, **params}
    return api.post(CREATE, json=body, headers=headers or {})


def absent(name: str) -> Any:
    return invalid(f"Conversation with id '{name}' not found.", code=None, param=None, status=404)


def is_free(api: httpx2.Client, name: str) -> bool:
    """Whether items can be added, which no running response allows; one is, if so."""
    answer = api.post(path_of(name), json={"items": [said("free")]})
    assert answer.status_code in {200, 400}, answer.text
    return answer.status_code == 200


async def soon(holds: Callable[[], bool]) -> None:
    """Wait for what another process does and tells nobody; less than any lease but the shortest."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - there is no signal from another process
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(port: int, name: str, given: str = ENDLESS, **params: Any) -> AsyncGenerator[Connection]:
    """A streamed response in a conversation that has begun; who leaves hangs up."""
    body = {"model": "offline", "input": given, "conversation": name, "stream": True, **params}
    async with post(port, body) as connection:
        await connection.head()
        assert connection.status == 200, await connection.chunk()
        await connection.until(b"response.in_progress")
        yield connection
