"""Many requests with one key at once, also where a process is killed or paused."""

import asyncio
import os
import signal
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import httpx2
import pytest

from tests.api.asking import Refusal, refusal, text
from tests.api.conversing import CONVERSATIONS, add, begin, hold, path_of, said, texts_of
from tests.api.idempotency.repeating import REPLAYED, REUSED, Json, a_key, ask, count, name_in, same
from tests.api.running import LOCKED
from tests.api.upstream import Upstream
from tests.live import LiveServer
from tests.waiting import PATIENCE_SECONDS, wait_until


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
