"""Watch real processes from outside, as the kernel sees them."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app.settings import environment
from tests.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


def clean_environment() -> dict[str, str]:
    """Ours without what would change the settings."""
    names = ("HOLDFAST_", "OPENAI_")
    return {name: value for name, value in environment().items() if not name.startswith(names)}


def alive(pids: set[int]) -> set[int]:
    """Those that still run; a zombie has ended."""
    running: set[int] = set()
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                running.add(pid)
        except psutil.NoSuchProcess:
            continue
    return running


def wait_until_gone(pids: set[int]) -> None:
    """Processes that are not our children give no signal when they end, so this looks again and again."""
    end = time.monotonic() + PATIENCE_SECONDS
    while left := alive(pids):
        assert time.monotonic() < end, f"still there: {[psutil.Process(pid).cmdline() for pid in left]}"
        time.sleep(0.01)


def descendants(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def descendant_running(pid: int, words: str) -> int:
    """The one descendant whose command line begins so that it holds these words and is no guard."""
    for child in psutil.Process(pid).children(recursive=True):
        command = " ".join(child.cmdline())
        if words in command and "guard.py" not in command:
            return child.pid
    raise AssertionError(f"nothing runs {words}")


@dataclass
class Serve:
    """A `holdfast serve` that has said that it is ready."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list[str])

    @property
    def base(self) -> str:
        found = re.search(r"http://[\d.:]+", self.lines[0])
        assert found, self.lines
        return found[0]

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def serving(state_dir: Path, *arguments: str) -> Generator[Serve]:
    """Run it on a free port; whatever the test did, nothing is left behind."""
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--state-dir", str(state_dir)]
    with subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        serve = Serve(process)
        try:
            for _ in range(3):
                serve.lines.append(process.stdout.readline().rstrip("\n"))
            if process.poll() is not None or not serve.lines[0].startswith("Holdfast"):
                raise AssertionError("\n".join([*serve.lines, process.stdout.read()]))
            yield serve
        finally:
            if process.poll() is None:
                left = descendants(process.pid)
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                wait_until_gone(left)
