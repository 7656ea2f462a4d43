"""One running response in a conversation: what it keeps others from, and when it has ended for them."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx2
import pytest

from tests.api.asking import CREATE, frames, invalid, refusal, text
from tests.api.conftest import client_of, upstreams
from tests.api.conversing import (
    CONVERSATIONS,
    NO_ITEM,
    begin,
    called,
    hold,
    items_of,
    path_of,
    said,
    texts,
    texts_of,
)
from tests.api.running import LOCKED, absent, attempt, is_free, running, turn
from tests.api.upstream import Upstream
from tests.live import LiveServer
from tests.waiting import PATIENCE_SECONDS

WAIT = "Holdfast-Conversation-Wait"
UNREACHABLE = "redis://127.0.0.1:1/0"
streamed = pytest.mark.parametrize("is_streamed", [False, True], ids=["json", "stream"])


@pytest.fixture(scope="module")
def queueing_server(quiet_database_url: str, upstream_port: int) -> Generator[LiveServer]:
    """A queue of one place that nobody works at, models with a window, and patience by default."""
    environment = {
        "HOLDFAST_BROKER_URL": UNREACHABLE,
        "HOLDFAST_MAX_QUEUED": "1",
        "HOLDFAST_LEASE_SECONDS": "1",
        "HOLDFAST_CONVERSATION_WAIT_SECONDS": "0.3",
        "HOLDFAST_UPSTREAMS": upstreams(upstream_port),
    }
    with LiveServer(quiet_database_url, environment=environment) as live:
        yield live


@pytest.fixture(scope="module")
def queueing(queueing_server: LiveServer) -> Generator[httpx2.Client]:
    with client_of(queueing_server) as client:
        yield client


class TestWhileOneRuns:
    @pytest.fixture
    async def name(self, server: LiveServer, api: httpx2.Client) -> AsyncGenerator[str]:
        """A conversation in which a response runs."""
        name = begin(api, "one", "two")
        async with running(server.port, name):
            yield name

    @pytest.mark.parametrize("params", [{}, {"stream": True}, {"input": []}])
    def test_another_is_refused_at_once_in_every_process(
        self, api: httpx2.Client, terse: httpx2.Client, name: str, params: dict[str, Any]
    ) -> None:
        for process in (api, terse):
            began = time.monotonic()
            assert refusal(attempt(process, name, **params)) == LOCKED
            assert time.monotonic() - began < 8

    def test_items_are_neither_added_nor_removed(
        self, api: httpx2.Client, terse: httpx2.Client, name: str
    ) -> None:
        before = items_of(api, name)
        for process in (api, terse):
            assert refusal(process.post(path_of(name), json={"items": [said("x")]})) == LOCKED
            assert refusal(process.delete(path_of(name, before[0]["id"]))) == LOCKED
            assert refusal(process.delete(path_of(name, NO_ITEM))) == LOCKED
        assert items_of(api, name) == before

    def test_reading_waits_for_nobody(self, api: httpx2.Client, terse: httpx2.Client, name: str) -> None:
        for process in (api, terse):
            assert texts_of(process, name) == ["one", "two"]
            assert process.get(f"{CONVERSATIONS}/{name}").status_code == 200
            fork = process.post(f"{CONVERSATIONS}/{name}/fork").json()["id"]
            assert texts_of(process, fork) == ["one", "two"]
            assert text(turn(process, fork, "three")).startswith("I was given 3 items;")

    def test_what_it_is_called_may_change(self, api: httpx2.Client, name: str) -> None:
        answer = api.post(f"{CONVERSATIONS}/{name}", json={"metadata": {"a": "b"}})
        assert answer.json()["metadata"] == {"a": "b"}
        assert not is_free(api, name)

    def test_one_that_is_refused_changes_nothing_for_the_one_that_runs(
        self, api: httpx2.Client, name: str
    ) -> None:
        for given in ("hi", [{"type": "item_reference", "id": NO_ITEM}], [called()]):
            assert refusal(attempt(api, name, given)) == LOCKED
        assert refusal(attempt(api, name)) == LOCKED


class TestDeletedMeanwhile:
    async def test_the_response_completes_and_stays(
        self, terse_server: LiveServer, terse: httpx2.Client, upstream: Upstream
    ) -> None:
        name = begin(terse, "one")
        async with running(terse_server.port, name, "two", model="wire") as connection:
            assert terse.delete(f"{CONVERSATIONS}/{name}").status_code == 200
            assert refusal(attempt(terse, name)) == absent(name)
            upstream.may_finish.set()
            response = frames(b"".join(await connection.rest()))[-1].data["response"]
        assert (response["status"], response["conversation"]) == ("completed", {"id": name})
        assert terse.get(f"{CREATE}/{response['id']}").json() == response
        given = terse.get(f"{CREATE}/{response['id']}/input_items", params={"order": "asc"}).json()["data"]
        assert texts(given) == ["one", "two"]
        assert terse.get(f"{CONVERSATIONS}/{name}").status_code == 404

    async def test_also_where_it_runs_longer_than_a_lease(
        self, queueing_server: LiveServer, queueing: httpx2.Client
    ) -> None:
        """A lock that nobody wants any more is no reason to stop."""
        name = begin(queueing, "one")
        async with running(queueing_server.port, name, "::words 25 100") as connection:
            queueing.delete(f"{CONVERSATIONS}/{name}")
            response = frames(await connection.until(b"event: response.completed"))[-1].data["response"]
        assert queueing.get(f"{CREATE}/{response['id']}").json() == response


class TestFreeAtOnce:
    @streamed
    @pytest.mark.parametrize("given", ["hi", "::fail server_error", "::drop", "::call f {}"])
    def test_after_every_end(self, api: httpx2.Client, given: str, *, is_streamed: bool) -> None:
        name = begin(api)
        attempt(api, name, given, stream=is_streamed)
        assert is_free(api, name)

    @streamed
    def test_after_an_incomplete_answer(self, api: httpx2.Client, *, is_streamed: bool) -> None:
        name = begin(api)
        assert attempt(api, name, "::words 40 0", max_output_tokens=16, stream=is_streamed).status_code == 200
        assert is_free(api, name)

    @pytest.mark.parametrize(
        ("given", "params", "told"),
        [
            ("::what", {}, (400, "input")),
            ("hi", {"tools": [{"type": "web_search"}]}, (400, "tools[0].type")),
            ("hi", {"prompt": {"id": "pmpt_1"}}, (404, None)),
            ([{"type": "function_call_output", "call_id": "c", "output": "1"}], {}, (400, "input")),
            ([called("c")], {}, (400, "input")),
            ([{"type": "item_reference", "id": NO_ITEM}], {}, (404, "input")),
            ([{"role": "user", "content": "x", "id": "msg_1"}] * 2, {}, (400, "input")),
        ],
        ids=["script", "tool", "parameter", "output", "call", "reference", "twice"],
    )
    @pytest.mark.parametrize("is_background", [False, True])
    def test_after_every_refusal_of_what_was_asked(
        self,
        queueing: httpx2.Client,
        given: Any,
        params: dict[str, Any],
        told: tuple[int, str],
        *,
        is_background: bool,
    ) -> None:
        name = begin(queueing)
        found = refusal(attempt(queueing, name, given, background=is_background, **params))
        assert (found.status, found.param) == told, found
        assert is_free(queueing, name)

    @streamed
    async def test_after_a_model_that_refuses_before_its_first_word(
        self, terse_server: LiveServer, terse: httpx2.Client, upstream: Upstream, *, is_streamed: bool
    ) -> None:
        name = begin(terse, "one")
        upstream.status = 503
        answer = await asyncio.to_thread(attempt, terse, name, model="wire", stream=is_streamed)
        assert answer.status_code == 503, answer.text
        assert is_free(terse, name)
        assert texts_of(terse, name) == ["one", "free"]

    def test_after_a_model_that_nobody_serves(self, api: httpx2.Client) -> None:
        name = begin(api)
        assert refusal(attempt(api, name, model="gone")).code == "model_not_found"
        assert is_free(api, name)

    def test_where_the_queue_is_full(self, queueing: httpx2.Client) -> None:
        queued = queueing.post(CREATE, json={"model": "offline", "input": "x", "background": True}).json()
        name = begin(queueing)
        try:
            for is_streamed in (False, True):
                told = refusal(attempt(queueing, name, background=True, stream=is_streamed))
                assert (told.status, told.code) == (429, "rate_limit_exceeded")
                assert is_free(queueing, name)
        finally:
            queueing.post(f"{CREATE}/{queued['id']}/cancel")

    def test_where_one_that_is_queued_is_cancelled(self, queueing: httpx2.Client) -> None:
        name = begin(queueing)
        queued = attempt(queueing, name, background=True).json()
        assert queued["status"] == "queued"
        assert not is_free(queueing, name)
        assert queueing.post(f"{CREATE}/{queued['id']}/cancel").json()["status"] == "cancelled"
        assert is_free(queueing, name)
        assert texts_of(queueing, name) == ["free"]

    async def test_when_its_server_stops(self, database_url: str, api: httpx2.Client) -> None:
        name = begin(api)
        environment = {"HOLDFAST_SHUTDOWN_GRACE_SECONDS": "0"}
        with LiveServer(database_url, environment=environment) as stopping:
            async with running(stopping.port, name) as connection:
                stopped = asyncio.ensure_future(asyncio.to_thread(stopping.stop))
                await connection.until(b"event: response.failed")
                assert is_free(api, name)
            assert await stopped == 0
        assert texts_of(api, name) == ["free"]


class TestWaiting:
    async def test_a_second_one_follows_the_first(
        self, server: LiveServer, api: httpx2.Client, terse: httpx2.Client
    ) -> None:
        name = begin(api)
        async with running(server.port, name, "::words 20 20") as connection:
            first, second = await asyncio.gather(
                connection.rest(),
                asyncio.to_thread(attempt, terse, name, "next", headers={WAIT: "50"}),
            )
        response = frames(b"".join(first))[-1].data["response"]
        assert texts_of(api, name) == ["::words 20 20", text(response), "next", text(second.json())]
        assert text(second.json()).startswith("I was given 3 items;")

    async def test_it_gives_up_when_the_time_is_over(self, api: httpx2.Client, database_url: str) -> None:
        name = begin(api)
        await hold(database_url, name, seconds=60)
        began = time.monotonic()
        assert refusal(attempt(api, name, headers={WAIT: "0.3"})) == LOCKED
        assert time.monotonic() - began > 0.3

    async def test_a_setting_is_the_patience_of_those_who_say_nothing(
        self, queueing: httpx2.Client, quiet_database_url: str
    ) -> None:
        name = begin(queueing)
        await hold(quiet_database_url, name, seconds=60)
        began = time.monotonic()
        assert refusal(attempt(queueing, name)) == LOCKED
        assert time.monotonic() - began > 0.3
        assert refusal(attempt(queueing, name, headers={WAIT: "0"})) == LOCKED

    async def test_a_lease_that_ends_is_waited_for_too(self, api: httpx2.Client, database_url: str) -> None:
        name = begin(api)
        await hold(database_url, name, seconds=1)
        assert attempt(api, name, headers={WAIT: "50"}).status_code == 200

    async def test_who_waits_for_a_conversation_that_is_deleted_is_told(
        self, server: LiveServer, api: httpx2.Client
    ) -> None:
        name = begin(api)
        async with running(server.port, name):
            waiting = asyncio.ensure_future(asyncio.to_thread(attempt, api, name, headers={WAIT: "50"}))
            await asyncio.to_thread(httpx2.delete, f"{server.base_url}/conversations/{name}")
            assert refusal(await waiting) == absent(name)

    async def test_all_that_wait_get_their_turn(self, api: httpx2.Client, server: LiveServer) -> None:
        name = begin(api)
        with httpx2.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=PATIENCE_SECONDS) as client:
            answers = await asyncio.gather(
                *[
                    asyncio.to_thread(attempt, client, name, f"turn {number}", headers={WAIT: "50"})
                    for number in range(6)
                ]
            )
        assert [answer.status_code for answer in answers] == [200] * 6
        items = items_of(api, name)
        assert sorted(texts(items[::2])) == [f"turn {number}" for number in range(6)]
        assert {item["role"] for item in items[1::2]} == {"assistant"}

    @pytest.mark.parametrize(
        "value", ["", "x", "-1", "-0.001", "601", "600.1", "nan", "inf", "1 2", "0x1", "1,5"]
    )
    def test_a_time_that_is_none_is_refused_by_name(self, api: httpx2.Client, value: str) -> None:
        name = begin(api)
        for headers in ({WAIT: value}, {WAIT.lower(): value}):
            assert refusal(attempt(api, name, headers=headers)) == invalid(
                f"Invalid header '{WAIT}': '{value}'. Expected a number of seconds from 0 to 600.", param=WAIT
            )
        assert is_free(api, name)

    @pytest.mark.parametrize("value", ["0", "600", "0.5", "1e1", "-0"])
    def test_the_bounds_are_inclusive(self, api: httpx2.Client, value: str) -> None:
        assert attempt(api, begin(api), headers={WAIT: value}).status_code == 200

    async def test_who_hangs_up_while_waiting_gets_no_turn(
        self, server: LiveServer, api: httpx2.Client, database_url: str
    ) -> None:
        """It would be of use to nobody, and cost a call of the model."""
        name = begin(api)
        await hold(database_url, name, seconds=60)
        body = {"model": "offline", "input": "gone", "conversation": name}
        async with httpx2.AsyncClient(base_url=server.base_url) as client:
            with pytest.raises(httpx2.ReadTimeout):
                await client.post("/responses", json=body, headers={WAIT: "30"}, timeout=0.3)
        await hold(database_url, name, seconds=1)
        await asyncio.sleep(2.5)
        assert texts_of(api, name) == []
