"""Background responses in one command: the broker and the worker come with it, and come back."""

import os
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from tests.embedded.conftest import reachable_folder
from tests.embedded.processes import Serve, alive, descendant_running, descendants, serving
from tests.embedded.test_serve import fetch
from tests.waiting import wait_until

WORKER = "workers.main"
BROKER = "valkey-server"


@pytest.fixture(scope="module")
def config() -> Generator[Path]:
    """A reaper that does not keep tests waiting."""
    with reachable_folder() as folder:
        path = folder / "holdfast.toml"
        path.write_text("queued_too_long_seconds = 0.5\nreap_interval_seconds = 0.5\n")
        yield path


@pytest.fixture(scope="module")
def running(made: Path, config: Path) -> Generator[Serve]:
    with reachable_folder() as parent:
        subprocess.run(["cp", "-a", made, parent / "state"], check=True)
        with serving(parent / "state", "--config", str(config)) as serve:
            yield serve


def create(serve: Serve, text: str = "Hello") -> str:
    body = {"model": "offline", "input": text, "background": True}
    return fetch(f"{serve.base}/v1/responses", body)["id"]


def status(serve: Serve, response_id: str) -> str:
    return fetch(f"{serve.base}/v1/responses/{response_id}")["status"]


def wait_for(serve: Serve, response_id: str, wanted: str) -> None:
    wait_until(lambda: status(serve, response_id) == wanted)


def replaced(serve: Serve, words: str) -> None:
    """Kill a part; return when another process has its place."""
    dead = descendant_running(serve.process.pid, words)
    os.kill(dead, signal.SIGKILL)

    def is_replaced() -> bool:
        try:
            return descendant_running(serve.process.pid, words) != dead
        except (AssertionError, psutil.Error):
            return False

    wait_until(is_replaced)


def test_a_background_response_is_generated(running: Serve) -> None:
    wait_for(running, create(running), "completed")


@pytest.mark.parametrize("words", [WORKER, BROKER])
def test_a_part_that_dies_is_replaced_and_work_goes_on(running: Serve, words: str) -> None:
    wait_for(running, create(running), "completed")
    replaced(running, words)
    wait_for(running, create(running), "completed")


def test_one_signal_lets_a_run_end_and_a_second_hands_it_back(used_state_dir: Path, config: Path) -> None:
    with serving(used_state_dir) as serve:
        finished = create(serve, "::sleep 1")
        wait_until(lambda: status(serve, finished) != "queued")
        assert serve.stop(signal.SIGTERM) == 0
    with serving(used_state_dir) as serve:
        assert status(serve, finished) == "completed"
        handed_back = create(serve, "::sleep 4")
        wait_for(serve, handed_back, "in_progress")
        below = descendants(serve.process.pid)
        serve.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            # By now the API has ended, and the worker is what is waited for.
            serve.process.wait(1.5)
        assert serve.stop(signal.SIGTERM) == 0
        assert not alive(below)
    with serving(used_state_dir, "--config", str(config)) as serve:
        # Not after its lease alone.
        wait_for(serve, handed_back, "completed")
