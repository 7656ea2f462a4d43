"""A live server in a process of its own, stopped and started at will."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Self

from tests.waiting import PATIENCE_SECONDS


class LiveServer:
    """`holdfast api` on a free port of the loopback interface."""

    module = "app.cli"
    """What is run: something that takes the command line of `holdfast`."""

    def __init__(
        self, database_url: str, config: str = "", *, environment: Mapping[str, str] | None = None
    ) -> None:
        """`config` is TOML."""
        self._folder = tempfile.TemporaryDirectory()
        self._config = Path(self._folder.name) / "holdfast.toml"
        self._config.write_text(config)
        self._environment = {
            "HOLDFAST_DATABASE_URL": database_url,
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            **(environment or {}),
        }
        self._log = Path(self._folder.name) / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}/v1"

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    self.module,
                    "api",
                    "--port",
                    str(self.port),
                    "--config",
                    str(self._config),
                ],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._is_ready():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def stop(self, *, kill: bool = False) -> int:
        """SIGTERM, or SIGKILL; the exit code."""
        assert self._process
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        return self._process.wait(PATIENCE_SECONDS)

    def restart(self, *, kill: bool = False) -> None:
        self.stop(kill=kill)
        self.start()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process and self._process.poll() is None:
            self.stop()
        self._folder.cleanup()


# Below those that the kernel gives to whoever asks for any: one of these stays ours while nothing listens there,
# as that of a server which is about to start, or is started again. Each process has a hundred of its own.
_OURS = range(first := 12_000 + os.getpid() % 200 * 100, first + 100)
_turns = cycle(_OURS)


def free_port() -> int:
    for port in islice(_turns, len(_OURS)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("all are taken")
