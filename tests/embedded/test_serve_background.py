"""Background responses in one command: the broker and the worker come with it, and come back."""

import os
import signal
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from tests.embedded.conftest import reachable_folder
from tests.embedded.processes import Serve, alive, descendant_running, descendants, serving
from tests.embedded.test_serve import fetch

WORKER = "workers.main"
BROKER = "valkey-server"


@pytest.fixture(scope="module")
def running(made: Path) -> Generator[Serve]:
    with reachable_folder() as parent:
        subprocess.run(["cp", "-a", made, parent / "state"], check=True)
        with serving(parent / "state") as serve:
            yield serve


def create(serve: Serve, text: str = "Hello") -> str:
    body = {"model": "offline", "input": text, "background": True}
    return fetch(f"{serve.base}/v1/responses", body)["id"]


def wait_for(serve: Serve, response_id: str, status: str) -> None:
    end = time.monotonic() + 20
    while fetch(f"{serve.base}/v1/responses/{response_id}")["status"] != status:
        assert time.monotonic() < end
        time.sleep(0.02)


def replaced(serve: Serve, words: str) -> None:
    """Kill a part; return when another process has its place."""
    dead = descendant_running(serve.process.pid, words)
    os.kill(dead, signal.SIGKILL)
    end = time.monotonic() + 10
    while True:
        try:
            if descendant_running(serve.process.pid, words) != dead:
                return
        except (AssertionError, psutil.Error):
            assert time.monotonic() < end, f"no other {words}"
        time.sleep(0.02)


def test_a_background_response_is_generated(running: Serve) -> None:
    wait_for(running, create(running), "completed")


@pytest.mark.parametrize("words", [WORKER, BROKER])
def test_a_part_that_dies_is_replaced_and_work_goes_on(running: Serve, words: str) -> None:
    wait_for(running, create(running), "completed")
    replaced(running, words)
    wait_for(running, create(running), "completed")


def test_what_runs_is_handed_back_on_a_second_signal_and_done_after_the_next_start(
    used_state_dir: Path,
) -> None:
    with serving(used_state_dir) as serve:
        below = descendants(serve.process.pid)
        response_id = create(serve, "::sleep 2")
        wait_for(serve, response_id, "in_progress")
        below |= descendants(serve.process.pid)
        serve.process.send_signal(signal.SIGTERM)
        assert serve.stop(signal.SIGTERM) == 0
        assert not alive(below)
    with serving(used_state_dir, "--config", str(config)) as serve:
        wait_for(serve, response_id, "completed")
