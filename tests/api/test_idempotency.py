"""The `Idempotency-Key` header as clients meet it: in every mode, at once in several processes, after a crash."""

import asyncio
import os
import signal
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import httpx2
import orjson
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from app import ids
from tests import grammar
from tests.api.asking import CREATE, Refusal, frames, invalid, refusal, text
from tests.api.conftest import client_of, upstreams
from tests.api.connection import post
from tests.api.conversing import CONVERSATIONS, add, begin, hold, path_of, said, texts_of
from tests.api.running import LOCKED
from tests.api.upstream import Upstream
from tests.background import execute
from tests.live import LiveServer
from tests.waiting import PATIENCE_SECONDS, wait_until
from tests.workers.processes import LiveBroker, LiveWorker, broker_running

Json = dict[str, Any]

LEASE_SECONDS = 1.0
REPLAYED = "idempotent-replayed"
REUSED = invalid(
    "This Idempotency-Key was already used with another route or body. Use a new key for a new request.",
    code="idempotency_key_reused",
    param="Idempotency-Key",
)


@pytest.fixture(scope="module")
def broker() -> Generator[LiveBroker]:
    with broker_running() as broker:
        yield broker


@pytest.fixture(scope="module")
def settings(broker: LiveBroker, upstream_port: int) -> Mapping[str, str]:
    return {
        "HOLDFAST_BROKER_URL": broker.url,
        "HOLDFAST_UPSTREAMS": upstreams(upstream_port),
        "HOLDFAST_LEASE_SECONDS": str(LEASE_SECONDS),
    }


@pytest.fixture(scope="module")
def first_server(quiet_database_url: str, settings: Mapping[str, str]) -> Generator[LiveServer]:
    with LiveServer(quiet_database_url, environment=settings) as live:
        yield live


@pytest.fixture(scope="module")
def second_server(quiet_database_url: str, settings: Mapping[str, str]) -> Generator[LiveServer]:
    """Another process on the same database."""
    with LiveServer(quiet_database_url, environment=settings) as live:
        yield live


@pytest.fixture(scope="module")
def worker(quiet_database_url: str, broker: LiveBroker) -> Generator[LiveWorker]:
    with LiveWorker(quiet_database_url, broker.url) as worker:
        yield worker


@pytest.fixture(scope="module")
def first(first_server: LiveServer) -> Generator[httpx2.Client]:
    with client_of(first_server) as client:
        yield client


@pytest.fixture(scope="module")
def second(second_server: LiveServer) -> Generator[httpx2.Client]:
    with client_of(second_server) as client:
        yield client


def a_key() -> dict[str, str]:
    """Headers with a key that nobody has used."""
    return {"Idempotency-Key": ids.request_id()}


def ask(api: httpx2.Client, key: Mapping[str, str], given: Any = "hi", **params: Any) -> httpx2.Response:
    return api.post(CREATE, json={"model": "offline", "input": given, **params}, headers=dict(key))


def same(one: httpx2.Response, other: httpx2.Response) -> None:
    """The second repeats the first, and says so."""
    assert (other.status_code, other.content) == (one.status_code, one.content)
    assert REPLAYED not in one.headers
    assert other.headers[REPLAYED] == "true"


def events(answer: httpx2.Response) -> list[Json]:
    return [frame.data for frame in frames(answer.content)]


def count(api: httpx2.Client, tag: str) -> int:
    rows = api.get(CREATE, params={"limit": 100}).json()["data"]
    return sum(row["metadata"] == {"tag": tag} for row in rows)


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
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}


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


def name_in(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"].startswith("text/event-stream"):
        return events(answer)[-1]["response"]["id"]
    return answer.json()["id"]


async def asked_at_once(
    servers: list[LiveServer], key: Mapping[str, str], **params: Any
) -> list[httpx2.Response]:
    async with Crowd(key, **params) as crowd:
        return await asyncio.gather(*(crowd.ask(server) for server in servers))


class Crowd:
    """Many clients with one key and one body."""

    def __init__(self, key: Mapping[str, str], **params: Any) -> None:
        self._body = {"model": "offline", "input": "hi", **params}
        self._headers = dict(key)
        limits = httpx2.Limits(max_connections=None)
        hooks = {"request": [self._note]}
        self._client = httpx2.AsyncClient(timeout=PATIENCE_SECONDS, limits=limits, event_hooks=hooks)
        self.sent = 0
        """How many requests have been sent, or are about to be."""

    async def ask(self, *servers: LiveServer) -> httpx2.Response:
        """As a client that retries elsewhere what was lost."""
        first, *rest = servers
        try:
            return await self._client.post(
                f"{first.base_url}/responses", json=self._body, headers=self._headers
            )
        except httpx2.TransportError:
            assert rest, "nobody answers"
            return await self.ask(*rest)

    async def _note(self, _: httpx2.Request) -> None:
        self.sent += 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()


class TestAtOnce:
    @pytest.mark.parametrize("is_streamed", [False, True])
    async def test_duplicates_in_several_processes_ask_the_upstream_once(
        self, first_server: LiveServer, second_server: LiveServer, upstream: Upstream, *, is_streamed: bool
    ) -> None:
        upstream.may_finish.set()
        servers = [first_server, second_server] * 20
        answers = await asked_at_once(servers, a_key(), model="wire", stream=is_streamed)
        assert len(set(map(name_in, answers))) == 1
        assert sum(REPLAYED not in answer.headers for answer in answers) == 1
        assert upstream.asks == 1

    async def test_200_while_the_process_that_runs_them_is_killed(
        self,
        quiet_database_url: str,
        settings: Mapping[str, str],
        second_server: LiveServer,
        second: httpx2.Client,
        upstream: Upstream,
    ) -> None:
        """One response, and one call of the upstream for each of its two attempts."""
        params: Json = {"model": "wire", "metadata": {"tag": "killed"}}
        with LiveServer(quiet_database_url, environment=settings) as doomed:
            crowd, ways = Crowd(a_key(), **params), [[doomed, second_server], [second_server]]
            tasks = [asyncio.ensure_future(crowd.ask(*ways[0]))]
            await upstream.asked.wait()
            tasks += [asyncio.ensure_future(crowd.ask(*ways[n % 2])) for n in range(199)]
            await asyncio.to_thread(wait_until, lambda: crowd.sent == len(tasks))
            doomed.stop(kill=True)
            upstream.may_finish.set()
            async with crowd:
                answers = await asyncio.gather(*tasks)
        assert len(set(map(name_in, answers))) == 1
        assert sum(REPLAYED not in answer.headers for answer in answers) == 1
        assert upstream.asks == 2
        assert count(second, "killed") == 1

    async def test_a_process_that_stood_still_stores_nothing_beside_the_retry(
        self,
        quiet_database_url: str,
        settings: Mapping[str, str],
        second: httpx2.Client,
        upstream: Upstream,
    ) -> None:
        key, params = a_key(), {"model": "wire", "metadata": {"tag": "paused"}}
        with LiveServer(quiet_database_url, environment=settings) as doomed, paused_by(doomed) as pause:
            slow = asyncio.ensure_future(asked_at_once([doomed], key, **params))
            await upstream.asked.wait()
            pause.stop()
            upstream.may_finish.set()
            answer = await asyncio.to_thread(ask, second, key, **params)
            pause.go_on()
            (late,) = await slow
        assert answer.status_code == 200, answer.text
        assert refusal(late) == Refusal(
            500,
            "idempotency_key_taken_over",
            "Idempotency-Key",
            "A retry with the same Idempotency-Key took the place of this request, which stood still for too "
            "long; nothing of it was stored.",
            "server_error",
        )
        assert count(second, "paused") == 1


class Pause:
    """A process that can be made to stand still."""

    def __init__(self, server: LiveServer) -> None:
        self._server = server
        self._stands = False

    def stop(self) -> None:
        os.kill(self._server.pid, signal.SIGSTOP)
        self._stands = True

    def go_on(self) -> None:
        if self._stands:
            os.kill(self._server.pid, signal.SIGCONT)
        self._stands = False


@contextmanager
def paused_by(server: LiveServer) -> Generator[Pause]:
    pause = Pause(server)
    try:
        yield pause
    finally:
        pause.go_on()


class TestConversations:
    def test_one_is_created_once(self, first: httpx2.Client, second: httpx2.Client) -> None:
        key, body = a_key(), {"items": [said("one")], "metadata": {"a": "b"}}
        answer = first.post(CONVERSATIONS, json=body, headers=key)
        same(answer, second.post(CONVERSATIONS, json=body, headers=key))
        assert refusal(second.post(CONVERSATIONS, json={}, headers=key)) == REUSED

    def test_items_are_added_once(self, first: httpx2.Client, second: httpx2.Client) -> None:
        name, key, body = begin(first, "one"), a_key(), {"items": [said("two"), said("three")]}
        answer = first.post(path_of(name), json=body, headers=key)
        same(answer, second.post(path_of(name), json=body, headers=key))
        assert texts_of(first, name) == ["one", "two", "three"]
        other = begin(first)
        assert refusal(first.post(path_of(other), json=body, headers=key)) == REUSED

    def test_it_is_forked_once(self, first: httpx2.Client, second: httpx2.Client) -> None:
        name, key = begin(first, "one"), a_key()
        answer = first.post(f"{CONVERSATIONS}/{name}/fork", json={}, headers=key)
        add(first, name, "two")
        same(answer, second.post(f"{CONVERSATIONS}/{name}/fork", json={}, headers=key))
        assert texts_of(first, answer.json()["id"]) == ["one"]

    async def test_duplicates_at_once_add_once(
        self, first: httpx2.Client, first_server: LiveServer, second_server: LiveServer
    ) -> None:
        name, key, body = begin(first), a_key(), {"items": [said("one")]}
        async with httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as client:
            answers = await asyncio.gather(
                *(
                    client.post(f"{server.base_url}/conversations/{name}/items", json=body, headers=key)
                    for server in [first_server, second_server] * 15
                )
            )
        assert {answer.content for answer in answers} == {answers[0].content}
        assert sum(REPLAYED not in answer.headers for answer in answers) == 1
        assert texts_of(first, name) == ["one"]

    async def test_what_was_refused_may_be_tried_again(
        self, first: httpx2.Client, quiet_database_url: str
    ) -> None:
        name, key, body = begin(first), a_key(), {"items": [said("one")]}
        await hold(quiet_database_url, name, seconds=60)
        assert refusal(first.post(path_of(name), json=body, headers=key)) == LOCKED
        await hold(quiet_database_url, name, seconds=-1)
        answer = first.post(path_of(name), json=body, headers=key)
        assert (answer.status_code, REPLAYED in answer.headers) == (200, False)
        assert texts_of(first, name) == ["one"]

    def test_updates_and_deletes_need_no_key_and_ignore_it(self, first: httpx2.Client) -> None:
        name, key = begin(first), a_key()
        for _ in range(2):
            answer = first.post(f"{CONVERSATIONS}/{name}", json={"metadata": {"a": "b"}}, headers=key)
            assert (answer.status_code, REPLAYED in answer.headers) == (200, False)
        assert first.delete(f"{CONVERSATIONS}/{name}", headers=key).status_code == 200

    def test_a_turn_is_appended_once(self, first: httpx2.Client, second: httpx2.Client) -> None:
        name, key = begin(first, "one"), a_key()
        answer = ask(first, key, "two", conversation=name)
        same(answer, ask(second, key, "two", conversation=name))
        assert texts_of(first, name) == ["one", "two", text(answer.json())]


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
