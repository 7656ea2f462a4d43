"""How a WebSocket begins and ends: who may open one, what closes it, and what is told (surface notes §10.1)."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncGenerator, Generator
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app import ids
from app.api.socket_peer import CLOSE_SECONDS
from app.api.socket_session import LAST_WORDS_SECONDS
from app.domain.tenancy import Scope
from tests.api.asking import CREATE
from tests.api.conftest import client_of
from tests.api.socketing import (
    check_error,
    knock,
    not_found,
    refusal,
    upgrade,
    url_of,
    wired,
)
from tests.api.test_socket_lanes import ENDLESS, stored
from tests.background import execute
from tests.keys import IMPATIENT, new_key, revoke
from tests.live import LiveServer
from tests.store.test_coalesced import held, until_one_waits
from tests.waiting import PATIENCE_SECONDS, patience


@pytest.fixture(scope="module")
def guarded(quiet_database_url: str) -> Generator[LiveServer]:
    """A server whose keys change under it. From its start on there is one, so that nobody is let in without."""
    asyncio.run(new_key(quiet_database_url, "first"))
    with LiveServer(quiet_database_url, environment=IMPATIENT) as live:
        yield live


class TestKeys:
    async def test_a_key_that_ends_closes_its_socket(
        self, guarded: LiveServer, quiet_database_url: str
    ) -> None:
        """What is asked after that is not done; who asks is told, and sent away."""
        key = await new_key(quiet_database_url, "ours")
        async with wired(guarded, headers=bearer(key.text)) as wire:
            assert (await wire.response())["status"] == "completed"
            await wire.create(ENDLESS, stream_id="running")
            running = await wire.until("response.created", "running")
            await revoke(quiet_database_url, key)
            async with patience():
                await wire.create()
                while (end := (await wire.rest())[-1])["type"] != "error":
                    await wire.create()
            check_error(end)
            assert (end["status"], end["error"]["code"]) == (401, "invalid_api_key")
            assert await closing(wire.socket) == 1008
        # What ran in its name has ended too.
        stored_ = await execute(
            quiet_database_url,
            "select status from responses where id = $1",
            ids.parse_response_id(running["response"]["id"]),
        )
        assert [row["status"] for row in stored_] == [5]

    @pytest.mark.parametrize("how", ["revoked", "expired"])
    async def test_an_idle_socket_is_closed_with_its_key(self, quiet_database_url: str, how: str) -> None:
        """Nothing has to be asked over it."""
        other = await new_key(quiet_database_url, "idle")
        environment = {**IMPATIENT, "HOLDFAST_WEBSOCKET_PING_SECONDS": "0.1"}
        with LiveServer(quiet_database_url, environment=environment) as server:
            key = await new_key(quiet_database_url, "idle")
            async with (
                wired(server, headers=bearer(key.text)) as wire,
                wired(server, headers=bearer(other.text)) as lasting,
            ):
                held = await lasting.response(store=False)
                assert (await wire.response(store=False))["status"] == "completed"
                if how == "revoked":
                    await revoke(quiet_database_url, key)
                else:
                    over = "update api_keys set expires_at = now() where id = $1"
                    await execute(quiet_database_url, over, key.id)
                async with patience():
                    told = await wire.frame()
                check_error(told)
                assert (told["status"], told["error"]["code"]) == (401, "invalid_api_key")
                assert await closing(wire.socket) == 1008
                assert (await lasting.response(previous_response_id=held["id"]))["status"] == "completed"

    async def test_what_waits_behind_a_key_that_has_ended_never_begins(self, quiet_database_url: str) -> None:
        """Also where turns are finished for clients that are gone: what began before is, and no more."""
        environment = {
            **IMPATIENT,
            "HOLDFAST_WEBSOCKET_PING_SECONDS": "0.1",
            "HOLDFAST_FOREGROUND_ON_DISCONNECT": "finish",
        }
        key = await new_key(quiet_database_url, "impatient")
        with LiveServer(quiet_database_url, environment=environment) as server:
            async with wired(server, headers=bearer(key.text)) as wire:
                await wire.create("::words 60 100", metadata={"turn": "begun"})
                await wire.create("waits", metadata={"turn": "waits"})
                await wire.until("response.output_text.delta")
                await revoke(quiet_database_url, key)
                assert await closing(wire.socket) == 1008
            other = await new_key(quiet_database_url, "impatient")
            headers = bearer(other.text)
            with client_of(server) as client:
                async with asyncio.timeout(20):
                    while not (found := client.get(CREATE, headers=headers).json()["data"]):  # noqa: ASYNC110 - no signal
                        await asyncio.sleep(0.05)
            assert server.stop() == 0
        assert [(each["metadata"], each["status"]) for each in found] == [({"turn": "begun"}, "completed")]
        ends = "select count(*) from responses r join tenants t on t.id = r.tenant_id where t.name = $1"
        assert (await execute(quiet_database_url, ends, "impatient"))[0]["count"] == 1

    def test_who_has_none_is_refused_and_that_is_no_error_of_ours(self, guarded: LiveServer) -> None:
        """Else whoever knocks could fill the log with them."""
        status, error = refusal(knock(guarded))
        assert (status, error["code"]) == (401, "invalid_api_key")
        with client_of(guarded) as client:
            assert client.get("/healthz").status_code == 200
        assert '"level":"error"' not in guarded.log.replace(" ", "")

    async def test_models_and_tenants_are_the_keys(
        self, guarded: LiveServer, quiet_database_url: str
    ) -> None:
        mine = await new_key(quiet_database_url, "some models", models=["gpt-*"])
        theirs = await new_key(quiet_database_url, "others")
        async with wired(guarded, headers=bearer(mine.text)) as wire:
            assert (await wire.refused())["error"]["code"] == "model_not_found"
        async with wired(guarded, headers=bearer(theirs.text)) as wire:
            response = await wire.response()
        own = await new_key(quiet_database_url, "strangers")
        async with wired(guarded, headers=bearer(own.text)) as wire:
            refused = await wire.refused(previous_response_id=response["id"])
            assert refused["error"] == not_found(response["id"])

    async def test_a_key_that_only_reads_opens_nothing(
        self, guarded: LiveServer, quiet_database_url: str
    ) -> None:
        key = await new_key(quiet_database_url, "readers", Scope.READ)
        with pytest.raises(InvalidStatus) as refused:
            await connect(url_of(guarded), additional_headers=bearer(key.text), proxy=None)
        assert refused.value.response.status_code == 403
        assert orjson.loads(refused.value.response.body or b"")["error"]["code"] == "insufficient_permissions"


class TestLimits:
    async def test_limits_are_those_of_http(self, quiet_database_url: str) -> None:
        environment = {"HOLDFAST_REQUESTS_PER_MINUTE": "2", "HOLDFAST_MAX_OPEN_STREAMS": "1"}
        await execute(quiet_database_url, "delete from rate_limits")
        with LiveServer(quiet_database_url, environment=environment) as server:
            headers = bearer((await new_key(quiet_database_url, "limited")).text)
            async with wired(server, headers=headers) as wire:
                await wire.create(ENDLESS, stream_id="slow")
                await wire.until("response.created", "slow")
                refused = await wire.refused()
                assert (refused["status"], refused["error"]["code"]) == (429, "rate_limit_exceeded")
                assert "streams" in refused["error"]["message"]
            async with wired(server, headers=headers) as wire:
                await until_free(wire)
                refused = await wire.refused()
                assert (refused["status"], refused["error"]["type"]) == (429, "requests")

    async def test_a_tenant_has_so_many_connections(self, quiet_database_url: str) -> None:
        """In use or not; the others are refused over HTTP, and other tenants are not."""
        ours, theirs = [bearer((await new_key(quiet_database_url, name)).text) for name in ("crowd", "few")]
        with LiveServer(quiet_database_url, environment={"HOLDFAST_WEBSOCKET_MAX_OPEN": "2"}) as server:
            async with wired(server, headers=ours) as wire:
                async with wired(server, headers=ours):
                    answer = await asyncio.to_thread(knock, server, **ours)
                    status, error = refusal(answer)
                    assert (status, error["code"]) == (429, "rate_limit_exceeded")
                    assert error["message"].startswith("Too many WebSockets are open: 2 is the limit.")
                    assert answer.headers["retry-after"] == "1"
                    assert (await asyncio.to_thread(knock, server, **theirs)).status_code == 101
                assert (await wire.response())["status"] == "completed"
                # One has gone, so another one may come.
                async with patience():
                    while (await asyncio.to_thread(knock, server, **ours)).status_code != 101:
                        pass

    async def test_a_tenant_is_not_forgotten_for_another_one(self, quiet_database_url: str) -> None:
        """Who holds most gives way, though the other's is the oldest."""
        environment = {**IMPATIENT, "HOLDFAST_WEBSOCKET_TOTAL_MEMORY_BYTES": "3000"}
        keys = [await new_key(quiet_database_url, name) for name in ("modest", "greedy")]
        with LiveServer(quiet_database_url, environment=environment) as server:
            async with (
                wired(server, headers=bearer(keys[0].text)) as modest,
                wired(server, headers=bearer(keys[1].text)) as greedy,
            ):
                kept = await modest.response("a" * 900, store=False, generate=False)
                for lane in ("a", "b", "c"):
                    await greedy.response("a" * 900, store=False, generate=False, stream_id=lane)
                assert (await modest.response(previous_response_id=kept["id"]))["status"] == "completed"

    async def test_a_message_that_is_too_large_ends_the_connection(self, terse_server: LiveServer) -> None:
        async with wired(terse_server) as wire:
            await wire.create("x" * 2000)
            assert await closing(wire.socket) == 1009
        async with wired(terse_server) as wire:
            assert (await wire.response("x" * 1000))["status"] == "completed"

    def test_who_still_sends_what_is_too_large_is_told_so(self, terse_server: LiveServer) -> None:
        """An early close would reset the connection, and what was said would be lost (RFC 6455, 7.1.1)."""
        size = 20_000_000
        with socket.create_connection(("127.0.0.1", terse_server.port), PATIENCE_SECONDS) as plain:
            plain.sendall(upgrade())
            assert b" 101 " in plain.recv(4096)
            plain.sendall(b"\x81\xff" + size.to_bytes(8) + bytes(4) + b"x" * size)
            assert plain.recv(4096)[2:4] == (1009).to_bytes(2)

    async def test_a_message_that_trickles_ends_the_connection(self, database_url: str) -> None:
        with LiveServer(database_url, environment={"HOLDFAST_BODY_TIMEOUT_SECONDS": "0.3"}) as server:
            async with wired(server) as wire:
                fragments = asyncio.ensure_future(wire.socket.send(trickle()))
                assert await closing(wire.socket) == 1008
                with pytest.raises(ConnectionClosed):
                    await fragments

    async def test_a_connection_has_a_longest_life(self, database_url: str) -> None:
        """What runs is ended in words, and stored."""
        with LiveServer(database_url, environment={"HOLDFAST_WEBSOCKET_MAX_SECONDS": "2"}) as server:
            async with wired(server) as wire:
                await wire.create(ENDLESS, stream_id="running")
                name = (await wire.until("response.created", "running"))["response"]["id"]
                await wire.create("waits", stream_id="running")
                told = await wire.next()
                check_error(told)
                assert told == {
                    "type": "error",
                    "status": 400,
                    "error": {
                        "type": "invalid_request_error",
                        "code": "websocket_connection_limit_reached",
                        "message": "Responses websocket connection limit reached (60 minutes). "
                        "Create a new websocket connection to continue.",
                        "param": None,
                    },
                }
                end = (await wire.rest("running"))[-1]
                assert (end["type"], end["response"]["status"]) == ("response.failed", "cancelled")
                assert (await wire.rest("running"))[-1]["error"] == told["error"]
                assert await closing(wire.socket) == 1001
            assert (await stored(server, name))["status"] == "cancelled"

    async def test_an_idle_client_is_pinged_and_one_that_is_gone_is_let_go(self, database_url: str) -> None:
        environment = {"HOLDFAST_WEBSOCKET_PING_SECONDS": "0.1", "HOLDFAST_WEBSOCKET_PONG_SECONDS": "1"}
        with LiveServer(database_url, environment=environment) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(upgrade())
            assert b"101" in (await reader.readuntil(b"\r\n\r\n"))
            assert (await reader.readexactly(6))[:2] == b"\x89\x04"
            assert (await reader.readexactly(4))[2:] == (1011).to_bytes(2)
            writer.close()
            async with wired(server) as wire:
                # It answers by itself, and so stays.
                assert (await wire.response("::sleep 2"))["status"] == "completed"


class TestShutdown:
    """SIGTERM: what runs gets its time, then an end in words; nothing new begins (behaviour 91)."""

    @pytest.fixture
    def stoppable(self, database_url: str) -> Generator[LiveServer]:
        with LiveServer(database_url, environment={"HOLDFAST_SHUTDOWN_GRACE_SECONDS": "1"}) as live:
            yield live

    async def test_what_can_end_ends_and_what_cannot_fails(self, stoppable: LiveServer) -> None:
        async with wired(stoppable) as wire, wired(stoppable) as idle:
            await wire.create("::words 10 30", stream_id="short")
            await wire.create(ENDLESS, stream_id="long")
            await wire.until("response.output_text.delta", "short")
            name = (await wire.until("response.created", "long"))["response"]["id"]
            stopped = asyncio.ensure_future(asyncio.to_thread(stoppable.stop))
            assert await closing(idle.socket) == 1012
            await wire.create("too late")
            refused = (await wire.rest())[-1]
            check_error(refused)
            assert (refused["status"], refused["error"]["code"]) == (503, "service_unavailable")
            assert (await wire.rest("short"))[-1]["type"] == "response.completed"
            end = (await wire.rest("long"))[-1]
            assert (end["type"], end["response"]["status"]) == ("response.failed", "failed")
            assert end["response"]["error"]["message"] == "The server is shutting down."
            assert await closing(wire.socket) == 1012
        assert await stopped == 0
        stoppable.start()
        assert (await stored(stoppable, name))["status"] == "failed"

    async def test_who_waits_for_the_store_is_told_its_end(self, quiet_database_url: str) -> None:
        """However long it takes to store what was ended, nobody is sent away before."""
        environment = {"HOLDFAST_SHUTDOWN_GRACE_SECONDS": "0"}
        key = await new_key(quiet_database_url, "stopped")
        with LiveServer(quiet_database_url, environment=environment) as server:
            async with wired(server, headers=bearer(key.text)) as wire:
                await wire.create(ENDLESS)
                name = (await wire.until("response.created"))["response"]["id"]
                async with held(quiet_database_url):
                    stopped = asyncio.ensure_future(asyncio.to_thread(server.stop))
                    await until_one_waits(quiet_database_url)
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(LAST_WORDS_SECONDS + CLOSE_SECONDS):
                            await wire.until("response.failed")
                end = (await wire.rest())[-1]
                assert (end["type"], end["response"]["id"]) == ("response.failed", name)
                assert await closing(wire.socket) == 1012
            assert await stopped == 0

    async def test_the_next_process_takes_over_at_once(self, database_url: str) -> None:
        """While what runs in the old one goes on to its end."""
        environment = {"HOLDFAST_SHUTDOWN_GRACE_SECONDS": "30"}
        with contextlib.ExitStack() as stack:
            old = stack.enter_context(LiveServer(database_url, environment=environment))
            new = LiveServer(database_url)
            new.port = old.port
            async with wired(old) as wire, wired(old) as idle:
                await wire.create("::words 60 100")
                await wire.until("response.created")
                stopped = asyncio.ensure_future(asyncio.to_thread(old.stop))
                assert await closing(idle.socket) == 1012
                await asyncio.to_thread(stack.enter_context, new)
                async with wired(new) as next_:
                    assert (await next_.response())["status"] == "completed"
                assert not stopped.done()
                assert (await wire.rest())[-1]["type"] == "response.completed"
            assert await stopped == 0

    async def test_a_client_that_does_not_read_holds_nothing_up(self, stoppable: LiveServer) -> None:
        async with wired(stoppable, max_queue=1, close_timeout=1) as wire:
            for number in range(8):
                await wire.create("::words 100000 0", stream_id=f"lane-{number}")
            async with wired(stoppable) as other:
                await other.response()
            async with patience():
                assert await asyncio.to_thread(stoppable.stop) == 0

    async def test_a_process_that_dies_leaves_nothing_half_done(self, stoppable: LiveServer) -> None:
        async with wired(stoppable) as wire:
            await wire.create(ENDLESS)
            name = (await wire.until("response.created"))["response"]["id"]
            os.kill(stoppable.pid, signal.SIGKILL)
            with pytest.raises(ConnectionClosed):
                await wire.rest()
        stoppable.restart(kill=True)
        with client_of(stoppable) as client:
            assert client.get(f"{CREATE}/{name}").status_code == 404


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


async def closing(socket: Any) -> int:
    """The code with which the server closes, whatever it says before."""
    async with patience():
        await heard_out(socket)
    assert socket.close_code is not None
    return socket.close_code


async def heard_out(socket: Any) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await socket.recv()


async def trickle() -> AsyncGenerator[str]:
    """A message that never ends."""
    while True:
        yield "x"
        await asyncio.sleep(0.05)


async def until_free(wire: Any) -> None:
    """The stream of a client that has hung up is counted until the server has noticed."""
    async with patience():
        while True:
            await wire.create()
            if (await wire.rest())[-1]["type"] != "error":
                return
