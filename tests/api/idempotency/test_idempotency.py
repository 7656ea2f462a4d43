"""The `Idempotency-Key` header as clients meet it: in every mode, at once in several processes, after a crash."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx2
import orjson
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from tests import grammar
from tests.api.asking import CREATE, frames, invalid, refusal
from tests.api.conftest import client_of
from tests.api.connection import post
from tests.api.conversing import CONVERSATIONS, begin, texts_of
from tests.api.idempotency.repeating import (
    REPLAYED,
    REUSED,
    TOOL,
    Json,
    a_key,
    ask,
    count,
    events,
    name_in,
    same,
)
from tests.api.idempotency.test_at_once import asked_at_once
from tests.api.upstream import Upstream
from tests.background import execute
from tests.live import LiveServer
from tests.waiting import wait_until
from tests.workers.processes import LiveWorker


class TestJson:
    def test_the_same_request_has_the_same_answer_in_any_process(
        self, first: httpx2.Client, second: httpx2.Client
    ) -> None:
        key, tag = a_key(), {"tag": "same"}
        answer = ask(first, key, metadata=tag)
        assert answer.status_code == 200, answer.text
        same(answer, ask(first, key, metadata=tag))
        same(answer, ask(second, key, metadata=tag))
        assert count(first, "same") == 1

    def test_the_same_json_is_the_same_request_however_it_is_written(self, first: httpx2.Client) -> None:
        key = a_key()
        answer = first.post(CREATE, content=b'{"model":"offline","input":"hi"}', headers=key)
        again = first.post(CREATE, content=b'{ "input" : "h\\u0069",\n"model":"offline" }', headers=key)
        same(answer, again)

    @pytest.mark.parametrize(
        "change", [{"input": "ho"}, {"store": True}, {"stream": True}, {"temperature": 1}]
    )
    def test_another_body_is_refused(self, first: httpx2.Client, change: Json) -> None:
        key = a_key()
        assert ask(first, key).status_code == 200
        body = {"model": "offline", "input": "hi", **change}
        assert refusal(first.post(CREATE, json=body, headers=key)) == REUSED

    def test_so_is_another_route(self, first: httpx2.Client) -> None:
        key = a_key()
        assert first.post(CONVERSATIONS, json={}, headers=key).status_code == 200
        assert refusal(ask(first, key)) == REUSED

    def test_without_a_key_nothing_is_repeated(self, first: httpx2.Client) -> None:
        answers = [ask(first, {}) for _ in range(2)]
        assert len({answer.json()["id"] for answer in answers}) == 2
        assert not any(REPLAYED in answer.headers for answer in answers)

    def test_a_response_that_failed_midway_fails_again_in_the_same_words(self, first: httpx2.Client) -> None:
        key = a_key()
        answer = ask(first, key, "::fail image_too_large")
        assert answer.status_code == 400, answer.text
        same(answer, ask(first, key, "::fail image_too_large"))

    def test_a_response_that_was_deleted_is_not_made_again(self, first: httpx2.Client) -> None:
        key = a_key()
        name = ask(first, key).json()["id"]
        assert first.delete(f"{CREATE}/{name}").status_code == 200
        gone = invalid(f"Response with id '{name}' not found.", code=None, param=None, status=404)
        assert refusal(ask(first, key)) == gone

    async def test_what_the_upstream_refused_may_be_tried_again(
        self, first: httpx2.Client, upstream: Upstream
    ) -> None:
        key = a_key()
        upstream.status = 500
        refused = await asyncio.to_thread(ask, first, key, model="wire")
        assert refused.status_code >= 500
        upstream.status = 200
        upstream.may_finish.set()
        answer = await asyncio.to_thread(ask, first, key, model="wire")
        assert (answer.status_code, upstream.asks) == (200, 2)
        assert REPLAYED not in answer.headers

    def test_so_may_what_was_refused_here(self, first: httpx2.Client) -> None:
        key, name = a_key(), "conv_" + "0" * 32
        for _ in range(2):
            assert ask(first, key, conversation=name).status_code == 404
        assert ask(first, key).status_code == 200

    def test_nothing_is_kept_of_an_unstored_one_so_it_is_refused(self, first: httpx2.Client) -> None:
        refused = refusal(ask(first, a_key(), store=False))
        assert (refused.status, refused.code) == (400, "unsupported_parameter")
        assert refused.param == "Idempotency-Key"

    async def test_a_key_stands_for_something_as_long_as_it_is_kept(
        self, first: httpx2.Client, quiet_database_url: str
    ) -> None:
        key = a_key()
        answer = await asyncio.to_thread(ask, first, key)
        await age(quiet_database_url, key, "23 hours")
        same(answer, await asyncio.to_thread(ask, first, key))
        await age(quiet_database_url, key, "2 hours")
        other = await asyncio.to_thread(ask, first, key, "another")
        assert other.status_code == 200, other.text
        assert other.json()["id"] != answer.json()["id"]


async def age(database_url: str, key: Mapping[str, str], by: str) -> None:
    command = f"update idempotency_keys set created_at = created_at - interval '{by}' where key = $1"
    await execute(database_url, command, key["Idempotency-Key"])


MALFORMED = invalid(
    "Invalid header 'Idempotency-Key'. Expected one value of 1 to 255 visible ASCII characters.",
    param="Idempotency-Key",
)


class TestKeys:
    @pytest.mark.parametrize("key", [b"", b"a b", b"a\tb", "é".encode(), b"\xff", b"k" * 256])
    @pytest.mark.parametrize("path", [CREATE, CONVERSATIONS])
    def test_a_malformed_key_is_refused_by_name(self, first: httpx2.Client, path: str, key: bytes) -> None:
        body = {"model": "offline", "input": "hi"} if path == CREATE else {}
        answer = first.post(path, json=body, headers=[(b"Idempotency-Key", key)])
        assert refusal(answer) == MALFORMED

    def test_so_are_two_of_them(self, first: httpx2.Client) -> None:
        headers = [("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
        answer = first.post(CREATE, json={"model": "offline", "input": "hi"}, headers=headers)
        assert refusal(answer) == MALFORMED

    @pytest.mark.parametrize("key", ["!", "k" * 255, "'; drop table responses; --".replace(" ", "~")])
    def test_others_are_taken_as_they_are(self, first: httpx2.Client, key: str) -> None:
        headers = {"Idempotency-Key": key}
        same(ask(first, headers, key), ask(first, headers, key))


SCRIPTS = ["hi", "::words 30 0", "::reason Let me see.\nhi", "::refuse No.", "::fail server_error"]


class TestStream:
    @pytest.mark.parametrize("given", [*SCRIPTS, '::call f {"a":1}\n::call f {"b":2}'])
    def test_it_is_said_again_in_order_and_adds_up_to_the_same(
        self, first: httpx2.Client, second: httpx2.Client, given: str
    ) -> None:
        key = a_key()
        answer, again = (ask(api, key, given, stream=True, tools=[TOOL]) for api in (first, second))
        assert grammar.check(events(again)) == grammar.check(events(answer))
        assert again.headers["content-type"] == answer.headers["content-type"]
        assert again.content.endswith(b"data: [DONE]\n\n")
        assert (REPLAYED in answer.headers, again.headers[REPLAYED]) == (False, "true")

    async def test_one_that_runs_is_waited_for(
        self, first_server: LiveServer, second: httpx2.Client, upstream: Upstream
    ) -> None:
        key, body = a_key(), {"model": "wire", "input": "hi", "stream": True}
        async with post_with(first_server, body, key) as connection:
            await connection.head()
            await connection.until(b"Hello")
            waiting = asyncio.ensure_future(
                asyncio.to_thread(ask, second, key, "hi", model="wire", stream=True)
            )
            upstream.may_finish.set()
            ended = frames(b"".join(await connection.rest()))[-1].data
        again = await waiting
        assert grammar.check(events(again)) == ended["response"]
        assert (upstream.asks, again.headers[REPLAYED]) == (1, "true")

    async def test_one_whose_client_went_away_midway_is_made_again(
        self, first_server: LiveServer, second: httpx2.Client, upstream: Upstream
    ) -> None:
        """It was cancelled, and whoever waits for the same wants an answer."""
        key, body = a_key(), {"model": "wire", "input": "hi", "stream": True}
        async with post_with(first_server, body, key) as connection:
            await connection.head()
            await connection.until(b"Hello")
        await upstream.hung_up.wait()
        upstream.may_finish.set()
        again = await asyncio.to_thread(ask, second, key, "hi", model="wire", stream=True)
        assert grammar.check(events(again))["status"] == "completed"
        assert (upstream.asks, REPLAYED in again.headers) == (2, False)


def post_with(server: LiveServer, body: Json, key: Mapping[str, str]) -> Any:
    return post(server.port, body, headers=key)


class TestBackground:
    def test_it_is_queued_once_and_shown_as_it_is_now(
        self, first: httpx2.Client, second: httpx2.Client, worker: LiveWorker
    ) -> None:
        key = a_key()
        answer = ask(first, key, "::sleep 0.3", background=True)
        assert (answer.status_code, answer.json()["status"]) == (200, "queued")

        def seen() -> Json:
            again = ask(second, key, "::sleep 0.3", background=True)
            assert again.headers[REPLAYED] == "true"
            return again.json()

        wait_until(lambda: seen()["status"] == "completed")
        assert seen() == first.get(f"{CREATE}/{answer.json()['id']}").json()
        assert worker

    def test_a_stream_is_followed_from_its_start(
        self, first: httpx2.Client, second: httpx2.Client, worker: LiveWorker
    ) -> None:
        key, given = a_key(), "::words 20 10"
        answer = ask(first, key, given, background=True, stream=True)
        again = ask(second, key, given, background=True, stream=True)
        same(answer, again)
        assert grammar.check(events(again))["status"] == "completed"
        assert worker

    def test_an_unstored_one_can_be_repeated_while_its_result_is_kept(
        self, first: httpx2.Client, second: httpx2.Client, worker: LiveWorker
    ) -> None:
        key = a_key()
        names = {ask(api, key, background=True, store=False).json()["id"] for api in (first, second, first)}
        assert len(names) == 1
        assert worker

    @pytest.mark.parametrize("is_streamed", [False, True])
    async def test_duplicates_at_once_are_queued_once(
        self, first_server: LiveServer, second_server: LiveServer, worker: LiveWorker, *, is_streamed: bool
    ) -> None:
        params = {"background": True, "stream": is_streamed}
        answers = await asked_at_once([first_server, second_server] * 10, a_key(), **params)
        assert len(set(map(name_in, answers))) == 1
        assert worker


class TestOfficialClient:
    """Its own retries can double no turn."""

    @pytest.mark.parametrize("on_disconnect", ["cancel", "finish"])
    async def test_a_client_that_loses_patience_adds_one_turn(
        self, quiet_database_url: str, settings: Mapping[str, str], upstream: Upstream, on_disconnect: str
    ) -> None:
        tries = list[str]()

        async def note(request: Any) -> None:
            tries.append(request.headers["idempotency-key"])

        environment = {**settings, "HOLDFAST_FOREGROUND_ON_DISCONNECT": on_disconnect}
        upstream.may_begin.clear()
        upstream.may_finish.set()
        with LiveServer(quiet_database_url, environment=environment) as server, client_of(server) as api:
            name = await asyncio.to_thread(begin, api, "one")
            http = DefaultAsyncHttpxClient(event_hooks={"request": [note]})
            async with AsyncOpenAI(
                base_url=server.base_url, api_key="any", timeout=1, max_retries=6, http_client=http
            ) as client:
                asking = asyncio.ensure_future(
                    client.responses.create(
                        model="wire", input="two", conversation=name, extra_headers=a_key()
                    )
                )
                await asyncio.to_thread(wait_until, lambda: len(tries) >= 2)
                upstream.may_begin.set()
                answer = await asking
            assert texts_of(api, name) == ["one", "two", "Hello there"]
            assert api.get(f"{CREATE}/{answer.id}").json()["status"] == "completed"
        assert len(set(tries)) == 1
        if on_disconnect == "finish":
            assert upstream.asks == 1


def test_a_key_is_no_part_of_what_is_stored(first: httpx2.Client) -> None:
    """It is the client's, and names nothing."""
    key = a_key()
    answer = ask(first, key)
    stored = first.get(f"{CREATE}/{answer.json()['id']}").content
    assert orjson.loads(stored) == answer.json()
    assert key["Idempotency-Key"].encode() not in stored
