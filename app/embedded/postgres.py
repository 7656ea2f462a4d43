"""A private PostgreSQL in the state folder: a Unix socket only, durable, and gone when we are gone.

state_dir/
    data/            the cluster, of the account that runs it, mode 0700
    run/             its socket, the same
    postgres.log     what it says; the previous one beside it once it is large
    postgres.lock    held by every process of a running server, so the next start knows when it may begin
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote

from app.embedded import account, binaries, folders, locks
from app.embedded.errors import CannotStart
from app.embedded.guarded import Guarded, stop_all
from app.settings import environment

NAME = "holdfast"
"""Of the superuser and of the database."""
LOCALE = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"
PREDECESSOR_SECONDS = 30

# Fast shutdown, then immediate: both are safe, the second costs a recovery at the next start.
STOP = (("SIGINT", 30.0), ("SIGQUIT", 5.0), ("SIGKILL", 5.0))
ABANDON = (("SIGINT", 1.0), ("SIGQUIT", 2.0), ("SIGKILL", 5.0))

OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    # Modest: this machine has other things to do, and the kernel's cache is behind it.
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
}
FAST_AND_LOSING = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """Start the server, or clean up after a crashed one and start it; stop it in good order.

    Raises:
        CannotStart: from `start`, with what is in the way.
    """

    def __init__(self, state_dir: Path, *, bin_dir: Path | None = None, durable: bool = True) -> None:
        """Touch nothing yet.

        Args:
            state_dir: Created where it is missing; its parents are never changed.
            bin_dir: Binaries to use instead of the installed ones.
            durable: False for tests alone: faster, and a power cut destroys the data.
        """
        self._state_dir = state_dir.absolute()
        self._data = self._state_dir / "data"
        self._log = self._state_dir / "postgres.log"
        self._sockets = folders.for_socket(self._state_dir / "run", ".s.PGSQL.5432")
        self._bin_dir = bin_dir
        self._options = OPTIONS | ({} if durable else FAST_AND_LOSING)
        self._server: Guarded | None = None
        self._account: account.Account | None = None

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://{NAME}@/{NAME}?host={quote(str(self._sockets))}"

    @property
    def ended_fd(self) -> int:
        """Becomes readable when a running server has ended."""
        if self._server is None:
            raise ValueError("the server has not been started")
        return self._server.ended_fd

    def start(self) -> str:
        """Return the URL once the server takes connections. Waits for a dying predecessor."""
        locks.make_state_dir(self._state_dir)
        # The server inherits the lock, so our own copy may go as soon as it runs.
        with locks.held(self._state_dir / "postgres.lock", patience_seconds=PREDECESSOR_SECONDS) as lock:
            self._account = account.for_data(self._data)
            bin_dir, major = binaries.usable(binaries.find(self._bin_dir), self._account, self._state_dir)
            if not self._data.exists():
                self._create_cluster(bin_dir, lock)
            self._check_version(major)
            # Whoever held the lock has ended, so a file that names a process names a wrong one: a
            # container gives the same numbers again, and Postgres would believe that it still runs.
            (self._data / "postmaster.pid").unlink(missing_ok=True)
            self._run(bin_dir, lock)
        return self.url

    def stop(self) -> None:
        """Stop in good order; an interruption makes it quick. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            stop_all([server])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _create_cluster(self, bin_dir: Path, lock: int) -> None:
        """Make the cluster elsewhere and rename it: a folder `data` is always a whole one."""
        unfinished = self._data.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        folders.make_private(unfinished, self._account)
        arguments = ["-U", NAME, "-A", "trust", "-E", "UTF8", f"--locale={LOCALE}", "--no-instructions"]
        self._once([bin_dir / "initdb", "-D", unfinished, *arguments], lock)
        # Single-user mode needs neither a server nor a client.
        single_user = [bin_dir / "postgres", "--single", "-D", unfinished, "postgres"]
        self._once(single_user, lock, f"create database {NAME}\n")
        unfinished.rename(self._data)

    def _once(self, command: Sequence[Path | str], lock: int, text: str = "") -> None:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            cwd=self._state_dir,
            env=self._environment(),
            pass_fds=[lock],
            **(self._account.popen_arguments() if self._account else {}),
        )
        if done.returncode:
            raise CannotStart(f"Postgres could not be set up: {_complaint(done.stderr)}")

    def _check_version(self, major: int) -> None:
        version = (self._data / "PG_VERSION").read_text().strip()
        if version != str(major):
            raise CannotStart(
                f"{self._data} is PostgreSQL {version} and the binaries are {major}: "
                f"set embedded_postgres_bin to those of {version}, or dump and restore"
            )

    def _run(self, bin_dir: Path, lock: int) -> None:
        folders.make_private(self._sockets, self._account)
        options = self._options | {"unix_socket_directories": str(self._sockets)}
        settings = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
        with folders.open_log(self._log) as log:
            before = log.tell()
            self._server = Guarded(
                [str(bin_dir / "postgres"), "-D", str(self._data), *settings],
                stop=STOP,
                abandon=ABANDON,
                death_signal="SIGINT",
                account=self._account,
                pass_fds=[lock],
                environment=self._environment(),
                cwd=self._state_dir,
                output=log,
            )
        # No time limit: recovery after a crash takes as long as it takes, and Ctrl-C works.
        while not self._is_ready():
            if self._server.has_ended:
                self.stop()
                complaint = _complaint(self._log.read_bytes()[before:].decode(errors="replace"))
                raise CannotStart(f"Postgres did not start: {complaint} ({self._log} has more)")
            time.sleep(0.01)

    def _is_ready(self) -> bool:
        """The server says so in the eighth line of its pid file (Postgres: `LOCK_FILE_LINE_PM_STATUS`)."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"

    def _environment(self) -> dict[str, str]:
        """Ours without what Postgres reads from it: its settings are on the command line alone."""
        kept = {name: value for name, value in environment().items() if not name.startswith("PG")}
        return kept | {"LC_ALL": LOCALE, "HOME": str(self._state_dir)}


def _complaint(output: str) -> str:
    """The line that says why, out of what a Postgres program has printed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    reasons = [line for line in lines if "FATAL" in line or "error:" in line or "PANIC" in line]
    return (reasons or lines[-1:] or ["it said nothing"])[-1]
