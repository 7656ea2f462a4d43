"""A worker and a broker as real processes, started and killed at will."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import orjson
import psutil

from app.embedded.guarded import Guarded, stop_all
from app.embedded.valkey import EmbeddedValkey
from app.embedded.worker_process import COMMAND
from tests.embedded.processes import ROOT, clean_environment, wait_until_gone
from tests.waiting import PATIENCE_SECONDS, wait_until

HOLDFAST_WORKER = (sys.executable, "-m", "app.cli", "worker")


class LiveWorker:
    """A worker process, with the offline model unless `upstreams` are given."""

    command: Sequence[str] = COMMAND
    """What `HOLDFAST_WORKER` becomes, for half of its time: that reads the settings first, as this does again."""

    def __init__(self, database_url: str, broker_url: str, **settings: str) -> None:
        """`settings` are those of Holdfast, as text."""
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name) / "log"
        self.environment = clean_environment() | {
            "HOLDFAST_DATABASE_URL": database_url,
            "HOLDFAST_BROKER_URL": broker_url,
            **{f"HOLDFAST_{name.upper()}": value for name, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def said(self, event: str) -> int:
        """How often the log has an event of this name."""
        lines = (line for line in self.log.splitlines() if line.startswith("{"))
        return sum(orjson.loads(line)["event"] == event for line in lines)

    def start(self) -> None:
        """Return once it waits for bells."""
        ready = self.said("worker.ready") if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self.has_ended or self.said("worker.ready") > ready)
        assert not self.has_ended, self.log

    @property
    def has_ended(self) -> bool:
        assert self._process
        return self._process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = PATIENCE_SECONDS) -> int:
        """Send a signal and wait for the end; the exit code."""
        assert self._process
        self.send(number)
        return self._process.wait(seconds)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.has_ended:
            self.stop(signal.SIGKILL)
        self._folder.cleanup()


class LiveBroker:
    """The embedded Valkey, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Start nothing yet."""
        self._valkey = EmbeddedValkey(folder)
        self._server: Guarded | None = None
        self.url = self._valkey.url

    def start(self) -> None:
        """It begins empty, whatever it knew before."""
        self._server = self._valkey.start()

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._server
        (server,) = psutil.Process(self._server._guard.pid).children()
        os.kill(server.pid, signal.SIGKILL)
        wait_until_gone({server.pid})
        self._close()

    def _close(self) -> None:
        if self._server:
            stop_all([self._server])
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


@contextmanager
def broker_running() -> Generator[LiveBroker]:
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as folder, LiveBroker(Path(folder)) as broker:
        yield broker
