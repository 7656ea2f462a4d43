import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from app.embedded.api_process import listen
from app.embedded.errors import CannotStart
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.supervisor import serve as run_everything
from app.settings import Settings
from tests.embedded.conftest import reachable_folder
from tests.embedded.processes import (
    ROOT,
    Serve,
    alive,
    clean_environment,
    descendant_running,
    descendants,
    serving,
    wait_until_gone,
)
from tests.waiting import PATIENCE_SECONDS


def fetch(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask over a connection of its own."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return json.loads(answer.read())


def create(serve: Serve) -> str:
    return fetch(f"{serve.base}/v1/responses", {"model": "offline", "input": "Hello"})["id"]


@pytest.fixture(scope="module")
def running(made: Path) -> Generator[tuple[Serve, Path]]:
    """One server for the tests that leave it as they found it."""
    with reachable_folder() as parent:
        subprocess.run(["cp", "-a", made, parent / "state"], check=True)
        with serving(parent / "state") as serve:
            yield serve, parent / "state"
            assert serve.stop(signal.SIGTERM) == 0


def test_it_says_where_it_listens_what_it_runs_on_and_what_to_try(running: tuple[Serve, Path]) -> None:
    serve, state_dir = running
    call = 'responses.create(model="offline", input="Hello")'
    assert serve.lines == [
        f"Holdfast 0.1.0 on {serve.base}/v1  (docs: {serve.base}/docs)",
        f"Postgres: embedded in {state_dir}; broker: embedded; models: offline",
        f'Try: OpenAI(base_url="{serve.base}/v1", api_key="unused").{call}',
    ]


def test_a_response_is_created_and_kept(running: tuple[Serve, Path]) -> None:
    serve, _ = running
    response_id = create(serve)
    assert fetch(f"{serve.base}/v1/responses/{response_id}")["status"] == "completed"


def test_a_second_one_on_the_same_state_is_refused(running: tuple[Serve, Path]) -> None:
    serve, state_dir = running
    with pytest.raises(
        CannotStart, match=rf"another holdfast \(pid {serve.process.pid}\) runs on {state_dir}"
    ):
        start_here(Settings(state_dir=state_dir), 0)
    assert create(serve)


def test_a_port_in_use_is_named_before_anything_is_started(
    running: tuple[Serve, Path], state_dir: Path
) -> None:
    serve, _ = running
    with pytest.raises(
        CannotStart, match=f"cannot listen on 127.0.0.1 port {serve.port}: Address already in use"
    ):
        start_here(Settings(state_dir=state_dir), serve.port)
    assert not state_dir.exists()


def test_an_api_process_that_dies_is_replaced(running: tuple[Serve, Path]) -> None:
    serve, _ = running
    dead = descendant_running(serve.process.pid, "app.embedded.api_process")
    os.kill(dead, signal.SIGKILL)
    wait_until_gone({dead})
    # The socket stays open meanwhile, so this request waits for the replacement.
    assert create(serve)
    assert descendant_running(serve.process.pid, "app.embedded.api_process") != dead


def test_nothing_stays_behind_a_kill_and_the_data_is_there_at_the_next_start(used_state_dir: Path) -> None:
    with serving(used_state_dir, "--workers", "2") as serve:
        below = descendants(serve.process.pid)
        assert len(below) >= 6
        response_id = create(serve)
        serve.process.kill()
        serve.process.wait()
        wait_until_gone(below)
    with serving(used_state_dir) as serve:
        assert fetch(f"{serve.base}/v1/responses/{response_id}")["id"] == response_id
        below = descendants(serve.process.pid)
        # Ctrl-C in a terminal goes to the whole group; the guards must not mind.
        assert serve.stop(signal.SIGINT) == 0
        assert not alive(below)


@contextmanager
def streaming(serve: Serve, text: str) -> Generator[HTTPResponse]:
    """A response that has been created and is being streamed."""
    body = json.dumps({"model": "offline", "input": text, "stream": True}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{serve.base}/v1/responses", body, headers)
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        assert answer.readline() == b"event: response.created\n"
        yield answer


def test_a_running_request_ends_in_peace_and_a_second_signal_cuts_it_off(used_state_dir: Path) -> None:
    with serving(used_state_dir) as serve:
        with streaming(serve, "::sleep 0.5") as answer:
            serve.process.send_signal(signal.SIGTERM)
            assert b"event: response.completed" in answer.read()
        assert serve.process.wait(PATIENCE_SECONDS) == 0
    with serving(used_state_dir) as serve:
        below = descendants(serve.process.pid)
        with streaming(serve, "::sleep 60"):
            serve.process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                serve.process.wait(0.3)
            assert serve.stop(signal.SIGTERM) == 0
        assert not alive(below)


def test_a_signal_during_the_start_undoes_it(state_dir: Path) -> None:
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--state-dir", str(state_dir)]
    with subprocess.Popen(command, cwd=ROOT, env=clean_environment()) as process:
        while not (state_dir / "postgres.lock").exists():
            assert process.poll() is None
            time.sleep(0.01)
        below = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
        wait_until_gone(below)
    assert not (state_dir / "data").exists()


def test_a_postgres_that_ends_ends_everything_and_is_named(used_state_dir: Path) -> None:
    with serving(used_state_dir) as serve:
        below = descendants(serve.process.pid)
        os.kill(descendant_running(serve.process.pid, "bin/postgres"), signal.SIGQUIT)
        assert serve.process.wait(PATIENCE_SECONDS) == 1
        assert serve.process.stdout
        assert (
            f"holdfast: Postgres has ended; {used_state_dir}/postgres.log says why"
            in serve.process.stdout.read()
        )
        assert not alive(below)


def test_the_api_alone_serves_in_one_process_and_ends_in_peace(used_state_dir: Path) -> None:
    with EmbeddedPostgres(used_state_dir, durable=False) as postgres:
        environment = clean_environment() | {"HOLDFAST_DATABASE_URL": postgres.url}
        for command in (["migrate"], ["api", "--port", "0"]):
            with subprocess.Popen(
                [sys.executable, "-m", "app.cli", *command],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            ) as process:
                assert process.stdout
                assert process.stdout.readline().startswith(("The database is at", "Holdfast 0.1.0 on"))
                assert not descendants(process.pid)
                if command[0] == "api":
                    process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE_SECONDS) == 0


def start_here(settings: Settings, port: int) -> None:
    """Run it in this process, where it fails before there is anything to run."""
    run_everything(
        settings,
        host="127.0.0.1",
        port=port,
        workers=1,
        config=None,
        migrate=lambda _: pytest.fail("it has started Postgres"),
        on_ready=lambda _: pytest.fail("it has started"),
    )


def test_the_listening_socket_answers_at_once_and_knows_its_port() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        accepted = threading.Event()

        def accept() -> None:
            listener.accept()[0].close()
            accepted.set()

        thread = threading.Thread(target=accept)
        thread.start()
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join(PATIENCE_SECONDS)
        assert accepted.is_set()
        assert listener.proto == socket.IPPROTO_TCP


def test_a_host_that_is_not_ours_is_named() -> None:
    with pytest.raises(CannotStart, match=r"cannot listen on 192\.0\.2\.1 port 80"):
        listen("192.0.2.1", 80)
