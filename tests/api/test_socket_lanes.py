"""Lanes: in order within one, side by side otherwise, and bounded (surface notes §10.4, behaviours 137-139)."""

import asyncio
from collections.abc import Generator

import httpx2
import psutil
import pytest

from tests.api.asking import CREATE, text
from tests.api.conftest import client_of, upstreams
from tests.api.socketing import TERMINAL, Json, check_error, deaf, wired
from tests.api.upstream import Upstream
from tests.live import LiveServer
from tests.waiting import patience

ENDLESS = "::words 1000 60"
"""Has the offline model talk for a minute."""


class TestNames:
    async def test_a_named_lane_is_said_in_every_event(self, server: LiveServer) -> None:
        for name in ("main", "a.b-c_D9", "x" * 256):
            async with wired(server) as wire:
                await wire.create("::words 3 0", stream_id=name)
                assert {frame["stream_id"] for frame in await wire.rest(name)} == {name}

    async def test_the_default_lane_has_no_name(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            await wire.create("::words 3 0")
            assert not [frame for frame in await wire.rest() if "stream_id" in frame]

    @pytest.mark.parametrize("name", ["", "x" * 257, "a b", "ü", "a/b", "a\n", None, 7, ["a"]])
    async def test_a_name_that_cannot_be_one(self, server: LiveServer, name: object) -> None:
        async with wired(server) as wire:
            await wire.create(stream_id=name)
            told = await wire.frame()
            check_error(told)
            assert told == {
                "type": "error",
                "status": 400,
                "error": {
                    "type": "invalid_request_error",
                    "code": "invalid_stream_id",
                    "message": "The 'stream_id' field must be a non-empty string with at most 256 characters "
                    "and may only contain letters, numbers, underscores, hyphens, and periods.",
                    "param": "stream_id",
                },
            }

    async def test_there_are_32_names_and_the_default(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            for number in range(32):
                await wire.create("hi", stream_id=f"lane-{number}")
            await wire.create("hi")
            refused = await wire.refused(stream_id="one-more")
            assert (refused["status"], refused["stream_id"]) == (400, "one-more")
            assert refused["error"] == {
                "type": "invalid_request_error",
                "code": "websocket_stream_limit_reached",
                "message": "This WebSocket connection has reached its maximum number of distinct stream IDs (32). "
                "Reuse an existing stream_id or open a new WebSocket connection.",
                "param": "stream_id",
            }
            for lane in (None, *(f"lane-{number}" for number in range(32))):
                assert (await wire.rest(lane))[-1]["type"] == "response.completed"
            assert (await wire.response(stream_id="lane-31"))["status"] == "completed"


class TestOrder:
    async def test_a_lane_does_one_thing_after_the_other(self, server: LiveServer) -> None:
        """Pipelined: nothing waits for an answer, nothing is refused, nothing overlaps (behaviour 138)."""
        async with wired(server) as wire:
            for number in range(5):
                await wire.create(f"turn {number}\n::words 5 2", metadata={"turn": str(number)})
            for number in range(5):
                told = await wire.rest()
                assert [frame["sequence_number"] for frame in told] == list(range(len(told)))
                assert told[-1]["response"]["metadata"] == {"turn": str(number)}

    async def test_other_lanes_run_beside_it(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            await wire.create(ENDLESS, stream_id="slow")
            await wire.until("response.output_text.delta", "slow")
            for lane in (None, "fast"):
                await wire.create("hi", **({"stream_id": lane} if lane else {}))
                assert (await wire.rest(lane))[-1]["type"] == "response.completed"

    async def test_an_error_waits_for_its_turn_too(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            await wire.create("::words 5 5")
            await wire.send(type="response.create")
            assert (await wire.rest())[-1]["type"] == "response.completed"
            assert (await wire.rest())[-1]["type"] == "error"

    async def test_a_lane_without_a_parent_starts_afresh(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            await wire.response("one", store=False)
            assert "1 item" in text(await wire.response("two", store=False))

    async def test_a_new_lane_forks_from_another_ones_response(self, server: LiveServer) -> None:
        """As soon as its end is heard."""
        async with wired(server) as wire:
            first = await wire.response("root", store=False, stream_id="a")
            forks = [
                await wire.response("leaf", store=False, stream_id=lane, previous_response_id=first["id"])
                for lane in ("b", "c", "d")
            ]
            assert all("3 items" in text(fork) for fork in forks)
            # The first lane's own memory is not touched by them.
            assert "3 items" in text(
                await wire.response("on", store=False, stream_id="a", previous_response_id=first["id"])
            )

    async def test_sixteen_run_and_the_next_one_waits(
        self, database_url: str, upstream: Upstream, upstream_port: int
    ) -> None:
        upstream.may_begin.clear()
        with LiveServer(database_url, environment={"HOLDFAST_UPSTREAMS": upstreams(upstream_port)}) as server:
            async with wired(server) as wire:
                for number in range(20):
                    await wire.create("hi", model="wire", stream_id=f"lane-{number}")
                # What is asked after them is answered after they have been looked at.
                await wire.send(type="response.steer", previous_response_id="r", input="x")
                assert (await wire.next())["type"] == "response.steer.failed"
                async with patience():
                    while upstream.asks < 16:  # noqa: ASYNC110 - it has a signal for one alone
                        await asyncio.sleep(0.01)
                upstream.may_finish.set()
                assert upstream.asks == 16
                upstream.may_begin.set()
                for number in range(20):
                    assert (await wire.rest(f"lane-{number}"))[-1]["type"] == "response.completed"
                assert upstream.asks == 20

    async def test_a_queue_has_an_end(self, server: LiveServer) -> None:
        """Reading goes on, so that the end of the client is noticed; so what waits has to be bounded."""
        async with wired(server) as wire:
            await wire.create(ENDLESS, stream_id="slow")
            await wire.until("response.output_text.delta", "slow")
            for _ in range(65):
                await wire.create("hi", stream_id="slow")
            while (told := await wire.next("slow"))["type"] != "error":
                pass
            check_error(told)
            assert (told["status"], told["error"]["code"]) == (429, "websocket_queue_limit_reached")
            assert (await wire.response())["status"] == "completed"


@pytest.fixture(scope="module")
def measured(database_url: str) -> Generator[LiveServer]:
    """A server that nobody else loads."""
    with LiveServer(database_url) as live:
        yield live


def clients_of(process: psutil.Process, port: int) -> int:
    """How many connections to this port a process has open."""
    found = process.net_connections("tcp")
    return sum(each.laddr[1] == port and each.status == psutil.CONN_ESTABLISHED for each in found)


class TestPressure:
    """A client that does not read holds up its own lanes, and nobody else."""

    async def test_memory_stays_flat_and_others_are_served(self, measured: LiveServer) -> None:
        process = psutil.Process(measured.pid)
        async with wired(measured) as other:
            await other.response()
            before = process.memory_info().rss
            async with deaf(measured) as lanes:
                # Each lane would say six megabytes.
                for number in range(16):
                    await lanes.create("::words 20000 0", stream_id=f"lane-{number}", store=False)
                for _ in range(200):
                    assert (await other.response(store=False))["status"] == "completed"
                grown = process.memory_info().rss - before
            assert grown < 60_000_000
            assert (await other.response())["status"] == "completed"

    async def test_a_client_that_reads_nothing_is_let_go_in_the_end(self, database_url: str) -> None:
        """What was written to it would otherwise be kept, and the connection with it."""
        with LiveServer(database_url, environment={"HOLDFAST_WEBSOCKET_MAX_SECONDS": "2"}) as server:
            process = psutil.Process(server.pid)
            async with deaf(server) as wire:
                for number in range(4):
                    await wire.create("::words 10000 0", store=False, stream_id=f"lane-{number}")
                async with patience():
                    while clients_of(process, server.port):  # noqa: ASYNC110 - no signal from another process
                        await asyncio.sleep(0.05)

    async def test_pings_that_are_not_answered_for_do_not_pile_up(self, measured: LiveServer) -> None:
        """The answers to pings have no other bound than being read."""
        process = psutil.Process(measured.pid)
        async with deaf(measured) as wire:
            await wire.create("::words 100000 0", store=False)
            before = process.memory_info().rss
            ping = b"\x89\xfd" + b"\0" * 4 + b"x" * 125
            for _ in range(40):
                await wire.raw(ping * 8000)
            assert process.memory_info().rss - before < 30_000_000


class TestHangUp:
    async def test_what_ran_is_cancelled_and_stored(self, server: LiveServer) -> None:
        ids = list[str]()
        async with wired(server) as wire:
            for lane in ("a", "b"):
                await wire.create(ENDLESS, stream_id=lane)
                ids.append((await wire.until("response.created", lane))["response"]["id"])
        assert [(await stored(server, name))["status"] for name in ids] == ["cancelled"] * 2

    async def test_what_waited_never_begins(self, server: LiveServer) -> None:
        async with wired(server) as wire:
            await wire.create(ENDLESS)
            first = (await wire.until("response.created"))["response"]["id"]
            await wire.create("never", metadata={"tag": "never begun"})
        await stored(server, first)
        with client_of(server) as client:
            rows = client.get(CREATE).json()["data"]
        assert {"tag": "never begun"} not in [row["metadata"] for row in rows]

    async def test_or_it_is_finished_by_setting(
        self, finishing_server: LiveServer, upstream: Upstream
    ) -> None:
        async with wired(finishing_server) as wire:
            await wire.create(model="wire")
            name = (await wire.until("response.created"))["response"]["id"]
            await wire.until("response.output_text.delta")
        upstream.may_finish.set()
        assert (await stored(finishing_server, name))["status"] == "completed"


async def stored(server: LiveServer, name: str) -> Json:
    """A response as soon as it is stored."""
    async with (
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
        patience(),
    ):
        while (answer := await client.get(f"{CREATE}/{name}")).status_code != 200:  # noqa: ASYNC110 - no signal
            await asyncio.sleep(0.01)
        return answer.json()


async def test_lanes_do_not_mix(server: LiveServer) -> None:
    """Each lane's events are its own, in its own order."""
    async with wired(server) as wire:
        lanes = [f"lane-{number}" for number in range(10)]
        for lane in lanes:
            for turn in range(3):
                await wire.create(f"{lane}", metadata={"lane": lane, "turn": str(turn)}, stream_id=lane)
        for lane in lanes:
            for turn in range(3):
                told = await wire.rest(lane)
                assert [frame["sequence_number"] for frame in told] == list(range(len(told)))
                assert len({frame["response"]["id"] for frame in told if "response" in frame}) == 1
                assert told[-1]["response"]["metadata"] == {"lane": lane, "turn": str(turn)}
                assert told[-1]["type"] in TERMINAL
