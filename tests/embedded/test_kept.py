import os
import select
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import IO

import pytest
from structlog.testing import capture_logs

from app.embedded import kept
from app.embedded.guarded import Guarded
from app.embedded.kept import Kept
from tests.embedded.processes import descendants, wait_until_gone


@contextmanager
def os_pipe() -> Generator[tuple[IO[bytes], IO[bytes]]]:
    read, write = os.pipe()
    with os.fdopen(read, "rb", 0) as ours, os.fdopen(write, "wb", 0) as theirs:
        yield ours, theirs


STOP = (("SIGTERM", 5.0), ("SIGKILL", 5.0))


def running(program: str) -> Callable[[], Guarded]:
    return lambda: Guarded([sys.executable, "-S", "-c", program], stop=STOP, abandon=(("SIGKILL", 5.0),))


def wait_for_the_end(part: Kept) -> None:
    assert select.select(part.ended_fds, [], [], 5)[0]
    assert part._child
    part._child.wait()


def test_what_dies_is_started_again_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "PAUSE_SECONDS", 0)
    with Kept("part", running("raise SystemExit(3)")) as part, capture_logs() as logs:
        part.start()
        wait_for_the_end(part)
        part.tend()
        assert part.ended_fds
        assert part.due_at is None
    assert [(entry["event"], entry.get("exit_code")) for entry in logs] == [
        ("part.died", 3),
        ("part.replaced", None),
    ]


def test_what_dies_at_once_is_given_a_pause() -> None:
    with Kept("part", running("")) as part:
        part.start()
        wait_for_the_end(part)
        part.tend()
        assert not part.ended_fds
        assert part.due_at
        assert 0 < part.due_at - time.monotonic() <= kept.PAUSE_SECONDS


def test_what_lives_is_left_alone() -> None:
    with Kept("part", running("import time; time.sleep(60)")) as part:
        part.start()
        before = part.ended_fds
        part.tend()
        assert part.ended_fds == before


def test_it_is_stopped_when_the_block_ends() -> None:
    with Kept("part", running("import signal; signal.pause()")) as part:
        part.start()
        assert part._child
        below = descendants(part._child._guard.pid)
    wait_until_gone(below)
    part.close()


def test_who_was_asked_to_stop_is_not_hurried_by_the_end_of_the_block() -> None:
    slow = """
import os, signal
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
os.write(1, b"ready")
while not asked:
    signal.sigtimedwait([], 0.01)
signal.sigtimedwait([], 0.3)
os._exit(len(asked))
"""
    with os_pipe() as (ours, theirs):
        part = Kept(
            "part",
            lambda: Guarded(
                [sys.executable, "-S", "-c", slow], stop=STOP, abandon=(("SIGKILL", 5.0),), output=theirs
            ),
        )
        with part:
            part.start()
            assert ours.read(5) == b"ready"
            assert part._child
            guard = part._child
            part.request_stop()
    assert guard.wait() == 1
