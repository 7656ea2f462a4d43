"""What happens when the client of a foreground response is gone (surface notes §8.7)."""

import asyncio
from typing import Any

import httpx2
import pytest

from tests.api.asking import CREATE
from tests.api.connection import post
from tests.api.upstream import Upstream
from tests.live import LiveServer
from tests.waiting import patience

rudely = pytest.mark.parametrize("rudely", [False, True], ids=["closed", "reset"])
streamed = pytest.mark.parametrize("is_streamed", [False, True], ids=["json", "stream"])


def asking(tag: str, *, is_streamed: bool) -> dict[str, Any]:
    return {"model": "wire", "input": "hi", "stream": is_streamed, "metadata": {"tag": tag}}


async def stored(server: LiveServer, tag: str) -> dict[str, Any]:
    """The response with this tag, as soon as it is stored."""
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client, patience():
        while True:
            rows = (await client.get(CREATE)).json()["data"]
            if found := [row for row in rows if row["metadata"] == {"tag": tag}]:
                return (await client.get(f"{CREATE}/{found[0]['id']}")).json()
            await asyncio.sleep(0.01)


class TestCancel:
    """The default, as at OpenAI: nobody pays for what nobody reads."""

    @rudely
    async def test_a_stream_that_nobody_reads_is_cancelled(
        self, terse_server: LiveServer, upstream: Upstream, *, rudely: bool
    ) -> None:
        tag = f"stream, rudely: {rudely}"
        async with post(terse_server.port, asking(tag, is_streamed=True)) as connection:
            await connection.head()
            await connection.until(b"Hello")
            await connection.hang_up(rudely=rudely)
            async with patience():
                await upstream.hung_up.wait()
        response = await stored(terse_server, tag)
        assert (response["status"], response["output"], response["usage"]) == ("cancelled", [], None)
        assert (response["error"], response["completed_at"]) == (None, None)

    @rudely
    @streamed
    async def test_an_answer_that_has_not_begun_leaves_nothing(
        self, terse_server: LiveServer, upstream: Upstream, *, is_streamed: bool, rudely: bool
    ) -> None:
        tag = f"streamed: {is_streamed}, rudely: {rudely}"
        upstream.may_begin.clear()
        async with post(terse_server.port, asking(tag, is_streamed=is_streamed)) as connection:
            await upstream.asked.wait()
            await connection.hang_up(rudely=rudely)
            async with patience():
                await upstream.hung_up.wait()
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{terse_server.port}") as client:
            rows = (await client.get(CREATE)).json()["data"]
        assert {"tag": tag} not in [row["metadata"] for row in rows]

    async def test_one_that_hangs_up_does_not_disturb_another(
        self, terse_server: LiveServer, upstream: Upstream
    ) -> None:
        async with post(terse_server.port, asking("stays", is_streamed=True)) as staying:
            await staying.head()
            await staying.until(b"Hello")
            async with post(terse_server.port, asking("goes", is_streamed=True)) as going:
                await going.head()
                await going.until(b"Hello")
            await upstream.hung_up.wait()
            upstream.may_finish.set()
            assert b"response.completed" in (await staying.rest())[-1]

    async def test_a_model_that_waits_is_cancelled_too(self, terse_server: LiveServer) -> None:
        """It would go on for a minute."""
        body = {**asking("offline", is_streamed=True), "model": "offline", "input": "::words 1000 60"}
        async with post(terse_server.port, body) as connection:
            await connection.head()
            await connection.until(b"output_text.delta")
        assert (await stored(terse_server, "offline"))["status"] == "cancelled"


class TestFinish:
    """By setting: what was begun is completed and stored."""

    @rudely
    @streamed
    async def test_the_response_is_completed_for_those_who_come_back(
        self, finishing_server: LiveServer, upstream: Upstream, *, is_streamed: bool, rudely: bool
    ) -> None:
        tag = f"finish, streamed: {is_streamed}, rudely: {rudely}"
        async with post(finishing_server.port, asking(tag, is_streamed=is_streamed)) as connection:
            await upstream.asked.wait()
            if is_streamed:
                await connection.head()
                await connection.until(b"Hello")
            await connection.hang_up(rudely=rudely)
        upstream.may_finish.set()
        response = await stored(finishing_server, tag)
        assert response["status"] == "completed"
        assert response["output"][0]["content"][0]["text"] == "Hello there"
        assert not upstream.hung_up.is_set()
