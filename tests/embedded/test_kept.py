import select
import sys
import time
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from app.embedded import kept
from app.embedded.guarded import Guarded
from app.embedded.kept import Kept
from tests.embedded.processes import descendants, wait_until_gone

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


def test_it_is_stopped_when_the_block_ends_and_at_once_when_cut() -> None:
    with Kept("part", running("import signal; signal.pause()")) as part:
        part.start()
        assert part._child
        below = descendants(part._child._guard.pid)
    wait_until_gone(below, seconds=2)
    part.start()
    part.cut()
    assert not part.ended_fds
    part.close()
