import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kombu.connection import Connection

from app.embedded.errors import CannotStart
from app.embedded.guarded import Guarded, stop_all
from app.embedded.valkey import EmbeddedValkey
from tests.embedded.processes import descendants, wait_until_gone


@contextmanager
def started(valkey: EmbeddedValkey) -> Generator[Guarded]:
    server = valkey.start()
    try:
        yield server
    finally:
        stop_all([server])


def ask(valkey: EmbeddedValkey, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(valkey._socket))
        client.sendall(f"{command}\r\n".encode())
        return client.recv(4096).decode()


def test_it_answers_and_ends_when_it_is_told(state_dir: Path) -> None:
    valkey = EmbeddedValkey(state_dir)
    with started(valkey) as server:
        below = descendants(server._guard.pid)
        assert ask(valkey, "PING") == "+PONG\r\n"
    wait_until_gone(below)
    assert server.wait() == 0


def test_it_keeps_nothing_and_listens_on_no_port(state_dir: Path) -> None:
    valkey = EmbeddedValkey(state_dir)
    with started(valkey):
        ask(valkey, "SET a b")
        for option, value in (("port", "0"), ("save", ""), ("appendonly", "no")):
            assert ask(valkey, f"CONFIG GET {option}").split("\r\n")[4] == value
    with started(valkey):
        assert ask(valkey, "DBSIZE") == ":0\r\n"
    assert {path.name for path in state_dir.iterdir()} == {"broker", "valkey.log"}


def test_only_its_own_user_can_reach_it(state_dir: Path) -> None:
    valkey = EmbeddedValkey(state_dir)
    with started(valkey):
        assert (state_dir / "broker").stat().st_mode & 0o777 == 0o700
        assert valkey._socket.stat().st_mode & 0o777 == 0o700


def test_it_does_not_outlive_its_parent(state_dir: Path) -> None:
    server = EmbeddedValkey(state_dir).start()
    below = descendants(server._guard.pid)
    # What the kernel does when the parent is killed.
    server.close()
    wait_until_gone(below)


def test_a_start_is_not_fooled_by_a_predecessor(state_dir: Path) -> None:
    predecessor, valkey = EmbeddedValkey(state_dir), EmbeddedValkey(state_dir)
    with started(predecessor):
        ask(predecessor, "SET a b")
        with started(valkey):
            assert ask(valkey, "DBSIZE") == ":0\r\n"


@pytest.mark.parametrize("name", ["long" * 25, "a folder", "per%20cent", "hash#mark", "question?"])
def test_celery_s_transport_understands_the_url_of_any_folder(state_dir: Path, name: str) -> None:
    valkey = EmbeddedValkey(state_dir / name)
    with started(valkey), Connection(valkey.url) as connection:
        connection.ensure_connection(max_retries=0)
        with connection.SimpleQueue("somewhere") as queue:
            queue.put("a bell")
        assert "somewhere" in ask(valkey, "KEYS *")
    if not valkey._socket.is_relative_to(state_dir):
        valkey._socket.parent.rmdir()


def test_a_stranger_s_folder_is_refused(state_dir: Path) -> None:
    (state_dir / "broker").mkdir(parents=True)
    (state_dir / "broker").chmod(0o755)
    with pytest.raises(CannotStart, match="not a private folder"):
        EmbeddedValkey(state_dir).start()


def test_what_keeps_it_from_starting_is_in_its_log(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.embedded.valkey._options", lambda _: ["--no-such-option", "1"])
    with pytest.raises(CannotStart, match=r"Valkey did not start; .*valkey\.log says why"):
        EmbeddedValkey(state_dir).start()
    assert "no-such-option" in (state_dir / "valkey.log").read_text()


def test_a_redis_of_the_system_will_do_and_none_is_named(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CannotStart, match="no Valkey binary is installed: set broker_url"):
        EmbeddedValkey(state_dir).start()
