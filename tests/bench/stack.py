"""Everything that a benchmark runs on, started by it and ended with it: nothing outlives the block.

A durable embedded Postgres with the product's own settings, migrated; the embedded broker; the canned
upstream; `holdfast api` with as many processes as are asked for; the no-op route served the same way. A
worker only where a scenario starts one: it settles the audit trail all the while, on the same cores.
"""

import re
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import asyncpg
import psutil
import uvloop
from kombu.connection import Connection

from app import wakeups
from app.embedded.guarded import Guarded
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.worker_process import COMMAND
from app.store import migrate
from app.store.tables import OF_TENANTS
from tests.background import execute
from tests.bench.http_load import server_of
from tests.embedded.processes import ROOT, clean_environment
from tests.workers.processes import LiveBroker

PYTHON = (sys.executable, "-m")
START_SECONDS = 60.0
TRIES = 5
KEPT = {"api_keys", "audit_records", "audit_heads", "audit_checkpoints"}
"""What is not forgotten between scenarios: a trail cannot be, and goes on where it was."""
# What they would save by ending in good order is thrown away with the folder.
ABANDON = (("SIGKILL", 5.0),)

CONFIG = """
database_url = "{database_url}"
broker_url = "{broker_url}"
shutdown_grace_seconds = 0

[[upstreams]]
name = "canned"
protocol = "responses"
base_url = "{upstream_url}"
"""
"""All that is not the default."""

SERVES = r"on (http://127\.0\.0\.1:\d+/v1)"
IS_READY = r'"worker.ready"'


class Part:
    """One process, which ends with us however we end. What it prints is kept in a file."""

    def __init__(self, log: Path, command: Sequence[str], *, says: str, **variables: str) -> None:
        """Start it.

        Args:
            says: What it prints once it serves; its first group, if it has any, is where.
        """
        self._log = log
        self._says = re.compile(says)
        with log.open("wb") as output:
            self._guarded = Guarded(
                command,
                stop=ABANDON,
                abandon=ABANDON,
                environment=clean_environment() | variables,
                cwd=ROOT,
                output=output,
            )

    def said(self) -> str:
        """Wait until it serves; where.

        Raises:
            RuntimeError: it ended, or did not come up; with what it printed.
        """
        end = time.monotonic() + START_SECONDS
        while not (found := self._says.search(self._log.read_text(errors="replace"))):
            if self._guarded.has_ended or time.monotonic() > end:
                raise RuntimeError(
                    f"{self._log.stem} did not start:\n{self._log.read_text(errors='replace')}"
                )
            time.sleep(0.02)
        return found[1] if found.re.groups else ""

    @cached_property
    def base_url(self) -> str:
        """Where it serves, once it does."""
        return self.said()

    @property
    def process(self) -> psutil.Process:
        """What was started, without its guard."""
        (child,) = psutil.Process(self._guarded._guard.pid).children()
        return child

    @property
    def api_processes(self) -> list[psutil.Process]:
        """Those that answer requests."""
        found = [(child, child.cmdline()) for child in self.process.children(recursive=True)]
        several = [child for child, words in found if any("api_process" in word for word in words[:4])]
        return several or [self.process]

    def close(self) -> None:
        self._guarded.close()


class Stack:
    """Started by `running`. Its database is emptied before each scenario."""

    api: Part
    noop: Part
    upstream: Part
    server: psutil.Process
    """The Postgres server."""

    def __init__(self, folder: Path, processes: int) -> None:
        """Start nothing yet. So many processes will answer requests, of each server."""
        self._folder = folder
        self.processes = processes
        self._postgres = EmbeddedPostgres(folder / "state")
        self._broker = LiveBroker(folder / "state")
        self._parts = ExitStack()
        self._config = folder / "holdfast.toml"
        self.url = self._postgres.url.replace("+asyncpg", "", 1)

    def __enter__(self) -> Self:
        with ExitStack() as parts:
            parts.enter_context(self._postgres)
            parts.enter_context(self._broker)
            command = [*PYTHON, "tests.bench.upstream"]
            self.upstream = parts.enter_context(self._started("upstream", command, says=SERVES))
            upstream_url = self.upstream.base_url
            self._config.write_text(
                CONFIG.format(database_url=self.url, broker_url=self._broker.url, upstream_url=upstream_url)
            )
            migrate.upgrade(self.url)
            self.api = parts.enter_context(self.serving())
            self.noop = parts.enter_context(self.serving("tests.bench.noop"))
            _ = self.api.base_url, self.noop.base_url
            self.server = uvloop.run(server_of(self.url))
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()

    @contextmanager
    def serving(self, module: str = "app.cli", **settings: str) -> Generator[Part]:
        """Another server like `api`, which may not serve yet."""
        command = [*PYTHON, module, "api", "--workers", str(self.processes), "--port", "0"]
        with self._started(f"api-{module}", command, says=SERVES, **settings) as part:
            yield part

    @contextmanager
    def working(self, **settings: str) -> Generator[Part]:
        """A worker that waits for bells."""
        with self._started("worker", COMMAND, says=IS_READY, **settings) as part:
            part.said()
            yield part

    @contextmanager
    def _started(self, name: str, command: Sequence[str], *, says: str, **settings: str) -> Generator[Part]:
        variables = {f"HOLDFAST_{setting.upper()}": value for setting, value in settings.items()}
        log = self._folder / f"{name}-{time.monotonic_ns()}.log"
        part = Part(log, command, says=says, HOLDFAST_CONFIG=str(self._config), **variables)
        try:
            yield part
        finally:
            part.close()

    @property
    def watched(self) -> list[psutil.Process]:
        """Whose CPU a request costs."""
        return [self.api.process, self.server]

    def execute(self, statement: str, *arguments: object) -> list[Any]:
        return uvloop.run(execute(self.url, statement, *arguments))

    def reset(self) -> None:
        """Forget what was stored, noted or rung for."""
        uvloop.run(self._truncate())
        with Connection(self._broker.url) as connection:
            wakeups.queue(self._broker.url).bind(connection.default_channel).purge()

    async def _truncate(self) -> None:
        """Where a worker is, it may have locked in another order, and Postgres then ends one of us."""
        tables = ", ".join(name for name in OF_TENANTS if name not in KEPT)
        for tries_left in reversed(range(TRIES)):
            try:
                await execute(self.url, f"truncate {tables}")
            except asyncpg.DeadlockDetectedError:
                if not tries_left:
                    raise
            else:
                return

    def settle_down(self) -> None:
        """After a scenario has filled its tables: statistics, and nothing left to write of it."""
        self.execute("vacuum (analyze)")
        self.execute("checkpoint")


@contextmanager
def running(*, processes: int = 2) -> Generator[Stack]:
    """The stack in a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="holdfast-benchmark-") as folder:
        # Root's server runs as another user, who must be able to reach the folder.
        Path(folder).chmod(0o711)
        with Stack(Path(folder), processes) as stack:
            yield stack
