"""What Postgres itself can do: pgbench with the very statements that the store sends, as many clients.

Who asks is C, and what is asked is prepared; so a server on the same cores can come near this and never
pass it. The session is that of a request: the same role under the same policies, and generic plans.
"""

import re
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import uvloop

from app.domain.tenancy import DEFAULT_TENANT_ID
from app.embedded import binaries
from app.store.db import Tx
from app.store.tables import TENANT_ROLE, TENANT_SETTING
from tests.bench.http_load import Load, cpu_of
from tests.embedded.processes import clean_environment

SESSION = {
    "role": TENANT_ROLE,
    TENANT_SETTING: str(DEFAULT_TENANT_ID),
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}
THREADS = 2
SAMPLED = "0.25"
"""Share of transactions whose time is written down, where they are many."""
FEW = "20"
"""Transactions of each client where it is only to be seen that they work."""


class CannotMeasure(Exception):
    """pgbench failed; with what it said."""


@dataclass
class Script:
    """SQL as pgbench takes it, and the values of its variables."""

    sql: str
    variables: dict[str, str] = field(default_factory=dict[str, str])


SELECT_1 = Script("select 1;")


class _Recording:
    """A driver that sends nothing, and knows what was to be sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, tuple[object, ...]]] = []

    async def fetch(self, query: str, *args: object) -> list[Any]:
        self.sent.append((query, args))
        return []

    async def fetchmany(self, query: str, args: Sequence[Sequence[object]]) -> list[Any]:
        self.sent += [(query, tuple(each)) for each in args]
        return []

    async def execute(self, query: str, *args: object) -> str:
        self.sent.append((query, args))
        return ""

    def transaction(self) -> Any:
        raise TypeError("one statement is recorded, and that needs no transaction")


def sent_by(work: Callable[[Tx], Awaitable[object]], *, fresh: Collection[UUID] = ()) -> Script:
    """The one statement that a function of the store sends, and its arguments.

    Args:
        fresh: Ids among the arguments in whose place each transaction makes its own.
    """
    recording = _Recording()

    async def do() -> None:
        await work(Tx(recording, DEFAULT_TENANT_ID))

    uvloop.run(do())
    ((sql, arguments),) = recording.sent
    script = Script("")

    def place(match: re.Match[str]) -> str:
        number = int(match[1])
        return _written(script.variables, f"p{number}", arguments[number - 1], fresh)

    script.sql = re.sub(r"\$(\d+)", place, sql) + ";"
    return script


def _written(variables: dict[str, str], name: str, value: object, fresh: Collection[UUID]) -> str:
    """How a value stands in a script: what is long or may hold anything as a variable, which is bound."""
    if value is None:
        return "null"
    if isinstance(value, UUID):
        return "uuidv7()" if value in fresh else f"'{value}'"
    if isinstance(value, int):
        return str(int(value))
    if not isinstance(value, str | bytes) or not value:
        raise TypeError(f"{name}: pgbench cannot be given {value!r}")
    variables[name] = value if isinstance(value, str) else f"\\x{value.hex()}"
    return f":{name}"


def run(url: str, script: Script, *, clients: int, seconds: float, server: psutil.Process) -> Load:
    """Run it on that many connections; times are of a sample.

    Raises:
        CannotMeasure: a statement failed.
    """
    with tempfile.TemporaryDirectory(prefix="holdfast-pgbench-") as folder:
        file, log = Path(folder) / "script.sql", Path(folder) / "log"
        file.write_text(script.sql)
        # It counts in whole seconds; for less than one of them, in transactions.
        length = ["-T", str(round(seconds)), f"--sampling-rate={SAMPLED}"] if seconds >= 1 else ["-t", FEW]
        load, cpu = Load(), cpu_of([server])
        printed = _printed(
            ["-n", "-M", "prepared", "-c", str(clients), "-j", str(min(clients, THREADS)), *length],
            [f"--file={file}", "--log", f"--log-prefix={log}"],
            [part for name, value in script.variables.items() for part in ("-D", f"{name}={value}")],
            [url],
        )
        load.cpu_seconds = cpu_of([server]) - cpu
        # A line of the log: client, transaction, microseconds, …
        lines = [
            line.split() for path in Path(folder).glob("log.*") for line in path.read_text().splitlines()
        ]
        load.took = [int(words[2]) / 1e6 for words in lines]
    load.counted = int(_number(r"actually processed: (\d+)", printed))
    load.seconds = load.count / _number(r"tps = ([\d.]+)", printed)
    return load


def _printed(*arguments: Sequence[str]) -> str:
    options = " ".join(f"-c {name}={value}" for name, value in SESSION.items())
    done = subprocess.run(
        [str(binaries.find() / "pgbench"), *(part for parts in arguments for part in parts)],
        env=clean_environment() | {"PGOPTIONS": options, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not re.search(r"failed transactions: 0 ", done.stdout):
        raise CannotMeasure(done.stderr[-1000:] + done.stdout[-1000:])
    return done.stdout


def _number(pattern: str, printed: str) -> float:
    found = re.search(pattern, printed)
    if not found:
        raise CannotMeasure(printed)
    return float(found[1])
