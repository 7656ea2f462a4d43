"""What one request may bring and what a tenant may do: each limit's answer, and that nothing is left behind."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import httpx2
import openai
import pytest

from app import ids
from app.domain.response import Status
from tests.api.asking import CREATE, create, frames, invalid, refusal
from tests.api.conftest import client_of, upstreams
from tests.api.connection import Connection, post
from tests.api.running import soon
from tests.background import execute
from tests.live import LiveServer
from tests.waiting import patience, until
from tests.workers.processes import LiveBroker, LiveWorker

MAX_STREAMS = 3
TALKING = {"model": "offline", "input": "::words 1000 60", "stream": True}
"""A stream that goes on for a minute."""
TOO_MANY_STREAMS = "Too many streams are open: 3 is the limit. Please close some and retry."


@pytest.fixture(scope="module")
def small_server(quiet_database_url: str, broker: LiveBroker, upstream_port: int) -> Generator[LiveServer]:
    """Every limit on what comes in and stays open is small."""
    environment = {
        "HOLDFAST_MAX_INPUT_ITEMS": "20",
        "HOLDFAST_MAX_ITEM_BYTES": "300",
        "HOLDFAST_MAX_OPEN_STREAMS": str(MAX_STREAMS),
        "HOLDFAST_BROKER_URL": broker.url,
        "HOLDFAST_UPSTREAMS": upstreams(upstream_port),
    }
    with LiveServer(quiet_database_url, environment=environment) as server:
        yield server


@pytest.fixture(scope="module")
def small(small_server: LiveServer) -> Generator[httpx2.Client]:
    with client_of(small_server) as client:
        yield client


@pytest.fixture(scope="module")
def serve(postgres_url: str, quiet_database_url: str) -> Callable[..., LiveServer]:
    """Another API process of one deployment, with limits per minute."""

    def made(**limits: int) -> LiveServer:
        named = {f"HOLDFAST_{name.upper()}": str(value) for name, value in limits.items()}
        return LiveServer(quiet_database_url, environment=named)

    return made


@pytest.fixture
async def fresh(quiet_database_url: str) -> None:
    """Nothing has been used of any limit."""
    await execute(quiet_database_url, "delete from rate_limits")


async def stored(database_url: str, since: UUID) -> int:
    """Responses that were asked for since; those of a test before, that was hung up on, may be stored late."""
    [[count]] = await execute(database_url, "select count(*) from responses where id > $1", since)
    return count


class TestItems:
    def test_as_many_as_allowed_are_taken(self, small: httpx2.Client) -> None:
        create(small, [{"role": "user", "content": "hi"}] * 20)

    async def test_one_more_is_refused_and_nothing_is_stored(
        self, small: httpx2.Client, quiet_database_url: str
    ) -> None:
        since = ids.new_uuid()
        items = [{"role": "user", "content": "hi"}] * 21
        answer = small.post(CREATE, json={"model": "offline", "input": items})
        assert refusal(answer) == invalid(
            "Invalid 'input': array too long. Expected an array with maximum length 20, "
            "but got an array with length 21 instead.",
            code="array_above_max_length",
            param="input",
        )
        assert await stored(quiet_database_url, since) == 0

    def test_too_many_are_refused_before_any_is_looked_into(self, small: httpx2.Client) -> None:
        answer = small.post(CREATE, json={"model": "offline", "input": [{"bogus": 1}] * 21})
        assert refusal(answer).code == "array_above_max_length"

    @pytest.mark.parametrize(
        ("given", "path", "size"),
        [
            ([{"role": "user", "content": "hi"}, {"role": "user", "content": "x" * 272}], "input[1]", 300),
            ([{"role": "user", "content": "é" * 137}], "input[0]", 302),
            ("x" * 299, "input", 301),
        ],
        ids=["just fits", "bytes count", "a string"],
    )
    def test_an_item_has_a_largest_size(self, small: httpx2.Client, given: Any, path: str, size: int) -> None:
        answer = small.post(CREATE, json={"model": "offline", "input": given})
        if size <= 300:
            assert answer.status_code == 200, answer.text
            return
        assert refusal(answer) == invalid(
            f"Invalid '{path}': item too large. Expected an item of at most 300 bytes of JSON, "
            f"but got one of {size} bytes instead.",
            code="item_above_max_size",
            param=path,
        )

    def test_the_same_holds_for_what_is_counted_and_for_conversations(self, small: httpx2.Client) -> None:
        long = [{"type": "message", "role": "user", "content": "x" * 300}]
        counted = small.post(f"{CREATE}/input_tokens", json={"input": long})
        begun = small.post("/v1/conversations", json={"items": long})
        assert refusal(counted).param == "input[0]"
        assert refusal(begun).param == "items[0]"
        assert {refusal(counted).code, refusal(begun).code} == {"item_above_max_size"}


@asynccontextmanager
async def streaming(
    port: int, count: int, body: dict[str, Any] = TALKING
) -> AsyncGenerator[list[Connection]]:
    """So many streams that have begun and go on; who leaves hangs up.

    Waits for those of a test before, whose end the server may be about to notice.
    """
    async with AsyncExitStack() as stack:
        opened = list[Connection]()
        async with patience():
            while len(opened) < count:
                connection = await stack.enter_async_context(post(port, body))
                await connection.head()
                if connection.status == 200:
                    opened.append(connection)
        yield opened


def answers(api: httpx2.Client, body: dict[str, Any], status: int) -> bool:
    return api.post(CREATE, json=body).status_code == status


class TestOpenStreams:
    async def test_no_more_than_allowed_are_open_and_each_end_makes_room(
        self, small_server: LiveServer, small: httpx2.Client, quiet_database_url: str
    ) -> None:
        async with streaming(small_server.port, MAX_STREAMS):
            since = ids.new_uuid()
            answer = small.post(CREATE, json=TALKING)
            told = refusal(answer)
            assert (told.status, told.type, told.code) == (429, "rate_limit_error", "rate_limit_exceeded")
            assert told.message == TOO_MANY_STREAMS
            assert answer.headers["retry-after"] == "1"
            # What is no stream is no matter.
            create(small)
            assert await stored(quiet_database_url, since) == 1
        await soon(lambda: small.post(CREATE, json={**TALKING, "input": "hi"}).status_code == 200)

    @pytest.mark.parametrize("rudely", [False, True], ids=["closed", "reset"])
    async def test_who_hangs_up_leaves_none_open(
        self, small_server: LiveServer, small: httpx2.Client, *, rudely: bool
    ) -> None:
        for _ in range(2):
            async with streaming(small_server.port, MAX_STREAMS) as opened:
                for connection in opened:
                    await connection.hang_up(rudely=rudely)
            await soon(lambda: stream_status(small) == 200)
        await self.check_all_free(small_server)

    async def test_streams_that_end_and_those_that_are_refused_leave_none_open(
        self, small_server: LiveServer, small: httpx2.Client
    ) -> None:
        """The model `wire` is one that nobody serves at the moment."""
        for _ in range(MAX_STREAMS + 1):
            # A client may see the end of a stream just before its place is free again.
            await soon(lambda: stream_status(small) == 200)
            for refused, status in (
                ({"previous_response_id": "resp_" + "0" * 32}, 400),
                ({"conversation": "conv_none"}, 404),
                ({"model": "wire"}, 502),
            ):
                body = {"model": "offline", "input": "hi", "stream": True, **refused}
                await soon(partial(answers, small, body, status))
        await self.check_all_free(small_server)

    async def test_a_server_that_was_killed_begins_with_none(
        self, small_server: LiveServer, small: httpx2.Client
    ) -> None:
        async with streaming(small_server.port, MAX_STREAMS):
            await asyncio.to_thread(small_server.stop, kill=True)
        await asyncio.to_thread(small_server.start)
        await self.check_all_free(small_server)

    async def test_a_followed_stream_counts_too_and_a_refused_one_is_not_queued(
        self, small_server: LiveServer, small: httpx2.Client, quiet_database_url: str
    ) -> None:
        body = {"model": "offline", "input": "hi", "background": True, "stream": True}
        async with streaming(small_server.port, 1, body) as [following]:
            said = await following.until(b"response.queued")
            name = frames(said)[0].data["response"]["id"]
            async with streaming(small_server.port, MAX_STREAMS - 1):
                since = ids.new_uuid()
                assert refusal(small.post(CREATE, json=body)).message == TOO_MANY_STREAMS
                again = small.get(f"{CREATE}/{name}", params={"stream": "true"})
                assert refusal(again).message == TOO_MANY_STREAMS
                assert small.get(f"{CREATE}/{name}").json()["status"] == "queued"
                assert await stored(quiet_database_url, since) == 0
        assert small.post(f"{CREATE}/{name}/cancel").json()["status"] == "cancelled"
        await self.check_all_free(small_server)

    async def check_all_free(self, server: LiveServer) -> None:
        """As many as ever can be opened at once."""
        async with streaming(server.port, MAX_STREAMS):
            pass


def stream_status(api: httpx2.Client) -> int:
    return api.post(CREATE, json={"model": "offline", "input": "hi", "stream": True}).status_code


def said_of(answer: httpx2.Response) -> dict[str, str]:
    """The headers that tell how a tenant stands."""
    mark = "x-ratelimit-"
    return {name.removeprefix(mark): value for name, value in answer.headers.items() if name.startswith(mark)}


@pytest.mark.usefixtures("fresh")
class TestRequestsPerMinute:
    async def test_all_processes_count_together_and_say_how_much_is_left(
        self, serve: Callable[..., LiveServer], quiet_database_url: str
    ) -> None:
        with (
            serve(requests_per_minute=3) as one,
            serve(requests_per_minute=3) as two,
            client_of(one) as first,
            client_of(two) as second,
        ):
            for place, api in enumerate((first, second, first)):
                answer = api.post(CREATE, json={"model": "offline", "input": "hi", "stream": place == 1})
                assert answer.status_code == 200
                told = said_of(answer)
                assert told.keys() == {"limit-requests", "remaining-requests", "reset-requests"}
                assert (told["limit-requests"], told["remaining-requests"]) == ("3", str(2 - place))
            since = ids.new_uuid()
            for api in (first, second):
                self.check_refused(api.post(CREATE, json={"model": "offline", "input": "hi"}))
            assert await stored(quiet_database_url, since) == 0
            # Only creates are counted, and what is wrong in itself is not.
            assert first.get(CREATE).status_code == 200
            assert first.post(CREATE, json={"model": "offline"}).status_code == 400

    def check_refused(self, answer: httpx2.Response) -> None:
        told = refusal(answer)
        assert (told.status, told.type, told.code) == (429, "requests", "rate_limit_exceeded")
        assert told.message.startswith(
            "Rate limit reached on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in "
        )
        assert told.message.endswith("s.")
        assert said_of(answer)["remaining-requests"] == "0"
        assert 1 <= int(answer.headers["retry-after"]) <= 20
        assert 0 < int(answer.headers["retry-after-ms"]) <= 20_000

    async def test_a_refused_create_locks_no_conversation_and_time_makes_room(
        self, serve: Callable[..., LiveServer], quiet_database_url: str
    ) -> None:
        with serve(requests_per_minute=1) as server, client_of(server) as api:
            name = api.post("/v1/conversations", json={}).json()["id"]
            create(api)
            body = {"model": "offline", "input": "hi", "conversation": name}
            assert api.post(CREATE, json=body).status_code == 429
            item = {"items": [{"type": "message", "role": "user", "content": "free"}]}
            assert api.post(f"/v1/conversations/{name}/items", json=item).status_code == 200
            # As if a minute had passed.
            ago = "update rate_limits set requests_until = requests_until - interval '1 minute'"
            await execute(quiet_database_url, ago)
            assert api.post(CREATE, json=body).status_code == 200

    def test_the_sdk_knows_it_for_a_rate_limit(self, serve: Callable[..., LiveServer]) -> None:
        with serve(requests_per_minute=1) as server:
            client = openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0)
            raw = client.responses.with_raw_response.create(model="offline", input="hi")
            assert raw.headers["x-ratelimit-remaining-requests"] == "0"
            with pytest.raises(openai.RateLimitError) as caught:
                client.responses.create(model="offline", input="hi")
        assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")

    def test_without_a_limit_nothing_is_said_of_it(self, api: httpx2.Client) -> None:
        answer = api.post(CREATE, json={"model": "offline", "input": "hi"})
        assert said_of(answer) == {}


@pytest.mark.usefixtures("fresh")
class TestTokensPerMinute:
    def test_the_estimate_is_taken_and_what_was_used_stands_in_the_end(
        self, serve: Callable[..., LiveServer]
    ) -> None:
        with serve(tokens_per_minute=1000, requests_per_minute=1000) as server, client_of(server) as api:
            answer = api.post(CREATE, json={"model": "offline", "input": "x" * 400})
            estimated = 1000 - int(said_of(answer)["remaining-tokens"])
            assert 100 <= estimated <= 150
            used = answer.json()["usage"]["total_tokens"]
            before = int(
                said_of(api.post(CREATE, json={"model": "offline", "input": "hi"}))["remaining-tokens"]
            )
            short = 1000 - used - before
            # Less what has flowed in since, and more the second's own estimate.
            assert short <= 60
            assert before <= 1000 - used + 100

    async def test_more_than_is_left_is_refused_until_enough_has_flowed_in(
        self, serve: Callable[..., LiveServer], quiet_database_url: str
    ) -> None:
        with serve(tokens_per_minute=300) as server, client_of(server) as api:
            large = {"model": "offline", "input": "x" * 800}
            assert api.post(CREATE, json=large).status_code == 200
            answer = api.post(CREATE, json=large)
            told = refusal(answer)
            assert (told.status, told.type, told.code) == (429, "tokens", "rate_limit_exceeded")
            assert told.message.startswith("Rate limit reached on tokens per min (TPM): Limit 300, Used ")
            assert int(answer.headers["retry-after"]) >= 1
            ago = "update rate_limits set tokens_until = tokens_until - interval '10 minutes'"
            await execute(quiet_database_url, ago)
            assert api.post(CREATE, json=large).status_code == 200

    def test_what_can_never_fit_is_refused_without_a_time_to_come_back(
        self, serve: Callable[..., LiveServer]
    ) -> None:
        with serve(tokens_per_minute=300) as server, client_of(server) as api:
            answer = api.post(CREATE, json={"model": "offline", "input": "x" * 4000})
            told = refusal(answer)
            assert (told.status, told.type, told.code) == (429, "tokens", "rate_limit_exceeded")
            assert told.message.startswith(
                "Request too large on tokens per min (TPM): Limit 300, Requested 1"
            )
            assert "retry-after" not in answer.headers
            assert answer.headers["x-should-retry"] == "false"
            assert said_of(answer)["remaining-tokens"] == "300"


@pytest.mark.usefixtures("fresh")
class TestMaxRunning:
    async def test_what_waits_for_room_is_generated_once_there_is_some(
        self, small: httpx2.Client, broker: LiveBroker, quiet_database_url: str
    ) -> None:
        """All bells have rung before: the worker itself goes on."""
        names = [create(small, f"::sleep 0.2\n{n}", background=True)["id"] for n in range(6)]
        keys, most = [ids.parse_response_id(name) for name in names], 0

        async def are_done() -> bool:
            """All at one moment: asked for one after the other, they would be more."""
            nonlocal most
            counted = "select status, count(*) from responses where id = any($1) group by status"
            found = dict(await execute(quiet_database_url, counted, keys))
            most = max(most, found.get(Status.IN_PROGRESS, 0))
            return found == {Status.COMPLETED: len(names)}

        with LiveWorker(quiet_database_url, broker.url, max_running="2", queued_too_long_seconds="600"):
            await until(are_done)
        assert 1 <= most <= 2
