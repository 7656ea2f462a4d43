"""The official client over a WebSocket, blocking and not (`openai[realtime]`)."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI
from openai.resources.responses.responses import AsyncResponsesConnection, ResponsesConnection
from openai.types.responses import Response
from openai.types.websocket_reconnection import ReconnectingEvent, ReconnectingOverrides
from websockets.exceptions import InvalidStatus

from tests.live import LiveServer
from tests.waiting import patience


@pytest.fixture
async def connection(server: LiveServer) -> AsyncGenerator[AsyncResponsesConnection]:
    async with (
        AsyncOpenAI(base_url=server.base_url, api_key="any") as client,
        client.responses.connect() as connection,
    ):
        yield connection


@pytest.fixture
def blocking(server: LiveServer) -> Generator[ResponsesConnection]:
    with (
        OpenAI(base_url=server.base_url, api_key="any") as client,
        client.responses.connect() as connection,
    ):
        yield connection


async def ended(connection: AsyncResponsesConnection, lane: str | None = None) -> Response:
    async for event in connection:
        assert event.type != "error", event
        if event.type == "response.completed" and event.stream_id == lane:
            return event.response
    raise AssertionError


async def refused(connection: AsyncResponsesConnection) -> Any:
    async for event in connection:
        if event.type == "error":
            return event
    raise AssertionError


def test_a_blocking_client_creates_and_chains(blocking: ResponsesConnection) -> None:
    blocking.response.create(model="offline", input="one", store=False)
    [first] = [event.response for event in _until_end(blocking) if event.type == "response.completed"]
    blocking.response.create(model="offline", input="two", store=False, previous_response_id=first.id)
    told = list(_until_end(blocking))
    assert "3 items" in told[-1].response.output_text
    said = "".join(event.delta for event in told if event.type == "response.output_text.delta")
    assert said == told[-1].response.output_text


def _until_end(connection: ResponsesConnection) -> Generator[Any]:
    for event in connection:
        yield event
        if event.type in {"response.completed", "response.failed", "error"}:
            return


async def test_lanes(connection: AsyncResponsesConnection) -> None:
    for lane in ("a", "b"):
        await connection.response.create(model="offline", input=f"in {lane}", stream_id=lane)
    both = dict[str | None, str]()
    async for event in connection:
        if event.type == "response.completed":
            both[event.stream_id] = event.response.output_text
            if len(both) == 2:
                break
    assert {lane: f"in {lane}" in text for lane, text in both.items()} == {"a": True, "b": True}


async def test_an_error_is_an_event_and_the_connection_goes_on(connection: AsyncResponsesConnection) -> None:
    await connection.response.create(model="offline", input="x", previous_response_id="resp_" + "0" * 32)
    error = await refused(connection)
    assert (error.status, error.error.code) == (400, "previous_response_not_found")
    await connection.response.create(model="offline", input="x")
    assert (await ended(connection)).status == "completed"


async def test_warming_up(connection: AsyncResponsesConnection) -> None:
    await connection.response.create(model="offline", input="remember me", generate=False, store=False)
    held = await ended(connection)
    assert held.output == []
    await connection.response.create(model="offline", input="now", previous_response_id=held.id)
    assert "remember me" in (await ended(connection)).output_text


async def test_steering_is_refused_in_its_own_event(connection: AsyncResponsesConnection) -> None:
    await connection.response.steer(previous_response_id="resp_1", input="x")
    event = await connection.recv()
    assert event.type == "response.steer.failed"
    assert (event.error.code, event.steer.input) == ("steering_not_supported", "x")


async def test_tools_are_answered_over_the_same_connection(connection: AsyncResponsesConnection) -> None:
    tool: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
    await connection.response.create(model="offline", input="::call f {}", tools=[tool], store=False)
    first = await ended(connection)
    call: Any = first.output[-1]
    await connection.response.create(
        model="offline",
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "42"}],
        previous_response_id=first.id,
        store=False,
    )
    assert (await ended(connection)).status == "completed"


async def test_the_client_comes_back_by_itself_after_a_restart(database_url: str) -> None:
    """Its memory is gone then: what was not stored is not found."""
    tries = list[ReconnectingEvent]()

    def again(event: ReconnectingEvent) -> ReconnectingOverrides | None:
        tries.append(event)
        return None

    with LiveServer(database_url) as server:
        async with (
            AsyncOpenAI(base_url=server.base_url, api_key="any") as client,
            client.responses.connect(on_reconnecting=again, initial_delay=0.1) as connection,
        ):
            await connection.response.create(model="offline", input="one", store=False)
            first = await ended(connection)
            await asyncio.to_thread(server.restart)
            reading = asyncio.ensure_future(refused(connection))
            while not tries:  # noqa: ASYNC110 - its callback is no coroutine
                await asyncio.sleep(0.01)
            await connection.response.create(model="offline", input="x", previous_response_id=first.id)
            async with patience():
                assert (await reading).error.code == "previous_response_not_found"
            assert tries[0].close_code == 1012


async def test_a_refused_upgrade_is_an_http_error(server: LiveServer) -> None:
    async with AsyncOpenAI(base_url=server.base_url, api_key="any") as client:
        with pytest.raises(InvalidStatus) as refusal:
            await client.responses.connect(extra_headers={"Origin": "https://elsewhere.example"}).enter()
    assert refusal.value.response.status_code == 403
