"""What decision 14 promises when the API, Postgres or an upstream fails under a client; workers and brokers
are in `test_worker_process`. Real processes, real signals."""

import asyncio
import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from app.embedded.postgres import EmbeddedPostgres
from app.store import migrate
from tests import grammar
from tests.live import LiveServer
from tests.store.proxy import Proxy
from tests.workers.processes import LiveBroker, LiveWorker, wait_until

QUICK = {"lease_seconds": "2", "reap_interval_seconds": "0.3", "queued_too_long_seconds": "1"}


class Site:
    """An API and a worker on a Postgres and a broker."""

    def __init__(self, url: str, broker: LiveBroker, **settings: str) -> None:
        self.api = LiveServer(url, environment={"HOLDFAST_BROKER_URL": broker.url})
        self.worker = LiveWorker(url, broker.url, **QUICK, **settings)

    def create(self, text: str, **params: Any) -> dict[str, Any]:
        return self.fetch("", {"model": "offline", "input": text, **params})

    def fetch(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        with self.open(path, body) as answer:
            return json.load(answer)

    def open(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"{self.api.base_url}/responses{path}", data)
        request.add_header("content-type", "application/json")
        return urllib.request.urlopen(request, timeout=30)

    def follow(self, response_id: str, after: int = -1) -> Iterator[dict[str, Any]]:
        with self.open(f"/{response_id}?stream=true&starting_after={after}") as lines:
            for line in lines:
                if line.startswith(b"data: {"):
                    yield _parsed(line)

    def ended(self, response_id: str, *, seconds: float = 20) -> dict[str, Any]:
        def has_ended() -> bool:
            return self.fetch(f"/{response_id}")["status"] not in {"queued", "in_progress"}

        wait_until(has_ended, seconds=seconds)
        return self.fetch(f"/{response_id}")


@contextmanager
def site(url: str, broker: LiveBroker) -> Generator[Site]:
    it = Site(url, broker)
    with it.api, it.worker:
        yield it


@pytest.fixture(scope="module")
def shared(database_url: str, broker: LiveBroker) -> Generator[Site]:
    with site(database_url, broker) as it:
        yield it


def test_a_resume_goes_on_behind_the_last_event_after_the_api_was_killed(shared: Site) -> None:
    with shared.open(
        "", {"model": "offline", "input": "::words 60 20", "background": True, "stream": True}
    ) as lines:
        first = list(map(_parsed, islice(_data(lines), 8)))
        shared.api.restart(kill=True)
    name, cursor = first[0]["response"]["id"], first[-1]["sequence_number"]
    rest = list(shared.follow(name, cursor))
    grammar.check([*first, *rest])
    assert rest[-1]["type"] == "response.completed"


def test_a_foreground_response_leaves_nothing_behind_a_killed_api(shared: Site) -> None:
    with shared.open("", {"model": "offline", "input": "::words 500 20", "stream": True}) as lines:
        name = _parsed(next(_data(lines)))["response"]["id"]
        shared.api.restart(kill=True)
    with pytest.raises(urllib.error.HTTPError) as missing:
        shared.fetch(f"/{name}")
    assert missing.value.code == 404
    missing.value.close()


def test_an_upstream_that_drops_leaves_what_it_had_said(shared: Site) -> None:
    body = {"model": "offline", "input": "::drop", "background": True, "stream": True}
    with shared.open("", body) as lines:
        failed = list(map(_parsed, _data(lines)))[-1]["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert failed["output"][0]["status"] == "incomplete"


def test_a_stream_whose_worker_is_killed_ends_in_words_for_who_stays(shared: Site) -> None:
    body = {"model": "offline", "input": "::words 500 20", "background": True, "stream": True}
    with shared.open("", body) as lines:
        events = list(map(_parsed, islice(_data(lines), 8)))
        shared.worker.stop(signal.SIGKILL)
        shared.worker.start()
        events += map(_parsed, _data(lines))
    final = shared.fetch(f"/{events[0]['response']['id']}")
    grammar.check(events)
    last = events[-1]
    assert (last["type"], last["response"]) == ("response.failed", final)
    assert final["output"][0]["content"][0]["text"].startswith("one two")


def test_a_restarted_postgres_costs_time_and_nothing_else(broker: LiveBroker) -> None:
    with TemporaryDirectory(prefix="holdfast-test-") as folder:
        Path(folder).chmod(0o711)
        postgres = EmbeddedPostgres(Path(folder) / "state", durable=False)
        with postgres:
            url = postgres.url.replace("+asyncpg", "", 1)
            migrate.upgrade(url)
            with site(url, broker) as it:
                names = [it.create("::sleep 1", background=True)["id"] for _ in range(5)]
                time.sleep(0.3)  # Until some of them run.
                postgres.stop()
                postgres.start()
                ended = [it.ended(name, seconds=30) for name in names]
    assert [each["status"] for each in ended] == ["completed"] * 5


def test_an_upstream_that_hangs_is_given_up(broker: LiveBroker) -> None:
    """The deadline is the engine's, whoever runs it."""
    with TemporaryDirectory(prefix="holdfast-test-") as folder:
        Path(folder).chmod(0o711)
        with EmbeddedPostgres(Path(folder) / "state", durable=False) as postgres:
            url = postgres.url.replace("+asyncpg", "", 1)
            migrate.upgrade(url)
            it = Site(url, broker, max_run_seconds="1")
            with it.api, it.worker:
                failed = it.ended(it.create("::sleep 600", background=True)["id"])
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")


async def test_a_worker_that_is_cut_off_stops_itself_and_another_goes_on(
    shared: Site, database_url: str, broker: LiveBroker
) -> None:
    await asyncio.to_thread(shared.worker.stop)
    async with Proxy(database_url) as proxy:
        cut_off = LiveWorker(proxy.url, broker.url, **QUICK)
        # In threads, because the proxy lives in this one.
        await asyncio.to_thread(cut_off.start)
        try:
            queued = await asyncio.to_thread(shared.create, "::sleep 5", background=True)
            await asyncio.to_thread(wait_until, lambda: cut_off.said("response.claimed") == 1)
            proxy.fall_silent()
            await asyncio.to_thread(shared.worker.start)
            ended = await asyncio.to_thread(shared.ended, queued["id"], seconds=30)
            await asyncio.to_thread(wait_until, lambda: cut_off.said("lease.lost") > 0, seconds=20)
        finally:
            await asyncio.to_thread(cut_off.__exit__)
    attempts = shared.fetch(f"/{queued['id']}/attempts")["data"]
    assert ended["status"] == "completed"
    assert [attempt["reason"] for attempt in attempts] == ["lost", "completed"]


def test_clocks_that_differ_change_nothing(shared: Site, database_url: str, broker: LiveBroker) -> None:
    """A worker whose clock is an hour ahead does not take another's work for lost."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(AHEAD)
        ahead = LiveWorker(database_url, broker.url, **QUICK)
        ahead.environment["PYTHONPATH"] = folder
        with ahead:
            names = [shared.create("::sleep 3", background=True)["id"] for _ in range(6)]
            ended = [shared.ended(name) for name in names]
            counts = [len(shared.fetch(f"/{name}/attempts")["data"]) for name in names]
    assert [each["status"] for each in ended] == ["completed"] * 6
    assert counts == [1] * 6


AHEAD = """
import time
_now, _now_ns = time.time, time.time_ns
time.time = lambda: _now() + 3600
time.time_ns = lambda: _now_ns() + 3600 * 10**9
"""


def _data(lines: Any) -> Iterator[bytes]:
    return (line for line in lines if line.startswith(b"data: {"))


def _parsed(line: bytes) -> dict[str, Any]:
    return json.loads(line.removeprefix(b"data: "))
