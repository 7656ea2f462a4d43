"""Real workers on real brokers: bells, signals, and what is killed under them."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from typing import Any, Self

import pytest

from app.wakeups import Bell
from tests.embedded.processes import ROOT, clean_environment, descendants
from tests.live import LiveServer
from tests.waiting import PATIENCE_SECONDS, wait_until
from tests.workers.processes import LiveBroker, LiveWorker, broker_running

IMPATIENT = {"reap_interval_seconds": "0.2", "queued_too_long_seconds": "0.2"}
"""For tests of the reaper; elsewhere it would hide a bell that was not rung."""


class Api:
    """`holdfast api`, asked for background responses."""

    def __init__(self, database_url: str, broker_url: str) -> None:
        self._server = LiveServer(database_url, environment={"HOLDFAST_BROKER_URL": broker_url})

    def create(self, text: str = "Hello", **params: Any) -> str:
        body = {"model": "offline", "input": text, "background": True, **params}
        created = self._fetch("", json.dumps(body).encode())
        assert created["status"] == "queued"
        return created["id"]

    def status(self, response_id: str) -> str:
        return self._fetch(f"/{response_id}")["status"]

    def cancel(self, response_id: str) -> None:
        self._fetch(f"/{response_id}/cancel", b"")

    def wait_for(self, status: str, *response_ids: str) -> None:
        for response_id in response_ids:
            wait_until(lambda each=response_id: self.status(each) == status)

    def _fetch(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self._server.base_url}/responses{path}", body)
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return json.loads(answer.read())

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()


@pytest.fixture(scope="module")
def api(database_url: str, broker: LiveBroker) -> Generator[Api]:
    with Api(database_url, broker.url) as api:
        yield api


def test_what_is_queued_is_generated_on_every_broker(database_url: str, broker_url: str) -> None:
    with Api(database_url, broker_url) as api, LiveWorker(database_url, broker_url) as worker:
        api.wait_for("completed", *[api.create() for _ in range(20)])
        assert worker.said("response.claimed") == 20
        beside_each_other = [api.create("::sleep 600") for _ in range(10)]
        api.wait_for("in_progress", *beside_each_other)
        for response_id in beside_each_other:
            api.cancel(response_id)
        assert worker.stop() == 0


def test_what_a_full_worker_has_no_room_for_is_begun_by_another(database_url: str, broker_url: str) -> None:
    """At once, and not because the reaper rang. What it begins itself, it begins when there is room."""
    patient = {"queued_too_long_seconds": "3600", "reap_interval_seconds": "3600"}
    with (
        Api(database_url, broker_url) as api,
        LiveWorker(database_url, broker_url, worker_concurrency="1", **patient) as full,
    ):
        first, *waiting = [api.create("::sleep 60"), *[api.create() for _ in range(3)]]
        api.wait_for("in_progress", first)
        with LiveWorker(database_url, broker_url, worker_concurrency="2", **patient) as other:
            api.wait_for("completed", *waiting, *[api.create() for _ in range(3)])
            assert (full.said("response.claimed"), other.said("response.claimed")) == (1, 6)
            assert other.stop() == 0
        later = [api.create() for _ in range(3)]
        api.cancel(first)
        api.wait_for("completed", *later)
        assert full.stop() == 0


async def test_a_bell_too_many_finds_nothing(database_url: str, broker: LiveBroker, api: Api) -> None:
    with LiveWorker(database_url, broker.url) as worker:
        response_id = api.create()
        bell = Bell(broker.url)
        for _ in range(3):
            await bell.ring(response_id)
        await bell.close()
        api.wait_for("completed", response_id)
        assert worker.stop() == 0
        assert worker.said("response.claimed") == 1


def test_an_idle_worker_answers_a_ping_and_ends_at_once(database_url: str, broker: LiveBroker) -> None:
    with LiveWorker(database_url, broker.url) as worker:
        ping = [sys.executable, "-m", "celery", "--app", "workers.main", "inspect", "ping"]
        done = subprocess.run(
            ping, cwd=ROOT, env=worker.environment, capture_output=True, timeout=PATIENCE_SECONDS, check=False
        )
        assert (done.returncode, b"pong" in done.stdout) == (0, True), done
        assert not descendants(worker.pid)
        assert worker.stop(seconds=20) == 0


def test_a_run_that_ends_within_the_grace_is_finished(
    database_url: str, broker: LiveBroker, api: Api
) -> None:
    with LiveWorker(database_url, broker.url, shutdown_grace_seconds="600") as worker:
        response_id = api.create("::sleep 1")
        wait_until(lambda: api.status(response_id) != "queued")
        assert worker.stop(seconds=20) == 0
        assert api.status(response_id) == "completed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_run_that_does_not_is_handed_back_and_another_worker_takes_it_at_once(
    database_url: str, broker: LiveBroker, api: Api, number: signal.Signals
) -> None:
    grace = "0" if number == signal.SIGTERM else "25"
    with LiveWorker(database_url, broker.url, shutdown_grace_seconds=grace) as worker:
        response_id = api.create("::sleep 60")
        api.wait_for("in_progress", response_id)
        assert worker.stop(number) == 0
        assert api.status(response_id) == "queued"
        worker.start()
        # Long before the reaper would ring for it.
        api.wait_for("in_progress", response_id)
        api.cancel(response_id)


def test_a_second_signal_cuts_the_grace_short(database_url: str, broker: LiveBroker, api: Api) -> None:
    with LiveWorker(database_url, broker.url) as worker:
        response_id = api.create("::sleep 60")
        api.wait_for("in_progress", response_id)
        worker.send(signal.SIGINT)
        wait_until(lambda: worker.said("worker.stopping") == 1)
        worker.stop(signal.SIGINT)
        assert api.status(response_id) == "queued"
        api.cancel(response_id)


def test_a_broker_that_is_gone_keeps_no_worker_from_ending(database_url: str) -> None:
    with broker_running() as broker, LiveWorker(database_url, broker.url) as worker:
        broker.kill()
        assert worker.stop(seconds=20) == 0


def test_a_broker_that_is_killed_and_comes_back_empty_is_found_again(database_url: str) -> None:
    with (
        broker_running() as broker,
        Api(database_url, broker.url) as api,
        LiveWorker(database_url, broker.url) as worker,
    ):
        api.wait_for("completed", api.create())
        running = api.create("::sleep 3")
        api.wait_for("in_progress", running)
        broker.kill()
        wait_until(lambda: "Cannot connect" in worker.log)
        broker.start()
        api.wait_for("completed", running, api.create())
        assert worker.stop() == 0


def test_what_was_queued_while_the_broker_was_away_is_rung_for_by_the_reaper(database_url: str) -> None:
    with (
        broker_running() as broker,
        Api(database_url, broker.url) as api,
        LiveWorker(database_url, broker.url, **IMPATIENT) as worker,
    ):
        broker.kill()
        queued = [api.create() for _ in range(3)]
        wait_until(lambda: worker.said("broker.lost") == 1)
        broker.start()
        api.wait_for("completed", *queued)
        assert worker.stop() == 0


def test_what_a_killed_worker_was_doing_is_done_by_another(
    database_url: str, broker: LiveBroker, api: Api
) -> None:
    settings = IMPATIENT | {"lease_seconds": "1"}
    with (
        LiveWorker(database_url, broker.url, **settings) as killed,
        LiveWorker(database_url, broker.url, **settings) as other,
    ):
        queued = [api.create("::sleep 1") for _ in range(20)]
        wait_until(lambda: killed.said("response.claimed") > 0)
        killed.stop(signal.SIGKILL)
        api.wait_for("completed", *queued)
        assert other.stop() == 0


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (
            "HOLDFAST_DATABASE_URL",
            "database_url is not set, and only `holdfast serve` brings its own Postgres",
        ),
        ("HOLDFAST_BROKER_URL", "broker_url is not set, and only `holdfast serve` brings its own broker"),
    ],
)
def test_a_worker_without_a_database_or_a_broker_says_so_in_one_line(missing: str, words: str) -> None:
    given = {"HOLDFAST_DATABASE_URL": "postgresql://nobody/none", "HOLDFAST_BROKER_URL": "redis://nobody/0"}
    done = worker_that_ends(clean_environment() | {key: given[key] for key in given if key != missing})
    assert (done.returncode, done.stderr) == (2, f"holdfast: {words}\n")


def test_a_worker_that_cannot_reach_postgres_ends_in_one_line() -> None:
    done = worker_that_ends(
        clean_environment()
        | {
            "HOLDFAST_DATABASE_URL": "postgresql://127.0.0.1:1/none",
            "HOLDFAST_BROKER_URL": "redis://127.0.0.1:1/0",
        }
    )
    assert done.returncode == 1
    assert done.stderr.startswith("holdfast: ")
    assert done.stderr.count("\n") == 1


def worker_that_ends(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", "worker"]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
