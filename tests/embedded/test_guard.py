import os
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager

import psutil
import pytest

from app.embedded.guarded import Guarded, Ladder, stop_all
from tests.embedded.processes import descendants, wait_until_gone

# Each says "ready" once its handlers are in place, and then waits for signals alone.
WAIT = "import signal, os; os.write(1, b'ready'); signal.pause()"
EXIT_7_ON_TERM = f"import signal, os; signal.signal(15, lambda *_: os._exit(7)); {WAIT}"
IGNORE_TERM = f"import signal; signal.signal(15, signal.SIG_IGN); {WAIT}"
WITH_GRANDCHILD = f"import subprocess, sys; subprocess.Popen(['sleep', '60']); {EXIT_7_ON_TERM}"

STOP: Ladder = (("SIGTERM", 5.0), ("SIGKILL", 5.0))


@contextmanager
def guarded(program: str, *, stop: Ladder = STOP) -> Generator[tuple[Guarded, int]]:
    """A child that is ready, and the process id of its guard."""
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb") as output, os.fdopen(theirs, "wb") as inherited:
        child = Guarded(
            [sys.executable, "-S", "-c", program],
            stop=stop,
            abandon=(("SIGKILL", 5.0),),
            output=inherited,
        )
        with closing(child):
            assert os.read(output.fileno(), 5) == b"ready"
            yield child, child._guard.pid


def test_an_order_to_stop_sends_the_mild_signal_and_tells_the_exit_code() -> None:
    with guarded(EXIT_7_ON_TERM) as (child, _):
        child.request_stop()
        assert child.wait() == 7


def test_a_child_that_ignores_the_mild_signal_gets_the_harsh_one() -> None:
    with guarded(IGNORE_TERM, stop=(("SIGTERM", 0.05), ("SIGKILL", 5.0))) as (child, _):
        child.request_stop()
        assert child.wait() == 128 + signal.SIGKILL


def test_a_parent_that_is_gone_ends_the_child_without_ceremony() -> None:
    with guarded(EXIT_7_ON_TERM) as (child, _):
        child.close()
        assert child.wait() == 128 + signal.SIGKILL


def test_closing_cuts_a_patient_stop_short() -> None:
    with guarded(IGNORE_TERM, stop=(("SIGTERM", 60.0),)) as (child, _):
        child.request_stop()
        child.close()
        assert child.wait() == 128 + signal.SIGKILL


def test_signals_to_the_guard_are_not_orders() -> None:
    with guarded(EXIT_7_ON_TERM) as (child, guard):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(guard, number)
        assert not child.has_ended
        child.request_stop()
        assert child.wait() == 7


def test_the_end_of_the_child_can_be_selected_on() -> None:
    with guarded(WAIT) as (child, guard):
        (pid,) = descendants(guard)
        os.kill(pid, signal.SIGKILL)
        assert select.select([child.ended_fd], [], [], 5)[0] == [child.ended_fd]
        assert child.wait() == 128 + signal.SIGKILL


def test_what_the_child_started_does_not_stay_behind() -> None:
    with guarded(WITH_GRANDCHILD) as (child, guard):
        below = descendants(guard)
        assert len(below) == 2
        child.request_stop()
        child.wait()
        wait_until_gone(below)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_child_does_not_outlive_a_killed_guard() -> None:
    with guarded(WAIT) as (_, guard):
        below = descendants(guard)
        os.kill(guard, signal.SIGKILL)
        wait_until_gone(below)


def test_several_children_are_stopped_together() -> None:
    with guarded(EXIT_7_ON_TERM) as (one, _), guarded(EXIT_7_ON_TERM) as (two, _):
        stop_all([one, two])
        assert (one.wait(), two.wait()) == (7, 7)


def test_a_child_ends_when_its_grandparent_is_killed() -> None:
    program = (
        "import sys, time; from app.embedded.guarded import Guarded\n"
        "child = Guarded(['sleep', '60'], stop=(('SIGTERM', 5.0),), abandon=(('SIGKILL', 5.0),))\n"
        "print('started', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"started\n"
        guard = psutil.Process(parent.pid).children()[0]
        below = {guard.pid} | descendants(guard.pid)
        parent.kill()
        wait_until_gone(below)
