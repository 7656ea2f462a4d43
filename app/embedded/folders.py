"""Folders and files of the servers that we start."""

import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import IO

from app.embedded.account import Account
from app.embedded.errors import CannotStart

LONGEST_SOCKET_PATH = 103  # sun_path holds 108 bytes on Linux and 104 on macOS, the final zero included.
LARGE_LOG_BYTES = 10 * 1024 * 1024


def for_socket(wanted: Path, name: str) -> Path:
    """This folder, or one in the temporary folder where its path is too long for a socket of that name."""
    if len(os.fsencode(wanted / name)) <= LONGEST_SOCKET_PATH:
        return wanted
    digest = hashlib.sha256(os.fsencode(wanted)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"holdfast-{os.geteuid()}-{digest}"


def make_private(path: Path, account: Account | None = None) -> None:
    """Create a folder that only the account can enter, by default ours, or accept one that is already so.

    A socket may have to lie in the shared temporary folder, where a stranger could have made it.

    Raises:
        CannotStart: it exists and others may enter it.
    """
    owner = account.uid if account else os.geteuid()
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
            raise CannotStart(f"{path} exists and is not a private folder of ours: remove it") from None
    else:
        if account:
            os.chown(path, account.uid, account.gid)


def open_log(path: Path) -> IO[bytes]:
    """Append to a log; a large one is put aside first, in place of the one before it."""
    if path.exists() and path.stat().st_size > LARGE_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")
